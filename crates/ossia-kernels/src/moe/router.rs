//! Which experts a token visits, and with which weight.

use std::ops::Range;

/// The choices of all tokens, sorted by expert. A slot is one (token, expert) pair; slots of an expert
/// follow each other in order of tokens.
pub(super) struct Routes {
    experts_per_token: usize,
    /// Token of each slot.
    tokens: Vec<u32>,
    /// Slot and weight of each token's experts, best first.
    choices: Vec<(u32, f32)>,
    visits: Vec<Visit>,
}

/// The slots of one expert.
pub(super) struct Visit {
    pub(super) expert: usize,
    pub(super) slots: Range<usize>,
}

impl Routes {
    /// Routes of `router_logits`, `[num_tokens, num_experts]`.
    pub(super) fn new(router_logits: &[f32], num_experts: usize, experts_per_token: usize) -> Self {
        let chosen: Vec<(usize, f32)> = router_logits
            .chunks_exact(num_experts)
            .flat_map(|logits| top_k(logits, experts_per_token))
            .collect();
        let mut counts = vec![0; num_experts];
        for (expert, _) in &chosen {
            counts[*expert] += 1;
        }
        let (visits, mut next) = visits(&counts);
        let mut tokens = vec![0; chosen.len()];
        let mut choices = Vec::with_capacity(chosen.len());
        for (idx, (expert, weight)) in chosen.into_iter().enumerate() {
            let slot = next[expert];
            next[expert] += 1;
            tokens[slot] = (idx / experts_per_token) as u32;
            choices.push((slot as u32, weight));
        }
        Self { experts_per_token, tokens, choices, visits }
    }

    pub(super) fn num_slots(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn num_tokens(&self) -> usize {
        self.tokens.len() / self.experts_per_token
    }

    /// The token of a slot.
    pub(super) fn token(&self, slot: usize) -> usize {
        self.tokens[slot] as usize
    }

    /// Tokens of all slots, `[num_slots]`.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Slot and weight of each token's experts, best first, `[num_tokens * experts_per_token]`.
    pub(super) fn choices(&self) -> &[(u32, f32)] {
        &self.choices
    }

    /// Experts with at least one slot, ascending.
    pub(super) fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// Slots and weights of a token, best first.
    pub(super) fn of_token(&self, token: usize) -> impl Iterator<Item = (usize, f32)> {
        let at = token * self.experts_per_token;
        let choices = &self.choices[at..at + self.experts_per_token];
        choices.iter().map(|(slot, weight)| (*slot as usize, *weight))
    }
}

/// The experts that are visited, and the first slot of every expert.
fn visits(counts: &[usize]) -> (Vec<Visit>, Vec<usize>) {
    let mut start = 0;
    let mut visits = Vec::new();
    let mut starts = Vec::with_capacity(counts.len());
    for (expert, count) in counts.iter().enumerate() {
        starts.push(start);
        if *count > 0 {
            let slots = start..start + count;
            visits.push(Visit { expert, slots });
        }
        start += count;
    }
    (visits, starts)
}

/// The `k` largest logits with their softmax over those `k`, largest first; of equal logits the lower
/// index comes first. NaN counts as larger than everything, as it does for torch.
fn top_k(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| rank(logits[b]).total_cmp(&rank(logits[a])).then(a.cmp(&b)));
    order.truncate(k);
    let max = order.first().map_or(0.0, |&idx| logits[idx]);
    let exps: Vec<f32> = order.iter().map(|&idx| (logits[idx] - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    order.into_iter().zip(exps.into_iter().map(|e| e / sum)).collect()
}

/// Puts every NaN above infinity and both zeros together.
fn rank(logit: f32) -> f32 {
    if logit.is_nan() { f32::NAN.abs() } else { logit + 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_first_and_softmax_over_the_chosen() {
        let chosen = top_k(&[0.0, 2.0, -1.0, 2.0f32.ln()], 2);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 3]);
        let e = (2.0f64.ln() - 2.0).exp();
        assert!((f64::from(chosen[0].1) - 1.0 / (1.0 + e)).abs() < 1e-6);
        assert!((f64::from(chosen[1].1) - e / (1.0 + e)).abs() < 1e-6);
    }

    #[test]
    fn slots_are_sorted_by_expert_then_token() {
        let routes = Routes::new(&[0.0, 1.0, 2.0, 5.0, 4.0, 3.0, 1.0, 0.0, 1.0], 3, 2);
        let visits: Vec<_> = routes.visits().iter().map(|v| (v.expert, v.slots.clone())).collect();
        assert_eq!(visits, [(0, 0..2), (1, 2..4), (2, 4..6)]);
        let tokens: Vec<_> = (0..6).map(|slot| routes.token(slot)).collect();
        assert_eq!(tokens, [1, 2, 0, 1, 0, 2]);
        let slots = |token| routes.of_token(token).map(|c| c.0).collect::<Vec<_>>();
        assert_eq!([slots(0), slots(1), slots(2)], [[4, 2], [0, 3], [1, 5]]);
    }

    #[test]
    fn ties_take_the_lower_index() {
        let chosen = top_k(&[1.0, -0.0, 1.0, 0.0, 1.0], 4);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 2, 4, 1]);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let chosen = top_k(&[3e38, -3e38, 3e38], 2);
        assert_eq!(chosen, [(0, 0.5), (2, 0.5)]);
    }
}
