//! What `ossia bench` found, as JSON and as a Markdown table.

use std::fmt::Write;

use serde_json::{Value, json};

use super::traffic::Traffic;
use crate::memory::ByteSize;

/// The two halves of inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// `pp`: a prompt is computed.
    Prefill,
    /// `tg`: tokens are generated one by one.
    Decode,
}

/// What is measured: `len` tokens of `batch` sequences that hold `depth` tokens each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) test: Test,
    pub(super) len: usize,
    pub(super) depth: usize,
    pub(super) batch: usize,
}

/// One line of the result.
pub(super) struct Measurement {
    pub(super) case: Case,
    /// Tokens per second over all sequences, one for each repetition, ascending.
    pub(super) speeds: Vec<f64>,
}

/// Everything that one run found.
pub(super) struct Report {
    pub(super) model: String,
    pub(super) threads: usize,
    pub(super) isa: &'static str,
    pub(super) load_s: f64,
    pub(super) peak_rss: Option<u64>,
    /// The ceiling of memory, measured in the same run.
    pub(super) read_bytes_per_s: f64,
    pub(super) traffic: Traffic,
    pub(super) measurements: Vec<Measurement>,
}

impl Case {
    /// As llama-bench calls it.
    pub(super) fn name(&self) -> String {
        let test = if self.test == Test::Prefill { "pp" } else { "tg" };
        format!("{test}{}", self.len)
    }

    pub(super) fn num_tokens(&self) -> usize {
        self.len * self.batch
    }
}

impl Measurement {
    pub(super) fn median(&self) -> f64 {
        let middle = self.speeds.len() / 2;
        match self.speeds.len() % 2 {
            1 => self.speeds[middle],
            _ => f64::midpoint(self.speeds[middle - 1], self.speeds[middle]),
        }
    }

    fn min_and_max(&self) -> [f64; 2] {
        [self.speeds[0], self.speeds[self.speeds.len() - 1]]
    }
}

impl Report {
    /// Bytes per second that decode must have read, from the shape alone; `None` for prefill, which
    /// memory does not bound.
    pub(super) fn bytes_per_s(&self, measurement: &Measurement) -> Option<f64> {
        let Case { test, len, depth, batch } = measurement.case;
        let steps_per_s = measurement.median() / batch as f64;
        (test == Test::Decode).then(|| steps_per_s * self.traffic.decode_bytes(batch, depth + len / 2))
    }

    /// Floating-point operations per second of prefill.
    fn flops_per_s(&self, measurement: &Measurement) -> Option<f64> {
        let Case { test, len, depth, .. } = measurement.case;
        let per_token = self.traffic.prefill_flops(len, depth) / len as f64;
        (test == Test::Prefill).then(|| measurement.median() * per_token)
    }

    /// One object; speeds in tokens per second, rates in bytes and operations per second.
    pub(super) fn json(&self) -> Value {
        let line = |m: &Measurement| {
            let [min, max] = m.min_and_max();
            let Case { depth, batch, .. } = m.case;
            let bytes_per_s = self.bytes_per_s(m);
            json!({
                "test": m.case.name(), "depth": depth, "batch": batch,
                "tokens_per_s": m.median(), "min": min, "max": max, "samples": m.speeds,
                "bytes_per_s": bytes_per_s,
                "roofline_fraction": bytes_per_s.map(|rate| rate / self.read_bytes_per_s),
                "flops_per_s": self.flops_per_s(m),
            })
        };
        json!({
            "model": self.model,
            "threads": self.threads,
            "isa": self.isa,
            "load_s": self.load_s,
            "peak_rss_bytes": self.peak_rss,
            "read_bytes_per_s": self.read_bytes_per_s,
            "results": self.measurements.iter().map(line).collect::<Vec<_>>(),
        })
    }

    /// A table and a line about the machine.
    pub(super) fn markdown(&self) -> String {
        let mut text =
            "| test | depth | batch | tokens/s (median) | min | max | rate | of ceiling |\n".to_owned();
        text += "|---|---|---|---|---|---|---|---|\n";
        for m in &self.measurements {
            let Case { depth, batch, .. } = m.case;
            let [min, max] = m.min_and_max();
            let (rate, share) = match (self.bytes_per_s(m), self.flops_per_s(m)) {
                (Some(rate), _) => (
                    format!("{:.1} GB/s", rate / 1e9),
                    format!("{:.0}%", 100.0 * rate / self.read_bytes_per_s),
                ),
                (None, flops) => (format!("{:.0} GFLOP/s", flops.unwrap_or_default() / 1e9), String::new()),
            };
            let (name, median) = (m.case.name(), m.median());
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "| {name} | {depth} | {batch} | {median:.2} | {min:.2} | {max:.2} | {rate} | {share} |"
            );
        }
        let rss = self.peak_rss.map_or_else(|| "unknown".to_owned(), |bytes| ByteSize(bytes).to_string());
        let _ = writeln!(
            text,
            "\n{}: {} threads, {}, memory read {:.1} GB/s, loaded in {:.1} s, peak resident memory {rss}",
            self.model,
            self.threads,
            self.isa,
            self.read_bytes_per_s / 1e9,
            self.load_s
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let median = |speeds: &[f64]| {
            let case = Case { test: Test::Decode, len: 4, depth: 0, batch: 2 };
            Measurement { case, speeds: speeds.to_vec() }.median()
        };
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 5.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
    }
}
