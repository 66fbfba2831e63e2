//! The embedding on CUDA: `embedding.cu`.

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy)]
struct EmbeddingArgs {
    weight: u64,
    ids: u64,
    out: u64,
    hidden: u32,
}

const THREADS: u32 = 256;

#[cfg(feature = "cuda")]
mod device {
    use candle_core::{DType, Tensor};

    use super::{EmbeddingArgs, THREADS};
    use crate::Result;
    use crate::cuda::Kernels;
    use crate::gpu::Grid;

    /// Rows `ids` u32 `[n]`, each below `vocab`, of `weight` bf16 `[vocab, hidden]` as `[n, hidden]` f32.
    pub(in super::super) fn embedding(kernels: &Kernels, weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
        let (num_tokens, hidden) = (ids.elem_count(), weight.dims()[1]);
        let out = kernels.output((num_tokens, hidden), DType::F32)?;
        if num_tokens == 0 {
            return Ok(out);
        }
        let args = EmbeddingArgs {
            weight: kernels.address(weight)?,
            ids: kernels.address(ids)?,
            out: kernels.address(&out)?,
            hidden: hidden as u32,
        };
        let grid = Grid::new([num_tokens, 1, 1], THREADS);
        // SAFETY: the ids were checked against the rows, and `out` has a row for each.
        unsafe { kernels.launch("embedding_bf16_f32", args, grid)? };
        Ok(out)
    }
}

#[cfg(feature = "cuda")]
pub(super) use device::embedding;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Random;
    use crate::gpu::Grid;
    use crate::gpu::twin::{Output, Twin, input};

    #[test]
    fn the_twin_widens_the_rows_asked_for() {
        let random = &mut Random::fresh();
        for hidden in [1, 31, 300] {
            let weight = random.bf16s(7 * hidden);
            let ids = [6u32, 0, 3, 3];
            let mut out = Output::new(ids.len() * hidden);
            let args = EmbeddingArgs {
                weight: input(&weight),
                ids: input(&ids),
                out: out.address(),
                hidden: hidden as u32,
            };
            Twin::of("embedding/embedding.cu").launch(
                "embedding_bf16_f32",
                &args,
                Grid::new([ids.len(), 1, 1], THREADS),
            );
            let expected: Vec<f32> = ids
                .iter()
                .flat_map(|&id| weight[id as usize * hidden..][..hidden].iter().map(|w| w.to_f32()))
                .collect();
            assert_eq!(out.f32s(), expected);
        }
    }
}
