//! The engine as its callers see it: a handle, generations, and what happens when either goes away.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc;

use ossia_engine::{
    AllowedTokens, Engine, EngineConfig, EngineHandle, EngineStats, EngineThread, FinishReason, Generation,
    GenerationEvent, GenerationRequest, ModelRunner, RunnerError, RunnerSpec, SamplingParams, StepPhase,
    SubmitError, TokenConstraint,
};
use ossia_model::{ForwardBatch, Logits};

const VOCAB_SIZE: usize = 16;

/// Counts: the token after `n` is `n + 1`. Each pass waits for a permit; token 13 is unlucky.
struct Counter {
    permits: mpsc::Receiver<()>,
}

impl ModelRunner for Counter {
    fn spec(&self) -> RunnerSpec {
        RunnerSpec {
            vocab_size: VOCAB_SIZE,
            num_blocks: 32,
            block_size: 4,
            sliding_window: 4,
            max_position_embeddings: 1000,
        }
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Logits) -> Result<(), RunnerError> {
        // A test that is over grants everything.
        let _ = self.permits.recv();
        let mut data = vec![0.0; batch.logits_indices.len() * VOCAB_SIZE];
        for (row, &idx) in data.chunks_mut(VOCAB_SIZE).zip(&batch.logits_indices) {
            let next = batch.input_ids[idx as usize] + 1;
            assert_ne!(next, 13, "bad luck");
            row[next as usize % VOCAB_SIZE] = 1.0;
        }
        *logits = Logits::new(VOCAB_SIZE, data);
        Ok(())
    }
}

/// An engine whose passes are granted one by one through the sender.
fn start(config: EngineConfig) -> (EngineHandle, EngineThread, mpsc::Sender<()>) {
    let (sender, permits) = mpsc::channel();
    let (handle, thread) = Engine::start(Box::new(Counter { permits }), config).unwrap();
    (handle, thread, sender)
}

/// An engine that runs freely.
fn start_free() -> (EngineHandle, EngineThread) {
    let (handle, thread, _) = start(EngineConfig::default());
    (handle, thread)
}

fn count_from(start: u32, max_tokens: usize) -> GenerationRequest {
    let mut request = GenerationRequest::new(vec![start], max_tokens);
    request.sampling = SamplingParams::greedy();
    request
}

/// The tokens that are left, and the end.
fn finish(mut generation: Generation) -> (Vec<u32>, FinishReason) {
    let mut tokens = Vec::new();
    loop {
        match generation.blocking_next().expect("Finished comes last") {
            GenerationEvent::Started { .. } => {}
            GenerationEvent::Token(token) => tokens.push(token.id),
            GenerationEvent::Finished(reason) => {
                assert_eq!(generation.blocking_next(), None);
                return (tokens, reason);
            }
        }
    }
}

/// Waits until the figures say so; hangs (and fails by the runner's time limit) if they never do.
fn wait_until(handle: &EngineHandle, condition: impl Fn(&EngineStats) -> bool) {
    while !condition(&handle.stats()) {
        std::thread::yield_now();
    }
}

/// A request that has begun: its first token has come. An idle engine needs one permit for that; a busy
/// one may be in a pass that began without the request, and needs two.
fn submit_and_await_token(
    handle: &EngineHandle,
    permits: &mpsc::Sender<()>,
    num_permits: usize,
    request: GenerationRequest,
) -> Generation {
    let mut generation = handle.submit(request).unwrap();
    (0..num_permits).for_each(|_| permits.send(()).unwrap());
    assert!(matches!(generation.blocking_next(), Some(GenerationEvent::Started { .. })));
    assert!(matches!(generation.blocking_next(), Some(GenerationEvent::Token(_))));
    generation
}

#[test]
fn events_come_in_order_and_stop_tokens_are_delivered() {
    let (handle, _thread) = start_free();
    let mut request = count_from(3, 9);
    request.stop_token_ids = vec![7];
    let mut generation = handle.submit(request).unwrap();
    let started = GenerationEvent::Started { num_prompt_tokens: 1, num_cached_tokens: 0 };
    assert_eq!(generation.blocking_next(), Some(started));
    assert_eq!(finish(generation), (vec![4, 5, 6, 7], FinishReason::Stop));
    assert_eq!(finish(handle.submit(count_from(3, 2)).unwrap()), (vec![4, 5], FinishReason::Length));
}

#[test]
fn figures_are_never_older_than_the_end_of_a_request() {
    let (handle, _thread) = start_free();
    for num_finished in 1..50 {
        finish(handle.submit(count_from(1, 5)).unwrap());
        let stats = handle.stats();
        assert_eq!((stats.num_running, stats.num_blocks_used), (0, 0));
        assert_eq!(stats.num_finished_total, num_finished);
        assert!(stats.blocks_add_up());
    }
}

#[test]
fn the_context_ends_a_generation_and_a_prompt_that_fills_it_is_refused() {
    let (handle, _thread, _permits) = start(EngineConfig { max_model_len: 6, ..EngineConfig::default() });
    drop(_permits);
    assert_eq!(
        finish(handle.submit(count_from(0, 100)).unwrap()),
        (vec![1, 2, 3, 4, 5], FinishReason::Length)
    );
    let refused = handle.submit(GenerationRequest::new(vec![0; 6], 1)).unwrap_err();
    assert_eq!(refused, SubmitError::PromptTooLong { len: 6, max: 6 });
}

#[test]
fn the_pool_bounds_the_context() {
    let (handle, _thread) = start_free();
    // 32 blocks of 4, less 2 for the window, and the last token is not computed.
    assert_eq!(handle.config().max_model_len, 30 * 4 + 1);
}

#[test]
fn what_could_never_run_is_refused_with_the_facts() {
    let (handle, _thread) = start_free();
    let refused = |change: fn(&mut GenerationRequest)| {
        let mut request = count_from(1, 1);
        change(&mut request);
        handle.submit(request).unwrap_err()
    };
    assert_eq!(refused(|r| r.prompt.clear()), SubmitError::EmptyPrompt);
    let outside = SubmitError::InvalidToken { param: "prompt", id: 16, vocab_size: 16 };
    assert_eq!(refused(|r| r.prompt[0] = 16), outside);
    let outside = SubmitError::InvalidToken { param: "logit_bias", id: 99, vocab_size: 16 };
    assert_eq!(refused(|r| r.sampling.logit_bias = vec![(99, 1.0)]), outside);
    assert!(refused(|r| r.max_tokens = 0).to_string().starts_with("max_tokens is 0"));
    assert!(refused(|r| r.sampling.top_p = 2.0).to_string().starts_with("top_p is 2"));
}

#[test]
fn dropping_a_generation_frees_its_blocks_within_one_step() {
    let (handle, _thread, permits) = start(EngineConfig::default());
    let staying = submit_and_await_token(&handle, &permits, 1, count_from(1, 10));
    let leaving = submit_and_await_token(&handle, &permits, 2, count_from(2, 10));
    // All three granted passes are over, the fourth waits for its permit and may have begun with both.
    wait_until(&handle, |stats| stats.num_steps_total == 3);
    drop(leaving);
    permits.send(()).unwrap();
    wait_until(&handle, |stats| stats.num_aborted_total == 1);
    let stats = handle.stats();
    assert!(stats.num_steps_total <= 4, "the pass after the drop must not begin before the blocks are free");
    assert_eq!((stats.num_running, stats.num_blocks_used), (1, 2));
    drop(permits);
    assert_eq!(finish(staying).1, FinishReason::Length);
    assert_eq!(handle.stats().num_blocks_used, 0);
}

#[test]
fn waiting_requests_are_aborted_too() {
    let (handle, _thread, permits) = start(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
    let running = handle.submit(count_from(1, 3)).unwrap();
    drop(handle.submit(count_from(1, 3)).unwrap());
    drop(permits);
    assert_eq!(finish(running).0, [2, 3, 4]);
    wait_until(&handle, |stats| stats.num_aborted_total == 1 && stats.num_waiting == 0);
}

#[test]
fn a_panic_in_the_model_fails_its_requests_and_the_engine_goes_on() {
    let (handle, _thread) = start_free();
    let (tokens, reason) = finish(handle.submit(count_from(10, 5)).unwrap());
    assert_eq!(tokens, [11, 12]);
    assert!(matches!(&reason, FinishReason::Failed(message) if message.contains("bad luck")), "{reason:?}");
    assert_eq!(finish(handle.submit(count_from(1, 2)).unwrap()).0, [2, 3]);
    assert!(handle.is_alive());
}

/// Allows nothing, or panics.
struct Stubborn {
    panics: bool,
}

impl TokenConstraint for Stubborn {
    fn allowed(&mut self) -> AllowedTokens<'_> {
        assert!(!self.panics, "no");
        AllowedTokens::Only(&[])
    }

    fn accept(&mut self, _token: u32) {}
}

#[test]
fn a_constraint_that_fails_fails_its_request_only() {
    let (handle, _thread, permits) = start(EngineConfig::default());
    let bystander = handle.submit(count_from(1, 3)).unwrap();
    let constrained = [false, true].map(|panics| {
        let mut request = count_from(1, 3);
        request.constraint = Some(Box::new(Stubborn { panics }));
        handle.submit(request).unwrap()
    });
    drop(permits);
    assert_eq!(finish(bystander), (vec![2, 3, 4], FinishReason::Length));
    let [nothing, panicked] = constrained.map(|generation| finish(generation).1);
    assert_eq!(nothing, FinishReason::Failed("the constraint allows none of the tokens".to_owned()));
    assert_eq!(panicked, FinishReason::Failed("the constraint panicked: no".to_owned()));
}

/// Panics when it is dropped, which the engine does outside all that it calls for others.
struct Spiteful;

impl TokenConstraint for Spiteful {
    fn allowed(&mut self) -> AllowedTokens<'_> {
        AllowedTokens::All
    }

    fn accept(&mut self, _token: u32) {}
}

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic!("out of spite");
    }
}

#[test]
fn a_panic_of_the_engine_itself_fails_who_is_there_and_the_engine_is_rebuilt() {
    let (handle, _thread, permits) = start(EngineConfig { max_num_seqs: 2, ..EngineConfig::default() });
    let bystander = submit_and_await_token(&handle, &permits, 1, count_from(1, 9));
    let mut request = count_from(1, 1);
    request.constraint = Some(Box::new(Spiteful));
    let spiteful = handle.submit(request).unwrap();
    let waiting = handle.submit(count_from(1, 3)).unwrap();
    drop(permits);
    for generation in [bystander, spiteful, waiting] {
        let (_, reason) = finish(generation);
        let told = matches!(&reason, FinishReason::Failed(message) if message.contains("out of spite"));
        assert!(told, "{reason:?}");
    }
    assert_eq!(finish(handle.submit(count_from(1, 3)).unwrap()), (vec![2, 3, 4], FinishReason::Length));
    let stats = handle.stats();
    assert_eq!((stats.num_rebuilds_total, stats.num_failed_total, stats.num_blocks_used), (1, 3, 0));
    assert!(handle.is_alive() && stats.blocks_add_up());
}

#[test]
fn a_step_says_what_it_does() {
    let (handle, _thread, permits) = start(EngineConfig::default());
    assert_eq!(handle.step_in_progress(), None);
    let generation = handle.submit(count_from(1, 1)).unwrap();
    let step = loop {
        match handle.step_in_progress() {
            Some(step) if step.phase == StepPhase::Run => break step,
            _ => std::thread::yield_now(),
        }
    };
    assert_eq!((step.number, step.num_seqs, step.num_tokens), (1, 1, 1));
    drop(permits);
    finish(generation);
    while handle.step_in_progress().is_some() {
        std::thread::yield_now();
    }
}

#[test]
fn the_queue_has_an_end() {
    let config = EngineConfig { max_num_waiting: 2, max_num_seqs: 1, ..EngineConfig::default() };
    let (handle, _thread, permits) = start(config);
    let first = submit_and_await_token(&handle, &permits, 1, count_from(1, 3));
    let queued = [(); 2].map(|()| handle.submit(count_from(1, 1)).unwrap());
    assert_eq!(handle.submit(count_from(1, 1)).unwrap_err(), SubmitError::QueueFull { max: 2 });
    drop(permits);
    finish(first);
    queued.into_iter().for_each(|generation| assert_eq!(finish(generation).0, [2]));
    assert_eq!(finish(handle.submit(count_from(1, 1)).unwrap()).0, [2], "there is room again");
}

#[test]
fn priorities_run_first_and_equals_in_order_of_arrival() {
    let (handle, _thread, permits) = start(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
    let first = submit_and_await_token(&handle, &permits, 1, count_from(1, 2));
    let generations = [0, -1, 1, -1].map(|priority| {
        let mut request = count_from(1, 1);
        request.priority = priority;
        handle.submit(request).unwrap()
    });
    let (sender, order) = mpsc::channel();
    let watchers: Vec<_> = (0..)
        .zip(generations)
        .map(|(idx, mut generation)| {
            let (sender, handle) = (sender.clone(), handle.clone());
            std::thread::spawn(move || {
                generation.blocking_next();
                sender.send((idx, handle.stats().num_finished_total)).unwrap();
                finish(generation);
            })
        })
        .collect();
    // One pass is one request: grant the next when the last one's watcher has spoken.
    permits.send(()).unwrap();
    finish(first);
    let next = |_| {
        permits.send(()).unwrap();
        order.recv().unwrap().0
    };
    assert_eq!([0; 4].map(next), [1, 3, 0, 2]);
    watchers.into_iter().for_each(|watcher| watcher.join().unwrap());
}

#[test]
fn shutdown_ends_every_request_and_the_handle_says_so() {
    let (handle, thread, permits) = start(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
    let running = handle.submit(count_from(1, 5)).unwrap();
    let waiting = handle.submit(count_from(1, 5)).unwrap();
    drop(permits);
    thread.shutdown();
    for generation in [running, waiting] {
        let (_, reason) = finish(generation);
        assert!(matches!(reason, FinishReason::Failed(_) | FinishReason::Length), "{reason:?}");
    }
    assert!(!handle.is_alive());
    assert_eq!(handle.submit(count_from(1, 1)).unwrap_err(), SubmitError::Closed);
}

#[test]
fn generations_can_be_awaited() {
    let (handle, _thread) = start_free();
    let mut generation = handle.submit(count_from(1, 2)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut num_events = 0;
    while runtime.block_on(generation.next()).is_some() {
        num_events += 1;
    }
    assert_eq!(num_events, 4, "Started, two tokens, Finished");
}
