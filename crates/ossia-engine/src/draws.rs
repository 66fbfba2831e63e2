//! Tokens that are drawn where the logits are: what the runner is asked for once masks are known, and what came of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ossia_model::{Draw, Drawn, TokenDraw};
use rayon::prelude::*;

use crate::runner::panic_message;
use crate::sampler::SampleError;
use crate::sequence::Sequence;
use crate::{ModelRunner, RunnerError};

/// Draws the next token of each of `seqs`, whose rows the runner holds in their order; an error of one of them is its own.
///
/// # Errors
/// Those of the runner, and a panic in it.
pub(crate) fn draw(
    runner: &mut dyn ModelRunner,
    seqs: Vec<&mut Sequence>,
    vocab_size: usize,
) -> Result<Vec<Result<Drawn, SampleError>>, RunnerError> {
    let (mut draws, mut failed) = (Vec::new(), Vec::new());
    for (planned, row) in plan(seqs, vocab_size).into_iter().zip(0..) {
        match planned {
            Ok(draw) => {
                draws.push(TokenDraw { row, draw });
                failed.push(None);
            }
            Err(error) => failed.push(Some(error)),
        }
    }
    let drawn = catch_unwind(AssertUnwindSafe(|| runner.draw(&draws))).unwrap_or_else(|panic| {
        Err(RunnerError::new(format!("it panicked while it drew: {}", panic_message(&*panic))))
    })?;
    if drawn.len() != draws.len() {
        return Err(RunnerError::new(format!("it drew {} tokens, expected {}", drawn.len(), draws.len())));
    }
    let mut drawn = drawn.into_iter();
    let outcome = |error: Option<SampleError>| match error {
        Some(error) => Err(error),
        None => Ok(drawn.next().unwrap_or(Drawn::NothingAllowed)),
    };
    Ok(failed.into_iter().map(outcome).collect())
}

/// How each is drawn. Masks that were not computed beside the pass are computed side by side now.
fn plan(seqs: Vec<&mut Sequence>, vocab_size: usize) -> Vec<Result<Draw, SampleError>> {
    let num_masks = seqs.iter().filter(|seq| seq.wants_to_prepare()).count();
    let plan = |seq: &mut Sequence| seq.plan_draw(vocab_size);
    match num_masks {
        0 | 1 => seqs.into_iter().map(plan).collect(),
        _ => seqs.into_par_iter().map(plan).collect(),
    }
}
