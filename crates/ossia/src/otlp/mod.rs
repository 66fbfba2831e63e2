//! Spans on their way to an OpenTelemetry collector: OTLP as JSON over HTTP, to the address that the settings name.
//!
//! OpenTelemetry's own exporter brings seven crates beside the SDK, a generator of protobuf code among them; what is needed of
//! it is one `POST` and the JSON in `json`.

mod json;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use opentelemetry::KeyValue;
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use ossia_server::{Traces, without_password};

use crate::outbound;

/// Where a collector takes spans.
const PATH: &str = "/v1/traces";
/// Longest wait for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends spans in batches, from a thread of its own. Clones are the same.
#[derive(Clone)]
pub(crate) struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Sends to the collector at `endpoint`, whether or not it is there.
    ///
    /// # Errors
    /// The endpoint is no URL, or nothing may be contacted.
    pub(crate) fn new(endpoint: &str) -> Result<Self> {
        let shown = without_password(endpoint);
        let is_url = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
        ensure!(is_url, "--otlp-endpoint is '{shown}', expected a URL such as http://localhost:4318");
        if let Some(switch) = outbound::offline() {
            bail!("--otlp-endpoint is {shown}, and {switch} is set, so that no traces may be sent");
        }
        let resource = Resource::builder()
            .with_service_name("ossia")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let sender = Sender::new(endpoint, shown)?;
        tracing::info!("traces go to {}", sender.collector);
        Ok(Self(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(sender).build()))
    }

    /// What makes spans that are sent.
    pub(crate) fn traces(&self) -> Traces {
        let tracer = BoxedTracer::new(Box::new(self.0.tracer("ossia")));
        Traces::new(tracer, Box::new(TraceContextPropagator::new()))
    }

    /// Sends what is left, for so long at most.
    pub(crate) fn finish(&self, timeout: Duration) {
        if let Err(error) = self.0.shutdown_with_timeout(timeout) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Sends batches, one after the other.
#[derive(Debug)]
struct Sender {
    agent: ureq::Agent,
    url: String,
    /// The endpoint as it may be shown.
    collector: String,
    resource: Resource,
    /// Whether the last batch did not arrive, which is said once and not every few seconds.
    is_lost: AtomicBool,
}

impl Sender {
    fn new(endpoint: &str, shown: String) -> Result<Self> {
        Ok(Self {
            agent: outbound::agent()?.timeout_global(Some(TIMEOUT)).build().into(),
            url: format!("{}{PATH}", endpoint.trim_end_matches('/')),
            collector: shown,
            resource: Resource::builder_empty().build(),
            is_lost: AtomicBool::new(false),
        })
    }

    fn note(&self, fault: Option<&ureq::Error>) {
        match (self.is_lost.swap(fault.is_some(), Ordering::Relaxed), fault) {
            (false, Some(fault)) => tracing::warn!("traces do not arrive at {}: {fault}", self.collector),
            (true, None) => tracing::info!("traces arrive at {} again", self.collector),
            _ => {}
        }
    }
}

impl SpanExporter for Sender {
    /// Blocks, which the exporter's thread may. What does not arrive is dropped: traces are no accounts.
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let body = json::batch(&self.resource, &batch).to_string();
        let outcome = self.agent.post(&self.url).header("content-type", "application/json").send(body);
        self.note(outcome.as_ref().err());
        outcome.map(|_| ()).map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.clone();
    }
}
