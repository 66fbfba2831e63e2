//! Attention of new tokens over a paged KV cache, with sinks and sliding windows.
//!
//! The bits of a query's output depend only on the query, the keys and values it sees and their absolute
//! positions: keys are reduced in chunks that start at absolute multiples of [`CHUNK_LEN`], each chunk is
//! summed in ascending order on its own, chunks are merged in ascending order to spans that start at absolute
//! multiples of [`SPAN_LEN`], and spans are merged in ascending order. So neither chunked prefill, nor the batch, nor
//! the number of threads, which may take a span each, nor the physical blocks show in the result.

#[cfg(target_arch = "x86_64")]
mod amx;
mod chunk;
mod cpu;
mod operands;
#[cfg(test)]
mod reference;
mod softmax;
mod staged;
mod sums;
#[cfg(test)]
mod tests;
mod tile;
mod vector;
mod vector_rows;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, bail};
use half::bf16;

use self::staged::{Caches, HeadsOfSlots};
use crate::cpu::contiguous_f32;
use crate::kv_cache::{BlockTable, CacheType};
use crate::{KernelError, Result};

/// Key positions that are reduced together, at absolute multiples of it.
pub(crate) const CHUNK_LEN: usize = 64;

/// Positions whose chunks are merged on their own, at absolute multiples of it: of a long context with few queries each
/// span can be computed by another thread. Whole chunks.
pub(crate) const SPAN_LEN: usize = 1024;

/// What is fixed per layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionLayer<'a> {
    /// One learned logit per query head; it joins the softmax denominator and has no value.
    pub sinks: &'a [f32],
    /// Factor of the query-key products.
    pub scale: f32,
    /// Positions a query sees, its own included; `None` for all up to its own.
    pub sliding_window: Option<usize>,
}

/// Which tokens belong together and where their context lies in the cache.
#[derive(Clone, Copy, Debug)]
pub struct AttentionMetadata<'a> {
    /// Where each sequence's queries start, `[num_seqs + 1]`.
    pub cu_seqlens_q: &'a [u32],
    /// Tokens of each sequence in the cache, `[num_seqs]`; its queries are the last of them.
    pub context_lens: &'a [u32],
    /// Blocks of each sequence, `[num_seqs]`.
    pub block_tables: &'a [BlockTable],
}

/// `q` `[n, heads, head_dim]` f32 over caches `[num_blocks, block_size, kv_heads, head_len]` of one [`CacheType`] (those of
/// 8 bits are widened to bf16) to `[n, heads * head_dim]` f32. Query head `h` reads key-value head `h / (heads / kv_heads)`.
///
/// # Errors
/// [`KernelError::Shape`] or [`KernelError::ActivationDType`] if shapes do not fit, [`KernelError::Candle`]
/// if a block table does not cover what its queries see or names a block that is not there.
pub fn paged_attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    layer: &AttentionLayer,
    metadata: &AttentionMetadata,
) -> Result<Tensor> {
    let (num_tokens, num_heads, head_dim) = q.dims3()?;
    if q.dtype() != DType::F32 {
        return Err(KernelError::ActivationDType { op: "paged_attention", found: q.dtype() });
    }
    let (num_blocks, block_size, num_kv_heads, head_len) = k_cache.dims4()?;
    let cache_type = CacheType::of_dtype(k_cache.dtype());
    let checks = [
        ("k_cache", cache_type.is_some_and(|cache| cache.head_len(head_dim) == head_len), k_cache.dims()),
        ("v_cache", v_cache.dims() == k_cache.dims(), v_cache.dims()),
        ("q heads", num_kv_heads > 0 && num_heads.is_multiple_of(num_kv_heads.max(1)), q.dims()),
        ("block_size", block_size > 0, k_cache.dims()),
        ("sinks", layer.sinks.len() == num_heads, &[layer.sinks.len()]),
        ("sliding_window", layer.sliding_window != Some(0), &[0]),
    ];
    if let Some((what, _, found)) = checks.iter().find(|(_, fits, _)| !fits) {
        let expected = format!("to fit q {:?} and k_cache {:?}", q.dims(), k_cache.dims());
        let found = found.to_vec();
        return Err(KernelError::Shape { op: "paged_attention", what, expected, found });
    }
    let op = PagedAttention {
        layer: *layer,
        metadata: *metadata,
        shape: AttentionShape { num_heads, num_kv_heads, head_dim, block_size },
    };
    metadata.check(layer.sliding_window, [num_blocks, block_size], num_tokens)?;
    let out = q.contiguous()?.apply_op3_no_bwd(&k_cache.contiguous()?, &v_cache.contiguous()?, &op)?;
    Ok(out)
}

impl AttentionMetadata<'_> {
    /// The unsafe parts rely on what is checked here: every visible position has a block that exists, in a cache of
    /// `[num_blocks, block_size]` slots.
    pub(crate) fn check(
        &self,
        window: Option<usize>,
        [num_blocks, block_size]: [usize; 2],
        num_tokens: usize,
    ) -> candle_core::Result<()> {
        let Self { cu_seqlens_q, context_lens, block_tables } = self;
        let num_seqs = context_lens.len();
        if cu_seqlens_q.len() != num_seqs + 1 || block_tables.len() != num_seqs {
            bail!("paged_attention: metadata for different numbers of sequences");
        }
        if cu_seqlens_q[0] != 0 || cu_seqlens_q[num_seqs] as usize != num_tokens {
            bail!("paged_attention: cu_seqlens_q does not cover {num_tokens} tokens");
        }
        let bounds = cu_seqlens_q.windows(2);
        for (seq, ((bounds, &context_len), table)) in bounds.zip(*context_lens).zip(*block_tables).enumerate()
        {
            if bounds[0] > bounds[1] || bounds[1] - bounds[0] > context_len {
                bail!("paged_attention: sequence {seq} has more queries than context {context_len}");
            }
            if bounds[0] < bounds[1] {
                let first_query = (context_len - (bounds[1] - bounds[0])) as usize;
                let needed = first_visible(window, first_query)..context_len as usize;
                check_table(seq, needed, table, [num_blocks, block_size])?;
            }
        }
        Ok(())
    }
}

/// First position that a query at `position` sees.
fn first_visible(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

fn check_table(
    seq: usize,
    needed: std::ops::Range<usize>,
    table: &BlockTable,
    [num_blocks, block_size]: [usize; 2],
) -> candle_core::Result<()> {
    let start = table.first_block_idx as usize * block_size;
    let end = start + table.blocks.len() * block_size;
    if start > needed.start || end < needed.end {
        bail!(
            "paged_attention: blocks of sequence {seq} hold positions {start}..{end}, \
             needed are {needed:?}"
        );
    }
    match table.blocks.iter().find(|&&block| block as usize >= num_blocks) {
        Some(block) => {
            bail!("paged_attention: block {block} of sequence {seq} is not one of {num_blocks}")
        }
        None => Ok(()),
    }
}

/// Sizes that every part of the op needs.
#[derive(Clone, Copy, Debug)]
struct AttentionShape {
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    block_size: usize,
}

impl AttentionShape {
    /// Query heads that share a key-value head.
    fn group_size(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

#[derive(Clone, Copy, Debug)]
struct PagedAttention<'a> {
    layer: AttentionLayer<'a>,
    metadata: AttentionMetadata<'a>,
    shape: AttentionShape,
}

impl PagedAttention<'_> {
    /// First position that a query at `position` sees.
    fn first_visible(&self, position: usize) -> usize {
        first_visible(self.layer.sliding_window, position)
    }
}

impl CustomOp3 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        "paged_attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k_cache: &CpuStorage,
        k_layout: &Layout,
        v_cache: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let q = contiguous_f32(q, q_layout)?;
        let out = match (k_cache, v_cache) {
            (CpuStorage::F32(k), CpuStorage::F32(v)) => {
                cpu::attend(self, q, Caches::AsIs(heads(k, k_layout, v, v_layout)))
            }
            (CpuStorage::BF16(k), CpuStorage::BF16(v)) => {
                cpu::attend(self, q, Caches::AsIs(heads(k, k_layout, v, v_layout)))
            }
            (CpuStorage::F8E4M3(k), CpuStorage::F8E4M3(v)) => {
                cpu::attend::<bf16>(self, q, Caches::E4m3(heads(k, k_layout, v, v_layout)))
            }
            (CpuStorage::U8(k), CpuStorage::U8(v)) => {
                cpu::attend::<bf16>(self, q, Caches::Int8(heads(k, k_layout, v, v_layout)))
            }
            _ => bail!("paged_attention: the caches must be of one type"),
        };
        let shape = Shape::from((q_layout.dims()[0], self.shape.num_heads * self.shape.head_dim));
        Ok((CpuStorage::F32(out), shape))
    }
}

/// The heads of two caches, which are contiguous and of the same shape `[num_blocks, block_size, kv_heads, head_len]`.
fn heads<'a, T>(k: &'a [T], k_layout: &Layout, v: &'a [T], v_layout: &Layout) -> HeadsOfSlots<'a, T> {
    let range = |layout: &Layout| layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    let (num_kv_heads, head_len) = (k_layout.dims()[2], k_layout.dims()[3]);
    HeadsOfSlots::all(num_kv_heads, head_len, &k[range(k_layout)], &v[range(v_layout)])
}
