//! Transposes square blocks of 32-bit elements in registers.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_permute2x128_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

/// `out[i][j] = rows[j][i]` for 8 registers of 8 elements.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn transpose_8x8(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut a = rows;
    for i in 0..4 {
        let (x, y) = (rows[2 * i], rows[2 * i + 1]);
        a[2 * i] = _mm256_unpacklo_epi32(x, y);
        a[2 * i + 1] = _mm256_unpackhi_epi32(x, y);
    }
    // b[4q + j]: half h holds column 4h + j of rows 4q .. 4q + 3.
    let mut b = a;
    for i in [0, 4] {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    let mut out = b;
    for j in 0..4 {
        out[j] = _mm256_permute2x128_si256::<0x20>(b[j], b[j + 4]);
        out[j + 4] = _mm256_permute2x128_si256::<0x31>(b[j], b[j + 4]);
    }
    out
}

/// `out[i][j] = rows[j][i]` for 16 registers of 16 elements.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose_16x16(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = rows;
    for i in 0..8 {
        let (x, y) = (rows[2 * i], rows[2 * i + 1]);
        a[2 * i] = _mm512_unpacklo_epi32(x, y);
        a[2 * i + 1] = _mm512_unpackhi_epi32(x, y);
    }
    // a[4q + ..]: lane l of b[4q + j] holds column 4l + j of rows 4q .. 4q + 3.
    let mut b = a;
    for q in 0..4 {
        let i = 4 * q;
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    let mut out = b;
    for j in 0..4 {
        let lo01 = _mm512_shuffle_i32x4::<0x88>(b[j], b[j + 4]);
        let hi01 = _mm512_shuffle_i32x4::<0xdd>(b[j], b[j + 4]);
        let lo23 = _mm512_shuffle_i32x4::<0x88>(b[j + 8], b[j + 12]);
        let hi23 = _mm512_shuffle_i32x4::<0xdd>(b[j + 8], b[j + 12]);
        out[j] = _mm512_shuffle_i32x4::<0x88>(lo01, lo23);
        out[j + 8] = _mm512_shuffle_i32x4::<0xdd>(lo01, lo23);
        out[j + 4] = _mm512_shuffle_i32x4::<0x88>(hi01, hi23);
        out[j + 12] = _mm512_shuffle_i32x4::<0xdd>(hi01, hi23);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_i_j_of_8_by_8_comes_from_j_i() {
        if !crate::Isa::Avx2.is_available() {
            eprintln!("SKIPPED: no AVX2 here");
            return;
        }
        let rows: [[i32; 8]; 8] = std::array::from_fn(|i| std::array::from_fn(|j| (100 * i + j) as i32));
        // SAFETY: AVX2 was detected; `__m256i` and `[i32; 8]` are the same 32 plain bytes.
        let out: [[i32; 8]; 8] = unsafe {
            let rows = std::mem::transmute::<[[i32; 8]; 8], [__m256i; 8]>(rows);
            std::mem::transmute::<[__m256i; 8], [[i32; 8]; 8]>(transpose_8x8(rows))
        };
        for (i, row) in out.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                assert_eq!(*v, (100 * j + i) as i32);
            }
        }
    }

    #[test]
    fn element_i_j_of_16_by_16_comes_from_j_i() {
        if !crate::Isa::Avx512.is_available() {
            eprintln!("SKIPPED: no AVX-512 here");
            return;
        }
        let rows: [[i32; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (100 * i + j) as i32));
        // SAFETY: AVX-512 was detected; `__m512i` and `[i32; 16]` are the same 64 plain bytes.
        let out: [[i32; 16]; 16] = unsafe {
            let rows = std::mem::transmute::<[[i32; 16]; 16], [__m512i; 16]>(rows);
            std::mem::transmute::<[__m512i; 16], [[i32; 16]; 16]>(transpose_16x16(rows))
        };
        for (i, row) in out.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                assert_eq!(*v, (100 * j + i) as i32);
            }
        }
    }
}
