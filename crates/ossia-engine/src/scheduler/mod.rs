//! Who computes what in the next forward pass.
//!
//! Running sequences are served by rank: priority, then arrival. Every decoding sequence gets its one token, what is left
//! of the budget goes to prefills, and then to waiting sequences, strictly in the order of the [`WaitingQueue`]. When nobody
//! has a prompt to compute, what is left goes to drafts. When blocks run out, a sequence may take those of sequences behind
//! it, and never of those before it: so the first running sequence progresses in every step, which is why everybody's turn
//! comes.
//!
//! Tenants share places as well: when the next waiting sequence finds none, a tenant that has at least two sequences
//! more than that of the waiting one gives its last up, so that nobody waits for another's long answers to end.

mod admission;
#[cfg(test)]
mod tests;

use crate::block_manager::BlockManager;
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
