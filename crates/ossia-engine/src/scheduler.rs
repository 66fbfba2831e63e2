//! Who computes what in the next forward pass.
//!
//! Running sequences are served by rank: priority, then arrival. Every decoding sequence gets its one token, what
//! is left of the budget goes to prefills, and then to waiting sequences, strictly in the order of the
//! [`WaitingQueue`]. When nobody has a prompt to compute, what is left goes to drafts. When blocks run out, a sequence may take those of sequences behind it, and never of those before
//! it: so the first running sequence progresses in every step, which is why everybody's turn comes.
//!
//! Tenants share places as well: when the next waiting sequence finds none, a tenant that has at least two sequences
//! more than that of the waiting one gives its last up, so that nobody waits for another's long answers to end.

use crate::block_manager::{BlockManager, CachedPrefix};
use crate::sequence::{Sequence, SequenceId, TenantId};
use crate::waiting::WaitingQueue;
use crate::{EngineConfig, RunnerSpec};

/// The waiting and the running sequences, and the blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    blocks: BlockManager,
    waiting: WaitingQueue,
    /// By rank.
    running: Vec<Sequence>,
    num_preemptions: u64,
}

/// What the engine allows in a pass, by the clock that the scheduler does not have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassLimits {
    /// Most prompt tokens; at least 1.
    pub(crate) num_prefill_tokens: usize,
    /// Most draft tokens of a sequence.
    pub(crate) draft_len: usize,
}

impl PassLimits {
    /// Everything that fits the batch.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self { num_prefill_tokens: usize::MAX, draft_len: usize::MAX };
}

/// What a call of [`Scheduler::schedule`] changed, apart from the sequences' `num_scheduled_tokens`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Sequences that were given blocks, preempted ones that resume included.
    pub(crate) admitted: Vec<SequenceId>,
    /// Tokens of the pass.
    pub(crate) num_tokens: usize,
}

impl Scheduler {
    pub(crate) fn new(config: &EngineConfig, spec: RunnerSpec) -> Self {
        Self {
            // With at least one token for each running sequence, no prefill can be starved by decodes.
            max_num_seqs: config.max_num_seqs.min(config.max_num_batched_tokens),
            max_num_batched_tokens: config.max_num_batched_tokens,
            blocks: BlockManager::new(spec, config.enable_prefix_caching),
            waiting: WaitingQueue::default(),
            running: Vec::new(),
            num_preemptions: 0,
        }
    }

    /// Queues a sequence.
    pub(crate) fn add(&mut self, seq: Sequence) {
        self.waiting.add(seq, &self.running);
    }

    /// Chooses the tokens of the next pass and gives their sequences the blocks they need.
    pub(crate) fn schedule(&mut self, limits: PassLimits) -> Schedule {
        let mut schedule = Schedule::default();
        let left = self.max_num_batched_tokens - self.num_decoding();
        let mut prefill_budget = left.min(limits.num_prefill_tokens);
        let num_preemptions = self.num_preemptions;
        self.schedule_running(&mut prefill_budget);
        if self.num_preemptions == num_preemptions {
            schedule.admitted = self.admit(&mut prefill_budget);
        }
        if self.running.iter().all(Sequence::is_decoding) {
            self.schedule_drafts(limits.draft_len);
        }
        schedule.num_tokens = self.running.iter().map(|seq| seq.num_scheduled_tokens).sum();
        schedule
    }

    fn schedule_running(&mut self, prefill_budget: &mut usize) {
        let mut idx = 0;
        while idx < self.running.len() {
            let seq = &self.running[idx];
            let is_decoding = seq.is_decoding();
            let budget = if is_decoding { 1 } else { *prefill_budget };
            let wanted = seq.num_remaining_tokens().min(budget);
            let num_tokens = self.make_room(idx, wanted);
            if num_tokens > 0 {
                self.blocks.allocate(&mut self.running[idx], num_tokens);
                self.waiting.charge(&mut self.running[idx]);
            }
            if !is_decoding {
                *prefill_budget -= num_tokens;
            }
            idx += 1;
        }
    }

    /// Adds drafts to the decoding sequences, as far as tokens and blocks are left: nobody is preempted for one.
    fn schedule_drafts(&mut self, max_draft_len: usize) {
        let mut budget = self.max_num_batched_tokens - self.running.len();
        for seq in self.running.iter_mut().filter(|seq| seq.num_scheduled_tokens > 0) {
            let draft_len = seq.draft().len().min(max_draft_len).min(budget);
            let num_tokens = self.blocks.num_tokens_that_fit(seq, 1 + draft_len);
            self.blocks.allocate(seq, num_tokens);
            seq.num_scheduled_drafts = num_tokens - 1;
            budget -= seq.num_scheduled_drafts;
        }
    }

    /// How many of the `wanted` tokens fit, preempting sequences behind `idx` if not even one does.
    fn make_room(&mut self, idx: usize, wanted: usize) -> usize {
        if wanted == 0 {
            return 0;
        }
        loop {
            let num_tokens = self.blocks.num_tokens_that_fit(&self.running[idx], wanted);
            if num_tokens > 0 {
                return num_tokens;
            }
            let Some(victim) = self.least_entitled_behind(idx) else { return 0 };
            self.preempt(victim);
        }
    }

    /// Of the sequences behind `idx`: of the lowest priority, of the tenant that has most, the last.
    fn least_entitled_behind(&self, idx: usize) -> Option<usize> {
        let entitlement = |&idx: &usize| {
            let seq = &self.running[idx];
            (seq.rank().priority(), self.num_running_of(seq.tenant()), seq.rank())
        };
        (idx + 1..self.running.len()).max_by_key(entitlement)
    }

    /// Who gives way so that `next` can start: nobody if there is a place, `None` if there is none even so.
    fn giving_way_to(&self, next: &Sequence, prefix: CachedPrefix) -> Option<Vec<SequenceId>> {
        let mut staying: Vec<&Sequence> = self.running.iter().collect();
        let (mut leaving, mut num_freed) = (Vec::new(), 0);
        loop {
            let to_come = staying.iter().map(|seq| self.blocks.num_blocks_to_come(seq)).sum();
            let has_blocks = self.blocks.can_allocate(next, prefix, to_come, num_freed);
            if has_blocks && staying.len() < self.max_num_seqs {
                return Some(leaving);
            }
            let seq = staying.remove(in_excess_over(next, &staying)?);
            num_freed += seq.tables.full.blocks.len() + seq.tables.sliding.blocks.len();
            leaving.push(seq.id());
        }
    }

    fn num_running_of(&self, tenant: TenantId) -> usize {
        self.running.iter().filter(|seq| seq.tenant() == tenant).count()
    }

    /// Takes the blocks of a running sequence. Its tokens stay; it computes them again later.
    fn preempt(&mut self, idx: usize) {
        let mut seq = self.running.remove(idx);
        self.blocks.release_all(&mut seq);
        self.num_preemptions += 1;
        self.waiting.add(seq, &self.running);
    }

    /// Starts waiting sequences, as long as their prompts fit beside the rest of the prompts that are running.
    fn admit(&mut self, prefill_budget: &mut usize) -> Vec<SequenceId> {
        let (mut admitted, mut gave_way) = (Vec::new(), Vec::new());
        while *prefill_budget > 0
            && let Some(next) = self.waiting.next()
        {
            let id = next.id();
            let leaving = self.giving_way_to(next, self.blocks.find_prefix(next));
            let Some(leaving) = leaving.filter(|_| !gave_way.contains(&id)) else { break };
            leaving.iter().for_each(|id| self.preempt_id(*id));
            admitted.retain(|id| !leaving.contains(id));
            gave_way.extend(leaving);
            match self.start(id, *prefill_budget) {
                Some(num_tokens) => *prefill_budget -= num_tokens,
                None => break, // what was freed is shared with others
            }
            admitted.push(id);
        }
        admitted
    }

    fn preempt_id(&mut self, id: SequenceId) {
        if let Some(idx) = self.running.iter().position(|seq| seq.id() == id) {
            self.preempt(idx);
        }
    }

    /// Gives a waiting sequence its prefix and its first tokens, if it fits; says how many.
    fn start(&mut self, id: SequenceId, budget: usize) -> Option<usize> {
        let seq = self.waiting.get(id)?;
        let prefix = self.blocks.find_prefix(seq);
        let to_come = self.running.iter().map(|seq| self.blocks.num_blocks_to_come(seq)).sum();
        if !self.blocks.can_allocate(seq, prefix, to_come, 0) {
            return None;
        }
        let mut seq = self.waiting.remove(id)?;
        self.blocks.attach_prefix(&mut seq, prefix);
        // What is found is not computed, whoever's it is.
        seq.num_charged_tokens = seq.num_charged_tokens.max(seq.num_cached_tokens);
        let wanted = seq.num_remaining_tokens().min(budget);
        let num_tokens = self.blocks.num_tokens_that_fit(&seq, wanted);
        self.blocks.allocate(&mut seq, num_tokens);
        self.waiting.charge(&mut seq);
        let place = self.running.partition_point(|other| other.rank() < seq.rank());
        self.running.insert(place, seq);
        Some(num_tokens)
    }

    /// Takes note that the pass was computed. Whether drafts were right is not known yet.
    pub(crate) fn commit(&mut self) {
        for seq in self.running.iter_mut().filter(|seq| seq.num_scheduled_tokens > 0) {
            let num_tokens = std::mem::take(&mut seq.num_scheduled_tokens) - seq.num_scheduled_drafts;
            self.blocks.commit(seq, num_tokens);
        }
    }

    /// Takes note of the drafts that were right, now that tokens are sampled: of what a sequence said then,
    /// all but the last token is computed. Returns how many tokens were drafted and how many were right.
    pub(crate) fn commit_drafts(&mut self) -> (usize, usize) {
        let (mut num_drafts, mut num_accepted) = (0, 0);
        for seq in self.running.iter_mut().filter(|seq| seq.num_scheduled_drafts > 0) {
            let num_right = seq.num_remaining_tokens().saturating_sub(1);
            self.blocks.commit(seq, num_right);
            num_drafts += seq.num_scheduled_drafts;
            num_accepted += num_right;
            seq.note_drafts(num_right);
        }
        (num_drafts, num_accepted)
    }

    /// Running sequences that decode.
    pub(crate) fn num_decoding(&self) -> usize {
        self.running.iter().filter(|seq| seq.is_decoding()).count()
    }

    /// Ends a sequence, waiting or running; its blocks are free when this returns. `None` when it has
    /// ended already.
    pub(crate) fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        let removed = match self.running.iter().position(|seq| seq.id() == id) {
            Some(idx) => {
                let mut seq = self.running.remove(idx);
                self.blocks.release_all(&mut seq);
                Some(seq)
            }
            None => self.waiting.remove(id),
        };
        if self.is_idle() {
            self.waiting.forget_counts();
        }
        removed
    }

    /// Running sequences, by rank.
    pub(crate) fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Running sequences, by rank.
    pub(crate) fn running_mut(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits or runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub(crate) fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    pub(crate) fn num_preemptions(&self) -> u64 {
        self.num_preemptions
    }

    #[cfg(test)]
    pub(crate) fn has_waiting(&self, tenant: u32) -> bool {
        self.waiting.has(TenantId(tenant))
    }
}

/// Of the tenant that has most in `running`, the last, if that is at least two more than `next`'s tenant has. A sequence of
/// higher priority than `next` does not give way. Never the first of all, since its tenant has another one.
fn in_excess_over(next: &Sequence, running: &[&Sequence]) -> Option<usize> {
    let num_of = |tenant: TenantId| running.iter().filter(|seq| seq.tenant() == tenant).count();
    let may = |idx: &usize| running[*idx].rank().priority() >= next.rank().priority();
    let share = |&idx: &usize| (num_of(running[idx].tenant()), running[idx].rank());
    let idx = (0..running.len()).filter(may).max_by_key(share)?;
    (num_of(running[idx].tenant()) > num_of(next.tenant()) + 1).then_some(idx)
}

#[cfg(test)]
mod tests {
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
}
