//! Drawing on a CUDA device.

use candle_core::{DType, Tensor};

use super::{Draw, DrawArgs, Drawn, MAX_PARTS, PART_LEN, THREADS, Words, drawn, takes};
use crate::backend::Backend;
use crate::cuda::Kernels;
use crate::gpu::Grid;
use crate::{DeviceInput, KernelError, Result};

/// A token of each of the rows, which are rows of `logits` `[.., vocab]`.
pub(in super::super) fn draw(
    backend: &Backend,
    kernels: &Kernels,
    logits: &Tensor,
    draws: &[(u32, &Draw)],
    vocab: usize,
    input: &mut DeviceInput,
) -> Result<Vec<Drawn>> {
    let num_parts = vocab.div_ceil(PART_LEN);
    if !takes(vocab) {
        return Err(KernelError::Shape {
            op: "draw",
            what: "vocabulary",
            expected: format!("at most {}", MAX_PARTS * PART_LEN),
            found: vec![vocab],
        });
    }
    let (count, words) = (draws.len(), Words::new(draws));
    let on_device = input.place(backend, &words.words)?;
    let part = |dtype: DType| kernels.output((count, num_parts), dtype);
    let (maxima, places, sums) = (part(DType::F32)?, part(DType::U32)?, part(DType::F64)?);
    let tokens = kernels.output(count, DType::U32)?;
    let base = kernels.address(&on_device)?;
    let at = |word: usize| base + 4 * word as u64;
    let args = DrawArgs {
        logits: kernels.address(logits)?,
        uniforms: at(0),
        rows: at(words.rows),
        scales: at(words.scales),
        starts: at(words.starts),
        forbidden: at(words.forbidden),
        part_max: kernels.address(&maxima)?,
        part_argmax: kernels.address(&places)?,
        part_sum: kernels.address(&sums)?,
        tokens: kernels.address(&tokens)?,
        vocab: vocab as u32,
        num_parts: num_parts as u32,
    };
    // SAFETY: rows were checked against the logits, and the parts and tokens have a place for each.
    unsafe {
        if words.has_forbidden() {
            kernels.launch("draw_forbid_f32", args, Grid::new([count, 1, 1], THREADS))?;
        }
        kernels.launch("draw_parts_f32", args, Grid::new([num_parts, count, 1], THREADS))?;
        kernels.launch("draw_token_f32", args, Grid::new([count, 1, 1], THREADS))?;
    }
    let mut found = vec![0u32; count];
    kernels.read(&tokens, &mut found)?;
    Ok(found.into_iter().map(drawn).collect())
}
