//! The engine's own figures, read when they are asked for.

use std::fmt;

use ossia_engine::{EngineHandle, EngineStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the figures of an engine.
#[derive(Debug)]
pub(super) struct EngineCollector(pub(super) EngineHandle);

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in gauges(&stats) {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        for (name, help, value) in counters(&stats) {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        self.encode_blocks(&stats, &mut encoder)?;
        self.encode_config(&mut encoder)
    }
}

impl EngineCollector {
    fn encode_blocks(&self, stats: &EngineStats, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Blocks of the KV cache";
        let mut family = encoder.encode_descriptor("ossia_kv_cache_blocks", help, None, MetricType::Gauge)?;
        for (state, number) in [
            ("free", stats.num_blocks_free),
            ("used", stats.num_blocks_used),
            ("cached", stats.num_blocks_cached),
        ] {
            ConstGauge::new(number as i64).encode(family.encode_family(&[("state", state)])?)?;
        }
        Ok(())
    }

    /// vLLM's way to say what does not change: labels of a gauge that is always 1.
    fn encode_config(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let (spec, config) = (self.0.spec(), self.0.config());
        let labels = [
            ("block_size", spec.block_size.to_string()),
            ("num_gpu_blocks", spec.num_blocks.to_string()),
            ("enable_prefix_caching", if config.enable_prefix_caching { "True" } else { "False" }.to_owned()),
            ("sliding_window", spec.sliding_window.to_string()),
        ];
        let help = "Sizes of the KV cache";
        let mut family =
            encoder.encode_descriptor("vllm:cache_config_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(family.encode_family(&labels)?)
    }
}

type Figure<T> = (&'static str, &'static str, T);

fn gauges(stats: &EngineStats) -> [Figure<f64>; 3] {
    let held = stats.num_blocks_used as f64 / stats.num_blocks_total.max(1) as f64;
    [
        ("vllm:num_requests_running", "Sequences that hold blocks", stats.num_running as f64),
        (
            "vllm:num_requests_waiting",
            "Sequences that wait for blocks or for a place",
            stats.num_waiting as f64,
        ),
        ("vllm:kv_cache_usage_perc", "Share of the blocks that sequences hold, 1 is all", held),
    ]
}

fn counters(stats: &EngineStats) -> [Figure<u64>; 8] {
    [
        (
            "vllm:prefix_cache_queries",
            "Prompt tokens looked up in the prefix cache",
            stats.num_prompt_tokens_total,
        ),
        ("vllm:prefix_cache_hits", "Of these, found", stats.num_prefix_hit_tokens_total),
        ("vllm:num_preemptions", "Sequences that gave up their blocks", stats.num_preemptions_total),
        ("ossia_engine_steps", "Forward passes", stats.num_steps_total),
        (
            "ossia_engine_computed_tokens",
            "Tokens computed, recomputed ones included",
            stats.num_computed_tokens_total,
        ),
        ("ossia_engine_failed", "Sequences that the engine could not carry on", stats.num_failed_total),
        ("ossia_engine_aborted", "Sequences whose caller went away", stats.num_aborted_total),
        (
            "ossia_engine_rebuilds",
            "Times that the engine started over after a panic",
            stats.num_rebuilds_total,
        ),
    ]
}
