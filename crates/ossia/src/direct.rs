//! A model and its KV cache driven without an engine, for `bench` and `logits`: fixed blocks per sequence.

use anyhow::Result;
use ossia_model::{BlockTable, Draw, ForwardBatch, GptOss, KvCache, KvMetadata, Logits, TokenDraw};

const BLOCK_SIZE: usize = 16;

/// `num_seqs` sequences of up to `max_len` tokens, each with its own blocks.
pub(crate) struct Direct {
    model: GptOss,
    kv_cache: KvCache,
    full_blocks: usize,
    sliding_blocks: usize,
    sliding_window: usize,
    /// Of the last pass.
    logits: Logits,
}

impl Direct {
    /// Room for `num_seqs` sequences of `max_len` tokens that are computed at most `chunk` at a time.
    pub(crate) fn new(model: GptOss, num_seqs: usize, max_len: usize, chunk: usize) -> Result<Self> {
        let sliding_window = model.config().sliding_window;
        let full_blocks = max_len.div_ceil(BLOCK_SIZE);
        // One block of slack at each end, because neither the window nor a chunk starts at a block's edge.
        let sliding_blocks = (sliding_window + chunk).div_ceil(BLOCK_SIZE) + 2;
        let kv_cache = model.allocate_kv_cache(num_seqs * (full_blocks + sliding_blocks), BLOCK_SIZE)?;
        let logits = Logits::default();
        Ok(Self { model, kv_cache, full_blocks, sliding_blocks, sliding_window, logits })
    }

    /// Fills the cache as if every sequence held `max_len` tokens already.
    pub(crate) fn fill_cache(&self) -> Result<()> {
        Ok(self.kv_cache.fill_for_measurement()?)
    }

    pub(crate) fn model(&self) -> &GptOss {
        &self.model
    }

    /// Appends `input_ids[s]` to sequence `s`, which holds `context_len` tokens already, for each `s`.
    ///
    /// Gives the logits of every token when `all_logits`, else of each sequence's last.
    pub(crate) fn forward(
        &mut self,
        input_ids: &[&[u32]],
        context_len: usize,
        all_logits: bool,
    ) -> Result<&Logits> {
        let mut batch = self.batch(input_ids, context_len);
        if all_logits {
            batch.logits_indices = (0..batch.num_tokens() as u32).collect();
        }
        self.run(&batch)
    }

    /// The same up to each sequence's next token, as a server needs it: drawn where the logits are if the model draws, else from the
    /// last token's logits by whoever wants one.
    pub(crate) fn decode(&mut self, input_ids: &[&[u32]], context_len: usize) -> Result<()> {
        let mut batch = self.batch(input_ids, context_len);
        if self.model.draws() {
            batch.draw_rows = std::mem::take(&mut batch.logits_indices);
        }
        self.run(&batch)?;
        let draws =
            (0..batch.draw_rows.len() as u32).map(|row| TokenDraw { row, draw: Draw::plain(1.0, 0.5) });
        self.model.draw(&draws.collect::<Vec<_>>(), &mut self.kv_cache)?;
        Ok(())
    }

    /// A pass that wants the logits of each sequence's last token.
    fn batch(&self, input_ids: &[&[u32]], context_len: usize) -> ForwardBatch {
        let mut batch = ForwardBatch { cu_seqlens_q: vec![0], ..ForwardBatch::default() };
        for (seq, ids) in input_ids.iter().enumerate() {
            self.append(&mut batch, seq, ids, context_len);
        }
        batch.logits_indices = batch.cu_seqlens_q[1..].iter().map(|end| end - 1).collect();
        batch
    }

    fn run(&mut self, batch: &ForwardBatch) -> Result<&Logits> {
        self.model.forward_into(batch, &mut self.kv_cache, &mut self.logits)?;
        Ok(&self.logits)
    }

    fn append(&self, batch: &mut ForwardBatch, seq: usize, ids: &[u32], context_len: usize) {
        let end = context_len + ids.len();
        batch.input_ids.extend_from_slice(ids);
        batch.positions.extend(context_len as u32..end as u32);
        batch.cu_seqlens_q.push(batch.input_ids.len() as u32);
        batch.context_lens.push(end as u32);
        let base = seq * (self.full_blocks + self.sliding_blocks);
        let full = move |idx: usize| (base + idx) as u32;
        push(&mut batch.full, 0, context_len..end, full);
        // The sliding group reuses a ring of blocks: what a block overwrites has left the window.
        let (ring, len) = (base + self.full_blocks, self.sliding_blocks);
        let first = (context_len + 1).saturating_sub(self.sliding_window) / BLOCK_SIZE;
        push(&mut batch.sliding, first, context_len..end, move |idx| (ring + idx % len) as u32);
    }
}

/// One sequence's table from block `first` on, and the slots of its new `positions`.
fn push(
    group: &mut KvMetadata,
    first: usize,
    positions: std::ops::Range<usize>,
    block: impl Fn(usize) -> u32,
) {
    let blocks = (first..positions.end.div_ceil(BLOCK_SIZE)).map(&block).collect();
    group.block_tables.push(BlockTable { first_block_idx: first as u32, blocks });
    let slot =
        |position: usize| block(position / BLOCK_SIZE) * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32;
    group.slot_mapping.extend(positions.map(slot));
}
