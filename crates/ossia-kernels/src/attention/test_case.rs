//! Random batches over a paged cache for the tests of GPU kernels, and what the CPU op makes of them.

#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, WithDType};
use half::bf16;

use crate::check::Random;
use crate::paged_attention::paged_attention;
use crate::{AttentionMetadata, AttentionSpec, Backend, BlockTable, CosSin, LayerCache, Qkv};

pub(super) const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: usize = 128;

/// A batch of sequences in shuffled blocks, as the CPU op takes it.
pub(super) struct Case {
    pub(super) spec: AttentionSpec,
    pub(super) cu_seqlens_q: Vec<u32>,
    pub(super) context_lens: Vec<u32>,
    pub(super) block_tables: Vec<BlockTable>,
    pub(super) slot_mapping: Vec<u32>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
    pub(super) k_cache: Vec<bf16>,
    pub(super) v_cache: Vec<bf16>,
}

impl Case {
    pub(super) fn new(spec: AttentionSpec, sequences: &[(usize, usize)], random: &mut Random) -> Self {
        let (mut cu_seqlens_q, mut context_lens, mut block_tables) = (vec![0], vec![], vec![]);
        let mut slot_mapping = Vec::new();
        let mut free = (0..NUM_BLOCKS).map(|block| (block * 45 + 7) % NUM_BLOCKS);
        for &(num_tokens, context_len) in sequences {
            let first_query = context_len - num_tokens;
            let first_visible = spec.sliding_window.map_or(0, |w| (first_query + 1).saturating_sub(w));
            let first_block = first_visible / BLOCK_SIZE;
            let count = context_len.div_ceil(BLOCK_SIZE) - first_block;
            let blocks: Vec<u32> = free.by_ref().take(count).map(|block| block as u32).collect();
            assert_eq!(blocks.len(), count);
            slot_mapping.extend((first_query..context_len).map(|position| {
                let block = blocks[position / BLOCK_SIZE - first_block];
                block * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32
            }));
            cu_seqlens_q.push(slot_mapping.len() as u32);
            context_lens.push(context_len as u32);
            block_tables.push(BlockTable { first_block_idx: first_block as u32, blocks });
        }
        let n = slot_mapping.len();
        let (width, kv_width) =
            (spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim);
        let cache_len = NUM_BLOCKS * BLOCK_SIZE * kv_width;
        Self {
            q: random.f32s(n * width),
            k: random.f32s(n * kv_width),
            v: random.f32s(n * kv_width),
            cos: random.f32s(n * spec.head_dim / 2),
            sin: random.f32s(n * spec.head_dim / 2),
            k_cache: random.bf16s(cache_len),
            v_cache: random.bf16s(cache_len),
            spec,
            cu_seqlens_q,
            context_lens,
            block_tables,
            slot_mapping,
        }
    }

    pub(super) fn metadata(&self) -> AttentionMetadata<'_> {
        AttentionMetadata {
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
        }
    }

    /// Output and both caches by the CPU ops.
    pub(super) fn expected(&self) -> (Vec<f32>, Vec<bf16>, Vec<bf16>) {
        self.expected_over(&self.k_cache, &self.v_cache)
    }

    /// The same over other caches.
    pub(super) fn expected_over<T: WithDType>(
        &self,
        k_cache: &[T],
        v_cache: &[T],
    ) -> (Vec<f32>, Vec<T>, Vec<T>) {
        let n = self.slot_mapping.len();
        let spec = &self.spec;
        let tensor =
            |values: &[f32]| Tensor::from_slice(values, (n, values.len() / n), &Device::Cpu).unwrap();
        let shape = (NUM_BLOCKS, BLOCK_SIZE, spec.num_key_value_heads, spec.head_dim);
        let cache = |values: &[T]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        let (k, v) = (cache(k_cache), cache(v_cache));
        let backend = Backend::cpu();
        let batch = backend.attention_batch(self.metadata(), &self.slot_mapping).unwrap();
        let qkv = Qkv { q: tensor(&self.q), k: tensor(&self.k), v: tensor(&self.v) };
        let rotary = CosSin { cos: tensor(&self.cos), sin: tensor(&self.sin) };
        let attention = backend.attention(spec.clone()).unwrap();
        attention.forward(&qkv, &rotary, LayerCache { k: &k, v: &v }, &batch).unwrap();
        // Over the same cache in f32, where no path rounds queries or probabilities.
        let (q, ..) = attention.rotated(&qkv, &rotary).unwrap();
        let [wide_k, wide_v] = [&k, &v].map(|cache| cache.to_dtype(DType::F32).unwrap());
        let out = paged_attention(&q, &wide_k, &wide_v, &attention.layer(), &self.metadata()).unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap();
        let cache = |t: &Tensor| flat(t).to_vec1::<T>().unwrap();
        (flat(&out).to_vec1().unwrap(), cache(&k), cache(&v))
    }
}

/// A layer with random sinks.
pub(super) fn spec(
    heads: [usize; 2],
    head_dim: usize,
    window: Option<usize>,
    random: &mut Random,
) -> AttentionSpec {
    AttentionSpec {
        num_attention_heads: heads[0],
        num_key_value_heads: heads[1],
        head_dim,
        sinks: random.f32s(heads[0]),
        sliding_window: window,
    }
}
