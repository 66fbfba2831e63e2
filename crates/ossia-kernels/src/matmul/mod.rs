//! Products of activations with weight matrices: `out[t][r] = sum_k weight[r][k] * x[t][k]`.
//!
//! The law of every path: one fixed order of the sum over `k`, whatever the number of tokens, rows per
//! call or threads. A token's bits then depend on that token alone.
//!
//! | path | weights | products and sums | order of the sum over `k` |
//! |---|---|---|---|
//! | [`portable`] | decoded to f32 | f32 multiply, f32 add | 16 partial sums by `k % 16`, halving tree |
//! | [`f32_avx2`], [`f32_avx512`], `f32_neon` | decoded to f32 in registers | f32 FMA | one partial sum per lane, halving tree |
//! | [`f32_columns`] | bf16, column by column | f32 FMA | ascending |
//! | [`int16`] | integers of MXFP4 and of 8 bits | exact sums of 32 products, f32 FMA | four partial sums by block of 32 |
//! | [`bf16_pairs`] | bf16 as stored | pairs of bf16 products, f32 sums | one partial sum per lane, halving tree |
//! | [`bf16_amx`] | decoded to bf16 tiles | bf16 products, f32 sums | tiles of 32 in ascending order |
//!
//! The last three are for [`ComputeType::Bf16`], which lets a path round activations to 16 bits. Where none
//! takes the weights, the f32 paths take activations as they are.

#[cfg(target_arch = "x86_64")]
mod bf16_amx;
#[cfg(target_arch = "x86_64")]
mod bf16_pairs;
#[cfg(target_arch = "x86_64")]
mod f32_avx2;
#[cfg(target_arch = "x86_64")]
mod f32_avx512;
mod f32_columns;
#[cfg(target_arch = "aarch64")]
mod f32_neon;
mod f32_pack;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod int16;
mod portable;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::cpu::{Bf16Pairs, bf16_pairs};
use crate::weight::{Format, MatrixView};
use crate::{ComputeType, Isa, num_threads};

use f32_pack::F32Rows;

/// How the products of an op are computed; chosen once, when the op is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matmul {
    /// Instruction set; must be available.
    pub(crate) isa: Isa,
    /// Precision of the activations.
    pub(crate) compute: ComputeType,
}

/// Activations in the form that one path reads for one kind of weight.
pub(crate) enum PackedActivations {
    /// Rows of f32 for the path named.
    F32(F32Rows, Isa),
    /// bf16 tiles for AMX.
    #[cfg(target_arch = "x86_64")]
    Bf16Tiles(bf16_amx::TiledRows),
    /// bf16 for products of pairs.
    #[cfg(target_arch = "x86_64")]
    Bf16Pairs(bf16_pairs::Bf16Rows),
    /// Block floating point of 16 bits.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Int16(int16::Int16Rows),
    /// The same for AMX.
    #[cfg(target_arch = "x86_64")]
    Int16Tiles(int16::Int16Tiles),
}

impl Matmul {
    /// Weight rows that one task of an op multiplies, of `num_rows` that matrices in the format of `weight` have
    /// together; even, and whole passes of every path.
    pub(crate) fn rows_per_task(self, weight: MatrixView<'_>, num_rows: usize, num_tokens: usize) -> usize {
        /// What every path is content with.
        const LEAST: usize = 64;
        /// Tasks per thread, so that the last ones end at about the same time.
        const TASKS: usize = 8;
        // Rows side by side are short runs of memory, each of another page.
        let columns = matches!(weight.format, Format::Bf16Transposed(_));
        // With tiles each task reads all activations at once, so with many tokens it takes more rows; and so it does of
        // MXFP4, whose rows are read at some distance from each other.
        let spreads = self.uses_tiles(weight.format) && matches!(weight.format, Format::Mxfp4 { .. });
        let most = match self.uses_tiles(weight.format) {
            false if columns => 512,
            _ if self.isa == Isa::Amx && num_tokens > 128 || spreads => 256,
            _ => LEAST,
        };
        let fair = num_rows / (TASKS * num_threads());
        if fair < most { (fair / LEAST * LEAST).max(LEAST) } else { most }
    }

    /// Packs the rows of `x` (`[_, weight.cols]`) that `rows` names, for products with matrices in the
    /// format of `weight`.
    pub(crate) fn pack(
        self,
        weight: MatrixView<'_>,
        x: &[f32],
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> PackedActivations {
        let rows = rows.map(|row| &x[row * weight.cols..(row + 1) * weight.cols]);
        #[cfg(target_arch = "x86_64")]
        if self.uses_tiles(weight.format) {
            // SAFETY: tiles are used only where AMX, which includes AVX-512 here, was detected.
            return PackedActivations::Bf16Tiles(unsafe {
                bf16_amx::TiledRows::pack(weight.format, weight.cols, rows)
            });
        }
        #[cfg(target_arch = "x86_64")]
        if self.uses_integers(weight.format) && self.isa == Isa::Amx && rows.len() > int16::FEWER_THAN_TILES {
            // SAFETY: AMX, which includes AVX-512 here, was detected.
            return PackedActivations::Int16Tiles(unsafe { int16::Int16Tiles::pack(weight.cols, rows) });
        }
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if self.uses_integers(weight.format) {
            // SAFETY: an instruction set is chosen only where it was detected.
            let packed = unsafe { int16::Int16Rows::pack(self.isa, weight.format, weight.cols, rows) };
            return PackedActivations::Int16(packed);
        }
        #[cfg(target_arch = "x86_64")]
        if self.uses_pairs(weight.format) {
            // SAFETY: such products, which come with AVX-512, were detected.
            return PackedActivations::Bf16Pairs(unsafe { bf16_pairs::Bf16Rows::pack(weight.cols, rows) });
        }
        let isa = self.isa.min(Isa::Avx512);
        let order = f32_pack::order(weight.format, isa);
        PackedActivations::F32(F32Rows::pack(order, weight.cols, rows), isa)
    }

    /// Whether activations become bf16 tiles.
    fn uses_tiles(self, format: Format<'_>) -> bool {
        let exact = !matches!(format, Format::F32(_) | Format::Int8(_));
        self.isa == Isa::Amx && self.compute == ComputeType::Bf16 && exact
    }

    /// Whether activations become bf16 for products of pairs. On processors where these are slow only tests take them.
    #[cfg(target_arch = "x86_64")]
    fn uses_pairs(self, format: Format<'_>) -> bool {
        let worth = match bf16_pairs() {
            Bf16Pairs::None => false,
            Bf16Pairs::Slow => cfg!(test),
            Bf16Pairs::Fast => true,
        };
        let isa = matches!(self.isa, Isa::Avx512 | Isa::Avx512Vnni);
        worth && isa && self.compute == ComputeType::Bf16 && matches!(format, Format::Bf16(_))
    }

    /// Whether activations become integers of 16 bits.
    fn uses_integers(self, format: Format<'_>) -> bool {
        let faster = match format {
            Format::Mxfp4 { .. } => matches!(self.isa, Isa::Neon | Isa::Avx2 | Isa::Avx512Vnni),
            Format::Int8(_) => self.isa != Isa::Portable,
            _ => false,
        };
        faster && self.compute == ComputeType::Bf16
    }
}

/// Products of weight rows `rows` with all packed tokens into `out`, `[num_tokens, rows.len()]`.
///
/// `x` must have been packed for the format and columns of `weight`.
pub(crate) fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &PackedActivations, out: &mut [f32]) {
    assert!(rows.end <= weight.rows, "rows {rows:?} of {}", weight.rows);
    match x {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: tiles are packed only where AMX was detected; rows were checked above.
        PackedActivations::Bf16Tiles(x) => unsafe { bf16_amx::multiply(weight, rows, x, out) },
        #[cfg(target_arch = "x86_64")]
        PackedActivations::Bf16Pairs(x) => match weight.format {
            // SAFETY: such products were detected where these are packed; rows were checked above.
            Format::Bf16(bytes) => unsafe { bf16_pairs::multiply(bytes, weight.cols, rows, x, out) },
            _ => unreachable!("packed for bf16"),
        },
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        // SAFETY: integers are packed for instructions that were detected; rows were checked above.
        PackedActivations::Int16(x) => unsafe { int16::multiply(weight, rows, x, out) },
        #[cfg(target_arch = "x86_64")]
        PackedActivations::Int16Tiles(x) => match weight.format {
            // SAFETY: AMX was detected where these are packed; rows were checked above.
            Format::Int8(weight) => unsafe { int16::multiply_tiles(weight, rows, x, out) },
            _ => unreachable!("packed for weights of 8 bits"),
        },
        PackedActivations::F32(x, isa) => multiply_f32(weight, rows, x, *isa, out),
    }
}

fn multiply_f32(weight: MatrixView<'_>, rows: Range<usize>, x: &F32Rows, isa: Isa, out: &mut [f32]) {
    if let Format::Bf16Transposed(bytes) = weight.format {
        // SAFETY: a path is chosen only where its instructions were detected.
        return unsafe { f32_columns::multiply(bytes, weight.rows, rows, x, isa, out) };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a path is chosen only where its instructions were detected; rows are in range.
        Isa::Avx512 if f32_avx512::takes(weight.format) => unsafe {
            f32_avx512::multiply(weight, rows, x, out);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 if f32_avx2::takes(weight.format) => unsafe {
            f32_avx2::multiply(weight, rows, x, out);
        },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon if f32_neon::takes(weight.format) => f32_neon::multiply(weight, rows, x, out),
        _ => portable::multiply(weight, rows, x, out),
    }
}

#[cfg(test)]
mod tests;
