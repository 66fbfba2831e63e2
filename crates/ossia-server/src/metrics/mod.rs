//! What `/metrics` tells: the names that dashboards and gateways made for vLLM expect, and our own.

mod engine;
pub(crate) mod layer;
mod turns;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ossia_engine::EngineHandle;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use engine::EngineCollector;
use turns::TurnMetrics;
pub(crate) use turns::TurnTimes;

/// Content type of what [`Metrics::encode`] writes.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a server. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    turns: TurnMetrics,
    requests: Family<RequestLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    stalls: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    tenant: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    tenant: String,
    kind: &'static str,
}

impl Metrics {
    /// The metrics of a server of `engine` under the name `model`.
    pub(crate) fn new(model: &str, engine: EngineHandle) -> Self {
        let mut registry = Registry::default();
        let (requests, tokens, stalls) = (Family::default(), Family::default(), Counter::default());
        registry.register("ossia_requests", "Requests that were answered", requests.clone());
        registry.register(
            "ossia_tokens",
            "Tokens by tenant: of prompts, of these found in the cache, generated",
            tokens.clone(),
        );
        registry.register(
            "ossia_engine_stalls",
            "Steps of the engine that took longer than the watchdog allows",
            stalls.clone(),
        );
        let version = [(Cow::Borrowed("version"), Cow::Borrowed(env!("CARGO_PKG_VERSION")))];
        let build = registry.sub_registry_with_labels(version.into_iter());
        build.register("ossia_build_info", "The version that runs", ConstGauge::new(1i64));
        let labels = [(Cow::Borrowed("model_name"), Cow::Owned(model.to_owned()))];
        let of_model = registry.sub_registry_with_labels(labels.into_iter());
        let turns = TurnMetrics::new(of_model);
        of_model.register_collector(Box::new(EngineCollector(engine)));
        Self(Arc::new(Inner { registry, turns, requests, tokens, stalls }))
    }

    /// A request was answered.
    pub(crate) fn note_request(&self, tenant: &str, route: &str, status: u16) {
        let labels = RequestLabels { tenant: tenant.to_owned(), route: route.to_owned(), status };
        self.0.requests.get_or_create(&labels).inc();
    }

    /// A turn is over. `reason` is OpenAI's word for its end, or `error`, or `abort` for one that nobody waited for.
    pub(crate) fn note_turn(&self, tenant: &str, reason: &'static str, times: &TurnTimes) {
        self.0.turns.note(reason, times);
        let counts = [
            ("prompt", times.num_prompt_tokens),
            ("cached", times.num_cached_tokens),
            ("generated", times.num_generated_tokens),
        ];
        for (kind, count) in counts {
            let labels = TokenLabels { tenant: tenant.to_owned(), kind };
            self.0.tokens.get_or_create(&labels).inc_by(count as u64);
        }
    }

    /// A token came `pause` seconds after the one before.
    pub(crate) fn note_token(&self, pause: f64) {
        self.0.turns.inter_token_latency.observe(pause);
    }

    /// The first token came so many seconds after the request.
    pub(crate) fn note_first_token(&self, seconds: f64) {
        self.0.turns.time_to_first_token.observe(seconds);
    }

    /// A step of the engine took too long.
    pub(crate) fn note_stall(&self) {
        self.0.stalls.inc();
    }

    /// All metrics as text, in [`CONTENT_TYPE`].
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}
