//! The MXFP4 number format: e2m1 values in blocks of 32 that share an e8m0 scale.
//!
//! An e2m1 value times a power of two is exactly a bf16 number wherever the exponent fits, so unpacking
//! rounds nothing. Format: OCP Microscaling Formats (MX) specification 1.0.

mod generic;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tables;

pub(crate) use generic::GenericMxfp4;

/// Values per block.
pub(crate) const BLOCK_LEN: usize = 32;

/// The e2m1 values by code; codes 8 to 15 are their negatives.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Code of value `at` of a matrix: the low nibble comes first.
pub(crate) fn nibble(blocks: &[u8], at: usize) -> u8 {
    let byte = blocks[at / 2];
    if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}

/// The scale 2^(e - 127); 255 is NaN. Scale 0 is the subnormal 2^-127.
pub(crate) const fn decode_scale(e8m0: u8) -> f32 {
    match e8m0 {
        255 => f32::NAN,
        0 => f32::from_bits(1 << 22),
        e => f32::from_bits((e as u32) << 23),
    }
}

/// One value. Products past the largest f32 (scale 253 with 4 and 6, 254 with 2 and more) are infinite.
pub(crate) const fn decode(code: u8, scale: u8) -> f32 {
    let magnitude = E2M1[(code & 7) as usize] * decode_scale(scale);
    if code & 8 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_nibble_comes_first() {
        assert_eq!([0, 1, 2, 3].map(|at| nibble(&[0x21, 0x43], at)), [1, 2, 3, 4]);
    }

    #[test]
    fn every_code_is_exact_in_f64() {
        for scale in 0..=252u8 {
            for code in 0..16u8 {
                let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
                let expected =
                    sign * f64::from(E2M1[usize::from(code & 7)]) * 2f64.powi(i32::from(scale) - 127);
                assert_eq!(f64::from(decode(code, scale)), expected, "code {code} scale {scale}");
            }
        }
    }

    #[test]
    fn scale_255_is_nan() {
        assert!((0..16).all(|code| decode(code, 255).is_nan()));
    }

    #[test]
    fn past_the_largest_f32_is_infinite() {
        assert_eq!(decode(5, 253), 3.0 * 2f32.powi(126));
        assert_eq!(decode(6, 253), f32::INFINITY);
        assert_eq!(decode(15, 254), f32::NEG_INFINITY);
        assert_eq!(decode(0, 254), 0.0);
    }
}
