//! min_p and top_k as a cutoff: the last token, by rank, that is kept.
//!
//! Neither sorts the row: top_k looks only at tokens that reach a bound known to be low enough.

use super::row::{Ranked, Row};
use crate::SamplingParams;

/// The last token that both min_p and top_k keep; [`Ranked::LAST`] when they keep all.
pub(super) fn cutoff(row: &Row<'_>, params: &SamplingParams) -> Ranked {
    let mut cutoff = Ranked::LAST;
    if params.min_p > 0.0 {
        let logit = row.max() + params.temperature * params.min_p.ln();
        cutoff = Ranked { logit: logit.clamp(f32::MIN, row.max()), token: u32::MAX };
    }
    if params.top_k > 0 {
        cutoff = top_k(row, params.top_k as usize, cutoff);
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
