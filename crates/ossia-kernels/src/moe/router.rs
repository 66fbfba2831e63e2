//! Which experts a token visits, and with which weight.

/// The `k` largest logits with their softmax over those `k`, largest first; of equal logits the lower
/// index comes first. NaN counts as larger than everything, as it does for torch.
pub(super) fn top_k(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| rank(logits[b]).total_cmp(&rank(logits[a])).then(a.cmp(&b)));
    order.truncate(k);
    let max = order.first().map_or(0.0, |&idx| logits[idx]);
    let exps: Vec<f32> = order.iter().map(|&idx| (logits[idx] - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    order
        .into_iter()
        .zip(exps.into_iter().map(|e| e / sum))
        .collect()
}

/// Puts every NaN above infinity and both zeros together.
fn rank(logit: f32) -> f32 {
    if logit.is_nan() {
        f32::NAN.abs()
    } else {
        logit + 0.0
    }
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
