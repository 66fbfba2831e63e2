//! Who is scheduled, in which order, and who gives way.

use super::*;
use crate::GenerationRequest;

/// Blocks of 4 tokens, a window of 4.
fn scheduler(num_blocks: usize, max_num_seqs: usize, max_num_batched_tokens: usize) -> Scheduler {
    let spec = RunnerSpec {
        vocab_size: 100,
        num_blocks,
        block_size: 4,
        sliding_window: 4,
        max_position_embeddings: 1000,
    };
    let config = EngineConfig { max_num_seqs, max_num_batched_tokens, ..EngineConfig::default() };
    Scheduler::new(&config, spec)
}

fn add(scheduler: &mut Scheduler, id: u64, priority: i32, prompt_len: u32) {
    add_of(scheduler, 0, id, priority, prompt_len);
}

fn add_of(scheduler: &mut Scheduler, tenant: u32, id: u64, priority: i32, prompt_len: u32) {
    let prompt = (0..prompt_len).map(|pos| (pos + id as u32 * 7) % 100).collect();
    let request = GenerationRequest { tenant, priority, ..GenerationRequest::new(prompt, 50) };
    scheduler.add(Sequence::new(SequenceId(id), request, 4, 1000));
}

/// One pass in which every sequence that may generates a token. Returns the scheduled tokens by id.
fn pass(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
    scheduler.schedule(PassLimits::NONE);
    let scheduled = scheduler.running().iter().filter(|seq| seq.num_scheduled_tokens > 0);
    let scheduled = scheduled.map(|seq| (seq.id().0, seq.num_scheduled_tokens)).collect();
    scheduler.commit();
    let whole = |seq: &&mut Sequence| seq.num_remaining_tokens() == 0;
    scheduler.running_mut().iter_mut().filter(whole).for_each(|seq| seq.append_token(99));
    scheduled
}

#[test]
fn decodes_come_before_prefills_and_prefills_share_what_is_left() {
    let mut scheduler = scheduler(100, 8, 10);
    add(&mut scheduler, 0, 0, 3);
    assert_eq!(pass(&mut scheduler), [(0, 3)]);
    add(&mut scheduler, 1, 0, 12);
    add(&mut scheduler, 2, 0, 9);
    assert_eq!(pass(&mut scheduler), [(0, 1), (1, 9)]);
    assert_eq!(pass(&mut scheduler), [(0, 1), (1, 3), (2, 6)]);
    assert_eq!(pass(&mut scheduler), [(0, 1), (1, 1), (2, 3)]);
}

/// Tokens and drafts of each sequence in a pass that is scheduled and not run.
fn scheduled(scheduler: &mut Scheduler, limits: PassLimits) -> Vec<(usize, usize)> {
    scheduler.schedule(limits);
    scheduler.running().iter().map(|seq| (seq.num_scheduled_tokens, seq.num_scheduled_drafts)).collect()
}

/// A sequence that has said what its prompt says, so that the rest of the prompt is its draft.
fn add_repetition(scheduler: &mut Scheduler, id: u64, draft_len: usize) {
    let request = GenerationRequest::new(vec![99, 99, 99, 1, 2, 3, 4, 5, 6, 7, 99, 99], 50);
    scheduler.add(Sequence::new(SequenceId(id), request, 4, 1000).with_drafts(draft_len));
}

#[test]
fn prompts_are_cut_to_the_limit_and_decodes_are_not() {
    let mut scheduler = scheduler(100, 8, 50);
    add(&mut scheduler, 0, 0, 3);
    pass(&mut scheduler);
    add(&mut scheduler, 1, 0, 12);
    add(&mut scheduler, 2, 0, 12);
    let limits = PassLimits { num_prefill_tokens: 5, draft_len: 0 };
    assert_eq!(scheduled(&mut scheduler, limits), [(1, 0), (5, 0)]);
}

#[test]
fn drafts_take_what_is_left_when_nobody_has_a_prompt_to_compute() {
    let mut scheduler = scheduler(100, 8, 50);
    (0..2).for_each(|id| add_repetition(&mut scheduler, id, 6));
    pass(&mut scheduler);
    scheduler.running_mut().iter_mut().for_each(Sequence::renew_draft);
    assert_eq!(scheduler.running()[0].draft(), [1, 2, 3, 4, 5, 6]);
    let limits = |draft_len| PassLimits { num_prefill_tokens: 50, draft_len };
    assert_eq!(scheduled(&mut scheduler, limits(4)), [(5, 4), (5, 4)]);
    assert_eq!(scheduled(&mut scheduler, limits(0)), [(1, 0), (1, 0)]);
    scheduler.max_num_batched_tokens = 7;
    assert_eq!(scheduled(&mut scheduler, limits(4)), [(5, 4), (2, 1)], "the pass is full");
    add(&mut scheduler, 2, 0, 20);
    assert_eq!(scheduled(&mut scheduler, limits(4)), [(1, 0), (1, 0), (5, 0)], "a prompt comes first");
}

#[test]
fn nobody_is_preempted_for_a_draft() {
    // Each holds three blocks and a window of one; what is left holds one pair more.
    let mut scheduler = scheduler(10, 8, 50);
    (0..2).for_each(|id| add_repetition(&mut scheduler, id, 8));
    pass(&mut scheduler);
    scheduler.running_mut().iter_mut().for_each(Sequence::renew_draft);
    let found = scheduled(&mut scheduler, PassLimits::NONE);
    assert_eq!((found.len(), scheduler.num_preemptions()), (2, 0), "{found:?}");
    assert!(found.iter().map(|(_, drafts)| drafts).sum::<usize>() < 16, "{found:?}");
}

#[test]
fn waiting_sequences_start_by_priority_then_arrival() {
    let mut scheduler = scheduler(100, 2, 100);
    for (id, priority) in [(0, 1), (1, 0), (2, 0), (3, -1)] {
        add(&mut scheduler, id, priority, 4);
    }
    assert_eq!(pass(&mut scheduler), [(3, 4), (1, 4)]);
    scheduler.remove(SequenceId(3));
    assert_eq!(pass(&mut scheduler), [(1, 1), (2, 4)]);
}

#[test]
fn a_prompt_that_does_not_fit_waits_and_nobody_overtakes_it() {
    // The first takes 5 blocks and 2 for its window; the second needs as many, the third only 2.
    let mut scheduler = scheduler(12, 8, 100);
    add(&mut scheduler, 0, 0, 20);
    add(&mut scheduler, 1, 0, 20);
    add(&mut scheduler, 2, 0, 4);
    assert_eq!(pass(&mut scheduler), [(0, 20)]);
    assert_eq!(pass(&mut scheduler), [(0, 1)]);
    scheduler.remove(SequenceId(0));
    assert_eq!(pass(&mut scheduler), [(1, 20), (2, 4)]);
}

#[test]
fn the_last_of_the_lowest_priority_is_preempted_and_keeps_its_tokens() {
    let mut scheduler = scheduler(12, 8, 100);
    for (id, priority) in [(0, 0), (1, 1), (2, 0)] {
        add(&mut scheduler, id, priority, 4);
    }
    while scheduler.num_preemptions() == 0 {
        pass(&mut scheduler);
    }
    assert_eq!(scheduler.running().iter().map(|seq| seq.id().0).collect::<Vec<_>>(), [0, 2]);
    let preempted = scheduler.waiting.next().expect("somebody was preempted");
    assert_eq!((preempted.id(), preempted.num_cached_tokens), (SequenceId(1), 0));
    assert!(preempted.num_generated_tokens() > 1);
}

#[test]
fn a_tenant_in_excess_gives_a_place_up_but_never_its_share() {
    let mut scheduler = scheduler(100, 4, 100);
    (0..6).for_each(|id| add_of(&mut scheduler, 0, id, 0, 4));
    assert_eq!(pass(&mut scheduler).len(), 4);
    (6..9).for_each(|id| add_of(&mut scheduler, 1, id, 0, 4));
    // Two places each after a few passes; the first of the other tenant's go on as if nothing had happened.
    (0..5).for_each(|_| assert_eq!(pass(&mut scheduler).len(), 4));
    assert_eq!(pass(&mut scheduler), [(0, 1), (1, 1), (6, 1), (7, 1)]);
    assert_eq!(scheduler.num_preemptions(), 2);
    // A third tenant finds two with two more than it has, and takes the last's last place.
    add_of(&mut scheduler, 2, 9, 0, 4);
    (0..5).for_each(|_| assert_eq!(pass(&mut scheduler).len(), 4));
    assert_eq!(pass(&mut scheduler), [(0, 1), (1, 1), (6, 1), (9, 1)]);
    assert_eq!(scheduler.num_preemptions(), 3);
}

#[test]
fn who_is_urgent_does_not_give_way() {
    let mut scheduler = scheduler(100, 2, 100);
    (0..3).for_each(|id| add_of(&mut scheduler, 0, id, -1, 4));
    pass(&mut scheduler);
    add_of(&mut scheduler, 1, 3, 0, 4);
    assert_eq!(pass(&mut scheduler), [(0, 1), (1, 1)]);
}
