//! Drawing on a CUDA device.

use candle_core::{DType, Tensor};

use super::{Draw, Drawn, MAX_PARTS, OnDevice, PART_LEN, Words, drawn, launches, takes};
use crate::backend::Backend;
use crate::cuda::Kernels;
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
    if !takes(vocab) {
        return Err(KernelError::Shape {
            op: "draw",
            what: "vocabulary",
            expected: format!("at most {}", MAX_PARTS * PART_LEN),
            found: vec![vocab],
        });
    }
    let (count, num_parts, words) = (draws.len(), vocab.div_ceil(PART_LEN), Words::new(draws, vocab));
    let placed = input.place(backend, &words.words)?;
    let part = |dtype: DType| kernels.output((count, num_parts), dtype);
    let (maxima, places, sums) = (part(DType::F32)?, part(DType::U32)?, part(DType::F64)?);
    let tokens = kernels.output(count, DType::U32)?;
    let on_device = OnDevice {
        logits: kernels.address(logits)?,
        part_max: kernels.address(&maxima)?,
        part_argmax: kernels.address(&places)?,
        part_sum: kernels.address(&sums)?,
        tokens: kernels.address(&tokens)?,
        vocab,
    };
    let args = words.args(kernels.address(&placed)?, &on_device);
    for (kernel, grid) in launches(draws, vocab) {
        // SAFETY: rows were checked against the logits, and the parts and tokens have a place for each.
        unsafe { kernels.launch(kernel, args, grid)? };
    }
    let mut found = vec![0u32; count];
    kernels.read(&tokens, &mut found)?;
    Ok(found.into_iter().map(drawn).collect())
}
