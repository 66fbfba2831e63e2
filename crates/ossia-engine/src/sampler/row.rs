//! A row of logits, read in few passes: the maximum, and the mass of what is above a cutoff.
//!
//! A row of gpt-oss has 201,088 columns. Chunk maxima let later passes skip what cannot matter.

use std::cmp::Ordering;

use super::SampleError;

/// Columns of a chunk.
const CHUNK_LEN: usize = 256;
/// Independent accumulators, so that the compiler can use SIMD registers.
const LANES: usize = 16;

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
        let mut has_nan = false;
        let chunk_max: Vec<f32> = logits
            .chunks(CHUNK_LEN)
            .map(|chunk| {
                let (max, nan) = max_and_nan(chunk);
                has_nan |= nan;
                max
            })
            .collect();
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
        // Tokens as probable as the cutoff are kept before it and not behind it.
        let sum = |(idx, (chunk, &max)): (usize, (&[f32], &f32))| match idx
            .cmp(&(cutoff.token as usize / CHUNK_LEN))
        {
            _ if max < bound => 0.0,
            Ordering::Less => sum_exp2(chunk, self.max, scale, |x| x >= bound),
            Ordering::Greater => sum_exp2(chunk, self.max, scale, |x| x > bound),
            Ordering::Equal => {
                let kept = self.chunk(idx).filter(|token| token.reaches(&cutoff));
                kept.map(|token| f64::from(exp2((token.logit - self.max) * scale))).sum()
            }
        };
        let chunks = self.logits.chunks(CHUNK_LEN).zip(&self.chunk_max).enumerate();
        let by_chunk: Vec<f64> = chunks.map(sum).collect();
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

fn max_and_nan(chunk: &[f32]) -> (f32, bool) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let mut nans = [0u32; LANES];
    let (groups, rest) = chunk.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            let x = group[lane];
            maxima[lane] = if x > maxima[lane] { x } else { maxima[lane] };
            nans[lane] |= u32::from(x.is_nan());
        }
    }
    let max = maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (max, nans.iter().any(|&nan| nan > 0) || rest.iter().any(|x| x.is_nan()))
}

/// The sum over the logits that `keep` says are kept.
#[inline(always)]
fn sum_exp2(chunk: &[f32], max: f32, scale: f32, keep: impl Fn(f32) -> bool) -> f64 {
    let mut sums = [0f32; LANES];
    let (groups, rest) = chunk.as_chunks::<LANES>();
    let mass = |x: f32| if keep(x) { exp2((x - max) * scale) } else { 0.0 };
    for group in groups {
        for lane in 0..LANES {
            sums[lane] += mass(group[lane]);
        }
    }
    let rest = rest.iter().map(|&x| f64::from(mass(x)));
    sums.iter().map(|&sum| f64::from(sum)).chain(rest).sum()
}

/// Two to the power of `x`, for `x <= 0`; exactly 0 below the normal numbers, exactly 1 at 0.
///
/// Written without a branch so that it vectorises; the standard library's is a call per element.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, whose two's complement is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x + ROUND;
    let fraction = x - (rounded - ROUND);
    // The Taylor series of 2^f, |f| <= 0.5: coefficients ln(2)^k / k!, off by less than 2e-7.
    let mut power = 1.540_353e-4;
    for coefficient in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0] {
        power = power * fraction + coefficient;
    }
    let scaled = f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x < -126.0 { 0.0 } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_agrees_with_f64() {
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(-1000.0), 0.0);
        for step in 0..100_000 {
            let x = -126.0 * step as f32 / 100_000.0;
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "2^{x}: off by {error}");
        }
    }

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
