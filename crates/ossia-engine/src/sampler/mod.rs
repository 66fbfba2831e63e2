//! From a row of logits to a token.
//!
//! The common case (temperature 1, no filter, few masked tokens) reads the row twice: once for the
//! maximum, once for the sum of exponentials. Nothing sorts the row: top_k selects, top_p draws again.

mod chunk;
mod draw;
mod edits;
mod filters;
mod logprobs;
mod row;
#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ossia_model::{Draw, Drawn, Filters, Logits, Uniforms};
use rayon::prelude::*;

use self::edits::TokenCounts;
use self::row::Row;
use crate::runner::panic_message;
use crate::sequence::Sequence;
use crate::{AllowedTokens, GeneratedToken, SamplingParams, TokenConstraint};

/// Why no token could be sampled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SampleError {
    /// A logit is NaN or infinity.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// Every token is masked.
    #[error("the constraint allows none of the tokens")]
    NothingAllowed,
    /// The constraint panicked.
    #[error("the constraint panicked: {0}")]
    ConstraintPanicked(String),
}

/// The part of a sequence that chooses its tokens.
pub(crate) struct SequenceSampler {
    params: SamplingParams,
    seed: u64,
    counts: TokenCounts,
    constraint: Option<Box<dyn TokenConstraint>>,
}

/// What a pass brought for one sequence: its next tokens, and what went wrong after them.
#[derive(Debug, Default)]
pub(crate) struct Sampled {
    pub(crate) tokens: Vec<GeneratedToken>,
    pub(crate) error: Option<SampleError>,
}

/// Where the next tokens of a sequence come from.
enum Source<'a> {
    /// A row of logits for the next token, and one for each draft token.
    Rows(Vec<&'a mut [f32]>),
    /// It was drawn where the logits are.
    Drawn(Result<Drawn, SampleError>),
}

/// Samples the next tokens of each sequence and appends them. Rows come in the order of the sequences that need them, one for
/// the next token of each and one for each of its scheduled drafts; what was drawn, in the order of the others.
pub(crate) fn sample_rows(
    seqs: Vec<&mut Sequence>,
    logits: &mut Logits,
    drawn: Vec<Result<Drawn, SampleError>>,
) -> Vec<Sampled> {
    let (mut rows, mut drawn) = (logits.rows_mut(), drawn.into_iter());
    let jobs: Vec<_> = seqs
        .into_iter()
        .map(|seq| {
            let source = match seq.is_drawn {
                true => Source::Drawn(drawn.next().unwrap_or(Ok(Drawn::NothingAllowed))),
                false => Source::Rows(rows.by_ref().take(1 + seq.num_scheduled_drafts).collect()),
            };
            (seq, source)
        })
        .collect();
    // What was drawn is only noted, which is over before another thread has woken up.
    let num_rows = jobs.iter().filter(|(_, source)| matches!(source, Source::Rows(_))).count();
    match num_rows {
        0 | 1 => jobs.into_iter().map(sample_sequence).collect(),
        _ => jobs.into_par_iter().map(sample_sequence).collect(),
    }
}

fn sample_sequence((seq, source): (&mut Sequence, Source)) -> Sampled {
    match source {
        Source::Rows(rows) => sample_drafted(seq, rows),
        Source::Drawn(drawn) => note_drawn(seq, drawn),
    }
}

/// Takes the token that was drawn.
fn note_drawn(seq: &mut Sequence, drawn: Result<Drawn, SampleError>) -> Sampled {
    let (_, sampler) = seq.stop_token_ids_and_sampler();
    let token = match drawn {
        Ok(Drawn::Token(id)) => catch_unwind(AssertUnwindSafe(|| sampler.note(id)))
            .map_err(|panic| SampleError::ConstraintPanicked(panic_message(&*panic))),
        Ok(Drawn::NotFinite) => Err(SampleError::NotFinite),
        Ok(Drawn::NothingAllowed) => Err(SampleError::NothingAllowed),
        Err(error) => Err(error),
    };
    match token {
        Ok(token) => {
            seq.append_token(token.id);
            seq.renew_draft();
            Sampled { tokens: vec![token], error: None }
        }
        Err(error) => Sampled { tokens: vec![], error: Some(error) },
    }
}

/// Samples token after token as long as the drafts say the same: the row after a draft that is wrong is a row
/// of another text. Each token is sampled as it would be in a pass of its own.
fn sample_drafted(seq: &mut Sequence, rows: Vec<&mut [f32]>) -> Sampled {
    let mut sampled = Sampled::default();
    for (idx, row) in rows.into_iter().enumerate() {
        match sample_row((seq, row)) {
            Ok(token) => sampled.tokens.push(token),
            Err(error) => sampled.error = Some(error),
        }
        let is_right = sampled.tokens.get(idx).map(|token| token.id) == seq.draft().get(idx).copied();
        if sampled.error.is_some() || seq.finish_reason().is_some() || !is_right {
            break;
        }
    }
    seq.renew_draft();
    sampled
}

/// Samples the next token of one sequence and appends it.
pub(crate) fn sample_row((seq, row): (&mut Sequence, &mut [f32])) -> Result<GeneratedToken, SampleError> {
    let count = seq.num_generated_tokens();
    let (stop_token_ids, sampler) = seq.stop_token_ids_and_sampler();
    // The constraint is the caller's code: its panic is its own request's failure.
    let sampled = catch_unwind(AssertUnwindSafe(|| sampler.sample(row, count, stop_token_ids)));
    let token =
        sampled.unwrap_or_else(|panic| Err(SampleError::ConstraintPanicked(panic_message(&*panic))))?;
    seq.append_token(token.id);
    Ok(token)
}

impl SequenceSampler {
    /// A sampler for the continuation of `prompt`. Draws a seed when the parameters have none.
    pub(crate) fn new(
        params: SamplingParams,
        constraint: Option<Box<dyn TokenConstraint>>,
        prompt: &[u32],
    ) -> Self {
        let seed = params.seed.unwrap_or_else(rand::random);
        Self { seed, counts: TokenCounts::new(&params, prompt), params, constraint }
    }

    /// Whether [`Self::prepare`] has something to do.
    pub(crate) fn wants_to_prepare(&self) -> bool {
        self.constraint.as_ref().is_some_and(|constraint| constraint.wants_to_prepare())
    }

    /// Lets the constraint compute its next mask while the model runs.
    pub(crate) fn prepare(&mut self) {
        let Some(constraint) = &mut self.constraint else { return };
        // If it panics it will again when it is asked, and that is its request's failure.
        let _ = catch_unwind(AssertUnwindSafe(|| constraint.prepare()));
    }

    /// Whether tokens can be drawn without their logits being seen here: at any temperature, masked and filtered or not, and with
    /// nothing else that changes or asks for logits.
    pub(crate) fn can_be_drawn(&self) -> bool {
        !self.params.needs_logits()
    }

    /// How the token after `num_generated` ones is drawn: with the mask that the constraint computed beside the pass, and with the
    /// uniform numbers that [`Self::sample`] would have used.
    pub(crate) fn plan_draw(
        &mut self,
        num_generated: usize,
        stop_token_ids: &[u32],
        vocab_size: usize,
    ) -> Result<Draw, SampleError> {
        let Self { params, seed, constraint, .. } = self;
        let allowed = |constraint: &mut Box<dyn TokenConstraint>| match constraint.allowed() {
            AllowedTokens::All => (Vec::new(), None),
            AllowedTokens::Except(ids) => (ids.to_vec(), None),
            AllowedTokens::Only(ids) => (Vec::new(), Some(edits::bits(ids, vocab_size))),
            AllowedTokens::Bitmask(words) => (Vec::new(), Some(words.to_vec())),
        };
        // The constraint is the caller's code: its panic is its own request's failure.
        let (mut forbidden, allowed) =
            catch_unwind(AssertUnwindSafe(|| constraint.as_mut().map(allowed).unwrap_or_default()))
                .map_err(|panic| SampleError::ConstraintPanicked(panic_message(&*panic)))?;
        if num_generated < params.min_tokens {
            let with_stops = [&forbidden[..], stop_token_ids].concat();
            // Where nothing else is left, stop tokens are not held back.
            if edits::leaves_some(allowed.as_deref(), &with_stops, vocab_size) {
                forbidden = with_stops;
            }
        }
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = *params;
        let mut uniforms = Uniforms::new(*seed, num_generated as u64);
        let uniform = uniforms.next_uniform();
        let filters = params.has_filters().then_some(Filters { top_k, top_p, min_p, redraws: uniforms });
        Ok(Draw { temperature, uniform, forbidden, allowed, filters })
    }

    /// Takes note of a token that was drawn elsewhere.
    fn note(&mut self, id: u32) -> GeneratedToken {
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id);
        }
        GeneratedToken { id, logprobs: None }
    }

    /// Chooses the token after `num_generated` ones and takes note of it. `row` is left edited.
    fn sample(
        &mut self,
        row: &mut [f32],
        num_generated: usize,
        stop_token_ids: &[u32],
    ) -> Result<GeneratedToken, SampleError> {
        let raw = self.params.logprobs.map(|num_top| (row.to_vec(), usize::from(num_top)));
        let id = self.choose(row, num_generated, stop_token_ids)?;
        if self.params.has_penalties() {
            self.counts.add(id);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id);
        }
        let logprobs = raw.map(|(raw, num_top)| logprobs::logprobs(&raw, id, num_top)).transpose()?;
        Ok(GeneratedToken { id, logprobs })
    }

    /// Applies penalties, biases and masks and draws a token.
    fn choose(
        &mut self,
        row: &mut [f32],
        num_generated: usize,
        stop_ids: &[u32],
    ) -> Result<u32, SampleError> {
        let Self { params, seed, counts, constraint } = self;
        if params.has_penalties() {
            counts.penalise(row, params);
        }
        edits::add_bias(row, &params.logit_bias);
        let words = constraint.as_mut().and_then(|constraint| edits::bitmask(row, constraint.allowed()));
        let draw = |row: &mut [f32]| -> Result<u32, SampleError> {
            let row = match &words {
                Some(words) => Row::scan_masked(row, words)?,
                None => Row::scan(row)?,
            };
            Ok(draw::choose(&row, params, Uniforms::new(*seed, num_generated as u64)))
        };
        if num_generated >= params.min_tokens {
            return draw(row);
        }
        let held_back = edits::forbid(row, stop_ids);
        match draw(row) {
            Err(SampleError::NothingAllowed) => {
                edits::restore(row, &held_back);
                draw(row)
            }
            drawn => drawn,
        }
    }
}

impl fmt::Debug for SequenceSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let constrained = self.constraint.is_some();
        f.debug_struct("SequenceSampler")
            .field("params", &self.params)
            .field("seed", &self.seed)
            .field("constrained", &constrained)
            .finish_non_exhaustive()
    }
}
