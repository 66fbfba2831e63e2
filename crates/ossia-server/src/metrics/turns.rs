//! Histograms and counters of turns, under vLLM's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Pauses that a person notices, in seconds.
const PAUSES: [f64; 20] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0,
];
/// How long the parts of a request may take, in seconds.
const SPANS: [f64; 18] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
    7680.0,
];
/// Numbers of tokens.
const LENGTHS: [f64; 15] = [
    1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 65_536.0,
    131_072.0,
];

/// The times and numbers of a turn that is over, as far as it got.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TurnTimes {
    /// Until the engine took it up.
    pub(crate) queued: Option<Duration>,
    /// From there to the first token.
    pub(crate) prefill: Option<Duration>,
    /// From there to the last.
    pub(crate) decode: Option<Duration>,
    /// From the request to the end.
    pub(crate) total: Duration,
    pub(crate) num_prompt_tokens: usize,
    pub(crate) num_cached_tokens: usize,
    pub(crate) num_generated_tokens: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishLabels {
    finished_reason: &'static str,
}

/// Of turns of the model.
pub(super) struct TurnMetrics {
    finished: Family<FinishLabels, Counter>,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    pub(super) time_to_first_token: Histogram,
    pub(super) inter_token_latency: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    latency: Histogram,
    prompt_len: Histogram,
    generation_len: Histogram,
}

impl TurnMetrics {
    /// Registers them.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let finished = Family::default();
        registry.register("vllm:request_success", "Turns by how they ended", finished.clone());
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts");
        let generation_tokens = counter("vllm:generation_tokens", "Tokens generated");
        let mut histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::new(buckets.iter().copied());
            registry.register(name, help, histogram.clone());
            histogram
        };
        Self {
            finished,
            prompt_tokens,
            generation_tokens,
            time_to_first_token: histogram(
                "vllm:time_to_first_token_seconds",
                "From the request to its first token",
                &PAUSES,
            ),
            inter_token_latency: histogram(
                "vllm:inter_token_latency_seconds",
                "Between two tokens of an answer",
                &PAUSES,
            ),
            queue_time: histogram(
                "vllm:request_queue_time_seconds",
                "Until the engine takes a request up",
                &SPANS,
            ),
            prefill_time: histogram(
                "vllm:request_prefill_time_seconds",
                "From there to the first token",
                &SPANS,
            ),
            decode_time: histogram(
                "vllm:request_decode_time_seconds",
                "From the first token to the last",
                &SPANS,
            ),
            latency: histogram(
                "vllm:e2e_request_latency_seconds",
                "From the request to the end of its answer",
                &SPANS,
            ),
            prompt_len: histogram("vllm:request_prompt_tokens", "Tokens of a prompt", &LENGTHS),
            generation_len: histogram("vllm:request_generation_tokens", "Tokens of an answer", &LENGTHS),
        }
    }

    /// A turn is over.
    pub(super) fn note(&self, finished_reason: &'static str, times: &TurnTimes) {
        self.finished.get_or_create(&FinishLabels { finished_reason }).inc();
        self.prompt_tokens.inc_by(times.num_prompt_tokens as u64);
        self.generation_tokens.inc_by(times.num_generated_tokens as u64);
        for (histogram, span) in [
            (&self.queue_time, times.queued),
            (&self.prefill_time, times.prefill),
            (&self.decode_time, times.decode),
            (&self.latency, Some(times.total)),
        ] {
            span.into_iter().for_each(|span| histogram.observe(span.as_secs_f64()));
        }
        if times.queued.is_some() {
            self.prompt_len.observe(times.num_prompt_tokens as f64);
            self.generation_len.observe(times.num_generated_tokens as f64);
        }
    }
}
