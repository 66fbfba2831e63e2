//! Attention on a CUDA device.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::super::words::At;
use super::super::{AttentionSpec, CosSin, LayerCache, Qkv};
use super::{
    CacheKernels, JOIN_THREADS, PagedAttentionArgs, ROPE_PARTS, ROPE_THREADS, RopeAndCacheArgs,
    SPLIT_THREADS, TILE_ROWS, TILED_HEAD_DIM, TILED_THREADS, TiledAttentionArgs, Words, num_splits,
};
use crate::backend::Backend;
use crate::cuda::Kernels;
use crate::gpu::Grid;
use crate::{AttentionMetadata, DeviceInput, KernelError, Result};

/// Bytes of partial results; longer batches are attended in groups of tokens.
const MAX_PART_BYTES: usize = 256 << 20;

/// A batch's metadata on the device.
#[derive(Debug)]
pub(in super::super) struct CudaBatch {
    words: Words,
    on_device: Tensor,
    kernels: Arc<Kernels>,
}

/// One layer's attention over the batch, once queries are rotated and the cache is written.
struct Op<'a> {
    spec: &'a AttentionSpec,
    sinks: &'a Tensor,
    q: &'a Tensor,
    cache: LayerCache<'a>,
    names: CacheKernels,
    out: &'a Tensor,
}

/// Whether the kernels take heads of this shape.
pub(in super::super) fn fits(spec: &AttentionSpec) -> bool {
    let group = spec.num_attention_heads / spec.num_key_value_heads;
    group <= 16 && spec.head_dim <= 128 && spec.head_dim.is_multiple_of(8)
}

impl CudaBatch {
    pub(in super::super) fn new(
        kernels: &Arc<Kernels>,
        backend: &Backend,
        metadata: &AttentionMetadata,
        slot_mapping: &[u32],
        input: &mut DeviceInput,
    ) -> Result<Self> {
        let words = Words::new(metadata, slot_mapping);
        let on_device = input.place(backend, &words.words)?;
        Ok(Self { words, on_device, kernels: kernels.clone() })
    }

    /// Everything but block ids, which come last, lies where the numbers of tokens say.
    pub(in super::super) fn recording_key(&self) -> Result<[u64; 5]> {
        let words = &self.words;
        let num_tiled: usize = words.tiled_lens.iter().sum();
        let counts = [words.slots.len, words.few_tokens.len, num_tiled, words.max_context_len];
        let [num_tokens, num_few, num_tiled, context] = counts.map(|count| count as u64);
        Ok([self.kernels.address(&self.on_device)?, num_tokens, num_few, num_tiled, context])
    }

    /// Rotates, writes the cache and attends, `[n, heads * head_dim]` f32. Metadata was checked.
    pub(in super::super) fn forward(
        &self,
        spec: &AttentionSpec,
        sinks: &Tensor,
        qkv: &Qkv,
        rotary: &CosSin,
        cache: LayerCache,
    ) -> Result<Tensor> {
        let names = CacheKernels::of(cache.k.dtype()).filter(|_| cache.v.dtype() == cache.k.dtype());
        let Some(names) = names else {
            return Err(KernelError::ActivationDType { op: "attention cache", found: cache.k.dtype() });
        };
        let shape = (self.words.slots.len, spec.num_attention_heads * spec.head_dim);
        let rotated = self.kernels.output(shape, DType::F32)?;
        let out = self.kernels.output(shape, DType::F32)?;
        let op = Op { spec, sinks, q: &rotated, cache, names, out: &out };
        self.rope_and_cache(&op, qkv, rotary)?;
        match spec.head_dim {
            TILED_HEAD_DIM => {
                self.attend_few(&op, self.words.few_tokens)?;
                self.attend_many(&op)?;
            }
            _ => self.attend_few(&op, self.words.all_tokens)?,
        }
        Ok(out)
    }

    /// Writes what `op` reads: its queries and the cache.
    fn rope_and_cache(&self, op: &Op, qkv: &Qkv, rotary: &CosSin) -> Result<()> {
        let (kernels, spec) = (&*self.kernels, op.spec);
        let (q, k, v) = (qkv.q.contiguous()?, qkv.k.contiguous()?, qkv.v.contiguous()?);
        let base = kernels.address(&self.on_device)?;
        let args = RopeAndCacheArgs {
            q: kernels.address(&q)?,
            k: kernels.address(&k)?,
            v: kernels.address(&v)?,
            cos: kernels.address(&rotary.cos)?,
            sin: kernels.address(&rotary.sin)?,
            slots: self.words.slots.address(base),
            q_out: kernels.address(op.q)?,
            k_cache: kernels.address(op.cache.k)?,
            v_cache: kernels.address(op.cache.v)?,
            num_heads: spec.num_attention_heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            head_dim: spec.head_dim as u32,
        };
        let grid = Grid::new([self.words.slots.len, ROPE_PARTS, 1], ROPE_THREADS);
        // SAFETY: slots were checked against the cache, whose storage nothing else uses on this stream meanwhile.
        unsafe { kernels.launch(op.names.rope_and_cache, args, grid) }
    }

    /// The queries of `tokens`, their keys split over blocks.
    fn attend_few(&self, op: &Op, tokens: At) -> Result<()> {
        let (kernels, words) = (&*self.kernels, &self.words);
        let (num_heads, head_dim) = (op.spec.num_attention_heads, op.spec.head_dim);
        let max_splits = num_splits(words.max_context_len, op.spec.sliding_window);
        let part_bytes = num_heads * max_splits * (head_dim + 2) * 4;
        let step = (MAX_PART_BYTES / part_bytes.max(1)).clamp(1, tokens.len.max(1));
        let parts = step * num_heads * max_splits;
        let part_out = kernels.output(parts * head_dim, DType::F32)?;
        let (part_max, part_sum) = (kernels.output(parts, DType::F32)?, kernels.output(parts, DType::F32)?);
        let base = kernels.address(&self.on_device)?;
        for first in (0..tokens.len).step_by(step) {
            let args = PagedAttentionArgs {
                q: kernels.address(op.q)?,
                tokens: tokens.address(base) + 4 * first as u64,
                k_cache: kernels.address(op.cache.k)?,
                v_cache: kernels.address(op.cache.v)?,
                token_seqs: words.token_seqs.address(base),
                positions: words.positions.address(base),
                table_starts: words.table_starts.address(base),
                first_blocks: words.first_blocks.address(base),
                blocks: words.blocks.address(base),
                sinks: kernels.address(op.sinks)?,
                part_out: kernels.address(&part_out)?,
                part_max: kernels.address(&part_max)?,
                part_sum: kernels.address(&part_sum)?,
                out: kernels.address(op.out)?,
                num_heads: num_heads as u32,
                num_kv_heads: op.spec.num_key_value_heads as u32,
                head_dim: head_dim as u32,
                block_size: op.cache.k.dims()[1] as u32,
                max_splits: max_splits as u32,
                window: op.spec.sliding_window.unwrap_or(0) as u32,
                scale: 1.0 / (head_dim as f32).sqrt(),
            };
            let count = (tokens.len - first).min(step);
            let split = Grid::new([max_splits, op.spec.num_key_value_heads, count], SPLIT_THREADS);
            let join = Grid::new([num_heads, count, 1], JOIN_THREADS);
            // SAFETY: block tables were checked against the cache; parts hold `count` tokens.
            unsafe {
                kernels.launch(op.names.few(op.spec, args.block_size as usize), args, split)?;
                kernels.launch("paged_attention_join_f32", args, join)?;
            }
        }
        Ok(())
    }

    /// The queries of the sequences with many, on the tensor cores.
    fn attend_many(&self, op: &Op) -> Result<()> {
        let (kernels, words) = (&*self.kernels, &self.words);
        let group = op.spec.num_attention_heads / op.spec.num_key_value_heads;
        let base = kernels.address(&self.on_device)?;
        let args = TiledAttentionArgs {
            q: kernels.address(op.q)?,
            k_cache: kernels.address(op.cache.k)?,
            v_cache: kernels.address(op.cache.v)?,
            seqs: words.tiled_seqs.address(base),
            seq_starts: words.seq_starts.address(base),
            context_lens: words.context_lens.address(base),
            table_starts: words.table_starts.address(base),
            first_blocks: words.first_blocks.address(base),
            blocks: words.blocks.address(base),
            sinks: kernels.address(op.sinks)?,
            out: kernels.address(op.out)?,
            count: words.tiled_seqs.len as u32,
            num_heads: op.spec.num_attention_heads as u32,
            num_kv_heads: op.spec.num_key_value_heads as u32,
            block_size: op.cache.k.dims()[1] as u32,
            window: op.spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (op.spec.head_dim as f32).sqrt(),
        };
        let tiles = words.tiled_lens.iter().map(|len| (len * group).div_ceil(TILE_ROWS)).sum();
        let grid = Grid::new([tiles, op.spec.num_key_value_heads, 1], TILED_THREADS);
        // SAFETY: block tables were checked against the cache; the kernel takes heads of this width.
        unsafe { kernels.launch(op.names.tiled, args, grid) }
    }
}
