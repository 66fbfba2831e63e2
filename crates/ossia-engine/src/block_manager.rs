//! Block tables of sequences: what fits, what is found again, what falls out of the window.
//!
//! Ownership of one sequence's blocks, by position (`C` = num_cached_tokens, `W` = sliding window):
//! ```text
//!            0 ................ first needed ......... C ........ C + scheduled
//!  full      [ held .................................................. ]
//!  sliding   [ returned ......... ][ held ............................. ]
//! ```
//! "First needed" is the block that a query at the last block boundary at or before `C` can still see, so
//! that the window before every block boundary is whole when the boundary is passed.

use std::ops::Range;

use crate::RunnerSpec;
use crate::block_pool::{BlockPool, CacheKey, LayerGroup};
use crate::sequence::Sequence;

/// A prefix of a sequence that is in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CachedPrefix {
    /// Blocks that can be used: the full layers' and the sliding layers' window at their end.
    pub(crate) num_blocks: usize,
    /// Blocks of the full layers alone; at least `num_blocks`.
    pub(crate) num_full_blocks: usize,
}

/// Gives blocks to sequences and takes them back.
#[derive(Debug)]
pub(crate) struct BlockManager {
    pool: BlockPool,
    spec: RunnerSpec,
    enable_prefix_caching: bool,
}

impl BlockManager {
    pub(crate) fn new(spec: RunnerSpec, enable_prefix_caching: bool) -> Self {
        Self { pool: BlockPool::new(spec.num_blocks), spec, enable_prefix_caching }
    }

    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The longest cached prefix that leaves at least one token to compute.
    pub(crate) fn find_prefix(&self, seq: &Sequence) -> CachedPrefix {
        let mut found = CachedPrefix::default();
        if !self.enable_prefix_caching {
            return found;
        }
        let max_blocks = (seq.num_tokens() - 1) / self.spec.block_size;
        let mut num_sliding_in_a_row = 0;
        for (idx, &hash) in seq.hash_chain.hashes().iter().take(max_blocks).enumerate() {
            if self.pool.find(&(LayerGroup::Full, hash)).is_none() {
                break;
            }
            let has_sliding = self.pool.find(&(LayerGroup::Sliding, hash)).is_some();
            num_sliding_in_a_row = if has_sliding { num_sliding_in_a_row + 1 } else { 0 };
            found.num_full_blocks = idx + 1;
            if num_sliding_in_a_row >= self.window_before(idx + 1).len() {
                found.num_blocks = idx + 1;
            }
        }
        found
    }

    /// Whether a waiting sequence can be given `prefix` and can compute all its tokens while
    /// `num_reserved` blocks are left to others, once others have let go of `num_freed`.
    pub(crate) fn can_allocate(
        &self,
        seq: &Sequence,
        prefix: CachedPrefix,
        num_reserved: usize,
        num_freed: usize,
    ) -> bool {
        let num_needed = self.spec.blocks_for_len(seq.num_tokens());
        let num_shared = seq.hash_chain.hashes()[..prefix.num_blocks]
            .iter()
            .filter_map(|&hash| self.pool.find(&(LayerGroup::Full, hash)))
            .filter(|&id| !self.pool.is_evictable(id))
            .count();
        num_needed.saturating_sub(num_shared) + num_reserved <= self.pool.num_available() + num_freed
    }

    /// Blocks of the full layers that a sequence will still take to compute the tokens it has.
    pub(crate) fn num_blocks_to_come(&self, seq: &Sequence) -> usize {
        let num_blocks = seq.num_tokens().div_ceil(self.spec.block_size);
        num_blocks.saturating_sub(seq.tables.full.blocks.len())
    }

    /// Gives a sequence without blocks its cached prefix, as found by `find_prefix`.
    pub(crate) fn attach_prefix(&mut self, seq: &mut Sequence, prefix: CachedPrefix) {
        let window = self.window_before(prefix.num_blocks);
        seq.tables.sliding.first_block_idx = window.start as u32;
        let keys: Vec<CacheKey> = self.prefix_keys(seq, prefix.num_blocks).collect();
        for key in keys {
            if let Some(id) = self.pool.find(&key) {
                self.pool.hold(id);
                match key.0 {
                    LayerGroup::Full => seq.tables.full.blocks.push(id),
                    LayerGroup::Sliding => seq.tables.sliding.blocks.push(id),
                }
            }
        }
        seq.num_cached_tokens = prefix.num_blocks * self.spec.block_size;
        // Where a hit ended, or would have ended with its window, another one is likely to end.
        for num_blocks in [prefix.num_blocks, prefix.num_full_blocks] {
            if !seq.checkpoints.contains(&num_blocks) {
                seq.checkpoints.push(num_blocks);
            }
        }
    }

    /// How many tokens, at most `wanted`, the sequence can compute next with the blocks it has and the
    /// blocks that are available.
    pub(crate) fn num_tokens_that_fit(&self, seq: &Sequence, wanted: usize) -> usize {
        let num_blocks = seq.tables.full.blocks.len() + self.pool.num_available() / 2;
        wanted.min(num_blocks * self.spec.block_size - seq.num_cached_tokens)
    }

    /// Schedules `num_tokens`, which fit, and takes the blocks they need.
    pub(crate) fn allocate(&mut self, seq: &mut Sequence, num_tokens: usize) {
        let end = (seq.num_cached_tokens + num_tokens).div_ceil(self.spec.block_size);
        while seq.tables.full.blocks.len() < end {
            let pair = (self.pool.take(), self.pool.take());
            let (Some(full), Some(sliding)) = pair else {
                unreachable!("num_tokens_that_fit counted the blocks");
            };
            seq.tables.full.blocks.push(full);
            seq.tables.sliding.blocks.push(sliding);
        }
        (seq.num_scheduled_tokens, seq.num_scheduled_drafts) = (num_tokens, 0);
    }

    /// Takes note that the next `num_tokens` tokens are computed and right: full blocks can be found from now
    /// on, sliding blocks that the window has passed are returned.
    pub(crate) fn commit(&mut self, seq: &mut Sequence, num_tokens: usize) {
        let first_new = seq.num_cached_tokens / self.spec.block_size;
        seq.num_cached_tokens += num_tokens;
        let end = seq.num_cached_tokens / self.spec.block_size;
        if self.enable_prefix_caching {
            self.register(seq, first_new..end);
        }
        let first_needed = self.window_before(end).start;
        let num_passed = first_needed - seq.tables.sliding.first_block_idx as usize;
        let passed: Vec<u32> = seq.tables.sliding.blocks.drain(..num_passed).collect();
        for (idx, id) in (first_needed - num_passed..).zip(passed) {
            let keep = seq.checkpoints.iter().any(|&end| self.window_before(end).contains(&idx));
            self.pool.release(id, keep);
        }
        seq.tables.sliding.first_block_idx = first_needed as u32;
    }

    fn register(&mut self, seq: &mut Sequence, blocks: Range<usize>) {
        let Sequence { hash_chain, tables, .. } = seq;
        let first_sliding = tables.sliding.first_block_idx as usize;
        for idx in blocks {
            let hash = hash_chain.hashes()[idx];
            self.pool.register(tables.full.blocks[idx], (LayerGroup::Full, hash));
            let sliding = tables.sliding.blocks[idx - first_sliding];
            self.pool.register(sliding, (LayerGroup::Sliding, hash));
        }
    }

    /// Takes all blocks of a sequence. The end of a sequence is evicted before its start, and the
    /// windows at its checkpoints count as used just now, like the blocks that they make useful.
    pub(crate) fn release_all(&mut self, seq: &mut Sequence) {
        let tables = std::mem::take(&mut seq.tables);
        let mut sliding = tables.sliding.blocks.into_iter().rev();
        for full in tables.full.blocks.into_iter().rev() {
            self.pool.release(full, true);
            if let Some(sliding) = sliding.next() {
                self.pool.release(sliding, true);
            }
        }
        for &end in &seq.checkpoints {
            let window = self.window_before(end);
            for &hash in seq.hash_chain.hashes().get(window).unwrap_or_default() {
                if let Some(id) = self.pool.find(&(LayerGroup::Sliding, hash)) {
                    self.pool.touch(id);
                }
            }
        }
        (seq.num_cached_tokens, seq.num_scheduled_tokens, seq.num_scheduled_drafts) = (0, 0, 0);
    }

    /// Blocks that a sliding-window query right after `num_blocks` whole blocks can see, itself apart.
    fn window_before(&self, num_blocks: usize) -> Range<usize> {
        let first_pos = (num_blocks * self.spec.block_size + 1).saturating_sub(self.spec.sliding_window);
        first_pos / self.spec.block_size..num_blocks
    }

    /// Keys of the first `num_blocks` blocks and of the window before their end, in order.
    fn prefix_keys<'a>(
        &self,
        seq: &'a Sequence,
        num_blocks: usize,
    ) -> impl Iterator<Item = CacheKey> + use<'a> {
        let hashes = seq.hash_chain.hashes();
        let full = hashes[..num_blocks].iter().map(|&hash| (LayerGroup::Full, hash));
        let window = &hashes[self.window_before(num_blocks)];
        full.chain(window.iter().map(|&hash| (LayerGroup::Sliding, hash)))
    }
}
