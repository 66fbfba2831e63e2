//! Where prefixes are found again, and what is evicted first.

use super::fake_runner::FakeRunner;
use super::schedule::{Plan, Schedule};
use super::schedules::Driver;
use crate::{EngineConfig, RunnerSpec, SamplingParams};

/// Blocks of 4 tokens, a window of 8: a hit needs the two blocks before its end in the sliding group.
fn driver(num_blocks: usize) -> Driver {
    let spec = RunnerSpec {
        vocab_size: 32,
        num_blocks,
        block_size: 4,
        sliding_window: 8,
        max_position_embeddings: 4096,
    };
    let config =
        EngineConfig { max_num_batched_tokens: 16, num_speculative_tokens: 0, ..EngineConfig::default() };
    let config = config.for_runner(&spec).expect("room");
    let schedule = Schedule { spec, config, requests: Vec::new(), repetitive: false };
    Driver::new(schedule, FakeRunner::new(spec, config))
}

/// Runs a request to its end; returns its whole sequence and how many tokens were found in the cache.
fn run(driver: &mut Driver, prompt: &[u32], salt: Option<&str>, max_tokens: usize) -> (Vec<u32>, usize) {
    let plan = Plan {
        arrives_at_step: 0,
        leaves_at_step: None,
        prompt: prompt.to_vec(),
        max_tokens,
        priority: 0,
        tenant: 0,
        cache_salt: salt.map(str::to_owned),
        constrained: false,
        // No stop token before the end.
        sampling: SamplingParams { min_tokens: max_tokens, ..SamplingParams::greedy() },
    };
    let id = driver.submit(&plan).expect("it fits");
    driver.run_until_idle();
    let ((tokens, _), num_cached) = driver.reply(id);
    ([prompt, &tokens].concat(), num_cached)
}

fn num_cached(driver: &mut Driver, prompt: &[u32]) -> usize {
    run(driver, prompt, None, 1).1
}

fn tokens(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 7 + i / 5) % 32).collect()
}

#[test]
fn a_hit_is_whole_blocks_and_leaves_a_token_to_compute() {
    for (len, expected) in [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (40, 36), (41, 40)] {
        let mut driver = driver(200);
        assert_eq!(num_cached(&mut driver, &tokens(len)), 0, "nothing is cached yet");
        assert_eq!(num_cached(&mut driver, &tokens(len)), expected, "{len} tokens again");
    }
}

#[test]
fn the_next_turn_finds_the_prompt_and_a_tool_loop_finds_the_generation() {
    let mut driver = driver(400);
    let (turn, _) = run(&mut driver, &tokens(30), None, 50);
    let next_turn = [&tokens(30), &[1, 2, 3, 4, 5][..]].concat();
    assert_eq!(num_cached(&mut driver, &next_turn), 28, "the prompt's window was kept");
    let tool_result = [&turn[..], &[1, 2, 3]].concat();
    // The last of the 80 tokens was never computed.
    assert_eq!(num_cached(&mut driver, &tool_result), 76);
}

#[test]
fn the_prompts_window_outlives_the_windows_passed_on_the_way() {
    // The pool holds one long sequence; the next request evicts what is not worth keeping.
    let mut driver = driver(60);
    let prompt = tokens(100);
    run(&mut driver, &prompt, None, 60);
    let unrelated: Vec<u32> = tokens(60).into_iter().rev().collect();
    run(&mut driver, &unrelated, None, 1);
    assert!(driver.stats.borrow().num_blocks_cached > 0);
    let next_turn = [&prompt[..], &[1, 2, 3, 4, 5]].concat();
    assert_eq!(num_cached(&mut driver, &next_turn), 100);
}

#[test]
fn salts_keep_prefixes_apart() {
    let mut driver = driver(200);
    run(&mut driver, &tokens(40), Some("a"), 1);
    assert_eq!(run(&mut driver, &tokens(40), Some("b"), 1).1, 0);
    assert_eq!(run(&mut driver, &tokens(40), None, 1).1, 0);
    assert_eq!(run(&mut driver, &tokens(40), Some("a"), 1).1, 36);
}

#[test]
fn a_shared_start_becomes_a_checkpoint_once_it_was_missed() {
    // Three conversations share 60 tokens, but no prompt ends there. Between them the cache is swept of
    // what is not kept.
    let mut driver = driver(80);
    let stem = tokens(60);
    let conversation = |i: u32| [&stem[..], &[i; 30]].concat();
    let sweep = |driver: &mut Driver, i: u32| {
        let other: Vec<u32> = (0..50).map(|j| (i + 3 * j) % 32).collect();
        run(driver, &other, None, 1);
    };
    assert_eq!(num_cached(&mut driver, &conversation(1)), 0);
    sweep(&mut driver, 1);
    let _ = num_cached(&mut driver, &conversation(2));
    sweep(&mut driver, 2);
    assert_eq!(num_cached(&mut driver, &conversation(3)), 60);
}

#[test]
fn simultaneous_requests_share_the_blocks_of_their_prefix() {
    let mut driver = driver(200);
    run(&mut driver, &tokens(80), None, 1);
    let plan = |last: u32| Plan {
        arrives_at_step: 0,
        leaves_at_step: None,
        prompt: [&tokens(80)[..], &[last]].concat(),
        max_tokens: 2,
        priority: 0,
        tenant: 0,
        cache_salt: None,
        constrained: false,
        sampling: SamplingParams { min_tokens: 2, ..SamplingParams::greedy() },
    };
    for last in 0..5 {
        driver.submit(&plan(last)).expect("it fits");
    }
    driver.step();
    // 20 full blocks and a window of 2 shared, a pair for each sequence.
    assert_eq!(driver.stats.borrow().num_blocks_used, 20 + 2 + 5 * 2);
    driver.run_until_idle();
}
