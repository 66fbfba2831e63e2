//! Numbers of 8 bits, e4m3 as OCP's FP8 has it: how a KV cache of half the size keeps keys and values.

use float8::F8E4M3;
use half::bf16;

/// Rounds to nearest even; what is larger than 448 becomes 448, NaN stays NaN.
#[inline(always)]
pub(crate) fn to_e4m3(x: f32) -> F8E4M3 {
    /// Exponents of f32 are larger by so much.
    const BIAS: u32 = 120 << 3;
    /// Sums of at least this have steps of 2^-9.
    const STEPS_OF_SMALL: f32 = 16384.0;
    const LARGEST: u32 = 0x7e;
    let (sign, abs) = (x.to_bits() >> 24 & 0x80, x.to_bits() & 0x7fff_ffff);
    let small = (f32::from_bits(abs) + STEPS_OF_SMALL).to_bits().wrapping_sub(STEPS_OF_SMALL.to_bits());
    let half_up = abs + 0x7_ffff + (abs >> 20 & 1);
    let normal = (half_up >> 20).wrapping_sub(BIAS).min(LARGEST);
    let code = if abs < 0x3c80_0000 { small } else { normal };
    let code = if abs > 0x7f80_0000 { 0x7f } else { code };
    F8E4M3::from_bits((sign | code) as u8)
}

/// Exact widening, in operations that a compiler does for many numbers at a time.
#[inline(always)]
pub(crate) const fn to_bf16(x: F8E4M3) -> bf16 {
    /// Exponents of bf16 are larger by so much.
    const BIAS: u16 = 120 << 7;
    let code = x.to_bits() as u16;
    let (sign, abs) = ((code & 0x80) << 8, code & 0x7f);
    let normal = (abs << 4) + BIAS;
    // Multiples of 2^-9: from four on, two and three, and one.
    let small = if abs >= 4 { (119 << 7) + (abs << 5) } else { (118 << 7) + (abs << 6) };
    let small = if abs == 1 { 118 << 7 } else { small };
    let bits = if abs >= 8 { normal } else { small };
    let bits = if abs == 0 { 0 } else { bits };
    let bits = if abs == 0x7f { 0x7fc0 } else { bits };
    bf16::from_bits(sign | bits)
}

/// As [`to_bf16`], of as many.
///
/// # Safety
/// AVX-512 F, BW and VBMI.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(crate) fn widen_avx512(from: &[F8E4M3], to: &mut [bf16]) {
    use std::arch::x86_64::*;

    /// Lower and upper bytes of what the codes without their sign stand for.
    const BYTES: [[u8; 128]; 2] = {
        let mut bytes = [[0; 128]; 2];
        let mut code = 0;
        while code < 128 {
            [bytes[0][code], bytes[1][code]] = to_bf16(F8E4M3::from_bits(code as u8)).to_bits().to_le_bytes();
            code += 1;
        }
        bytes
    };
    /// Eight codes each, so that those of the first half lie in the lower halves of each sixteen bytes.
    const HALVES: [u64; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
    /// Where the mask has ones from the first, elsewhere from the second.
    const SELECT: i32 = 0xca;
    // SAFETY: loads and stores are of registers' length within arrays, chunks and their places.
    unsafe {
        let table = |bytes: &[u8; 128]| [0, 64].map(|at| _mm512_loadu_si512(bytes.as_ptr().add(at).cast()));
        let ([lower_0, lower_1], [upper_0, upper_1]) = (table(&BYTES[0]), table(&BYTES[1]));
        let halves = _mm512_loadu_si512(HALVES.as_ptr().cast());
        let (some, rest) = from.as_chunks::<64>();
        let (to_some, to_rest) = to.split_at_mut(64 * some.len());
        for (from, to) in some.iter().zip(to_some.as_chunks_mut::<64>().0) {
            let codes = _mm512_permutexvar_epi64(halves, _mm512_loadu_si512(from.as_ptr().cast()));
            let lower = _mm512_permutex2var_epi8(lower_0, codes, lower_1);
            let upper = _mm512_permutex2var_epi8(upper_0, codes, upper_1);
            let upper = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(-128), codes, upper);
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_unpacklo_epi8(lower, upper));
            _mm512_storeu_si512(to[32..].as_mut_ptr().cast(), _mm512_unpackhi_epi8(lower, upper));
        }
        to_rest.iter_mut().zip(rest).for_each(|(to, from)| *to = to_bf16(*from));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn codes() -> impl Iterator<Item = F8E4M3> {
        (0..=255).map(F8E4M3::from_bits)
    }

    #[test]
    fn widening_is_exact() {
        for code in codes() {
            let (found, expected) = (to_bf16(code).to_f32(), code.to_f32());
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{code:?}: {found} {expected}");
            assert_eq!(found.is_sign_negative(), code.to_bits() >= 0x80, "{code:?}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vectors_widen_as_numbers_do() {
        if !is_x86_feature_detected!("avx512bw") || !is_x86_feature_detected!("avx512vbmi") {
            return;
        }
        let codes: Vec<F8E4M3> = codes().chain(codes().take(37)).collect();
        let mut found = vec![bf16::ZERO; codes.len()];
        // SAFETY: the processor has the instructions.
        unsafe { widen_avx512(&codes, &mut found) };
        for (code, found) in codes.into_iter().zip(found) {
            assert_eq!(found.to_bits(), to_bf16(code).to_bits(), "{code:?}");
        }
    }

    #[test]
    fn narrowing_takes_the_nearest_and_of_two_the_even_one() {
        let finite: Vec<F8E4M3> = codes().filter(|code| code.to_f32().is_finite()).collect();
        let mut numbers: Vec<f32> = vec![0.0, -0.0, 1e-30, 1e30, 448.1, 464.0, 480.0, f32::INFINITY];
        for (i, code) in finite.iter().enumerate() {
            let x = code.to_f32();
            assert_eq!(to_e4m3(x).to_bits(), code.to_bits());
            // Halfway to the next one, just before and just after.
            if let Some(next) = finite.get(i + 1).filter(|next| next.to_f32() != 0.0) {
                let middle = f32::midpoint(x, next.to_f32());
                numbers.extend([middle, middle * (1.0 - 1e-6), middle * (1.0 + 1e-6)]);
            }
        }
        for x in numbers.into_iter().flat_map(|x| [x, -x]) {
            let found = to_e4m3(x);
            let nearest =
                finite.iter().filter(|code| code.to_f32().is_sign_negative() == x.is_sign_negative());
            let distance =
                |code: F8E4M3| (f64::from(code.to_f32()) - f64::from(x.clamp(-448.0, 448.0))).abs();
            let key = |code: &F8E4M3| (distance(*code), code.to_bits() % 2);
            let expected = nearest.copied().min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap();
            assert_eq!(found.to_bits(), expected.to_bits(), "{x}: {found:?} {expected:?}");
        }
        assert!(to_e4m3(f32::NAN).to_f32().is_nan());
    }
}
