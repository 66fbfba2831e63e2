//! What changes logits before a token is chosen: penalties, biases, masks.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::{AllowedTokens, SamplingParams};

/// The tokens that penalties apply to.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    generated: HashMap<u32, u32>,
    prompt: HashSet<u32>,
}

impl TokenCounts {
    /// Remembers the prompt's tokens if a penalty asks for them.
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let mut counts = Self::default();
        if params.repetition_penalty != 1.0 {
            counts.prompt.extend(prompt);
        }
        counts
    }

    pub(super) fn add(&mut self, token: u32) {
        *self.generated.entry(token).or_default() += 1;
    }

    /// Applies the repetition penalty, then the presence and frequency penalties.
    pub(super) fn penalise(&self, row: &mut [f32], params: &SamplingParams) {
        if params.repetition_penalty != 1.0 {
            let only_generated = self.generated.keys().filter(|id| !self.prompt.contains(id));
            for &id in self.prompt.iter().chain(only_generated) {
                repetition_penalty(&mut row[id as usize], params.repetition_penalty);
            }
        }
        for (&id, &count) in &self.generated {
            row[id as usize] -= params.presence_penalty + params.frequency_penalty * count as f32;
        }
    }
}

fn repetition_penalty(logit: &mut f32, penalty: f32) {
    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
}

/// Adds each bias to its token's logit.
pub(super) fn add_bias(row: &mut [f32], biases: &[(u32, f32)]) {
    for &(id, bias) in biases {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit += bias;
        }
    }
}

/// The bitmask that a row is to be scanned with; `None` keeps every token. The few tokens that free text forbids are
/// struck out of the row instead, which costs less than a mask.
pub(super) fn bitmask<'a>(row: &mut [f32], allowed: AllowedTokens<'a>) -> Option<Cow<'a, [u32]>> {
    match allowed {
        AllowedTokens::All => None,
        AllowedTokens::Except(ids) => {
            drop(forbid(row, ids));
            None
        }
        AllowedTokens::Only(ids) => Some(Cow::Owned(bits(ids, row.len()))),
        AllowedTokens::Bitmask(words) => Some(Cow::Borrowed(words)),
    }
}

/// The bits of `ids`, for a row of `len` tokens.
pub(super) fn bits(ids: &[u32], len: usize) -> Vec<u32> {
    let mut words = vec![0; len.div_ceil(32)];
    for &id in ids {
        if let Some(word) = words.get_mut(id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }
    words
}

/// Whether a row of `len` tokens has one that `allowed` allows, if it is given, and that is not among `forbidden`.
pub(super) fn leaves_some(allowed: Option<&[u32]>, forbidden: &[u32], len: usize) -> bool {
    if allowed.is_none() && forbidden.len() < len {
        return true;
    }
    bits(forbidden, len).into_iter().enumerate().any(|(at, forbidden)| {
        let allowed = allowed.map_or(u32::MAX, |allowed| allowed.get(at).copied().unwrap_or(0));
        let left = allowed & !forbidden;
        left != 0 && at * 32 + (left.trailing_zeros() as usize) < len
    })
}

/// Sets the logits of `ids` to minus infinity and returns what they were.
pub(super) fn forbid(row: &mut [f32], ids: &[u32]) -> Vec<(u32, f32)> {
    let mut forbidden = Vec::with_capacity(ids.len());
    for &id in ids {
        if let Some(logit) = row.get_mut(id as usize) {
            forbidden.push((id, std::mem::replace(logit, f32::NEG_INFINITY)));
        }
    }
    forbidden
}

/// Undoes `forbid`.
pub(super) fn restore(row: &mut [f32], forbidden: &[(u32, f32)]) {
    for &(id, logit) in forbidden.iter().rev() {
        row[id as usize] = logit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_becomes_a_mask() {
        let masked = |allowed| {
            let mut row = [0.0, 1.0, 2.0, 3.0];
            let words = bitmask(&mut row, allowed).map(Cow::into_owned);
            (row, words)
        };
        let whole = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(masked(AllowedTokens::All), (whole, None));
        assert_eq!(masked(AllowedTokens::Except(&[1, 9])), ([0.0, f32::NEG_INFINITY, 2.0, 3.0], None));
        assert_eq!(masked(AllowedTokens::Only(&[3, 3, 9, 99])), (whole, Some(vec![0b10_0000_1000])));
        assert_eq!(masked(AllowedTokens::Bitmask(&[0b0101])), (whole, Some(vec![0b0101])));
    }

    #[test]
    fn something_is_left_or_nothing() {
        assert!(leaves_some(None, &[0, 1, 1], 4) && leaves_some(None, &[0, 1, 1, 2], 4));
        assert!(!leaves_some(None, &[3, 0, 1, 2], 4));
        assert!(leaves_some(Some(&[0b110]), &[1], 4));
        assert!(!leaves_some(Some(&[0b110]), &[1, 2], 4));
        // What lies past the row's or the mask's end does not count.
        assert!(!leaves_some(Some(&[0b1_0110]), &[1, 2], 4));
        assert!(!leaves_some(Some(&[1]), &[0], 40) && leaves_some(Some(&[1, 1]), &[0], 40));
    }

    #[test]
    fn penalties_count_what_they_should() {
        let params = SamplingParams {
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            repetition_penalty: 2.0,
            ..SamplingParams::default()
        };
        let mut counts = TokenCounts::new(&params, &[0, 1, 1]);
        [1, 2, 2].into_iter().for_each(|id| counts.add(id));
        let mut row = [4.0, -4.0, 8.0, 8.0];
        counts.penalise(&mut row, &params);
        // 0: in the prompt only; 1: prompt and once generated; 2: generated twice; 3: never seen.
        assert_eq!(row, [2.0, -8.0 - 0.75, 4.0 - 1.0, 8.0]);
    }
}
