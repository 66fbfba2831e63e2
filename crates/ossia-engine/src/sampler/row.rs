//! A row of logits, read in few passes: the maximum, and the mass of what is above a cutoff.
//!
//! A row of gpt-oss has 201,088 columns; its passes take AVX2 or NEON where the processor has them, with the same bits.
//! Chunk maxima let later passes skip what cannot matter, which is also how a mask is applied: a chunk of which no token is
//! allowed is neither written nor read.

use std::cmp::Ordering;

use super::SampleError;
use super::chunk::{exp2, mask_chunk, max_and_nan, sum_exp2};

/// Columns of a chunk.
const CHUNK_LEN: usize = 256;

/// The place of a token among the others: higher logit first, of equals the lower id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ranked {
    pub(super) logit: f32,
    pub(super) token: u32,
}

impl Ranked {
    /// Ranks after every token that is possible at all.
    pub(super) const LAST: Self = Self { logit: f32::MIN, token: u32::MAX };

    /// `Less` when `self` is the more probable one.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal);
        by_logit.then(self.token.cmp(&other.token))
    }

    /// Whether `self` is `cutoff` or ranks before it.
    fn reaches(&self, cutoff: &Self) -> bool {
        self.logit > cutoff.logit || (self.logit == cutoff.logit && self.token <= cutoff.token)
    }
}

/// A scanned row: no NaN, and a finite maximum.
pub(super) struct Row<'a> {
    /// Where a chunk's maximum is minus infinity, anything.
    logits: &'a [f32],
    chunk_max: Vec<f32>,
    max: f32,
}

/// Unnormalised probabilities of the tokens that reach `cutoff`, summed by chunk.
pub(super) struct Mass {
    scale: f32,
    cutoff: Ranked,
    by_chunk: Vec<f64>,
    pub(super) total: f64,
}

impl<'a> Row<'a> {
    /// Finds the maxima. One pass.
    pub(super) fn scan(logits: &'a [f32]) -> Result<Self, SampleError> {
        let mut chunk_max = vec![f32::NEG_INFINITY; logits.len().div_ceil(CHUNK_LEN)];
        let has_nan = pulp::Arch::new().dispatch(|| {
            let mut has_nan = false;
            for (chunk, chunk_max) in logits.chunks(CHUNK_LEN).zip(&mut chunk_max) {
                let (max, is_nan) = max_and_nan(chunk);
                *chunk_max = max;
                has_nan |= is_nan;
            }
            has_nan
        });
        Self::of_chunks(logits, chunk_max, has_nan)
    }

    /// Finds the maxima among the tokens whose bits are set in `words`, 32 per word; those past the last word are not
    /// allowed either. One pass, over the chunks that have such a token.
    pub(super) fn scan_masked(logits: &'a mut [f32], words: &[u32]) -> Result<Self, SampleError> {
        let mut chunk_max = vec![f32::NEG_INFINITY; logits.len().div_ceil(CHUNK_LEN)];
        let has_nan = pulp::Arch::new().dispatch(|| {
            let mut has_nan = false;
            let words = words.chunks(CHUNK_LEN / 32);
            for ((chunk, chunk_max), words) in logits.chunks_mut(CHUNK_LEN).zip(&mut chunk_max).zip(words) {
                if words.iter().any(|&word| word != 0) {
                    mask_chunk(chunk, words);
                    let (max, is_nan) = max_and_nan(chunk);
                    *chunk_max = max;
                    has_nan |= is_nan;
                }
            }
            has_nan
        });
        Self::of_chunks(logits, chunk_max, has_nan)
    }

    /// A row with each chunk's maximum.
    fn of_chunks(logits: &'a [f32], chunk_max: Vec<f32>, has_nan: bool) -> Result<Self, SampleError> {
        let max = chunk_max.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        match max {
            _ if has_nan => Err(SampleError::NotFinite),
            f32::INFINITY => Err(SampleError::NotFinite),
            f32::NEG_INFINITY => Err(SampleError::NothingAllowed),
            _ => Ok(Self { logits, chunk_max, max }),
        }
    }

    pub(super) fn max(&self) -> f32 {
        self.max
    }

    pub(super) fn chunk_max(&self) -> &[f32] {
        &self.chunk_max
    }

    /// The most probable token.
    pub(super) fn argmax(&self) -> u32 {
        let chunk = self.chunk_max.iter().position(|&max| max == self.max).unwrap_or(0);
        let start = chunk * CHUNK_LEN;
        let within = self.logits[start..].iter().position(|&x| x == self.max).unwrap_or(0);
        (start + within) as u32
    }

    /// The tokens that reach `cutoff`, by id.
    pub(super) fn tokens(&self, cutoff: Ranked) -> impl Iterator<Item = Ranked> + '_ {
        let worth = move |(chunk, max): (usize, &f32)| (*max >= cutoff.logit).then_some(chunk);
        let chunks = self.chunk_max.iter().enumerate().filter_map(worth);
        chunks.flat_map(|chunk| self.chunk(chunk)).filter(move |token| token.reaches(&cutoff))
    }

    fn chunk(&self, chunk: usize) -> impl Iterator<Item = Ranked> + '_ {
        let start = chunk * CHUNK_LEN;
        let end = self.logits.len().min(start + CHUNK_LEN);
        let tokens = start as u32..end as u32;
        tokens.zip(&self.logits[start..end]).map(|(token, &logit)| Ranked { logit, token })
    }

    /// A token's place.
    pub(super) fn ranked(&self, token: u32) -> Ranked {
        Ranked { logit: self.logits[token as usize], token }
    }

    /// `exp((logit - max) / temperature)` of a token.
    pub(super) fn mass_of(&self, token: u32, temperature: f32) -> f64 {
        f64::from(exp2((self.logits[token as usize] - self.max) * scale(temperature)))
    }

    /// Sums the mass of the tokens that reach `cutoff`. One pass, less with a cutoff.
    pub(super) fn mass(&self, temperature: f32, cutoff: Ranked) -> Mass {
        let scale = scale(temperature);
        let bound = cutoff.logit;
        let mut by_chunk = vec![0.0; self.chunk_max.len()];
        pulp::Arch::new().dispatch(|| {
            let chunks = self.logits.chunks(CHUNK_LEN).zip(&self.chunk_max).zip(&mut by_chunk);
            for (idx, ((chunk, &chunk_max), mass)) in chunks.enumerate() {
                // The second: nothing in the chunk has a mass that f32 can tell from none.
                if chunk_max < bound || exp2((chunk_max - self.max) * scale) == 0.0 {
                    continue;
                }
                // Tokens as probable as the cutoff are kept before it and not behind it.
                *mass = match idx.cmp(&(cutoff.token as usize / CHUNK_LEN)) {
                    Ordering::Less => sum_exp2(chunk, self.max, scale, |x| x >= bound),
                    Ordering::Greater => sum_exp2(chunk, self.max, scale, |x| x > bound),
                    Ordering::Equal => {
                        let kept = self.chunk(idx).filter(|token| token.reaches(&cutoff));
                        kept.map(|token| f64::from(exp2((token.logit - self.max) * scale))).sum()
                    }
                };
            }
        });
        let total = by_chunk.iter().sum();
        Mass { scale, cutoff, by_chunk, total }
    }

    /// The token at `share` (in [0, 1)) of the mass, in the order of ids.
    pub(super) fn token_at(&self, mass: &Mass, share: f64) -> u32 {
        let mut target = share * mass.total;
        let mut last_chunk = 0;
        for (chunk, &chunk_mass) in mass.by_chunk.iter().enumerate() {
            if chunk_mass > 0.0 {
                last_chunk = chunk;
                if target < chunk_mass {
                    break;
                }
                target -= chunk_mass;
            }
        }
        // Rounding can leave a rest beyond the last token of the chunk: then it is that token.
        let mut last_token = self.argmax();
        for token in self.chunk(last_chunk).filter(|token| token.reaches(&mass.cutoff)) {
            let token_mass = f64::from(exp2((token.logit - self.max) * mass.scale));
            if token_mass > 0.0 {
                last_token = token.token;
                if target < token_mass {
                    break;
                }
                target -= token_mass;
            }
        }
        last_token
    }
}

/// From logits to powers of two.
fn scale(temperature: f32) -> f32 {
    std::f32::consts::LOG2_E / temperature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_finds_maxima_and_refuses_what_is_no_number() {
        for len in [1, 15, 16, 17, 255, 256, 257, 600] {
            for at in [0, len / 2, len - 1] {
                let mut logits = vec![-1.0; len];
                logits[at] = 3.0;
                assert_eq!(Row::scan(&logits).expect("finite").argmax() as usize, at);
                logits[at] = f32::NAN;
                assert_eq!(Row::scan(&logits).err(), Some(SampleError::NotFinite));
                logits[at] = f32::INFINITY;
                assert_eq!(Row::scan(&logits).err(), Some(SampleError::NotFinite));
            }
            let masked = vec![f32::NEG_INFINITY; len];
            assert_eq!(Row::scan(&masked).err(), Some(SampleError::NothingAllowed));
        }
    }

    /// The tokens that are left of a row.
    fn left(row: Result<Row<'_>, SampleError>) -> Vec<(u32, f32)> {
        let row = row.expect("something is allowed");
        row.tokens(Ranked::LAST).map(|ranked| (ranked.token, ranked.logit)).collect()
    }

    #[test]
    fn a_mask_holds_for_rows_of_any_length() {
        // Chunks of 8 words: one half set, one empty, one full, one with a single token, none after that.
        let mut words = vec![0xdead_beef, 0, u32::MAX, 0x8000_0001, 0, 1, 2, 3];
        words.extend([0; 8].into_iter().chain([u32::MAX; 8]).chain([0, 0, 0, 1 << 31]));
        for len in [1, 31, 32, 33, 70, 256, 257, 511, 512, 600, 768, 895, 896, 1000, 2000] {
            let logits: Vec<f32> = (0..len).map(|token| (token * 7919 % 1009) as f32).collect();
            let is_allowed =
                |token: &usize| words.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
            let expected: Vec<_> =
                (0..len).filter(is_allowed).map(|token| (token as u32, logits[token])).collect();
            assert_eq!(left(Row::scan_masked(&mut logits.clone(), &words)), expected, "{len} tokens");
            // As if all others had been struck out.
            let mut struck: Vec<f32> = vec![f32::NEG_INFINITY; len];
            expected.iter().for_each(|&(token, logit)| struck[token as usize] = logit);
            let (mut masked, struck) = (logits, Row::scan(&struck).expect("something is allowed"));
            let masked = Row::scan_masked(&mut masked, &words).expect("something is allowed");
            assert_eq!((masked.argmax(), &masked.chunk_max), (struck.argmax(), &struck.chunk_max));
            let (ours, theirs) = (masked.mass(0.7, Ranked::LAST), struck.mass(0.7, Ranked::LAST));
            assert_eq!(ours.by_chunk, theirs.by_chunk);
        }
        let nothing = Row::scan_masked(&mut [1.0; 300], &[0; 10]).err();
        assert_eq!(nothing, Some(SampleError::NothingAllowed));
        assert_eq!(Row::scan_masked(&mut [f32::NAN; 300], &[1]).err(), Some(SampleError::NotFinite));
    }

    #[test]
    fn chunks_without_mass_are_as_if_summed() {
        for depth in [80.0, 87.0, 88.0, 400.0] {
            let mut logits = vec![-depth; 1000];
            (logits[3], logits[700]) = (1.0, 0.5);
            for temperature in [0.5, 1.0, 2.0] {
                let row = Row::scan(&logits).expect("finite");
                let summed = |chunk: &[f32]| sum_exp2(chunk, row.max, scale(temperature), |_| true);
                let expected: Vec<f64> = logits.chunks(CHUNK_LEN).map(summed).collect();
                assert_eq!(row.mass(temperature, Ranked::LAST).by_chunk, expected, "{depth}, {temperature}");
            }
        }
    }

    #[test]
    fn token_at_reaches_both_ends_and_never_a_masked_token() {
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        for token in [3, 300, 990] {
            logits[token] = 1.0;
        }
        let row = Row::scan(&logits).expect("finite");
        let mass = row.mass(1.0, Ranked::LAST);
        let shares = [0.0, 0.33, 0.34, 0.66, 0.67, 1.0 - f64::EPSILON / 2.0];
        assert_eq!(shares.map(|share| row.token_at(&mass, share)), [3, 3, 300, 300, 990, 990]);
    }
}
