//! What one request saw, and the figures over all of them.

use serde_json::{Value, json};

use super::slo::Slo;

/// What became of a request that got to the server.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(Sample),
    /// Status 429 or 503: the server has enough to do.
    Refused {
        /// From the moment it was due, in seconds.
        after_s: f64,
    },
}

/// One answered request, timed from the moment it was due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// When each piece of output arrived, in seconds.
    pub(super) arrivals_s: Vec<f64>,
    /// When the answer ended, in seconds.
    pub(super) end_s: f64,
    pub(super) num_prompt_tokens: u64,
    pub(super) num_cached_tokens: u64,
    pub(super) num_output_tokens: u64,
}

/// Percentiles of a figure in milliseconds.
pub(super) struct Spread {
    pub(super) mean: f64,
    /// At [`PERCENTILES`].
    pub(super) percentiles: [f64; PERCENTILES.len()],
    pub(super) max: f64,
}

/// The percentiles reported.
pub(super) const PERCENTILES: [u32; 4] = [50, 90, 95, 99];

/// The figures over all requests of a load.
pub(super) struct Summary {
    pub(super) num_good: usize,
    pub(super) errors: Vec<String>,
    /// From the first request's time to the last answer's end, in seconds.
    pub(super) duration_s: f64,
    samples: Vec<Sample>,
    refusals_s: Vec<f64>,
}

impl Sample {
    /// From the request to the first piece of output.
    pub(super) fn ttft_ms(&self) -> f64 {
        self.arrivals_s.first().map_or(self.end_s, |first| *first) * 1e3
    }

    pub(super) fn e2e_ms(&self) -> f64 {
        self.end_s * 1e3
    }

    /// From the first to the last piece of output, per token after the first; `None` with one token.
    pub(super) fn mean_itl_ms(&self) -> Option<f64> {
        let (first, last) = (self.arrivals_s.first()?, self.arrivals_s.last()?);
        let num_gaps = self.num_output_tokens.max(self.arrivals_s.len() as u64) - 1;
        (num_gaps > 0).then(|| (last - first) * 1e3 / num_gaps as f64)
    }

    /// The pauses between two pieces of output.
    fn gaps_ms(&self) -> impl Iterator<Item = f64> + '_ {
        self.arrivals_s.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3)
    }

    #[cfg(test)]
    pub(super) fn of_times(arrivals_s: &[f64], end_s: f64) -> Self {
        Self { arrivals_s: arrivals_s.to_vec(), end_s, ..Self::default() }
    }
}

impl Spread {
    /// `None` of no values.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { mean, percentiles: PERCENTILES.map(|percent| percentile(&values, percent)), max })
    }

    fn json(&self) -> Value {
        let mut object = json!({"mean": self.mean, "max": self.max});
        for (percent, value) in PERCENTILES.iter().zip(self.percentiles) {
            object[format!("p{percent}")] = json!(value);
        }
        object
    }
}

/// Interpolated between the two nearest of the ascending `values`, of which there is one at least.
fn percentile(values: &[f64], percent: u32) -> f64 {
    let place = (values.len() - 1) as f64 * f64::from(percent) / 100.0;
    let below = place.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (values[above] - values[below]) * place.fract()
}

impl Summary {
    pub(super) fn new(outcomes: Vec<Result<Outcome, String>>, duration_s: f64, slo: Slo) -> Self {
        let mut summary =
            Self { num_good: 0, errors: vec![], duration_s, samples: vec![], refusals_s: vec![] };
        for outcome in outcomes {
            match outcome {
                Ok(Outcome::Answered(sample)) => summary.samples.push(sample),
                Ok(Outcome::Refused { after_s }) => summary.refusals_s.push(after_s),
                Err(error) => summary.errors.push(error),
            }
        }
        summary.num_good = summary.samples.iter().filter(|sample| slo.holds(sample)).count();
        summary
    }

    pub(super) fn num_answered(&self) -> usize {
        self.samples.len()
    }

    pub(super) fn num_refused(&self) -> usize {
        self.refusals_s.len()
    }

    /// A count over all answers, such as their output tokens.
    pub(super) fn total(&self, count: impl Fn(&Sample) -> u64) -> u64 {
        self.samples.iter().map(count).sum()
    }

    /// The latencies, by the names they are known by; those that nothing was measured of are left out.
    pub(super) fn latencies(&self) -> Vec<(&'static str, Spread)> {
        let samples = || self.samples.iter();
        [
            ("ttft", Spread::of(samples().map(Sample::ttft_ms))),
            ("itl", Spread::of(samples().flat_map(Sample::gaps_ms))),
            ("tpot", Spread::of(samples().filter_map(Sample::mean_itl_ms))),
            ("e2e", Spread::of(samples().map(Sample::e2e_ms))),
            ("refusal", Spread::of(self.refusals_s.iter().map(|after_s| after_s * 1e3))),
        ]
        .into_iter()
        .filter_map(|(name, spread)| Some((name, spread?)))
        .collect()
    }

    /// One object; times in milliseconds unless the name says otherwise, rates per second.
    pub(super) fn json(&self) -> Value {
        let rate = |count: u64| count as f64 / self.duration_s;
        let output_tokens = self.total(|sample| sample.num_output_tokens);
        let mut object = json!({
            "duration_s": self.duration_s,
            "num_answered": self.num_answered(),
            "num_refused": self.num_refused(),
            "num_failed": self.errors.len(),
            "errors": self.errors.iter().take(5).collect::<Vec<_>>(),
            "num_prompt_tokens": self.total(|sample| sample.num_prompt_tokens),
            "num_cached_tokens": self.total(|sample| sample.num_cached_tokens),
            "num_output_tokens": output_tokens,
            "requests_per_s": rate(self.num_answered() as u64),
            "output_tokens_per_s": rate(output_tokens),
            "goodput_requests_per_s": rate(self.num_good as u64),
        });
        for (name, spread) in self.latencies() {
            object[format!("{name}_ms")] = spread.json();
        }
        object
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_the_nearest_values() {
        let spread = Spread::of((0..=100).rev().map(f64::from)).unwrap();
        assert_eq!((spread.percentiles, spread.mean, spread.max), ([50.0, 90.0, 95.0, 99.0], 50.0, 100.0));
        assert_eq!(Spread::of([10.0, 20.0].into_iter()).unwrap().percentiles[1], 19.0);
        assert!(Spread::of(std::iter::empty()).is_none());
    }

    #[test]
    fn a_load_adds_up() {
        let sample = |num_output_tokens| Sample {
            num_output_tokens,
            num_prompt_tokens: 7,
            ..Sample::of_times(&[0.5, 1.0, 1.25], 1.5)
        };
        let outcomes = vec![
            Ok(Outcome::Answered(sample(3))),
            Err("the stream broke off".to_owned()),
            Ok(Outcome::Refused { after_s: 0.02 }),
            Ok(Outcome::Answered(sample(5))),
        ];
        let summary = Summary::new(outcomes, 2.0, "ttft=400".parse().unwrap());
        let json = summary.json();
        assert_eq!((&json["num_answered"], &json["num_failed"]), (&json!(2), &json!(1)));
        assert_eq!((&json["num_refused"], &json["refusal_ms"]["max"]), (&json!(1), &json!(20.0)));
        assert_eq!((&json["num_prompt_tokens"], &json["output_tokens_per_s"]), (&json!(14), &json!(4.0)));
        assert_eq!(json["goodput_requests_per_s"], json!(0.0), "the first token came after 500 ms");
        assert_eq!(json["itl_ms"]["p50"], json!(375.0), "pauses of 500 and 250 ms");
        // Pieces of several tokens: 750 ms for two more tokens, and for four.
        assert_eq!(json["tpot_ms"]["mean"], json!((375.0 + 187.5) / 2.0));
    }
}
