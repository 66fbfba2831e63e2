//! The input of one forward pass: tokens of several sequences and where their keys and values live.

use ossia_kernels::{BlockTable, Draw};

use crate::ModelError;

/// One forward pass over several sequences, prefill and decode mixed.
///
/// Tokens of sequence `s` are `input_ids[cu_seqlens_q[s]..cu_seqlens_q[s + 1]]`; they are the last tokens
/// of its context, at ascending consecutive `positions` that end at `context_lens[s] - 1`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardBatch {
    /// Token ids, `[num_tokens]`.
    pub input_ids: Vec<u32>,
    /// Absolute positions, `[num_tokens]`.
    pub positions: Vec<u32>,
    /// Where each sequence's tokens start in `input_ids`, `[num_seqs + 1]`; the last is `num_tokens`.
    pub cu_seqlens_q: Vec<u32>,
    /// Tokens of each sequence in the cache after this pass (cached and new), `[num_seqs]`.
    pub context_lens: Vec<u32>,
    /// Cache blocks for the full-attention layers.
    pub full: KvMetadata,
    /// Cache blocks for the sliding-window layers.
    pub sliding: KvMetadata,
    /// Rows of `input_ids` whose logits are wanted, in the order wanted.
    pub logits_indices: Vec<u32>,
    /// Rows of `input_ids` whose logits stay where they are, for [`crate::GptOss::draw`]; these are then not among the rows
    /// wanted. Only for models that draw ([`crate::GptOss::draws`]).
    pub draw_rows: Vec<u32>,
}

/// A token that is drawn where the logits are.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenDraw {
    /// Which of [`ForwardBatch::draw_rows`] of the last pass it follows.
    pub row: u32,
    /// How it is drawn.
    pub draw: Draw,
}

/// Where the keys and values of a batch live in the cache, for one group of layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvMetadata {
    /// Blocks of each sequence, `[num_seqs]`.
    pub block_tables: Vec<BlockTable>,
    /// Where each new token's key and value are written, `block * block_size + offset`, `[num_tokens]`.
    pub slot_mapping: Vec<u32>,
}

impl ForwardBatch {
    /// Tokens computed in this pass.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Sequences taking part.
    pub fn num_seqs(&self) -> usize {
        self.context_lens.len()
    }

    /// Checks that the vectors agree with each other and with the model's limits.
    ///
    /// # Errors
    /// [`ModelError::Batch`] naming the field that is wrong.
    pub(crate) fn validate(&self, vocab_size: usize, max_positions: usize) -> Result<(), ModelError> {
        let num_tokens = self.num_tokens();
        let num_seqs = self.num_seqs();
        check_len("positions", self.positions.len(), num_tokens)?;
        check_len("cu_seqlens_q", self.cu_seqlens_q.len(), num_seqs + 1)?;
        for (group, metadata) in [("full", &self.full), ("sliding", &self.sliding)] {
            check_len(&format!("{group}.block_tables"), metadata.block_tables.len(), num_seqs)?;
            check_len(&format!("{group}.slot_mapping"), metadata.slot_mapping.len(), num_tokens)?;
        }
        check_below("input_ids", &self.input_ids, vocab_size)?;
        check_below("positions", &self.positions, max_positions)?;
        check_below("logits_indices", &self.logits_indices, num_tokens)?;
        check_below("draw_rows", &self.draw_rows, num_tokens)?;
        self.validate_sequences()
    }

    /// Each sequence's tokens must be the consecutive last positions of its context.
    fn validate_sequences(&self) -> Result<(), ModelError> {
        let bounds = &self.cu_seqlens_q;
        let covers =
            bounds.first() == Some(&0) && bounds.last().map(|&end| end as usize) == Some(self.num_tokens());
        if !covers || bounds.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(batch_error("cu_seqlens_q", "must ascend from 0 to the number of tokens"));
        }
        for (pair, &context_len) in bounds.windows(2).zip(&self.context_lens) {
            let positions = &self.positions[pair[0] as usize..pair[1] as usize];
            let consecutive = positions.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            let ends = positions.last().is_none_or(|&last| last + 1 == context_len);
            if !consecutive || !ends {
                let message = format!(
                    "a sequence's must be consecutive and end at context_len - 1 = {context_len} - 1"
                );
                return Err(batch_error("positions", &message));
            }
        }
        Ok(())
    }
}

fn batch_error(field: &str, message: &str) -> ModelError {
    ModelError::Batch { field: field.to_owned(), message: message.to_owned() }
}

fn check_len(field: &str, found: usize, expected: usize) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(batch_error(field, &format!("has {found} entries, expected {expected}")))
}

fn check_below(field: &str, values: &[u32], limit: usize) -> Result<(), ModelError> {
    match values.iter().find(|&&value| value as usize >= limit) {
        Some(value) => Err(batch_error(field, &format!("{value} is not below {limit}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sequences: three tokens of prefill, one of decode at position 9.
    fn batch() -> ForwardBatch {
        let metadata =
            KvMetadata { block_tables: vec![BlockTable::default(); 2], slot_mapping: vec![0, 1, 2, 3] };
        ForwardBatch {
            input_ids: vec![1, 2, 3, 4],
            positions: vec![0, 1, 2, 9],
            cu_seqlens_q: vec![0, 3, 4],
            context_lens: vec![3, 10],
            full: metadata.clone(),
            sliding: metadata,
            logits_indices: vec![3],
            draw_rows: vec![],
        }
    }

    #[test]
    fn accepts_what_is_well_formed() {
        batch().validate(5, 10).expect("a good batch");
        let empty = ForwardBatch { cu_seqlens_q: vec![0], ..ForwardBatch::default() };
        empty.validate(5, 10).expect("an empty batch");
    }

    #[test]
    fn names_the_wrong_field() {
        type Break = fn(&mut ForwardBatch);
        let cases: [(&str, Break); 10] = [
            ("positions", |b| b.positions.truncate(3)),
            ("cu_seqlens_q", |b| b.cu_seqlens_q = vec![0, 3]),
            ("cu_seqlens_q", |b| b.cu_seqlens_q = vec![0, 4, 3]),
            ("full.block_tables", |b| b.full.block_tables.truncate(1)),
            ("sliding.slot_mapping", |b| b.sliding.slot_mapping.truncate(1)),
            ("input_ids", |b| b.input_ids[0] = 5),
            ("positions", |b| b.positions[3] = 10),
            ("positions", |b| b.positions[1] = 2),
            ("logits_indices", |b| b.logits_indices = vec![4]),
            ("draw_rows", |b| b.draw_rows = vec![4]),
        ];
        for (expected, break_it) in cases {
            let mut batch = batch();
            break_it(&mut batch);
            match batch.validate(5, 10) {
                Err(ModelError::Batch { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
