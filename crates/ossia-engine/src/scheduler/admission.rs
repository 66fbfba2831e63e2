//! Which waiting sequence starts, and who gives a place up for it.

use super::Scheduler;
use crate::block_manager::CachedPrefix;
use crate::sequence::{Sequence, SequenceId, TenantId};

impl Scheduler {
    /// Starts waiting sequences, as long as their prompts fit beside the rest of the prompts that are running.
    pub(super) fn admit(&mut self, prefill_budget: &mut usize) -> Vec<SequenceId> {
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
