//! Log-probabilities as the model gave them, before any mask, penalty or temperature.

use super::SampleError;
use super::filters::top_k;
use super::row::{Ranked, Row};
use crate::{TokenLogprob, TokenLogprobs};

/// The log-softmax of `logits` at `token` and at the `num_top` most probable tokens.
pub(super) fn logprobs(logits: &[f32], token: u32, num_top: usize) -> Result<TokenLogprobs, SampleError> {
    let row = Row::scan(logits)?;
    let normaliser = f64::from(row.max()) + row.mass(1.0, Ranked::LAST).total.ln();
    let logprob = |logit: f32| (f64::from(logit) - normaliser) as f32;
    let mut top = Vec::new();
    if num_top > 0 {
        top.extend(row.tokens(top_k(&row, num_top, Ranked::LAST)));
        top.sort_unstable_by(Ranked::order);
    }
    Ok(TokenLogprobs {
        logprob: logprob(logits[token as usize]),
        top: top
            .iter()
            .map(|ranked| TokenLogprob { id: ranked.token, logprob: logprob(ranked.logit) })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_log_softmax_in_f64() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 50.0).collect();
        let normaliser = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let found = logprobs(&logits, 17, 5).expect("finite");
        assert!((f64::from(found.logprob) - (f64::from(logits[17]) - normaliser)).abs() < 1e-5);
        let mut by_logit: Vec<u32> = (0..1000).collect();
        by_logit.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        let ids: Vec<u32> = found.top.iter().map(|top| top.id).collect();
        assert_eq!(ids, by_logit[..5]);
        assert!((f64::from(found.top[0].logprob) - (19.98 - normaliser)).abs() < 1e-5);
        assert_eq!(logprobs(&logits, 17, 0).expect("finite").top, []);
    }
}
