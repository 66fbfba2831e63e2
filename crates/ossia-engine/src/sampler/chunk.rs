//! The loops over a chunk of a row, without a branch per token, so that each vectorises for whatever registers its caller
//! was compiled for: they are inlined there.

/// Independent accumulators, so that the compiler can use SIMD registers.
const LANES: usize = 16;

/// The bits of a word, lowest first.
const BITS: [u32; 32] = {
    let mut bits = [0; 32];
    let mut i = 0;
    while i < 32 {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

/// Sets the logits whose bits are clear to minus infinity.
#[inline(always)]
pub(super) fn mask_chunk(chunk: &mut [f32], words: &[u32]) {
    let (groups, rest) = chunk.as_chunks_mut::<32>();
    let mut words = words.iter().copied().chain(std::iter::repeat(0));
    for (tokens, word) in groups.iter_mut().zip(&mut words) {
        mask_word(tokens, word);
    }
    if !rest.is_empty() {
        let mut last = [f32::NEG_INFINITY; 32];
        last[..rest.len()].copy_from_slice(rest);
        mask_word(&mut last, words.next().unwrap_or(0));
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// The same for 32 logits.
#[inline(always)]
fn mask_word(tokens: &mut [f32; 32], word: u32) {
    match word {
        u32::MAX => {}
        0 => tokens.fill(f32::NEG_INFINITY),
        _ => {
            for (bit, logit) in BITS.iter().zip(tokens) {
                let masked = u32::from(word & bit == 0).wrapping_neg();
                let bits = (logit.to_bits() & !masked) | (f32::NEG_INFINITY.to_bits() & masked);
                *logit = f32::from_bits(bits);
            }
        }
    }
}

/// The largest logit of a chunk, and whether one is NaN.
#[inline(always)]
pub(super) fn max_and_nan(chunk: &[f32]) -> (f32, bool) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let mut nans = [0u32; LANES];
    let (groups, rest) = chunk.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            let x = group[lane];
            maxima[lane] = if x > maxima[lane] { x } else { maxima[lane] };
            nans[lane] |= u32::from(x.is_nan());
        }
    }
    let max = maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (max, nans.iter().any(|&nan| nan > 0) || rest.iter().any(|x| x.is_nan()))
}

/// The sum over the logits that `keep` says are kept.
#[inline(always)]
pub(super) fn sum_exp2(chunk: &[f32], max: f32, scale: f32, keep: impl Fn(f32) -> bool) -> f64 {
    let mut sums = [0f32; LANES];
    let (groups, rest) = chunk.as_chunks::<LANES>();
    let mass = |x: f32| if keep(x) { exp2((x - max) * scale) } else { 0.0 };
    for group in groups {
        for lane in 0..LANES {
            sums[lane] += mass(group[lane]);
        }
    }
    let rest = rest.iter().map(|&x| f64::from(mass(x)));
    sums.iter().map(|&sum| f64::from(sum)).chain(rest).sum()
}

/// Two to the power of `x`, for `x <= 0`; exactly 0 below the normal numbers, exactly 1 at 0. The standard library's is
/// a call per element.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, whose two's complement is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x + ROUND;
    let fraction = x - (rounded - ROUND);
    // The Taylor series of 2^f, |f| <= 0.5: coefficients ln(2)^k / k!, off by less than 2e-7.
    let mut power = 1.540_353e-4;
    for coefficient in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0] {
        power = power * fraction + coefficient;
    }
    let scaled = f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x < -126.0 { 0.0 } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_agrees_with_f64() {
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(-1000.0), 0.0);
        for step in 0..100_000 {
            let x = -126.0 * step as f32 / 100_000.0;
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "2^{x}: off by {error}");
        }
    }
}
