//! Distributions of prompt and answer lengths, written on the command line.

use std::str::FromStr;

use rand::Rng;

/// How long the prompts, or the answers, of a load are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lengths {
    /// Any length from the first to the second, equally often.
    Uniform(usize, usize),
    /// Lengths whose logarithm is normal, as those of real conversations nearly are.
    LogNormal {
        /// Half of the lengths are shorter.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
}

impl Lengths {
    /// A length, at least 1.
    pub(super) fn draw(self, rng: &mut impl Rng) -> usize {
        match self {
            Self::Uniform(min, max) => rng.random_range(min..=max),
            Self::LogNormal { median, sigma } => {
                // Box and Muller's transformation of two uniform numbers into a normal one.
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
                ((median * (sigma * normal).exp()).round() as usize).max(1)
            }
        }
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a length of at least 1, MIN-MAX or lognormal:MEDIAN:SIGMA");
        let length = |text: &str| text.parse().ok().filter(|&len: &usize| len > 0).ok_or_else(wrong);
        if let Some(parameters) = text.strip_prefix("lognormal:") {
            let (median, sigma) = parameters.split_once(':').ok_or_else(wrong)?;
            let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
            let (median, sigma) = number(median).zip(number(sigma)).ok_or_else(wrong)?;
            return Ok(Self::LogNormal { median, sigma });
        }
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let (min, max) = (length(min)?, length(max)?);
        if min <= max { Ok(Self::Uniform(min, max)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn three_notations_are_read_and_others_refused() {
        let parse = |text: &str| text.parse::<Lengths>().ok();
        assert_eq!(parse("250"), Some(Lengths::Uniform(250, 250)));
        assert_eq!(parse("10-20"), Some(Lengths::Uniform(10, 20)));
        assert_eq!(parse("lognormal:200:0.8"), Some(Lengths::LogNormal { median: 200.0, sigma: 0.8 }));
        for wrong in ["", "0", "20-10", "-5", "x", "lognormal:200", "lognormal:200:-1", "lognormal:nan:1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lengths_spread_as_their_distribution_says() {
        let mut rng = StdRng::seed_from_u64(1);
        let uniform = Lengths::Uniform(3, 5);
        let drawn: Vec<usize> = (0..300).map(|_| uniform.draw(&mut rng)).collect();
        assert!((3..=5).all(|len| drawn.iter().filter(|&&x| x == len).count() > 60));
        assert!(drawn.iter().all(|len| (3..=5).contains(len)));
        let lognormal = Lengths::LogNormal { median: 100.0, sigma: 1.0 };
        let mut drawn: Vec<usize> = (0..2001).map(|_| lognormal.draw(&mut rng)).collect();
        drawn.sort_unstable();
        assert!((90..112).contains(&drawn[1000]), "median {}", drawn[1000]);
        // One standard deviation above the median is e times as long: 84.1% are shorter.
        assert!((230..320).contains(&drawn[1683]), "84th percentile {}", drawn[1683]);
    }
}
