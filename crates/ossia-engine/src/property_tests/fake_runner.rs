//! A model that remembers which context each cache slot was written for.
//!
//! Like a real model it sees the past only through the block tables, and like a real model its output
//! depends on every token of the context. Unlike one it knows what a slot should hold, and panics (which
//! fails the request, and so the test) when a table leads to another sequence's slot, to a stale one, to
//! one of the other group of layers, or out of the pool.

use ossia_model::{BlockTable, ForwardBatch, KvMetadata, Logits};

use crate::block_pool::LayerGroup;
use crate::{EngineConfig, ModelRunner, RunnerError, RunnerSpec};

/// What the keys and values of one token stand for: the layer group and the whole context up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    group: LayerGroup,
    token: u32,
    context: u64,
}

/// What a pass of the fake model does at a chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Error,
    Panic,
    WrongShape,
    NotANumber,
}

pub(super) struct FakeRunner {
    spec: RunnerSpec,
    config: EngineConfig,
    slots: Vec<Option<Slot>>,
    repetitive: bool,
    num_passes: usize,
    fault: Option<(usize, Fault)>,
}

impl FakeRunner {
    pub(super) fn new(spec: RunnerSpec, config: EngineConfig) -> Self {
        let slots = vec![None; spec.num_blocks * spec.block_size];
        Self { spec, config, slots, repetitive: false, num_passes: 0, fault: None }
    }

    /// Looks at the last token only for what comes next.
    pub(super) fn repetitive(self, repetitive: bool) -> Self {
        Self { repetitive, ..self }
    }

    /// The pass with this number (from 1) goes wrong.
    pub(super) fn with_fault(mut self, pass: usize, fault: Fault) -> Self {
        self.fault = Some((pass, fault));
        self
    }

    fn slot_of(&self, table: &BlockTable, pos: usize) -> usize {
        let idx = pos / self.spec.block_size - table.first_block_idx as usize;
        table.blocks[idx] as usize * self.spec.block_size + pos % self.spec.block_size
    }

    fn read(&self, table: &BlockTable, pos: usize) -> Slot {
        self.slots[self.slot_of(table, pos)].expect("a slot that was written")
    }

    /// Writes the new tokens of sequence `seq` through its slot mapping.
    fn write(&mut self, batch: &ForwardBatch, seq: usize) {
        let tokens = tokens_of(batch, seq);
        let start = batch.positions[tokens.start] as usize;
        let past = |runner: &Self| runner.read(&batch.full.block_tables[seq], start - 1).context;
        let mut context = if start == 0 { EMPTY } else { past(self) };
        for idx in tokens {
            let token = batch.input_ids[idx];
            context = extend(context, token);
            for (group, metadata) in groups(batch) {
                let slot = metadata.slot_mapping[idx] as usize;
                self.slots[slot] = Some(Slot { group, token, context });
            }
        }
    }

    /// Reads the context of sequence `seq` back; returns what its last token's slot stands for.
    fn read_back(&self, batch: &ForwardBatch, seq: usize) {
        let tokens = tokens_of(batch, seq);
        let (start, len) = (batch.positions[tokens.start] as usize, batch.context_lens[seq] as usize);
        let (full, sliding) = (&batch.full.block_tables[seq], &batch.sliding.block_tables[seq]);
        let first_visible = (start + 1).saturating_sub(self.spec.sliding_window);
        let mut context = EMPTY;
        for pos in 0..len {
            let found = self.read(full, pos);
            context = extend(context, found.token);
            let expected = |group| Slot { group, token: found.token, context };
            assert_eq!(found, expected(LayerGroup::Full), "full table of sequence {seq} at {pos}");
            if pos >= first_visible {
                let found = self.read(sliding, pos);
                let expected = expected(LayerGroup::Sliding);
                assert_eq!(found, expected, "sliding table of sequence {seq} at {pos}");
            }
            if pos >= start {
                assert_eq!(batch.input_ids[tokens.start + pos - start], found.token, "at {pos}");
            }
        }
    }

    fn check_limits(&self, batch: &ForwardBatch) {
        assert!(batch.num_tokens() > 0, "an empty pass");
        assert!(batch.num_tokens() <= self.config.max_num_batched_tokens, "too many tokens");
        assert!(batch.num_seqs() <= self.config.max_num_seqs, "too many sequences");
    }
}

impl ModelRunner for FakeRunner {
    fn spec(&self) -> RunnerSpec {
        self.spec
    }

    fn forward(&mut self, batch: &ForwardBatch, out: &mut Logits) -> Result<(), RunnerError> {
        self.check_limits(batch);
        (0..batch.num_seqs()).for_each(|seq| self.write(batch, seq));
        (0..batch.num_seqs()).for_each(|seq| self.read_back(batch, seq));
        let mut data = Vec::new();
        for &idx in &batch.logits_indices {
            let slot = batch.full.slot_mapping[idx as usize] as usize;
            let Slot { context, token, .. } = self.slots[slot].expect("just written");
            let seen = if self.repetitive { extend(EMPTY, token) } else { context };
            data.extend(logits(seen, self.spec.vocab_size));
        }
        self.num_passes += 1;
        match self.fault.filter(|(pass, _)| *pass == self.num_passes) {
            None => *out = Logits::new(self.spec.vocab_size, data),
            Some((_, Fault::Error)) => return Err(RunnerError::new("out of paper")),
            Some((_, Fault::Panic)) => panic!("out of ink"),
            Some((_, Fault::WrongShape)) => *out = Logits::new(self.spec.vocab_size + 1, data),
            Some((_, Fault::NotANumber)) => {
                data.fill(f32::NAN);
                *out = Logits::new(self.spec.vocab_size, data);
            }
        }
        Ok(())
    }
}

fn tokens_of(batch: &ForwardBatch, seq: usize) -> std::ops::Range<usize> {
    batch.cu_seqlens_q[seq] as usize..batch.cu_seqlens_q[seq + 1] as usize
}

fn groups(batch: &ForwardBatch) -> [(LayerGroup, &KvMetadata); 2] {
    [(LayerGroup::Full, &batch.full), (LayerGroup::Sliding, &batch.sliding)]
}

/// The context of no tokens.
pub(super) const EMPTY: u64 = 0x5EED;

/// The context with one more token.
pub(super) fn extend(context: u64, token: u32) -> u64 {
    mix(context ^ u64::from(token).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// The logits after a context: between -4 and 4, different for every context.
pub(super) fn logits(context: u64, vocab_size: usize) -> impl Iterator<Item = f32> {
    (0..vocab_size as u32).map(move |id| (extend(context, id) >> 40) as f32 / (1u64 << 21) as f32 - 4.0)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    z = (z ^ (z >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    z ^ (z >> 32)
}
