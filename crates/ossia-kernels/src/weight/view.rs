//! One matrix as it lies in memory, whichever weight it belongs to.

use half::bf16;

use super::Int8View;
use crate::mxfp4;

/// A borrowed `[rows, cols]` matrix; the length of the bytes was checked when the weight was made.
#[derive(Clone, Copy)]
pub(crate) struct MatrixView<'a> {
    pub(crate) format: Format<'a>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Layout and type of a matrix's bytes.
#[derive(Clone, Copy)]
pub(crate) enum Format<'a> {
    /// `[rows, cols]` f32.
    F32(&'a [u8]),
    /// `[rows, cols]` bf16.
    Bf16(&'a [u8]),
    /// `[cols, rows]` bf16.
    Bf16Transposed(&'a [u8]),
    /// Blocks `[rows, cols / 32, 16]` and scales `[rows, cols / 32]`.
    Mxfp4 { blocks: &'a [u8], scales: &'a [u8] },
    /// Panels of 16 rows.
    Int8(Int8View<'a>),
}

impl MatrixView<'_> {
    /// Row `row` as f32 into `out`, exactly. Rows that do not lie in one piece are slow.
    pub(crate) fn copy_row(&self, row: usize, out: &mut [f32]) {
        let out = &mut out[..self.cols];
        match self.format {
            Format::Bf16(bytes) => {
                let row = &bytes.as_chunks().0[row * self.cols..][..self.cols];
                out.iter_mut().zip(row).for_each(|(out, w)| *out = bf16::from_le_bytes(*w).to_f32());
            }
            Format::F32(bytes) => {
                let row = &bytes.as_chunks().0[row * self.cols..][..self.cols];
                out.iter_mut().zip(row).for_each(|(out, w)| *out = f32::from_le_bytes(*w));
            }
            Format::Mxfp4 { blocks, scales } => {
                let num_blocks = self.cols / mxfp4::BLOCK_LEN;
                let scales = &scales[row * num_blocks..][..num_blocks];
                let blocks = blocks[row * self.cols / 2..].chunks_exact(mxfp4::BLOCK_LEN / 2);
                for ((out, codes), scale) in out.chunks_exact_mut(mxfp4::BLOCK_LEN).zip(blocks).zip(scales) {
                    let values: [f32; 16] = std::array::from_fn(|code| mxfp4::decode(code as u8, *scale));
                    for (out, code) in out.chunks_exact_mut(2).zip(codes) {
                        out[0] = values[usize::from(code & 15)];
                        out[1] = values[usize::from(code >> 4)];
                    }
                }
            }
            _ => out.iter_mut().enumerate().for_each(|(col, out)| *out = self.get(row, col)),
        }
    }

    /// One weight, exactly. Slow; the definition that the fast paths are held against.
    pub(crate) fn get(&self, row: usize, col: usize) -> f32 {
        match self.format {
            Format::F32(bytes) => {
                let at = 4 * (row * self.cols + col);
                f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
            Format::Bf16(bytes) => read_bf16(bytes, row * self.cols + col),
            Format::Bf16Transposed(bytes) => read_bf16(bytes, col * self.rows + row),
            Format::Mxfp4 { blocks, scales } => {
                let at = row * self.cols + col;
                mxfp4::decode(mxfp4::nibble(blocks, at), scales[at / mxfp4::BLOCK_LEN])
            }
            Format::Int8(view) => view.get(row, col),
        }
    }
}

fn read_bf16(bytes: &[u8], at: usize) -> f32 {
    bf16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32()
}
