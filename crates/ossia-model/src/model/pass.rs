//! One pass: what it reads is placed on the device, its work is launched or replayed, and logits or drawn tokens are fetched.

use candle_core::Tensor;
use ossia_kernels::{AttentionBatch, AttentionMetadata, CosSin, DeviceInput, Drawn, Recordings, TokenIds};

use super::rank::Rank;
use super::residual::ResidualStream;
use crate::{ForwardBatch, KvCache, KvMetadata, Logits, ModelError, TokenDraw};

/// Most tokens of a pass that is recorded.
const MAX_RECORDED_TOKENS: usize = 256;

/// What passes over one KV cache keep on the device: the memory of what they read from the host, what was recorded, and the logits that
/// the last one left to be drawn from.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    ids: DeviceInput,
    rotary: DeviceInput,
    full: DeviceInput,
    sliding: DeviceInput,
    draws: DeviceInput,
    recordings: Recordings,
    held: Option<Held>,
}

/// Logits that stay where they are.
#[derive(Debug)]
struct Held {
    logits: Tensor,
    /// Their rows for each of the batch's `draw_rows`.
    rows: Vec<u32>,
}

/// What a pass reads from the host, on the device.
struct Inputs<'a> {
    ids: TokenIds<'a>,
    rotary: CosSin,
    batches: AttentionBatches<'a>,
}

/// A batch for the full-attention and the sliding-window layers.
pub(super) struct AttentionBatches<'a> {
    pub(super) full: AttentionBatch<'a>,
    pub(super) sliding: AttentionBatch<'a>,
}

/// The tokens of a batch whose logits are computed.
struct Rows {
    /// Rows of the batch, in the order of the logits' rows.
    computed: Vec<u32>,
    /// The logits' row of each output: those wanted, then those held.
    of_outputs: Vec<u32>,
    /// Whether they are all tokens of the batch in order.
    are_all: bool,
}

impl Rows {
    fn of(batch: &ForwardBatch) -> Self {
        let wanted = batch.logits_indices.iter().copied();
        let outputs: Vec<u32> = wanted.chain(batch.draw_rows.iter().copied()).collect();
        let mut sorted = outputs.clone();
        sorted.sort_unstable();
        let all = 0..batch.num_tokens() as u32;
        if sorted.into_iter().eq(all.clone()) {
            return Self { computed: all.collect(), of_outputs: outputs, are_all: true };
        }
        Self { of_outputs: (0..outputs.len() as u32).collect(), computed: outputs, are_all: false }
    }
}

impl Rank {
    /// Places what the pass reads on the device, computes or replays, and fetches the logits that are wanted.
    pub(super) fn run(
        &self,
        batch: &ForwardBatch,
        kv: &KvCache,
        passes: &mut Passes,
        out: &mut Logits,
    ) -> Result<(), ModelError> {
        let backend = &self.options.backend;
        let Passes { ids, rotary, full, sliding, recordings, held, .. } = passes;
        *held = None;
        let inputs = Inputs {
            ids: self.embed_tokens.place(&batch.input_ids, ids)?,
            rotary: self.rotary_emb.at(&batch.positions, backend, rotary)?,
            batches: AttentionBatches {
                full: self.attention_batch(batch, &batch.full, full)?,
                sliding: self.attention_batch(batch, &batch.sliding, sliding)?,
            },
        };
        let rows = Rows::of(batch);
        if rows.computed.is_empty() {
            // For what it writes into the cache alone.
            self.hidden_states(&inputs, kv)?;
            return Ok(());
        }
        let compute = || self.logits(self.hidden_states(&inputs, kv)?, &rows.computed);
        let logits = match self.recording_key(batch, &inputs, &rows) {
            Some(key) => recordings.run(backend, key, compute)?,
            None => compute()?,
        };
        if self.is_first() {
            let (wanted, to_hold) = rows.of_outputs.split_at(batch.logits_indices.len());
            self.fetch(&logits, wanted, out)?;
            *held = (!to_hold.is_empty()).then(|| Held { logits, rows: to_hold.to_vec() });
        }
        Ok(())
    }

    /// Draws from the rows that the last pass held.
    pub(super) fn draw(&self, draws: &[TokenDraw], passes: &mut Passes) -> Result<Vec<Drawn>, ModelError> {
        let held_rows = passes.held.as_ref().map_or(&[][..], |held| &held.rows);
        let of_logits = |draw: &TokenDraw| held_rows.get(draw.row as usize).copied();
        if let Some(draw) = draws.iter().find(|draw| of_logits(draw).is_none()) {
            return Err(ModelError::Batch {
                field: "draw_rows".to_owned(),
                message: format!("of the last pass has {} entries, none at {}", held_rows.len(), draw.row),
            });
        }
        let placed: Vec<_> = draws.iter().filter_map(|draw| Some((of_logits(draw)?, &draw.draw))).collect();
        match &passes.held {
            Some(held) => Ok(self.options.backend.draw(&held.logits, &placed, &mut passes.draws)?),
            None => Ok(Vec::new()),
        }
    }

    /// Copies the rows `wanted` of the logits into `out`.
    fn fetch(&self, logits: &Tensor, wanted: &[u32], out: &mut Logits) -> Result<(), ModelError> {
        let backend = &self.options.backend;
        if wanted.iter().copied().eq(0..logits.dims()[0] as u32) {
            backend.read(logits, out.data_mut())?;
        } else {
            for (&row, out) in wanted.iter().zip(out.rows_mut()) {
                backend.read(&logits.narrow(0, row as usize, 1)?, out)?;
            }
        }
        Ok(())
    }

    /// All layers over the new tokens, whose keys and values go into the cache.
    fn hidden_states(&self, inputs: &Inputs, kv: &KvCache) -> Result<ResidualStream, ModelError> {
        let mut stream = ResidualStream::new(self.embed_tokens.gather(&inputs.ids)?); // [num_tokens, hidden]
        for layer in &self.layers {
            layer.forward(&mut stream, &inputs.rotary, &inputs.batches, kv)?;
        }
        Ok(stream)
    }

    /// Final norm and lm_head, only for the rows wanted: `[rows, vocab]`.
    fn logits(&self, stream: ResidualStream, rows: &[u32]) -> Result<Tensor, ModelError> {
        let hidden_states = stream.select(rows)?.normalized(&self.norm)?; // [rows, hidden]
        let logits = self.lm_head.forward(&hidden_states)?; // [rows, vocab] or this rank's columns of it
        match self.lm_head_is_cut {
            true => Ok(self.communicator.all_gather(logits)?),
            false => Ok(logits),
        }
    }

    /// What tells apart passes that launch something else, for passes that come again: one token for each of a number of
    /// sequences, and the logits of all.
    fn recording_key(&self, batch: &ForwardBatch, inputs: &Inputs, rows: &Rows) -> Option<Vec<u64>> {
        let num_tokens = batch.num_tokens();
        let decodes = batch.cu_seqlens_q.len() == num_tokens + 1 && num_tokens <= MAX_RECORDED_TOKENS;
        let is_alone = self.communicator.size() == 1;
        if !decodes || !rows.are_all || self.options.cpu_moe > 0 || !is_alone {
            return None;
        }
        let AttentionBatches { full, sliding } = &inputs.batches;
        // What is read at other places than before must be recorded anew: a longer batch between may have moved it.
        let mut key = self.options.backend.addresses(&[inputs.ids.on_device()?, &inputs.rotary.cos])?;
        key.push(self.id);
        key.extend(full.recording_key()?);
        key.extend(sliding.recording_key()?);
        Some(key)
    }

    /// The batch as the attention layers of one group see it.
    fn attention_batch<'a>(
        &self,
        batch: &'a ForwardBatch,
        group: &'a KvMetadata,
        input: &'a mut DeviceInput,
    ) -> Result<AttentionBatch<'a>, ModelError> {
        let metadata = AttentionMetadata {
            cu_seqlens_q: &batch.cu_seqlens_q,
            context_lens: &batch.context_lens,
            block_tables: &group.block_tables,
        };
        Ok(self.options.backend.attention_batch_in(metadata, &group.slot_mapping, input)?)
    }
}
