//! Every MXFP4 value, by scale and code, for kernels that look weights up instead of computing them.

use super::decode;

/// Rows of a table, each on its own cache line.
#[repr(C, align(64))]
pub(crate) struct Aligned<T>(pub(crate) T);

/// bf16 bits by scale, then by the low five bits of an index: code in the low four, fifth bit ignored.
/// That spares the kernels a mask, because the instruction that looks up looks at five bits.
pub(crate) static BF16: Aligned<[[u16; 32]; 256]> = Aligned(bf16_table());

/// f32 values by scale, then code.
pub(crate) static F32: Aligned<[[f32; 16]; 256]> = Aligned(f32_table());

const fn f32_table() -> [[f32; 16]; 256] {
    let mut table = [[0f32; 16]; 256];
    let mut at = 0;
    while at < 256 * 16 {
        table[at / 16][at % 16] = decode((at % 16) as u8, (at / 16) as u8);
        at += 1;
    }
    table
}

const fn bf16_table() -> [[u16; 32]; 256] {
    let mut table = [[0u16; 32]; 256];
    let mut at = 0;
    while at < 256 * 32 {
        let value = decode((at % 16) as u8, (at / 32) as u8);
        table[at / 32][at % 32] = (value.to_bits() >> 16) as u16;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_holds_every_value_exactly() {
        for (scale, codes) in BF16.0.iter().enumerate() {
            for (at, bits) in codes.iter().enumerate() {
                let value = half::bf16::from_bits(*bits).to_f32();
                let expected = decode((at % 16) as u8, scale as u8);
                assert!(value == expected || (value.is_nan() && scale == 255));
                assert_eq!(F32.0[scale][at % 16].to_bits(), expected.to_bits());
            }
        }
    }
}
