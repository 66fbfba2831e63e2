//! How long passes take, and what follows from it: how much of a prompt fits a bound, and whether drafts pay.
//!
//! The engine measures, the scheduler is only told numbers of tokens. Neither changes anybody's tokens: chunks and
//! drafts are exact.

use std::time::Duration;

/// Weight of the newest pass in the mean of its size.
const NEWEST: f64 = 0.3;
/// Passes after which a size that did not come again is no longer known.
const MAX_AGE: u64 = 500;
/// Sizes are told apart up to this one, and by half powers of two above it.
const FIRST_SIZES: usize = 8;
/// The least of a prompt that is computed in a pass, in tokens, whatever the bound: everybody's turn comes.
const MIN_PREFILL_TOKENS: usize = 16;
/// Drafts must promise so much more speed than none.
const MIN_GAIN: f64 = 1.02;

/// What passes of each size took lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    sizes: Vec<Option<Size>>,
    num_passes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    num_tokens: f64,
    ms: f64,
    last_pass: u64,
}

/// A sequence that may be drafted for: the length of its draft, and how many of the first `n` tokens of a draft
/// are expected to be right.
pub(crate) struct Candidate<F: Fn(usize) -> f64> {
    pub(crate) draft_len: usize,
    pub(crate) expected_right: F,
}

impl Pace {
    /// Takes note of a pass.
    pub(crate) fn note(&mut self, num_tokens: usize, took: Duration) {
        self.num_passes += 1;
        let (slot, ms) = (size_class(num_tokens), took.as_secs_f64() * 1e3);
        if self.sizes.len() <= slot {
            self.sizes.resize(slot + 1, None);
        }
        let last_pass = self.num_passes;
        let known = self.sizes[slot].filter(|size| size.last_pass + MAX_AGE >= last_pass);
        let mean = |old: f64, new: f64| old + NEWEST * (new - old);
        self.sizes[slot] = Some(match known {
            Some(size) => Size {
                num_tokens: mean(size.num_tokens, num_tokens as f64),
                ms: mean(size.ms, ms),
                last_pass,
            },
            None => Size { num_tokens: num_tokens as f64, ms, last_pass },
        });
    }

    /// Whether a pass is expected to take longer than `bound`, or nothing is known of such passes.
    pub(crate) fn is_slow(&self, num_tokens: usize, bound: Duration) -> bool {
        self.careful_ms(num_tokens).is_none_or(|ms| ms > bound.as_secs_f64() * 1e3)
    }

    /// Tokens of a pass that is expected to end within `bound`, beside `num_decoding` decoding sequences; all
    /// of `max` when nothing was measured.
    pub(crate) fn prefill_tokens_within(&self, bound: Duration, num_decoding: usize, max: usize) -> usize {
        let bound_ms = bound.as_secs_f64() * 1e3;
        let fits =
            |num_tokens: usize| self.careful_ms(num_decoding + num_tokens).is_none_or(|ms| ms <= bound_ms);
        // The largest that fits, by bisection: `least` always does, or must do.
        let (mut least, mut beyond) = (MIN_PREFILL_TOKENS.min(max), max + 1);
        while beyond - least > 1 {
            let middle = usize::midpoint(least, beyond);
            if fits(middle) { least = middle } else { beyond = middle }
        }
        least
    }

    /// The draft length, at most `max`, with which decoding is expected to be fastest; 0 when none pays.
    pub(crate) fn draft_len_that_pays<F: Fn(usize) -> f64>(
        &self,
        candidates: &[Candidate<F>],
        max: usize,
    ) -> usize {
        let speed = |draft_len: usize| {
            let lens = || candidates.iter().map(move |candidate| candidate.draft_len.min(draft_len));
            let num_tokens = candidates.len() + lens().sum::<usize>();
            let right = candidates.iter().zip(lens()).map(|(candidate, len)| (candidate.expected_right)(len));
            let ms = self.hopeful_ms(num_tokens)?;
            Some((candidates.len() as f64 + right.sum::<f64>()) / ms)
        };
        let longest = candidates.iter().map(|candidate| candidate.draft_len).max().unwrap_or(0).min(max);
        let Some(plain) = speed(0) else { return 0 };
        let lens = (1..=longest).filter_map(|len| Some((len, speed(len)?)));
        let best = lens.max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.filter(|(_, speed)| *speed > plain * MIN_GAIN).map_or(0, |(len, _)| len)
    }

    /// What a pass is expected to take when sizes beyond the known ones cost in proportion.
    fn careful_ms(&self, num_tokens: usize) -> Option<f64> {
        let [below, above] = self.neighbours(num_tokens as f64);
        match (below, above) {
            (Some(below), None) => Some(below.ms * (num_tokens as f64 / below.num_tokens).max(1.0)),
            _ => interpolate(below, above, num_tokens as f64),
        }
    }

    /// The same when sizes beyond the known ones cost no more than those: worth a try, which will tell.
    fn hopeful_ms(&self, num_tokens: usize) -> Option<f64> {
        let [below, above] = self.neighbours(num_tokens as f64);
        interpolate(below, above, num_tokens as f64)
    }

    /// The nearest known sizes: the largest that is not above `num_tokens`, the least that is.
    fn neighbours(&self, num_tokens: f64) -> [Option<Size>; 2] {
        let known = || self.sizes.iter().flatten().filter(|size| size.last_pass + MAX_AGE >= self.num_passes);
        let below = known().rfind(|size| size.num_tokens <= num_tokens);
        [below.copied(), known().find(|size| size.num_tokens > num_tokens).copied()]
    }
}

fn interpolate(below: Option<Size>, above: Option<Size>, num_tokens: f64) -> Option<f64> {
    match (below, above) {
        (Some(below), Some(above)) => {
            let share = (num_tokens - below.num_tokens) / (above.num_tokens - below.num_tokens);
            Some(below.ms + share * (above.ms - below.ms))
        }
        (Some(below), None) => Some(below.ms),
        (None, Some(above)) => Some(above.ms * num_tokens / above.num_tokens),
        (None, None) => None,
    }
}

/// Sizes of one class are taken for the same.
fn size_class(num_tokens: usize) -> usize {
    if num_tokens < FIRST_SIZES {
        return num_tokens;
    }
    let power = num_tokens.ilog2();
    let upper_half = num_tokens >> (power - 1) & 1;
    FIRST_SIZES + 2 * (power - FIRST_SIZES.ilog2()) as usize + upper_half
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that needs `fixed` and `each` milliseconds.
    fn pace(fixed: f64, each: f64, sizes: &[usize]) -> Pace {
        let mut pace = Pace::default();
        for &size in sizes {
            (0..10)
                .for_each(|_| pace.note(size, Duration::from_secs_f64((fixed + each * size as f64) / 1e3)));
        }
        pace
    }

    fn candidate(draft_len: usize, chance: f64) -> Candidate<impl Fn(usize) -> f64> {
        let expected_right = move |len| (1..=len as i32).map(|n| chance.powi(n)).sum();
        Candidate { draft_len, expected_right }
    }

    #[test]
    fn classes_ascend_with_the_sizes() {
        let classes: Vec<usize> = (1..3000).map(size_class).collect();
        assert!(classes.windows(2).all(|pair| pair[0] == pair[1] || pair[0] + 1 == pair[1]), "{classes:?}");
        assert_eq!([7, 8, 11, 12, 15, 16, 2048].map(size_class), [7, 8, 8, 9, 9, 10, 24]);
    }

    #[test]
    fn a_pass_is_slow_until_it_is_known_to_be_fast() {
        let pace = pace(0.1, 0.1, &[1, 8]);
        let bound = Duration::from_millis(1);
        assert!(!pace.is_slow(8, bound), "0.9 ms");
        assert!(pace.is_slow(64, bound), "in proportion to what is known");
        assert!(Pace::default().is_slow(1, bound));
    }

    #[test]
    fn prefill_is_cut_to_the_bound_and_never_below_the_least() {
        let bound = Duration::from_millis(500);
        assert_eq!(Pace::default().prefill_tokens_within(bound, 3, 2048), 2048, "nothing is known yet");
        let pace = pace(100.0, 2.0, &[1, 64, 512]);
        let tokens = pace.prefill_tokens_within(bound, 10, 2048);
        assert!((188..=191).contains(&tokens), "{tokens}");
        assert_eq!(pace.prefill_tokens_within(bound, 10, 64), 64);
        assert_eq!(pace.prefill_tokens_within(Duration::from_millis(1), 10, 2048), MIN_PREFILL_TOKENS);
        assert_eq!(pace.prefill_tokens_within(Duration::from_millis(1), 10, 5), 5);
    }

    #[test]
    fn the_bound_is_approached_from_small_passes() {
        let (mut pace, bound) = (pace(100.0, 2.0, &[1]), Duration::from_millis(500));
        let mut tokens = 0;
        for _ in 0..20 {
            tokens = pace.prefill_tokens_within(bound, 0, 2048);
            let ms = 100.0 + 2.0 * tokens as f64;
            assert!(ms <= 520.0, "{tokens} tokens take {ms} ms");
            pace.note(tokens, Duration::from_secs_f64(ms / 1e3));
        }
        assert!(tokens >= 170, "{tokens}");
    }

    #[test]
    fn drafts_pay_where_tokens_are_cheap_and_drafts_are_right() {
        // Weights are read once for all tokens of a pass.
        let memory_bound = pace(100.0, 1.0, &[1, 5, 9]);
        assert_eq!(memory_bound.draft_len_that_pays(&[candidate(8, 0.9)], 8), 8);
        assert_eq!(memory_bound.draft_len_that_pays(&[candidate(8, 0.9)], 3), 3);
        assert_eq!(memory_bound.draft_len_that_pays(&[candidate(0, 0.9)], 8), 0);
        assert_eq!(memory_bound.draft_len_that_pays(&[candidate(8, 0.01)], 8), 0);
        let compute_bound = pace(10.0, 100.0, &[1, 5, 9]);
        assert_eq!(compute_bound.draft_len_that_pays(&[candidate(8, 0.9)], 8), 0);
        assert_eq!(Pace::default().draft_len_that_pays(&[candidate(8, 0.9)], 8), 0, "nothing is known yet");
    }

    #[test]
    fn what_is_not_known_is_tried_and_then_known() {
        let mut pace = pace(100.0, 0.0, &[1]);
        assert_eq!(pace.draft_len_that_pays(&[candidate(4, 0.7)], 8), 4, "for all we know it is free");
        pace.note(5, Duration::from_millis(600));
        assert_eq!(pace.draft_len_that_pays(&[candidate(4, 0.7)], 8), 0);
        // Long afterwards it is tried again: the neighbour that slowed it may have gone.
        (0..MAX_AGE + 1).for_each(|_| pace.note(1, Duration::from_millis(100)));
        assert_eq!(pace.draft_len_that_pays(&[candidate(4, 0.7)], 8), 4);
    }
}
