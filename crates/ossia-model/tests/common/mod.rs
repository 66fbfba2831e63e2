//! Sequences over a model's cache, for tests: blocks are handed out in an order of the test's choice.

#![allow(clippy::unwrap_used, dead_code)]

use std::path::PathBuf;

use ossia_model::{BlockTable, ForwardBatch, GptOss, KvCache, KvMetadata, Logits};

pub(crate) const BLOCK_SIZE: usize = 16;

/// The folder tests/parity of the repository.
pub(crate) fn parity_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity")
}

/// A sequence and its blocks in both groups.
pub(crate) struct Sequence {
    pub(crate) ids: Vec<u32>,
    /// Tokens computed so far.
    pub(crate) computed: usize,
    full: BlockTable,
    sliding: BlockTable,
}

/// A model, its cache and the blocks that nobody holds.
pub(crate) struct Driver<'a> {
    pub(crate) model: &'a GptOss,
    pub(crate) cache: KvCache,
    free: Vec<u32>,
}

impl<'a> Driver<'a> {
    /// `stride` (odd) shuffles the physical blocks.
    pub(crate) fn new(model: &'a GptOss, num_blocks: usize, stride: usize) -> Self {
        let num_blocks = num_blocks.next_power_of_two();
        let cache = model.allocate_kv_cache(num_blocks, BLOCK_SIZE).unwrap();
        let free = (0..num_blocks).map(|block| ((block * stride + 3) % num_blocks) as u32).collect();
        Self { model, cache, free }
    }

    pub(crate) fn sequence(&self, ids: &[u32]) -> Sequence {
        Sequence {
            ids: ids.to_vec(),
            computed: 0,
            full: BlockTable::default(),
            sliding: BlockTable::default(),
        }
    }

    /// Computes the next `num_tokens` of each sequence in one pass; logits of all of them.
    pub(crate) fn step(&mut self, parts: &mut [(&mut Sequence, usize)]) -> Logits {
        let mut batch = ForwardBatch { cu_seqlens_q: vec![0], ..ForwardBatch::default() };
        for (seq, num_tokens) in parts.iter_mut() {
            self.push(&mut batch, seq, *num_tokens);
        }
        batch.logits_indices = (0..batch.num_tokens() as u32).collect();
        self.model.forward(&batch, &mut self.cache).unwrap()
    }

    fn push(&mut self, batch: &mut ForwardBatch, seq: &mut Sequence, num_tokens: usize) {
        let (start, end) = (seq.computed, seq.computed + num_tokens);
        batch.input_ids.extend(&seq.ids[start..end]);
        batch.positions.extend(start as u32..end as u32);
        batch.cu_seqlens_q.push(batch.input_ids.len() as u32);
        batch.context_lens.push(end as u32);
        // What the window has passed goes back to the pool.
        let first_visible = (start + 1).saturating_sub(self.model.config().sliding_window);
        while (seq.sliding.first_block_idx as usize + 1) * BLOCK_SIZE <= first_visible {
            self.free.push(seq.sliding.blocks.remove(0));
            seq.sliding.first_block_idx += 1;
        }
        for (table, metadata) in [(&mut seq.full, &mut batch.full), (&mut seq.sliding, &mut batch.sliding)] {
            self.extend(table, metadata, start..end);
        }
        seq.computed = end;
    }

    fn extend(&mut self, table: &mut BlockTable, to: &mut KvMetadata, positions: std::ops::Range<usize>) {
        let first = table.first_block_idx as usize;
        while (first + table.blocks.len()) * BLOCK_SIZE < positions.end {
            table.blocks.push(self.free.pop().unwrap());
        }
        to.slot_mapping.extend(positions.map(|position| {
            let block = table.blocks[position / BLOCK_SIZE - first];
            block * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32
        }));
        to.block_tables.push(table.clone());
    }
}

/// Logits of all of `ids`, computed `chunk` tokens at a time.
pub(crate) fn logits_of(model: &GptOss, ids: &[u32], chunk: usize) -> Vec<f32> {
    // The last chunk's blocks of the sliding group are taken before the window's are given back.
    let num_blocks = 2 * ids.len().div_ceil(BLOCK_SIZE) + 2;
    let mut driver = Driver::new(model, num_blocks, 5);
    let mut seq = driver.sequence(ids);
    let mut out = Vec::new();
    while seq.computed < ids.len() {
        let num_tokens = chunk.min(ids.len() - seq.computed);
        out.extend_from_slice(driver.step(&mut [(&mut seq, num_tokens)]).data());
    }
    out
}
