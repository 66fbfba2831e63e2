//! What the kernels need to know about a batch, as one array of words that is uploaded once.

use crate::AttentionMetadata;

/// New tokens of a sequence from which on the tensor cores take it; below, its queries go one by one. What decides is the
/// sequence alone, so that nobody else in the batch shows in its bits.
const MIN_TILED_TOKENS: usize = 4;

/// Least context that room is made for.
const MIN_CONTEXT: usize = 256;

/// The words, and where each vector begins in them. Metal's kernels want less of them than CUDA's.
#[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))]
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) words: Vec<u32>,
    /// Slot of each token.
    pub(super) slots: At,
    /// Sequence of each token.
    pub(super) token_seqs: At,
    /// Position of each token.
    pub(super) positions: At,
    /// All tokens, for heads that the tiled kernel does not take.
    pub(super) all_tokens: At,
    /// Tokens of sequences with few new ones.
    pub(super) few_tokens: At,
    /// Sequences with many.
    pub(super) tiled_seqs: At,
    /// Where each sequence's tokens begin, and the end.
    pub(super) seq_starts: At,
    pub(super) context_lens: At,
    /// Where each sequence's blocks begin in `blocks`, and which of its blocks that is.
    pub(super) table_starts: At,
    pub(super) first_blocks: At,
    pub(super) blocks: At,
    /// Room for the longest context, a power of two, so that batches stay alike for a while as they grow.
    pub(super) max_context_len: usize,
    /// New tokens of each of `tiled_seqs`.
    pub(super) tiled_lens: Vec<usize>,
}

/// A vector within the words.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct At {
    start: usize,
    pub(super) len: usize,
}

impl At {
    /// Its part of the words on a device; an empty one stands for itself by any word.
    #[cfg(feature = "metal")]
    pub(super) fn of(self, words: &candle_core::Tensor) -> crate::Result<candle_core::Tensor> {
        let start = if self.len == 0 { 0 } else { self.start };
        Ok(words.narrow(0, start, self.len.max(1))?)
    }

    /// Its address, if the words begin at `base`.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn address(self, base: u64) -> u64 {
        base + 4 * self.start as u64
    }
}

impl Words {
    pub(super) fn new(metadata: &AttentionMetadata, slot_mapping: &[u32]) -> Self {
        let mut words = Self::default();
        let (mut token_seqs, mut positions, mut few, mut tiled) = (vec![], vec![], vec![], vec![]);
        let (mut table_starts, mut first_blocks, mut blocks) = (vec![], vec![], vec![]);
        let bounds = metadata.cu_seqlens_q.windows(2);
        let sequences = bounds.zip(metadata.context_lens).zip(metadata.block_tables).enumerate();
        for (seq, ((bounds, &context_len), table)) in sequences {
            let count = bounds[1].saturating_sub(bounds[0]);
            token_seqs.extend((0..count).map(|_| seq as u32));
            positions.extend(context_len.saturating_sub(count)..context_len);
            if count as usize >= MIN_TILED_TOKENS {
                tiled.push(seq as u32);
                words.tiled_lens.push(count as usize);
            } else {
                few.extend(bounds[0]..bounds[1]);
            }
            table_starts.push(blocks.len() as u32);
            first_blocks.push(table.first_block_idx);
            blocks.extend_from_slice(&table.blocks);
        }
        let all: Vec<u32> = (0..slot_mapping.len() as u32).collect();
        words.slots = words.push(slot_mapping);
        words.token_seqs = words.push(&token_seqs);
        words.positions = words.push(&positions);
        words.all_tokens = words.push(&all);
        words.few_tokens = words.push(&few);
        words.tiled_seqs = words.push(&tiled);
        words.seq_starts = words.push(metadata.cu_seqlens_q);
        words.context_lens = words.push(metadata.context_lens);
        words.table_starts = words.push(&table_starts);
        words.first_blocks = words.push(&first_blocks);
        words.blocks = words.push(&blocks);
        let longest = metadata.context_lens.iter().copied().max().unwrap_or(0) as usize;
        words.max_context_len = longest.next_power_of_two().max(MIN_CONTEXT);
        words
    }

    fn push(&mut self, values: &[u32]) -> At {
        let start = self.words.len();
        self.words.extend_from_slice(values);
        At { start, len: values.len() }
    }
}
