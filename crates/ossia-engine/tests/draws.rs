//! A runner that draws tokens itself: the same tokens come back as when the engine samples, requests that need their logits
//! get them, and a draw that fails is its own request's failure.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ossia_engine::{
    AllowedTokens, Engine, EngineConfig, FinishReason, Generation, GenerationEvent, GenerationRequest,
    GptOssRunner, ModelRunner, RunnerError, RunnerSpec, SamplingParams, TokenConstraint,
};
use ossia_model::{Draw, Drawn, ForwardBatch, GptOss, Logits, ModelOptions, TokenDraw};

const NUM_REQUESTS: u32 = 8;
const MAX_TOKENS: usize = 30;

/// What is asked of a runner, over all passes.
#[derive(Default)]
struct Asked {
    rows: AtomicUsize,
    draws: AtomicUsize,
}

/// The demo model, whose tokens are drawn by the definition from logits that the engine does not see.
struct Drawing {
    inner: GptOssRunner,
    asked: Arc<Asked>,
    /// Logits of the last batch's `draw_rows`.
    held: Logits,
    /// Answers each draw instead.
    answer: Option<Drawn>,
}

impl ModelRunner for Drawing {
    fn spec(&self) -> RunnerSpec {
        self.inner.spec()
    }

    fn draws(&self) -> bool {
        true
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Logits) -> Result<(), RunnerError> {
        let mut all = batch.clone();
        all.logits_indices.append(&mut all.draw_rows);
        let mut found = Logits::default();
        self.inner.forward(&all, &mut found)?;
        let (wanted, vocab_size) = (batch.logits_indices.len(), found.vocab_size());
        self.asked.rows.fetch_add(wanted, Ordering::Relaxed);
        logits.reshape(wanted, vocab_size);
        let (to_give, to_hold) = found.data().split_at(wanted * vocab_size);
        logits.data_mut().copy_from_slice(to_give);
        self.held = Logits::new(vocab_size, to_hold.to_vec());
        Ok(())
    }

    fn draw(&mut self, draws: &[TokenDraw]) -> Result<Vec<Drawn>, RunnerError> {
        self.asked.draws.fetch_add(draws.len(), Ordering::Relaxed);
        let drawn = draws.iter().map(|draw| draw_from(self.held.row(draw.row as usize), &draw.draw));
        Ok(drawn.map(|drawn| self.answer.unwrap_or(drawn)).collect())
    }
}

/// A draw by its definition, in f64, with sorting.
fn draw_from(row: &[f32], draw: &Draw) -> Drawn {
    let temperature = f64::from(draw.temperature);
    let mut ranked: Vec<usize> = (0..row.len()).filter(|&id| draw.allows(id as u32)).collect();
    ranked.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    let Some(&best) = ranked.first() else { return Drawn::NothingAllowed };
    if temperature == 0.0 {
        return Drawn::Token(best as u32);
    }
    let mass = |id: &usize| (f64::from(row[*id] - row[best]) / temperature).exp();
    let mut filters = draw.filters.clone();
    if let Some(filters) = &filters {
        ranked.retain(|id| mass(id) >= f64::from(filters.min_p));
        ranked.truncate(if filters.top_k > 0 { filters.top_k as usize } else { row.len() });
    }
    let total = |ids: &[usize]| ids.iter().map(mass).sum::<f64>();
    let nucleus = filters.as_ref().map_or(2.0, |filters| f64::from(filters.top_p)) * total(&ranked);
    let mut uniform = draw.uniform;
    loop {
        let (target, mut before, mut by_id) = (uniform * total(&ranked), 0.0, ranked.clone());
        by_id.sort_unstable();
        let token = by_id.into_iter().find(|id| {
            before += mass(id);
            before > target
        });
        let Some(rank) = ranked.iter().position(|id| Some(*id) == token) else {
            return Drawn::NothingAllowed;
        };
        match &mut filters {
            Some(filters) if total(&ranked[..rank]) >= nucleus => uniform = filters.redraws.next_uniform(),
            _ => return Drawn::Token(ranked[rank] as u32),
        }
        ranked.truncate(rank + 1);
    }
}

/// Free text that forbids some tokens, but for each fifth token, of which only ten are allowed, and the one before, which a mask that is
/// computed beside the pass keeps to every third.
#[derive(Default)]
struct Envelope {
    num_accepted: u32,
    ids: Vec<u32>,
    mask: Vec<u32>,
}

impl TokenConstraint for Envelope {
    fn wants_to_prepare(&self) -> bool {
        self.num_accepted % 5 == 3 && self.mask.is_empty()
    }

    fn prepare(&mut self) {
        self.mask = (0..40).map(|word| 0x4924_9249 << (word % 3)).collect();
    }

    fn allowed(&mut self) -> AllowedTokens<'_> {
        self.ids = (0..10).map(|i| 300 + i * 17).collect();
        match self.num_accepted % 5 {
            3 => {
                self.prepare();
                AllowedTokens::Bitmask(&self.mask)
            }
            4 => AllowedTokens::Only(&self.ids),
            _ => AllowedTokens::Except(&self.ids),
        }
    }

    fn accept(&mut self, _token: u32) {
        self.num_accepted += 1;
    }
}

fn request(idx: u32) -> GenerationRequest {
    let prompt = (0..40 + idx).map(|pos| 300 + pos * (idx + 3) % 900).collect();
    let mut request = GenerationRequest::new(prompt, MAX_TOKENS);
    request.sampling = SamplingParams {
        temperature: if idx.is_multiple_of(2) { 0.0 } else { 0.8 },
        seed: Some(u64::from(idx)),
        frequency_penalty: if idx == 4 { 0.2 } else { 0.0 },
        logprobs: (idx == 5).then_some(2),
        top_p: if idx == 7 { 0.6 } else { 1.0 },
        top_k: if [1, 7].contains(&idx) { 20 } else { 0 },
        min_p: if idx == 7 { 0.01 } else { 0.0 },
        ..SamplingParams::default()
    };
    if [2, 3].contains(&idx) {
        // Half of the vocabulary would end the text, and is held back to its end.
        request.stop_token_ids = (0..1280).step_by(2).collect();
        request.sampling.min_tokens = MAX_TOKENS;
    }
    if idx.is_multiple_of(3) {
        request.constraint = Some(Box::new(Envelope::default()));
    }
    request
}

fn demo() -> GptOssRunner {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    let model = GptOss::load(&dir, &ModelOptions::default(), &mut |_| {}).unwrap();
    GptOssRunner::new(model, 500, 16).unwrap()
}

/// Tokens of all requests, sent together, and how each ended.
fn replies(runner: Box<dyn ModelRunner>) -> Vec<(Vec<u32>, FinishReason)> {
    let config = EngineConfig { num_speculative_tokens: 0, ..EngineConfig::default() };
    let (engine, _thread) = Engine::start(runner, config).unwrap();
    let generations: Vec<_> = (0..NUM_REQUESTS).map(|idx| engine.submit(request(idx)).unwrap()).collect();
    generations.into_iter().map(reply).collect()
}

fn reply(mut generation: Generation) -> (Vec<u32>, FinishReason) {
    let (mut tokens, mut reason) = (Vec::new(), None);
    while let Some(event) = generation.blocking_next() {
        match event {
            GenerationEvent::Started { .. } => {}
            GenerationEvent::Token(token) => tokens.push(token.id),
            GenerationEvent::Finished(why) => reason = Some(why),
        }
    }
    (tokens, reason.unwrap())
}

#[test]
fn drawn_tokens_are_those_that_the_engine_samples() {
    let asked = Arc::new(Asked::default());
    let drawing = Drawing { inner: demo(), asked: asked.clone(), held: Logits::default(), answer: None };
    let found = replies(Box::new(drawing));
    assert_eq!(found, replies(Box::new(demo())));
    assert!(
        found.iter().all(|(tokens, reason)| (tokens.len(), reason) == (MAX_TOKENS, &FinishReason::Length))
    );
    // Requests 4 and 5 need their logits.
    let [rows, draws] = [&asked.rows, &asked.draws].map(|count| count.load(Ordering::Relaxed));
    assert_eq!((draws, rows), (6 * MAX_TOKENS, 2 * MAX_TOKENS));
}

#[test]
fn a_draw_that_fails_is_its_own_requests_failure() {
    for (answer, message) in [
        (Drawn::NotFinite, "the model's logits are not finite"),
        (Drawn::NothingAllowed, "the constraint allows none of the tokens"),
    ] {
        let drawing =
            Drawing { inner: demo(), asked: Arc::default(), held: Logits::default(), answer: Some(answer) };
        for (idx, (tokens, reason)) in replies(Box::new(drawing)).into_iter().enumerate() {
            match idx {
                4 | 5 => assert_eq!((tokens.len(), reason), (MAX_TOKENS, FinishReason::Length)),
                _ => assert_eq!((tokens.len(), reason), (0, FinishReason::Failed(message.to_owned()))),
            }
        }
    }
}

/// Says nothing sensible of the third token.
struct Panicking(u32);

impl TokenConstraint for Panicking {
    fn allowed(&mut self) -> AllowedTokens<'_> {
        assert!(self.0 < 2, "on purpose");
        AllowedTokens::All
    }

    fn accept(&mut self, _token: u32) {
        self.0 += 1;
    }
}

/// The rows behind its own are drawn from all the same.
#[test]
fn a_constraint_that_panics_is_its_own_requests_failure() {
    let asked = Arc::new(Asked::default());
    let drawing = Drawing { inner: demo(), asked, held: Logits::default(), answer: None };
    let config = EngineConfig { num_speculative_tokens: 0, ..EngineConfig::default() };
    let submit_all = |runner: Box<dyn ModelRunner>, panics: bool| {
        let (engine, _thread) = Engine::start(runner, config).unwrap();
        let requests = (0..3).map(|idx| {
            let constraint = (panics && idx == 1).then(|| Box::new(Panicking(0)) as Box<dyn TokenConstraint>);
            GenerationRequest { constraint, ..request(idx) }
        });
        let generations: Vec<_> = requests.map(|request| engine.submit(request).unwrap()).collect();
        generations.into_iter().map(reply).collect::<Vec<_>>()
    };
    let (found, expected) = (submit_all(Box::new(drawing), true), submit_all(Box::new(demo()), false));
    assert_eq!((&found[0], &found[2]), (&expected[0], &expected[2]));
    let panicked = FinishReason::Failed("the constraint panicked: on purpose".to_owned());
    assert_eq!(found[1], (expected[1].0[..2].to_vec(), panicked));
}
