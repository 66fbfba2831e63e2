//! From scheduled sequences to the model's input.

use ossia_model::{BlockTable, ForwardBatch};

use crate::sequence::Sequence;

/// The batch of the scheduled tokens of `seqs`; sequences with none are left out.
pub(crate) fn build<'a>(seqs: impl Iterator<Item = &'a Sequence>, block_size: usize) -> ForwardBatch {
    let mut batch = ForwardBatch { cu_seqlens_q: vec![0], ..ForwardBatch::default() };
    for seq in seqs.filter(|seq| seq.num_scheduled_tokens > 0) {
        push(&mut batch, seq, block_size);
    }
    batch
}

/// Has the next tokens of those of `seqs`, the same as the batch's, drawn where the logits are that can do without seeing them here.
pub(crate) fn draw_where_possible<'a>(
    batch: &mut ForwardBatch,
    seqs: impl Iterator<Item = &'a mut Sequence>,
) {
    batch.logits_indices.clear();
    let mut end = 0;
    for seq in seqs.filter(|seq| seq.num_scheduled_tokens > 0) {
        end += seq.num_scheduled_tokens as u32;
        if !seq.samples_after_this_pass() {
            continue;
        }
        seq.is_drawn = seq.can_be_drawn();
        match seq.is_drawn {
            true => batch.draw_rows.push(end - 1),
            false => batch.logits_indices.extend(end - 1 - seq.num_scheduled_drafts as u32..end),
        }
    }
}

fn push(batch: &mut ForwardBatch, seq: &Sequence, block_size: usize) {
    let start = seq.num_cached_tokens;
    let end = start + seq.num_scheduled_tokens;
    let num_known = seq.num_scheduled_tokens - seq.num_scheduled_drafts;
    batch.input_ids.extend_from_slice(&seq.token_ids()[start..start + num_known]);
    batch.input_ids.extend_from_slice(&seq.draft()[..seq.num_scheduled_drafts]);
    batch.positions.extend((start..end).map(|pos| pos as u32));
    batch.context_lens.push(end as u32);
    batch.cu_seqlens_q.push(batch.input_ids.len() as u32);
    for (group, table) in [(&mut batch.full, &seq.tables.full), (&mut batch.sliding, &seq.tables.sliding)] {
        group.slot_mapping.extend((start..end).map(|pos| slot(table, pos, block_size)));
        group.block_tables.push(table.clone());
    }
    if seq.samples_after_this_pass() {
        let end = batch.input_ids.len() as u32;
        batch.logits_indices.extend(end - 1 - seq.num_scheduled_drafts as u32..end);
    }
}

/// Where the key and value of the token at `pos` are written.
fn slot(table: &BlockTable, pos: usize, block_size: usize) -> u32 {
    let block = table.blocks[pos / block_size - table.first_block_idx as usize];
    block * block_size as u32 + (pos % block_size) as u32
}
