//! Attention on a Metal device.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::super::words::{At, Words};
use super::super::{AttentionSpec, CosSin, LayerCache, Qkv};
use super::{
    PagedAttentionArgs, RopeAndCacheArgs, THREADS, TILE_ROWS, TILED_HEAD_DIM, TILED_THREADS,
    TiledAttentionArgs,
};
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

/// One layer's attention over the batch, once queries are rotated and the cache is written.
struct Op<'a> {
    spec: &'a AttentionSpec,
    sinks: &'a Tensor,
    q: &'a Tensor,
    cache: LayerCache<'a>,
    out: &'a Tensor,
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
        let out = self.kernels.output(rotated.dims2()?, DType::F32)?;
        let op = Op { spec, sinks, q: &rotated, cache, out: &out };
        match spec.head_dim {
            TILED_HEAD_DIM => {
                self.attend_few(&op, self.words.few_tokens)?;
                self.attend_many(&op)?;
            }
            _ => self.attend_few(&op, self.words.all_tokens)?,
        }
        Ok(out)
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

    /// The queries of `tokens`, one by one.
    fn attend_few(&self, op: &Op, tokens: At) -> Result<()> {
        let (spec, words) = (op.spec, &self.words);
        let args = PagedAttentionArgs {
            num_heads: spec.num_attention_heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            head_dim: spec.head_dim as u32,
            block_size: op.cache.k.dims()[1] as u32,
            window: spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
        };
        let lists = [tokens, words.token_seqs, words.positions];
        let grid = Grid::new([spec.num_attention_heads, tokens.len, 1], THREADS);
        // SAFETY: block tables were checked against the cache.
        unsafe { self.launch("paged_attention_bf16", op, lists, args, grid) }
    }

    /// The queries of the sequences with many, on simdgroup matrices.
    fn attend_many(&self, op: &Op) -> Result<()> {
        let (spec, words) = (op.spec, &self.words);
        let args = TiledAttentionArgs {
            count: words.tiled_seqs.len as u32,
            num_heads: spec.num_attention_heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            block_size: op.cache.k.dims()[1] as u32,
            window: spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
        };
        let lists = [words.tiled_seqs, words.seq_starts, words.context_lens];
        let group = spec.num_attention_heads / spec.num_key_value_heads;
        let tiles = words.tiled_lens.iter().map(|len| (len * group).div_ceil(TILE_ROWS)).sum();
        let grid = Grid::new([tiles, spec.num_key_value_heads, 1], TILED_THREADS);
        // SAFETY: as above; the kernel takes heads of this width.
        unsafe { self.launch("tiled_attention_f32_bf16", op, lists, args, grid) }
    }

    /// Launches a kernel over the queries, the caches, three lists of its own, the block tables and the sinks.
    ///
    /// # Safety
    /// As [`MetalKernels::launch`].
    unsafe fn launch<A: Copy>(
        &self,
        kernel: &str,
        op: &Op,
        [first, second, third]: [At; 3],
        args: A,
        grid: Grid,
    ) -> Result<()> {
        let words = &self.words;
        let lists = [first, second, third, words.table_starts, words.first_blocks, words.blocks];
        let lists = lists.map(|at| at.of(&self.on_device));
        let [first, second, third, table_starts, first_blocks, blocks] = lists;
        let lists = [first?, second?, third?, table_starts?, first_blocks?, blocks?];
        let [first, second, third, table_starts, first_blocks, blocks] = lists.each_ref();
        let LayerCache { k, v } = op.cache;
        let inputs = [op.q, k, v, first, second, third, table_starts, first_blocks, blocks, op.sinks];
        // SAFETY: the caller's promise.
        unsafe { self.kernels.launch(kernel, &inputs, &[op.out], args, grid) }
    }
}
