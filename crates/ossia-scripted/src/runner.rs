//! The runner: token ids in blocks, and logits that prefer what a play says next.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ossia_engine::{ModelRunner, RunnerError, RunnerSpec};
use ossia_harmony::{SpecialToken, Tokenizer};
use ossia_model::{BlockTable, Draw, Drawn, ForwardBatch, Logits, TokenDraw};

use crate::ScriptedError;
use crate::context::Marks;
use crate::plays::Plays;
use crate::rules::Rules;

/// Prompts whose plays are remembered; when there are more, all are forgotten.
const MAX_REMEMBERED: usize = 1_024;
/// Logits: the best play's token has 0, each further one less by a step that no temperature bridges.
const RANK_STEP: f32 = 100.0;
/// Logit of the first token that may end a turn which no play knows.
const FALLBACK: f32 = -10_000.0;
/// Logit of every other token.
const FLOOR: f32 = -30_000.0;

/// Sizes and speed of a scripted model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptedOptions {
    /// Longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Blocks of the cache; four bytes per token each.
    pub num_blocks: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Window of the sliding layers that the runner pretends to have.
    pub sliding_window: usize,
    /// Pause per token, unless a rule has its own.
    pub delay: Duration,
}

impl Default for ScriptedOptions {
    /// gpt-oss's context and window, room for a million tokens, no pause.
    fn default() -> Self {
        Self {
            max_position_embeddings: 131_072,
            num_blocks: 65_536,
            block_size: 16,
            sliding_window: 128,
            delay: Duration::ZERO,
        }
    }
}

/// A model that answers by rule.
#[derive(Debug)]
pub struct ScriptedRunner {
    tokenizer: Tokenizer,
    marks: Marks,
    rules: Rules,
    options: ScriptedOptions,
    /// The token at each slot, where a model has keys and values.
    slots: Vec<u32>,
    plays: HashMap<u64, Arc<Plays>>,
    fallback: Vec<u32>,
    /// What comes next at each of the last batch's `draw_rows`, best first.
    held: Vec<Vec<u32>>,
}

impl ScriptedRunner {
    /// A runner with the vocabulary of `tokenizer`.
    ///
    /// # Errors
    /// [`ScriptedError::Token`] if a rule has a token that the vocabulary does not have.
    pub fn new(tokenizer: Tokenizer, rules: Rules, options: ScriptedOptions) -> Result<Self, ScriptedError> {
        rules.check_tokens(tokenizer.vocab_size())?;
        Ok(Self {
            marks: Marks::new(&tokenizer),
            rules,
            options,
            slots: vec![0; options.num_blocks * options.block_size],
            plays: HashMap::new(),
            fallback: fallback(&tokenizer),
            held: Vec::new(),
            tokenizer,
        })
    }

    /// Writes the batch's tokens to their slots, in both layer groups.
    fn write(&mut self, batch: &ForwardBatch) -> Result<(), ScriptedError> {
        let groups = [("full", &batch.full), ("sliding", &batch.sliding)];
        for (group, metadata) in groups {
            if metadata.slot_mapping.len() != batch.input_ids.len() {
                return Err(ScriptedError::Batch("slot_mapping and input_ids differ in length"));
            }
            for (token, (&id, &slot)) in batch.input_ids.iter().zip(&metadata.slot_mapping).enumerate() {
                let num_slots = self.slots.len();
                let Some(place) = self.slots.get_mut(slot as usize) else {
                    let sequence = sequence_of(batch, token as u32);
                    return Err(ScriptedError::Slot { sequence, group, slot: slot as usize, num_slots });
                };
                *place = id;
            }
        }
        Ok(())
    }

    /// Reads back the context up to the token `row` of the batch.
    fn read(&self, batch: &ForwardBatch, row: u32) -> Result<Vec<u32>, ScriptedError> {
        let sequence = sequence_of(batch, row);
        let position = *batch.positions.get(row as usize).ok_or(ScriptedError::Batch("too few positions"))?;
        let tables = |tables: &[BlockTable]| tables.get(sequence).cloned();
        let missing = ScriptedError::Batch("too few block tables");
        let full = tables(&batch.full.block_tables).ok_or(missing)?;
        let sliding =
            batch.sliding.block_tables.get(sequence).ok_or(ScriptedError::Batch("too few block tables"))?;
        let len = position as usize + 1;
        let context = self.gather(sequence, "full", &full, 0, len)?;
        let window_start = len.saturating_sub(self.options.sliding_window);
        let window = self.gather(sequence, "sliding", sliding, window_start, len)?;
        let pairs = context[window_start..].iter().zip(&window).enumerate();
        match pairs.into_iter().find(|(_, (full, sliding))| full != sliding) {
            None => Ok(context),
            Some((at, (&full, &sliding))) => {
                Err(ScriptedError::Mismatch { sequence, position: window_start + at, full, sliding })
            }
        }
    }

    /// Tokens at the positions `start..end`, through a block table.
    fn gather(
        &self,
        sequence: usize,
        group: &'static str,
        table: &BlockTable,
        start: usize,
        end: usize,
    ) -> Result<Vec<u32>, ScriptedError> {
        let block_size = self.options.block_size;
        let mut tokens = Vec::with_capacity(end - start);
        let mut position = start;
        while position < end {
            let idx = (position / block_size).checked_sub(table.first_block_idx as usize);
            let block = idx.and_then(|idx| table.blocks.get(idx));
            let block = *block.ok_or(ScriptedError::NoBlock { sequence, group, position })? as usize;
            let offset = position % block_size;
            let num = (block_size - offset).min(end - position);
            let slot = block * block_size + offset;
            let found = self.slots.get(slot..slot + num);
            let num_slots = self.slots.len();
            tokens.extend_from_slice(found.ok_or(ScriptedError::Slot {
                sequence,
                group,
                slot,
                num_slots,
            })?);
            position += num;
        }
        Ok(tokens)
    }

    /// The plays for a context and the part of it that they have generated.
    fn find_plays<'a>(&mut self, context: &'a [u32]) -> (Arc<Plays>, &'a [u32]) {
        let ends = self.marks.prompt_ends(context);
        let (&last, earlier) = ends.split_last().unwrap_or((&0, &[]));
        for &end in earlier {
            let (prompt, generated) = context.split_at(end);
            let plays = self.plays(prompt);
            if plays.next_tokens(generated, generated).next().is_some() {
                return (plays, generated);
            }
        }
        let (prompt, generated) = context.split_at(last);
        (self.plays(prompt), generated)
    }

    /// The plays for a prompt, remembered or new.
    fn plays(&mut self, prompt: &[u32]) -> Arc<Plays> {
        let mut hasher = DefaultHasher::new();
        prompt.hash(&mut hasher);
        let key = hasher.finish();
        if let Some(plays) = self.plays.get(&key).filter(|plays| plays.prompt == prompt) {
            return Arc::clone(plays);
        }
        if self.plays.len() >= MAX_REMEMBERED {
            self.plays.clear();
        }
        let said = self.marks.read(&self.tokenizer, prompt);
        let plays = Arc::new(Plays::new(&self.tokenizer, &self.rules, self.options.delay, prompt, &said));
        self.plays.insert(key, Arc::clone(&plays));
        plays
    }

    /// What may follow the token `row` of the batch, best first, and the pause before it.
    fn next_tokens(&mut self, batch: &ForwardBatch, row: u32) -> Result<(Vec<u32>, Duration), ScriptedError> {
        let context = self.read(batch, row)?;
        let (plays, generated) = self.find_plays(&context);
        let message = self.marks.last_message(generated);
        Ok((plays.next_tokens(generated, message).collect(), plays.delay))
    }

    fn run(&mut self, batch: &ForwardBatch, logits: &mut Logits) -> Result<(), ScriptedError> {
        self.write(batch)?;
        let vocab_size = self.tokenizer.vocab_size();
        logits.reshape(batch.logits_indices.len(), vocab_size);
        let mut longest = Duration::ZERO;
        for (&row, logits) in batch.logits_indices.iter().zip(logits.rows_mut()) {
            let (said, delay) = self.next_tokens(batch, row)?;
            logits.fill(FLOOR);
            rank(logits, FALLBACK, &self.fallback);
            rank(logits, 0.0, &said);
            longest = longest.max(delay);
        }
        self.held.clear();
        for &row in &batch.draw_rows {
            let (said, delay) = self.next_tokens(batch, row)?;
            self.held.push(said);
            longest = longest.max(delay);
        }
        if !longest.is_zero() {
            std::thread::sleep(longest);
        }
        Ok(())
    }
}

impl ModelRunner for ScriptedRunner {
    fn spec(&self) -> RunnerSpec {
        RunnerSpec {
            vocab_size: self.tokenizer.vocab_size(),
            num_blocks: self.options.num_blocks,
            block_size: self.options.block_size,
            sliding_window: self.options.sliding_window,
            max_position_embeddings: self.options.max_position_embeddings,
        }
    }

    /// Writing and reading a row of logits costs more than all else that the server does for a token.
    fn draws(&self) -> bool {
        true
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Logits) -> Result<(), RunnerError> {
        self.run(batch, logits).map_err(RunnerError::new)
    }

    fn draw(&mut self, draws: &[TokenDraw]) -> Result<Vec<Drawn>, RunnerError> {
        let vocab_size = self.tokenizer.vocab_size();
        let said = |row: u32| {
            self.held.get(row as usize).ok_or_else(|| RunnerError::new(format!("no row {row} is held")))
        };
        let draws = draws.iter();
        draws
            .map(|draw| {
                Ok(first_allowed(said(draw.row)?.iter().chain(&self.fallback), &draw.draw, vocab_size))
            })
            .collect()
    }
}

/// Gives each token its logit, unless it has a better one.
fn rank(logits: &mut [f32], first: f32, tokens: &[u32]) {
    for (rank, &token) in tokens.iter().enumerate() {
        let logit = &mut logits[token as usize];
        *logit = logit.max(first - RANK_STEP * rank as f32);
    }
}

/// What a draw gives from the logits of `ranked` tokens: the first one that is allowed, or any other where none of them is.
fn first_allowed<'a>(mut ranked: impl Iterator<Item = &'a u32>, draw: &Draw, vocab_size: usize) -> Drawn {
    let is_allowed = |token: &u32| draw.allows(*token);
    if let Some(&best) = ranked.find(|&token| is_allowed(token)) {
        return Drawn::Token(best);
    }
    let others: Vec<u32> = (0..vocab_size as u32).filter(is_allowed).collect();
    let share = if draw.temperature > 0.0 { draw.uniform } else { 0.0 };
    let drawn = others.get((share * others.len() as f64) as usize);
    drawn.map_or(Drawn::NothingAllowed, |&token| Drawn::Token(token))
}

/// The sequence that token `row` of the batch belongs to.
fn sequence_of(batch: &ForwardBatch, row: u32) -> usize {
    batch.cu_seqlens_q.partition_point(|&start| start <= row).saturating_sub(1)
}

/// Tokens that lead to the end of a turn from wherever it is, best first.
fn fallback(tokenizer: &Tokenizer) -> Vec<u32> {
    use SpecialToken::{Call, Channel, End, Message, Return, Start};
    let mut tokens: Vec<u32> =
        [Return, Call, End, Message, Channel, Start].iter().map(|&token| tokenizer.special(token)).collect();
    // Inside JSON that a grammar asks for, what closes comes before what could go on for ever.
    for word in ["}", "]", "\"", "{}", "final", "assistant", "commentary", "analysis"] {
        tokens.extend(tokenizer.encode_ordinary(word));
    }
    tokens
}
