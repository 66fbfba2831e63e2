//! Heads of a KV cache in 8-bit integers: `head_dim` of them, then a bf16 scale for each 32 of them. Half the memory of bf16, and
//! more exact than floating point of 8 bits.

use half::bf16;

/// Integers that share a scale.
const GROUP_LEN: usize = 32;
const LARGEST: f32 = 127.0;

/// Bytes of a head.
pub(crate) const fn head_len(head_dim: usize) -> usize {
    head_dim + 2 * head_dim.div_ceil(GROUP_LEN)
}

/// Rounds a head's numbers to `to`, [`head_len`] bytes. What is not finite makes its group NaN.
pub(crate) fn narrow(x: &[f32], to: &mut [u8]) {
    let (codes, scales) = to.split_at_mut(x.len());
    let scales = scales.as_chunks_mut::<2>().0;
    for ((x, codes), to) in x.chunks(GROUP_LEN).zip(codes.chunks_mut(GROUP_LEN)).zip(scales) {
        let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        let poison: f32 = x.iter().map(|x| x * 0.0).sum();
        let scale = upward(largest / LARGEST + poison);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        *to = bf16::from_f32(scale).to_le_bytes();
        for (code, x) in codes.iter_mut().zip(x) {
            *code = ((x * inverse).round_ties_even() as i8).cast_unsigned();
        }
    }
}

/// The next number that bf16 holds, unless it is one, or none is left above it.
fn upward(x: f32) -> f32 {
    f32::from_bits(x.to_bits().saturating_add(0xffff) & 0xffff_0000)
}

/// Writes a head's numbers, each in one rounding that `round` does.
#[inline(always)]
pub(crate) fn widen<T>(from: &[u8], to: &mut [T], round: impl Fn(f32) -> T) {
    let (codes, scales) = from.split_at(to.len());
    let scales = scales.as_chunks::<2>().0;
    for ((codes, to), scale) in codes.chunks(GROUP_LEN).zip(to.chunks_mut(GROUP_LEN)).zip(scales) {
        let scale = bf16::from_le_bytes(*scale).to_f32();
        for (code, to) in codes.iter().zip(to) {
            *to = round(f32::from(code.cast_signed()) * scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Random;

    fn there_and_back(x: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0xa5; head_len(x.len())];
        narrow(x, &mut bytes);
        let mut found = vec![f32::INFINITY; x.len()];
        widen(&bytes, &mut found, |x| x);
        found
    }

    #[test]
    fn numbers_are_off_by_half_a_step_of_their_group_at_most() {
        let random = &mut Random::fresh();
        for len in [64, 32, 128, 10, 33] {
            for size in [1e-30, 1e-3, 1.0, 1e5, 1e30] {
                let mut x: Vec<f32> = random.f32s(len).into_iter().map(|x| x * size).collect();
                x[len / 2] *= 100.0;
                let found = there_and_back(&x);
                for (x, found) in x.chunks(GROUP_LEN).zip(found.chunks(GROUP_LEN)) {
                    let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
                    // A scale of bf16 is up to a 128th larger than it need be.
                    let step = largest / LARGEST * (1.0 + 1.0 / 128.0);
                    for (x, found) in x.iter().zip(found) {
                        assert!((x - found).abs() <= 0.501 * step, "{x} {found}, largest {largest}");
                    }
                }
            }
        }
        assert_eq!(there_and_back(&[0.0; 64]), [0.0; 64]);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 64];
            x[40] = bad;
            let found = there_and_back(&x);
            assert!(
                found[..32].iter().all(|x| (*x - 1.0).abs() < 1e-2) && found[32..].iter().all(|x| x.is_nan())
            );
        }
    }
}
