//! A model that fails fails the requests of that pass, and nobody else.

use super::fake_runner::{FakeRunner, Fault};
use super::reference::alone;
use super::schedule::Schedule;
use super::schedules::Driver;
use crate::FinishReason;

/// Runs a random schedule, all requests at once, with a fault in one pass. Returns the failures' messages.
fn run_with_fault(seed: u64, pass: usize, fault: Fault) -> Vec<String> {
    let schedule = Schedule::random(seed);
    let runner = FakeRunner::new(schedule.spec, schedule.config).repetitive(schedule.repetitive);
    let runner = runner.with_fault(pass, fault);
    let mut driver = Driver::new(schedule.clone(), runner);
    let ids: Vec<_> = schedule.requests.iter().map(|plan| driver.submit(plan).expect("it fits")).collect();
    driver.run_until_idle();
    let mut messages = Vec::new();
    for (plan, id) in schedule.requests.iter().zip(ids) {
        let expected = alone(plan.request(), &schedule);
        match driver.reply(id).0 {
            (tokens, FinishReason::Failed(message)) => {
                assert!(expected.0.starts_with(&tokens), "seed {seed}: wrong before it failed");
                messages.push(message);
            }
            reply => assert_eq!(reply, expected, "seed {seed}"),
        }
    }
    assert_eq!(driver.stats.borrow().num_blocks_used, 0);
    assert_eq!(driver.stats.borrow().num_failed_total, messages.len() as u64);
    messages
}

fn check(fault: Fault, expected: &str) {
    let mut num_failed = 0;
    for seed in 0..100 {
        let messages = run_with_fault(seed, 1 + seed as usize % 7, fault);
        num_failed += messages.len();
        assert!(messages.iter().all(|message| message.contains(expected)), "{messages:?}");
    }
    assert!(num_failed > 50, "{num_failed} failures");
}

#[test]
fn an_error_fails_its_pass_only() {
    check(Fault::Error, "the model failed: out of paper");
}

#[test]
fn a_panic_fails_its_pass_only() {
    check(Fault::Panic, "the model panicked: out of ink");
}

#[test]
fn logits_of_the_wrong_shape_fail_their_pass_only() {
    check(Fault::WrongShape, "logits of shape");
}

#[test]
fn logits_that_are_no_numbers_fail_the_sequences_that_sample() {
    check(Fault::NotANumber, "not finite");
}
