//! Attention on Metal: `rope_and_cache.metal`, then `paged_attention.metal`.

/// As in the kernels' files.
#[repr(C)]
#[derive(Clone, Copy)]
struct RopeAndCacheArgs {
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PagedAttentionArgs {
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    block_size: u32,
    window: u32,
    scale: f32,
}

const THREADS: u32 = 256;

#[cfg(feature = "metal")]
mod device {
    use std::sync::Arc;

    use candle_core::{DType, Device, Tensor};

    use super::super::words::Words;
    use super::super::{AttentionSpec, CosSin, LayerCache, Qkv};
    use super::{PagedAttentionArgs, RopeAndCacheArgs, THREADS};
    use crate::gpu::Grid;
    use crate::metal::MetalKernels;
    use crate::{AttentionMetadata, KernelError, Result};

    /// Widest head that the kernel takes.
    const MAX_HEAD_DIM: usize = 128;

    /// A batch's metadata on the device.
    #[derive(Debug)]
    pub(in super::super) struct MetalBatch {
        words: Words,
        on_device: Tensor,
        kernels: Arc<MetalKernels>,
    }

    /// Whether the kernels take heads of this shape.
    pub(in super::super) fn fits(spec: &AttentionSpec) -> bool {
        spec.head_dim <= MAX_HEAD_DIM && spec.head_dim.is_multiple_of(2)
    }

    impl MetalBatch {
        pub(in super::super) fn new(
            kernels: &Arc<MetalKernels>,
            device: &Device,
            metadata: &AttentionMetadata,
            slot_mapping: &[u32],
        ) -> Result<Self> {
            let words = Words::new(metadata, slot_mapping);
            let on_device = Tensor::from_slice(&words.words, words.words.len(), device)?;
            Ok(Self { words, on_device, kernels: kernels.clone() })
        }

        /// Rotates, writes the cache and attends, `[n, heads * head_dim]` f32. Caches are bf16; metadata was checked.
        pub(in super::super) fn forward(
            &self,
            spec: &AttentionSpec,
            sinks: &Tensor,
            qkv: &Qkv,
            rotary: &CosSin,
            cache: LayerCache,
        ) -> Result<Tensor> {
            if cache.k.dtype() != DType::BF16 || cache.v.dtype() != DType::BF16 {
                return Err(KernelError::ActivationDType { op: "attention cache", found: cache.k.dtype() });
            }
            let rotated = self.rope_and_cache(spec, qkv, rotary, cache)?;
            self.attend(spec, sinks, &rotated, cache)
        }

        fn rope_and_cache(
            &self,
            spec: &AttentionSpec,
            qkv: &Qkv,
            rotary: &CosSin,
            cache: LayerCache,
        ) -> Result<Tensor> {
            let num_tokens = self.words.slots.len;
            let rotated =
                self.kernels.output((num_tokens, spec.num_attention_heads * spec.head_dim), DType::F32)?;
            let (q, k, v) = (qkv.q.contiguous()?, qkv.k.contiguous()?, qkv.v.contiguous()?);
            let slots = self.words.slots.of(&self.on_device)?;
            let args = RopeAndCacheArgs {
                num_heads: spec.num_attention_heads as u32,
                num_kv_heads: spec.num_key_value_heads as u32,
                head_dim: spec.head_dim as u32,
            };
            let inputs = [&q, &k, &v, &rotary.cos, &rotary.sin, &slots];
            let outputs = [&rotated, cache.k, cache.v];
            let grid = Grid::new([num_tokens, 1, 1], THREADS);
            // SAFETY: slots were checked against the cache.
            unsafe { self.kernels.launch("rope_and_cache_f32_bf16", &inputs, &outputs, args, grid)? };
            Ok(rotated)
        }

        fn attend(
            &self,
            spec: &AttentionSpec,
            sinks: &Tensor,
            q: &Tensor,
            cache: LayerCache,
        ) -> Result<Tensor> {
            let (words, on_device) = (&self.words, &self.on_device);
            let out = self.kernels.output(q.dims2()?, DType::F32)?;
            let args = PagedAttentionArgs {
                num_heads: spec.num_attention_heads as u32,
                num_kv_heads: spec.num_key_value_heads as u32,
                head_dim: spec.head_dim as u32,
                block_size: cache.k.dims()[1] as u32,
                window: spec.sliding_window.unwrap_or(0) as u32,
                scale: 1.0 / (spec.head_dim as f32).sqrt(),
            };
            let lists =
                [words.token_seqs, words.positions, words.table_starts, words.first_blocks, words.blocks];
            let [token_seqs, positions, table_starts, first_blocks, blocks] =
                lists.map(|at| at.of(on_device));
            let lists = [token_seqs?, positions?, table_starts?, first_blocks?, blocks?];
            let [token_seqs, positions, table_starts, first_blocks, blocks] = lists.each_ref();
            let inputs =
                [q, cache.k, cache.v, token_seqs, positions, table_starts, first_blocks, blocks, sinks];
            let grid = Grid::new([spec.num_attention_heads, words.slots.len, 1], THREADS);
            // SAFETY: block tables were checked against the cache.
            unsafe { self.kernels.launch("paged_attention_bf16", &inputs, &[&out], args, grid)? };
            Ok(out)
        }
    }
}

#[cfg(feature = "metal")]
pub(super) use device::{MetalBatch, fits};

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::test_case::{BLOCK_SIZE, Case, spec};
    use super::super::words::Words;
    use super::*;
    use crate::check::Random;
    use crate::gpu::Grid;
    use crate::gpu::twin::{Output, Twin, input};

    /// Output and both caches by the kernels' twins.
    fn run(case: &Case) -> (Vec<f32>, Vec<bf16>, Vec<bf16>) {
        let spec = &case.spec;
        let (n, heads) = (case.slot_mapping.len(), spec.num_attention_heads);
        let words = Words::new(&case.metadata(), &case.slot_mapping);
        let base = input(&words.words);
        let (mut k_cache, mut v_cache) = (case.k_cache.clone(), case.v_cache.clone());
        let mut rotated = Output::new(n * heads * spec.head_dim);
        let args = RopeAndCacheArgs {
            num_heads: heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            head_dim: spec.head_dim as u32,
        };
        let inputs = [&case.q, &case.k, &case.v, &case.cos, &case.sin].map(|values| input(values));
        let caches = [k_cache.as_mut_ptr() as u64, v_cache.as_mut_ptr() as u64];
        let buffers = [&inputs[..], &[words.slots.address(base), rotated.address()], &caches].concat();
        let twin = Twin::of("attention/rope_and_cache.metal");
        twin.launch_metal("rope_and_cache_f32_bf16", &buffers, &args, Grid::new([n, 1, 1], THREADS));

        let rotated = rotated.f32s();
        let mut out = Output::new(n * heads * spec.head_dim);
        let args = PagedAttentionArgs {
            num_heads: heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            head_dim: spec.head_dim as u32,
            block_size: BLOCK_SIZE as u32,
            window: spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
        };
        let lists = [words.token_seqs, words.positions, words.table_starts, words.first_blocks, words.blocks];
        let lists = lists.map(|at| at.address(base));
        let buffers =
            [&[input(&rotated)][..], &caches, &lists, &[input(&spec.sinks), out.address()]].concat();
        let twin = Twin::of("attention/paged_attention.metal");
        twin.launch_metal("paged_attention_bf16", &buffers, &args, Grid::new([heads, n, 1], THREADS));
        (out.f32s(), k_cache, v_cache)
    }

    #[test]
    fn the_twins_agree_with_the_cpu_op() {
        let random = &mut Random::fresh();
        for (heads, head_dim) in [([8, 2], 64), ([3, 3], 10), ([4, 1], 128)] {
            for window in [None, Some(1), Some(128)] {
                // The first token, block boundaries, prefill, and fewer keys than simdgroups.
                let lens = [(1, 1), (1, 256), (5, 5), (1, 300), (20, 131)];
                let case = Case::new(spec(heads, head_dim, window, random), &lens, random);
                let (found, expected) = (run(&case), case.expected());
                let context = format!("{heads:?} heads of {head_dim}, window {window:?}");
                let scale = expected.0.iter().fold(0f32, |max, x| max.max(x.abs()));
                for (found, expected) in found.0.iter().zip(&expected.0) {
                    assert!((found - expected).abs() <= 1e-5 * scale, "{context}: {found} {expected}");
                }
                assert!(found.1 == expected.1 && found.2 == expected.2, "{context}: caches differ");
            }
        }
    }

    /// A sequence's bits must not hang on where in a batch it stands.
    #[test]
    fn a_repeated_sequence_has_the_same_bits() {
        let random = &mut Random::fresh();
        let mut case = Case::new(spec([4, 2], 32, Some(50), random), &[(1, 200), (3, 90), (1, 200)], random);
        let width = 4 * 32;
        let (first, last) = (0, 4);
        case.q.copy_within(first * width..(first + 1) * width, last * width);
        case.k.copy_within(0..64, last * 64);
        case.v.copy_within(0..64, last * 64);
        case.cos.copy_within(0..16, last * 16);
        case.sin.copy_within(0..16, last * 16);
        let pairs = case.block_tables[0].blocks.iter().zip(&case.block_tables[2].blocks);
        for (&from, &to) in pairs {
            let len = BLOCK_SIZE * 64;
            let (from, to) = (from as usize * len, to as usize * len);
            case.k_cache.copy_within(from..from + len, to);
            case.v_cache.copy_within(from..from + len, to);
        }
        let out = run(&case).0;
        assert!(out[..width] == out[last * width..][..width]);
    }
}
