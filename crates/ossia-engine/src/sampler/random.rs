//! Random numbers that depend on a seed and a count, and on no state.

/// A uniform number in [0, 1) for the `count`-th token of a generation with this seed.
///
/// The `count`-th output of a SplitMix64 generator whose start is the mixed seed: preemption, batch
/// composition and the order of sampling cannot shift it.
pub(super) fn uniform(seed: u64, count: u64) -> f64 {
    const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
    let state = mix(seed).wrapping_add((count + 1).wrapping_mul(GOLDEN_GAMMA));
    (mix(state) >> 11) as f64 / (1u64 << 53) as f64
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

    #[test]
    fn numbers_spread_over_counts_and_over_seeds() {
        let by_count: Vec<f64> = (0..10_000).map(|count| uniform(7, count)).collect();
        let by_seed: Vec<f64> = (0..10_000).map(|seed| uniform(seed, 0)).collect();
        for numbers in [by_count, by_seed] {
            let mut bins = [0i32; 10];
            numbers.iter().for_each(|u| bins[(u * 10.0) as usize] += 1);
            assert!(bins.iter().all(|&n| (n - 1000).abs() < 150), "{bins:?}");
        }
    }

    #[test]
    fn neighbouring_seeds_are_not_shifts_of_each_other() {
        let numbers = |seed| (0..100).map(|count| uniform(seed, count)).collect::<Vec<_>>();
        let (zero, one) = (numbers(0), numbers(1));
        assert!(zero.iter().all(|u| !one.contains(u)));
    }
}
