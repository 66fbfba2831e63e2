//! The sequences that wait, and whose turn is next.
//!
//! Tenants share the engine by the tokens that are computed for them: of the sequences with the most urgent priority,
//! the next is the first of the tenant for which the fewest were computed. Who comes back from idling starts at
//! the least count of those that wait or run, so that idling saves nothing up. Within a busy period counts only grow, so
//! everybody's turn comes; it ends when nobody waits or runs, and all counts with it.

use std::collections::{BTreeMap, HashMap};

use crate::sequence::{Rank, Sequence, SequenceId, TenantId};

/// Waiting sequences by tenant, and what was computed for each tenant in this busy period.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    /// Without empty entries.
    by_tenant: BTreeMap<TenantId, BTreeMap<Rank, Sequence>>,
    num_computed: HashMap<TenantId, u64>,
}

impl WaitingQueue {
    /// Queues a sequence; `running` are the sequences that run.
    pub(crate) fn add(&mut self, seq: Sequence, running: &[Sequence]) {
        let tenant = seq.tenant();
        let is_active = |other: TenantId| {
            self.by_tenant.contains_key(&other) || running.iter().any(|seq| seq.tenant() == other)
        };
        if !is_active(tenant) {
            let counts = self.num_computed.iter().filter(|(other, _)| is_active(**other));
            let least = counts.map(|(_, &count)| count).min().unwrap_or(0);
            let count = self.num_computed.entry(tenant).or_default();
            *count = least.max(*count);
        }
        self.by_tenant.entry(tenant).or_default().insert(seq.rank(), seq);
    }

    /// The sequence whose turn it is.
    pub(crate) fn next(&self) -> Option<&Sequence> {
        let firsts = self.by_tenant.values().filter_map(|queue| queue.values().next());
        firsts.min_by_key(|seq| (seq.rank().priority(), self.num_computed_for(seq.tenant()), seq.rank()))
    }

    /// Takes a sequence out; `None` if it does not wait.
    pub(crate) fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        let seq = self.get(id)?;
        let (tenant, rank) = (seq.tenant(), seq.rank());
        let queue = self.by_tenant.get_mut(&tenant)?;
        let seq = queue.remove(&rank);
        if queue.is_empty() {
            self.by_tenant.remove(&tenant);
        }
        seq
    }

    /// Counts the scheduled tokens of a sequence for its tenant, each once, however often it is computed anew.
    pub(crate) fn charge(&mut self, seq: &mut Sequence) {
        let end = seq.num_cached_tokens + seq.num_scheduled_tokens;
        let num_new = end.saturating_sub(seq.num_charged_tokens);
        seq.num_charged_tokens += num_new;
        self.note_computed(seq.tenant(), num_new);
    }

    fn note_computed(&mut self, tenant: TenantId, num_tokens: usize) {
        *self.num_computed.entry(tenant).or_default() += num_tokens as u64;
    }

    /// A sequence that waits.
    pub(crate) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.by_tenant.values().flat_map(BTreeMap::values).find(|seq| seq.id() == id)
    }

    /// The busy period is over.
    pub(crate) fn forget_counts(&mut self) {
        self.num_computed.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.by_tenant.values().map(BTreeMap::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_tenant.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn has(&self, tenant: TenantId) -> bool {
        self.by_tenant.contains_key(&tenant)
    }

    fn num_computed_for(&self, tenant: TenantId) -> u64 {
        self.num_computed.get(&tenant).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GenerationRequest;

    fn seq(id: u64, tenant: u32, priority: i32) -> Sequence {
        let request = GenerationRequest { tenant, priority, ..GenerationRequest::new(vec![1, 2], 1) };
        Sequence::new(SequenceId(id), request, 4, 100)
    }

    /// Takes everything out, `cost` tokens each.
    fn drain(queue: &mut WaitingQueue, cost: usize) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(next) = queue.next() {
            let (id, tenant) = (next.id(), next.tenant());
            queue.remove(id);
            queue.note_computed(tenant, cost);
            order.push(id.0);
        }
        order
    }

    #[test]
    fn tenants_take_turns_and_each_keeps_its_order() {
        let mut queue = WaitingQueue::default();
        for (id, tenant) in [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2)] {
            queue.add(seq(id, tenant, 0), &[]);
        }
        assert_eq!(queue.len(), 6);
        assert_eq!(drain(&mut queue, 10), [0, 3, 5, 1, 4, 2]);
    }

    #[test]
    fn priority_goes_before_fairness() {
        let mut queue = WaitingQueue::default();
        for (id, tenant, priority) in [(0, 0, 0), (1, 1, 0), (2, 0, -1), (3, 0, -1)] {
            queue.add(seq(id, tenant, priority), &[]);
        }
        assert_eq!(drain(&mut queue, 10), [2, 3, 1, 0]);
    }

    #[test]
    fn idling_saves_nothing_up_and_pays_nothing_back() {
        let mut queue = WaitingQueue::default();
        queue.add(seq(0, 0, 0), &[]);
        queue.note_computed(TenantId(0), 1000);
        // Somebody new does not get a thousand tokens ahead of who waits.
        queue.add(seq(1, 1, 0), &[]);
        queue.add(seq(2, 1, 0), &[]);
        assert_eq!(drain(&mut queue, 10), [0, 1, 2]);
        // Who was served more than others is not forgiven for having left for a moment.
        queue.add(seq(3, 0, 0), &[]);
        queue.note_computed(TenantId(0), 1000);
        let running = [seq(4, 1, 0)];
        queue.remove(SequenceId(3));
        queue.add(seq(5, 0, 0), &running);
        queue.add(seq(6, 2, 0), &running);
        assert_eq!(drain(&mut queue, 10), [6, 5]);
    }
}
