//! Attention over the paged cache in candle's own ops, one sequence after the other.

use candle_core::{D, DType, Tensor};

use super::LayerCache;
use crate::Result;
use crate::backend::Backend;
use crate::paged_attention::{AttentionLayer, AttentionMetadata};

/// Most elements of a matrix of attention weights; longer prompts are attended in parts.
const MAX_WEIGHTS: usize = 64 << 20;

/// A batch's metadata on the device.
#[derive(Debug)]
pub(super) struct GenericBatch {
    /// Where each token's key and value go, `[n, 1]` u32.
    slots: Tensor,
    sequences: Vec<GenericSequence>,
}

#[derive(Debug)]
struct GenericSequence {
    /// Its tokens within the batch.
    first_token: usize,
    num_tokens: usize,
    /// Tokens in the cache, the new ones included.
    context_len: usize,
    /// Blocks `[num_blocks]` u32, the first of which is the `first_block_idx`-th of the sequence.
    blocks: Tensor,
    first_block_idx: usize,
}

impl GenericBatch {
    pub(super) fn new(backend: &Backend, metadata: &AttentionMetadata, slot_mapping: &[u32]) -> Result<Self> {
        let device = backend.device();
        let slots = Tensor::from_slice(slot_mapping, (slot_mapping.len(), 1), device)?;
        let bounds = metadata.cu_seqlens_q.windows(2);
        let parts = bounds.zip(metadata.context_lens).zip(metadata.block_tables);
        // A sequence that takes no part in this pass may have no blocks.
        let parts = parts.filter(|((bounds, _), _)| bounds[0] < bounds[1]);
        let sequences = parts.map(|((bounds, context_len), table)| {
            Ok(GenericSequence {
                first_token: bounds[0] as usize,
                num_tokens: bounds[1].saturating_sub(bounds[0]) as usize,
                context_len: *context_len as usize,
                blocks: Tensor::from_slice(&table.blocks, table.blocks.len(), device)?,
                first_block_idx: table.first_block_idx as usize,
            })
        });
        Ok(Self { slots, sequences: sequences.collect::<Result<_>>()? })
    }

    /// Writes `x` `[n, kv_heads, head_dim]` f32 into its slots of `cache`.
    pub(super) fn write(&self, x: &Tensor, cache: &Tensor) -> Result<()> {
        let (num_blocks, block_size, num_kv_heads, head_dim) = cache.dims4()?;
        let width = num_kv_heads * head_dim;
        let x = x.reshape(((), width))?.to_dtype(cache.dtype())?.contiguous()?;
        let slots = self.slots.broadcast_as(x.shape())?.contiguous()?;
        Ok(cache.reshape((num_blocks * block_size, width))?.scatter_set(&slots, &x, 0)?)
    }

    /// `q` `[n, heads, head_dim]` f32 to `[n, heads * head_dim]` f32.
    pub(super) fn attend(
        &self,
        q: &Tensor,
        cache: LayerCache,
        sinks: &Tensor,
        layer: &AttentionLayer,
    ) -> Result<Tensor> {
        let (_, num_heads, head_dim) = q.dims3()?;
        let mut outputs = Vec::with_capacity(self.sequences.len());
        for sequence in &self.sequences {
            let step = (MAX_WEIGHTS / (num_heads * sequence.context_len)).max(1);
            for first in (0..sequence.num_tokens).step_by(step) {
                let queries = first..(first + step).min(sequence.num_tokens);
                outputs.push(sequence.attend(queries, q, cache, sinks, layer)?);
            }
        }
        match outputs.is_empty() {
            true => Ok(q.reshape(((), num_heads * head_dim))?),
            false => Ok(Tensor::cat(&outputs, 0)?),
        }
    }
}

impl GenericSequence {
    /// Attention of the `queries`-th of this sequence's tokens, `[queries, heads * head_dim]` f32.
    fn attend(
        &self,
        queries: std::ops::Range<usize>,
        q: &Tensor,
        cache: LayerCache,
        sinks: &Tensor,
        layer: &AttentionLayer,
    ) -> Result<Tensor> {
        let (_, num_heads, head_dim) = q.dims3()?;
        let num_queries = queries.len();
        let first_position = self.context_len - self.num_tokens + queries.start;
        let first_key = layer.sliding_window.map_or(0, |window| (first_position + 1).saturating_sub(window));
        let keys = first_key..first_position + num_queries;
        let (k, v) = (self.gather(cache.k, &keys)?, self.gather(cache.v, &keys)?); // [kv_heads, keys, head_dim]
        let num_kv_heads = k.dim(0)?;
        let rows = num_heads / num_kv_heads * num_queries;

        let q = q.narrow(0, self.first_token + queries.start, num_queries)?;
        let q = q.transpose(0, 1)?.contiguous()?.reshape((num_kv_heads, rows, head_dim))?;
        let weights = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(layer.scale))?;
        let weights = weights.reshape((num_heads, num_queries, keys.len()))?;
        let weights = mask(&weights, first_position, first_key, layer.sliding_window)?;
        let weights = softmax_with_sinks(&weights, sinks)?.reshape((num_kv_heads, rows, keys.len()))?;
        let out = weights.matmul(&v)?.reshape((num_heads, num_queries, head_dim))?;
        Ok(out.transpose(0, 1)?.contiguous()?.reshape((num_queries, num_heads * head_dim))?)
    }

    /// Keys or values at `positions`, `[kv_heads, positions, head_dim]` f32.
    fn gather(&self, cache: &Tensor, positions: &std::ops::Range<usize>) -> Result<Tensor> {
        let (_, block_size, num_kv_heads, head_dim) = cache.dims4()?;
        let first_block = positions.start / block_size;
        let num_blocks = positions.end.div_ceil(block_size) - first_block;
        let blocks = self.blocks.narrow(0, first_block - self.first_block_idx, num_blocks)?;
        let gathered =
            cache.index_select(&blocks, 0)?.reshape((num_blocks * block_size, num_kv_heads, head_dim))?;
        let gathered = gathered.narrow(0, positions.start - first_block * block_size, positions.len())?;
        Ok(gathered.to_dtype(DType::F32)?.transpose(0, 1)?.contiguous()?)
    }
}

/// Hides what a query does not see: `weights` `[heads, queries, keys]`.
fn mask(weights: &Tensor, first_position: usize, first_key: usize, window: Option<usize>) -> Result<Tensor> {
    let (_, num_queries, num_keys) = weights.dims3()?;
    if num_queries == 1 {
        return Ok(weights.clone());
    }
    let visible: Vec<u8> = (first_position..first_position + num_queries)
        .flat_map(|query| {
            let first_visible = window.map_or(0, |window| (query + 1).saturating_sub(window));
            (first_key..first_key + num_keys).map(move |key| u8::from((first_visible..=query).contains(&key)))
        })
        .collect();
    let visible = Tensor::from_vec(visible, (1, num_queries, num_keys), weights.device())?;
    let hidden = Tensor::new(f32::NEG_INFINITY, weights.device())?.broadcast_as(weights.shape())?;
    Ok(visible.broadcast_as(weights.shape())?.where_cond(weights, &hidden)?)
}

/// Softmax over the keys of `[heads, queries, keys]` with one more logit per head, which takes its share and is dropped.
fn softmax_with_sinks(weights: &Tensor, sinks: &Tensor) -> Result<Tensor> {
    let (num_heads, num_queries, _) = weights.dims3()?;
    let sinks = sinks.reshape((num_heads, 1, 1))?.broadcast_as((num_heads, num_queries, 1))?;
    let max = weights.max_keepdim(D::Minus1)?.maximum(&sinks)?;
    let exps = weights.broadcast_sub(&max)?.exp()?;
    let sum = (exps.sum_keepdim(D::Minus1)? + (sinks - max)?.exp()?)?;
    Ok(exps.broadcast_div(&sum)?)
}
