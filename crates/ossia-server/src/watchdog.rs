//! Watches the engine from outside: a step that takes too long is reported with what it was doing.

use std::time::Duration;

use ossia_engine::{EngineHandle, StepInProgress};

use crate::metrics::Metrics;

/// Looks per bound, so that a report is never late by more than this part of it.
const LOOKS_PER_BOUND: u32 = 8;

/// Reports each step that takes longer than `bound`, once when it does and once when it has ended after all.
pub(crate) async fn watch(engine: &EngineHandle, metrics: &Metrics, bound: Duration) {
    let mut reported: Option<StepInProgress> = None;
    while engine.is_alive() {
        tokio::time::sleep(bound / LOOKS_PER_BOUND).await;
        let step = engine.step_in_progress();
        if let Some(last) = reported
            && step.is_none_or(|step| step.number != last.number)
        {
            let seconds = last.started.elapsed().as_secs_f64();
            tracing::warn!(step = last.number, "the engine goes on, {seconds:.1} s after that step began");
            reported = None;
        }
        if let Some(step) = step.filter(|step| reported.is_none() && step.started.elapsed() > bound) {
            metrics.note_stall();
            report(&step);
            reported = Some(step);
        }
    }
}

fn report(step: &StepInProgress) {
    let StepInProgress { number, started, phase, num_seqs, num_tokens } = step;
    let seconds = started.elapsed().as_secs_f64();
    tracing::error!(
        step = number,
        "the engine has been {phase} for {seconds:.1} s: {num_tokens} tokens of {num_seqs} sequences"
    );
}
