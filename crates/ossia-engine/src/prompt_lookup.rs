//! Drafts by prompt lookup: what followed the last few tokens when they stood in the sequence before.
//!
//! Answers repeat their prompt (quotations, code under edit, tool results) and themselves. A draft costs nothing
//! to make; the model verifies all of it in one pass, and how often it is right says whether it pays.

use std::collections::HashMap;

/// Tokens that must have stood in the sequence before. Three are rarely alike by chance.
const NGRAM_LEN: usize = 3;
/// Weight of a pass in [`Acceptance`] after the next one.
const DECAY: f64 = 0.95;

/// Finds drafts in one sequence.
#[derive(Debug, Default)]
pub(crate) struct PromptLookup {
    /// Most tokens of a draft; 0 finds none.
    max_draft_len: usize,
    /// Where each n-gram that something followed was last followed by it.
    followers: HashMap<[u32; NGRAM_LEN], u32>,
    /// Tokens that are followers already, or too early to be.
    num_indexed: usize,
    acceptance: Acceptance,
}

/// How often draft tokens were right lately, given that those before them were.
#[derive(Clone, Copy, Debug)]
struct Acceptance {
    num_right: f64,
    num_wrong: f64,
}

impl Default for Acceptance {
    /// As if two of three had been right: a first draft is worth a try.
    fn default() -> Self {
        Self { num_right: 2.0, num_wrong: 1.0 }
    }
}

impl PromptLookup {
    /// Drafts of at most `max_draft_len` tokens.
    pub(crate) fn new(max_draft_len: usize) -> Self {
        Self { max_draft_len, num_indexed: NGRAM_LEN, ..Self::default() }
    }

    /// The draft after `tokens`, which are those of the last call and new ones; at most `max_len` tokens.
    pub(crate) fn draft(&mut self, tokens: &[u32], max_len: usize) -> Vec<u32> {
        if self.max_draft_len == 0 {
            return Vec::new();
        }
        for at in self.num_indexed..tokens.len() {
            if let Some(ngram) = last_ngram(&tokens[..at]) {
                self.followers.insert(ngram, at as u32);
            }
        }
        self.num_indexed = self.num_indexed.max(tokens.len());
        let follower = last_ngram(tokens).and_then(|ngram| self.followers.get(&ngram));
        let Some(&start) = follower else { return Vec::new() };
        // What follows may reach the end of the sequence: then it goes round, as a repetition does.
        let following = tokens[start as usize..].iter().cycle();
        following.take(max_len.min(self.max_draft_len)).copied().collect()
    }

    /// Takes note that `num_right` tokens of a draft of `draft_len` were what the model said.
    pub(crate) fn note(&mut self, draft_len: usize, num_right: usize) {
        let Acceptance { num_right: right, num_wrong: wrong } = &mut self.acceptance;
        *right = *right * DECAY + num_right as f64;
        *wrong = *wrong * DECAY + f64::from(u8::from(num_right < draft_len));
    }

    /// Tokens of a draft of `draft_len` that are expected to be right.
    pub(crate) fn expected_right(&self, draft_len: usize) -> f64 {
        let Acceptance { num_right, num_wrong } = self.acceptance;
        let chance = num_right / (num_right + num_wrong);
        (1..=draft_len as i32).map(|len| chance.powi(len)).sum()
    }
}

fn last_ngram(tokens: &[u32]) -> Option<[u32; NGRAM_LEN]> {
    tokens.last_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(tokens: &[u32], max_len: usize) -> Vec<u32> {
        PromptLookup::new(8).draft(tokens, max_len)
    }

    #[test]
    fn a_draft_is_what_followed_the_last_time() {
        assert_eq!(draft(&[1, 2, 3, 4, 5, 6, 9, 1, 2, 3], 2), [4, 5]);
        assert_eq!(draft(&[1, 2, 3, 4, 1, 2, 3, 5, 0, 1, 2, 3], 2), [5, 0], "the later one");
        assert_eq!(draft(&[1, 2, 3, 7, 1, 2, 3], 6), [7, 1, 2, 3, 7, 1], "goes round");
        let nothing = Vec::<u32>::new();
        assert_eq!(draft(&[1, 2, 3, 4, 1, 2, 9], 2), nothing, "no such three");
        assert_eq!(draft(&[1, 2, 3], 2), nothing, "nothing came before");
        assert_eq!(draft(&[1, 2, 3, 7, 1, 2, 3], 0), nothing);
        assert_eq!(PromptLookup::new(0).draft(&[1, 2, 3, 7, 1, 2, 3], 6), nothing);
    }

    #[test]
    fn a_sequence_that_grows_finds_the_same_as_a_whole_one() {
        let tokens: Vec<u32> = (0..400u32).map(|i| (i * i / 7) % 5).collect();
        let mut growing = PromptLookup::new(4);
        for len in (1..tokens.len()).filter(|len| len % 3 != 0) {
            assert_eq!(growing.draft(&tokens[..len], 4), PromptLookup::new(4).draft(&tokens[..len], 4));
        }
    }

    #[test]
    fn acceptance_follows_what_was_right_and_forgets() {
        let mut lookup = PromptLookup::new(8);
        assert!((lookup.expected_right(2) - (2.0 / 3.0 + 4.0 / 9.0)).abs() < 1e-12);
        (0..20).for_each(|_| lookup.note(4, 0));
        assert!(lookup.expected_right(8) < 0.1, "{}", lookup.expected_right(8));
        (0..20).for_each(|_| lookup.note(4, 4));
        assert!(lookup.expected_right(8) > 5.0, "{}", lookup.expected_right(8));
    }
}
