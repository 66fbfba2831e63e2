//! min_p, top_k and top_p, each as a cutoff: the last token, by rank, that is kept.
//!
//! None of them sorts the row. Each looks only at tokens that reach a bound known to be low enough.

use super::row::{Ranked, Row};
use crate::SamplingParams;

/// The last token that min_p, then top_k, then top_p keep; [`Ranked::LAST`] when they keep all.
///
/// Each filter sees the distribution that the one before it left.
pub(super) fn cutoff(row: &Row<'_>, params: &SamplingParams) -> Ranked {
    let mut cutoff = Ranked::LAST;
    if params.min_p > 0.0 {
        let logit = row.max() + params.temperature * params.min_p.ln();
        cutoff = Ranked { logit: logit.min(row.max()), token: u32::MAX };
    }
    if params.top_k > 0 {
        cutoff = top_k(row, params.top_k as usize, cutoff);
    }
    if params.top_p < 1.0 {
        cutoff = top_p(row, params.top_p, params.temperature, cutoff);
    }
    cutoff
}

/// The `k`-th token (`k > 0`), or `cutoff` when it keeps no more than `k`.
pub(super) fn top_k(row: &Row<'_>, k: usize, cutoff: Ranked) -> Ranked {
    let mut tokens: Vec<Ranked> = row.tokens(bound_of_kth(row, k, cutoff)).collect();
    if tokens.len() < k {
        return cutoff;
    }
    *tokens.select_nth_unstable_by(k - 1, Ranked::order).1
}

/// A bound that at least `k` tokens reach, if so many reach `cutoff`: the `k`-th largest of the chunk maxima.
fn bound_of_kth(row: &Row<'_>, k: usize, cutoff: Ranked) -> Ranked {
    let mut maxima = row.chunk_max().to_vec();
    if k > maxima.len() {
        return cutoff;
    }
    let kth = *maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
    if kth < cutoff.logit { cutoff } else { Ranked { logit: kth, token: u32::MAX } }
}

/// The token with which the mass of the most probable tokens reaches the share `p` of what `cutoff` keeps.
fn top_p(row: &Row<'_>, p: f32, temperature: f32, cutoff: Ranked) -> Ranked {
    let target = f64::from(p) * row.mass(temperature, cutoff).total;
    // Most of the mass is near the maximum: look there first, at most e^-depth below it.
    for depth in [3.0, 6.0, 12.0] {
        let bound = Ranked { logit: row.max() - depth * temperature, token: u32::MAX };
        if bound.logit > cutoff.logit
            && let Some(last) = top_mass(row, target, temperature, bound)
        {
            return last;
        }
    }
    top_mass(row, target, temperature, cutoff).unwrap_or(cutoff)
}

/// Among the tokens that reach `bound`: the one with which the mass reaches `target`, if it does.
fn top_mass(row: &Row<'_>, target: f64, temperature: f32, bound: Ranked) -> Option<Ranked> {
    /// Below this many candidates sorting is cheaper than halving.
    const SORT_LEN: usize = 64;
    let mass_of = |token: &Ranked| f64::from(row.mass_of(token.logit, temperature));
    let mut tokens: Vec<Ranked> = row.tokens(bound).collect();
    if tokens.iter().map(mass_of).sum::<f64>() < target {
        return None;
    }
    let mut candidates = &mut tokens[..];
    let mut before = 0.0;
    while candidates.len() > SORT_LEN {
        let middle = candidates.len() / 2;
        candidates.select_nth_unstable_by(middle, Ranked::order);
        let (upper, lower) = candidates.split_at_mut(middle);
        let upper_mass: f64 = upper.iter().map(mass_of).sum();
        if before + upper_mass >= target {
            candidates = upper;
        } else {
            before += upper_mass;
            candidates = lower;
        }
    }
    candidates.sort_unstable_by(Ranked::order);
    let reaches = |token: &&Ranked| {
        before += mass_of(token);
        before >= target
    };
    candidates.iter().find(reaches).copied().or(candidates.last().copied())
}
