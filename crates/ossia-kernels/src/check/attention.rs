//! Checks of attention with its rotation and cache write.

use std::sync::Arc;

use candle_core::Tensor;

use super::{CheckShapes, OpCheck, Random, compare};
use crate::{
    AttentionMetadata, AttentionSpec, Backend, BlockTable, CacheType, CosSin, LayerCache, Qkv, Result,
};

const BLOCK_SIZE: usize = 16;

/// One layer of gpt-oss over sequences of new and cached tokens.
struct Case {
    name: &'static str,
    /// New tokens and context of each sequence.
    sequences: Vec<(usize, usize)>,
    window: Option<usize>,
    cache: CacheType,
}

/// The batch as vectors, blocks in shuffled order.
struct Batch {
    cu_seqlens_q: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<BlockTable>,
    slot_mapping: Vec<u32>,
    num_blocks: usize,
}

pub(super) fn check(backend: &Backend, shapes: CheckShapes, random: &mut Random) -> Result<Vec<OpCheck>> {
    let mixed = vec![(1, 1), (1, 257), (33, 33), (5, 300)];
    let case = |name, sequences, window| Case { name, sequences, window, cache: CacheType::Bf16 };
    let small = [
        case("mixed", mixed.clone(), None),
        case("mixed, window 128", mixed.clone(), Some(128)),
        Case { cache: CacheType::Fp8, ..case("mixed, fp8 cache", mixed, None) },
    ];
    let real = [
        case("decode at 8192", vec![(1, 8192)], None),
        Case { cache: CacheType::Fp8, ..case("decode at 8192, fp8 cache", vec![(1, 8192)], None) },
        case("decode at 8192, window 128", vec![(1, 8192)], Some(128)),
        case("decode of 32 at 1024", vec![(1, 1024); 32], None),
        case("prefill of 512", vec![(512, 512)], None),
    ];
    let real = if shapes == CheckShapes::All { &real[..] } else { &[] };
    let taken = small.iter().chain(real).filter(|case| backend.takes_cache(case.cache));
    taken.map(|case| case.check(backend, random)).collect()
}

impl Case {
    fn check(&self, backend: &Backend, random: &mut Random) -> Result<OpCheck> {
        let (heads, kv_heads, head_dim) = (64, 8, 64);
        let batch = Arc::new(self.batch());
        let n = batch.slot_mapping.len();
        let spec = AttentionSpec {
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            sinks: random.f32s(heads),
            sliding_window: self.window,
        };
        let mut tensor = |width: usize| random.tensor(&[n, width]);
        let qkv = [tensor(heads * head_dim)?, tensor(kv_heads * head_dim)?, tensor(kv_heads * head_dim)?];
        let rotary = [tensor(head_dim / 2)?, tensor(head_dim / 2)?];
        let cache_shape = [batch.num_blocks, BLOCK_SIZE, kv_heads, head_dim];
        let cache = [random.tensor(&cache_shape)?, random.tensor(&cache_shape)?];
        let seen: usize =
            self.sequences.iter().map(|s| self.window.map_or(s.1, |window| window.min(s.1))).sum();
        let cache_type = self.cache.dtype();
        let bytes = 2 * cache_type.size_in_bytes() * kv_heads * head_dim * seen + 8 * n * heads * head_dim;
        compare(format!("attention, {}", self.name), backend, bytes as u64, |backend| {
            let place = |t: &Tensor| t.to_device(backend.device());
            let qkv = Qkv { q: place(&qkv[0])?, k: place(&qkv[1])?, v: place(&qkv[2])? };
            let rotary = CosSin { cos: place(&rotary[0])?, sin: place(&rotary[1])? };
            let to_cache = |t: &Tensor| place(&t.to_dtype(cache_type)?);
            let (k, v) = (to_cache(&cache[0])?, to_cache(&cache[1])?);
            let (attention, batch, backend) =
                (backend.attention(spec.clone())?, batch.clone(), backend.clone());
            Ok(Box::new(move || {
                let prepared = backend.attention_batch(batch.metadata(), &batch.slot_mapping)?;
                attention.forward(&qkv, &rotary, LayerCache { k: &k, v: &v }, &prepared)
            }))
        })
    }

    fn batch(&self) -> Batch {
        let blocks_of = |context_len: usize| context_len.div_ceil(BLOCK_SIZE);
        // A power of two, so that odd steps visit each block once.
        let num_blocks = self.sequences.iter().map(|s| blocks_of(s.1)).sum::<usize>().next_power_of_two();
        let mut free = (0..num_blocks).map(|block| ((block * 5 + 3) % num_blocks) as u32);
        let mut batch = Batch {
            cu_seqlens_q: vec![0],
            context_lens: vec![],
            block_tables: vec![],
            slot_mapping: vec![],
            num_blocks,
        };
        for &(num_tokens, context_len) in &self.sequences {
            let blocks: Vec<u32> = free.by_ref().take(blocks_of(context_len)).collect();
            batch.slot_mapping.extend((context_len - num_tokens..context_len).map(|position| {
                blocks[position / BLOCK_SIZE] * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32
            }));
            batch.cu_seqlens_q.push(batch.slot_mapping.len() as u32);
            batch.context_lens.push(context_len as u32);
            batch.block_tables.push(BlockTable { first_block_idx: 0, blocks });
        }
        batch
    }
}

impl Batch {
    fn metadata(&self) -> AttentionMetadata<'_> {
        AttentionMetadata {
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
        }
    }
}
