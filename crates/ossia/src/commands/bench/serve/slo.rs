//! What a request must keep to, to count as good.

use std::str::FromStr;

use super::stats::Sample;

/// Limits in milliseconds; a limit that is absent always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Slo {
    ttft_ms: Option<f64>,
    /// Of the mean inter-token latency of a request.
    itl_ms: Option<f64>,
    e2e_ms: Option<f64>,
}

impl Slo {
    /// Whether a request was answered within the limits.
    pub(super) fn holds(&self, sample: &Sample) -> bool {
        let within = |limit_ms: Option<f64>, ms: f64| limit_ms.is_none_or(|limit_ms| ms <= limit_ms);
        within(self.ttft_ms, sample.ttft_ms())
            && within(self.itl_ms, sample.mean_itl_ms().unwrap_or(0.0))
            && within(self.e2e_ms, sample.e2e_ms())
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split(',') {
            let (name, limit) = part.split_once('=').ok_or_else(|| format!("'{part}' is not NAME=MS"))?;
            let limit_ms: f64 =
                limit.parse().map_err(|_| format!("'{limit}' is not a number of milliseconds"))?;
            let field = match name {
                "ttft" => &mut slo.ttft_ms,
                "itl" => &mut slo.itl_ms,
                "e2e" => &mut slo.e2e_ms,
                other => return Err(format!("unknown limit '{other}': use ttft, itl or e2e")),
            };
            *field = Some(limit_ms);
        }
        Ok(slo)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_applied_to_its_own_figure() {
        // First token after 100 ms, then two gaps of 50 ms; the end comes 10 ms later.
        let sample = Sample::of_times(&[0.1, 0.15, 0.2], 0.21);
        for (text, expected) in [
            ("ttft=100", true),
            ("ttft=99", false),
            ("itl=51", true),
            ("itl=49", false),
            ("e2e=211", true),
            ("e2e=209", false),
            ("ttft=100,itl=51,e2e=209", false),
        ] {
            assert_eq!(text.parse::<Slo>().unwrap().holds(&sample), expected, "{text}");
        }
        assert!("ttfb=5".parse::<Slo>().unwrap_err().contains("ttfb"));
        assert!("ttft=soon".parse::<Slo>().is_err());
    }
}
