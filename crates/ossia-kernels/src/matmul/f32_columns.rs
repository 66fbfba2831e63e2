//! f32 products with matrices that lie column by column, as experts in bf16 do: rows are lanes, and each sum takes the
//! columns in ascending order.
//!
//! Plain Rust, compiled for each instruction set: lanes never meet, so those with fused multiply-add give the same bits.

use std::ops::Range;

use super::f32_pack::F32Rows;
use crate::Isa;

/// Rows that lie side by side in registers.
const LANES: usize = 16;
/// Columns between two visits to a sum.
const COLS: usize = 8;
/// How many columns ahead memory is asked for.
const AHEAD: usize = COLS;
/// Most tokens that share a widened weight.
const TOKENS: usize = 4;

/// A `[cols, rows]` matrix of bf16.
#[derive(Clone, Copy)]
struct Columns<'a> {
    bytes: &'a [u8],
    cols: usize,
    rows: usize,
}

/// As [`super::multiply`], of the `[cols, rows]` matrix `bytes`.
///
/// # Safety
/// `isa` is available.
pub(super) unsafe fn multiply(
    bytes: &[u8],
    num_rows: usize,
    rows: Range<usize>,
    x: &F32Rows,
    isa: Isa,
    out: &mut [f32],
) {
    /// Whether a fused multiply-add is an instruction everywhere.
    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    let weight = Columns { bytes, cols: bytes.len() / (2 * num_rows), rows: num_rows };
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => unsafe { product_avx512(weight, rows, x, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { product_avx2(weight, rows, x, out) },
        _ => product::<FUSED>(weight, rows, x, out),
    }
}

/// # Safety
/// AVX-512 F, BW, DQ, VL.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn product_avx512(weight: Columns, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    product::<true>(weight, rows, x, out);
}

/// # Safety
/// AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn product_avx2(weight: Columns, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    product::<true>(weight, rows, x, out);
}

#[inline(always)]
fn product<const FUSED: bool>(weight: Columns, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let width = rows.len();
    out.fill(0.0);
    for first_col in (0..weight.cols).step_by(COLS) {
        let cols = first_col..weight.cols.min(first_col + COLS);
        let mut first = 0;
        for out in out.chunks_mut(TOKENS * width) {
            let place = Place { first_row: rows.start, cols: cols.clone(), first_token: first };
            match out.len() / width {
                1 => add_cols::<FUSED, 1>(weight, place, x, out),
                2 => add_cols::<FUSED, 2>(weight, place, x, out),
                3 => add_cols::<FUSED, 3>(weight, place, x, out),
                _ => add_cols::<FUSED, TOKENS>(weight, place, x, out),
            }
            first += TOKENS;
        }
    }
}

/// Which rows, columns and tokens meet.
struct Place {
    first_row: usize,
    cols: Range<usize>,
    first_token: usize,
}

/// Adds the products of some columns with `T` tokens to `out`, `[T, rows]`.
#[inline(always)]
fn add_cols<const FUSED: bool, const T: usize>(weight: Columns, at: Place, x: &F32Rows, out: &mut [f32]) {
    let width = out.len() / T;
    let mut values = [[0f32; T]; COLS];
    for t in 0..T {
        let row = &x.row(at.first_token + t)[at.cols.clone()];
        values.iter_mut().zip(row).for_each(|(values, x)| values[t] = *x);
    }
    for first in (0..width).step_by(LANES) {
        let mut sums = [[0f32; LANES]; T];
        for t in 0..T {
            sums[t] = load(&out[t * width + first..(t + 1) * width]);
        }
        for (col, x) in values.iter().enumerate().take(at.cols.len()) {
            let from = 2 * ((at.cols.start + col) * weight.rows + at.first_row + first);
            prefetch(weight.bytes, from + 2 * AHEAD * weight.rows);
            let w = widen(load(&weight.bytes[from..][..2 * LANES.min(width - first)]));
            for t in 0..T {
                for lane in 0..LANES {
                    let (w, x, sum) = (w[lane], x[t], sums[t][lane]);
                    sums[t][lane] = if FUSED { w.mul_add(x, sum) } else { w * x + sum };
                }
            }
        }
        for t in 0..T {
            let out = &mut out[t * width + first..(t + 1) * width];
            match out.first_chunk_mut() {
                Some(out) => *out = sums[t],
                None => out.copy_from_slice(&sums[t][..out.len()]),
            }
        }
    }
}

/// The first `N` of some values; what is not there is zero.
#[inline(always)]
fn load<T: Copy + Default, const N: usize>(from: &[T]) -> [T; N] {
    from.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [T::default(); N];
        padded[..from.len()].copy_from_slice(from);
        padded
    })
}

/// Asks memory for byte `at` and what is beside it, where there is a way to.
#[inline(always)]
fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and asking for memory reads none.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}

/// bf16 to f32.
#[inline(always)]
fn widen(bytes: [u8; 2 * LANES]) -> [f32; LANES] {
    let mut values = [0f32; LANES];
    for lane in 0..LANES {
        let bits = u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]);
        values[lane] = f32::from_bits(u32::from(bits) << 16);
    }
    values
}
