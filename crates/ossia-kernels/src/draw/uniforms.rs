//! Random numbers that depend on a seed and a count, and on no state.

const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Uniform numbers for the `count`-th token of a generation with this seed.
///
/// A SplitMix64 generator that starts at a mixture of both: preemption, batch composition and the order of
/// sampling cannot shift it.
#[derive(Clone, Debug, PartialEq)]
pub struct Uniforms {
    state: u64,
}

impl Uniforms {
    /// Those of the `count`-th token.
    pub fn new(seed: u64, count: u64) -> Self {
        let by_seed = mix(seed.wrapping_add(GOLDEN_GAMMA));
        Self { state: mix(by_seed.wrapping_add((count + 1).wrapping_mul(GOLDEN_GAMMA))) }
    }

    /// What the next number comes from.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn state(&self) -> u64 {
        self.state
    }

    /// A number in [0, 1).
    pub fn next_uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        (mix(self.state) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// SplitMix64's output function, a bijection (Steele, Lea and Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, count: u64) -> f64 {
        Uniforms::new(seed, count).next_uniform()
    }

    #[test]
    fn numbers_spread_over_counts_over_seeds_and_over_draws() {
        let mut uniforms = Uniforms::new(7, 7);
        let by_draw: Vec<f64> = (0..10_000).map(|_| uniforms.next_uniform()).collect();
        let by_count: Vec<f64> = (0..10_000).map(|count| first(7, count)).collect();
        let by_seed: Vec<f64> = (0..10_000).map(|seed| first(seed, 0)).collect();
        for numbers in [by_draw, by_count, by_seed] {
            let mut bins = [0i32; 10];
            numbers.iter().for_each(|u| bins[(u * 10.0) as usize] += 1);
            assert!(bins.iter().all(|&n| (n - 1000).abs() < 150), "{bins:?}");
        }
    }

    #[test]
    fn neighbouring_seeds_and_counts_are_not_shifts_of_each_other() {
        let numbers = |seed| (0..100).map(|count| first(seed, count)).collect::<Vec<_>>();
        let (zero, one) = (numbers(0), numbers(1));
        assert!(zero.iter().all(|u| !one.contains(u)));
        let mut uniforms = Uniforms::new(0, 0);
        assert!((0..100).skip(1).all(|_| {
            let u = uniforms.next_uniform();
            !zero[1..].contains(&u)
        }));
    }
}
