//! Traces in OpenTelemetry's terms: a span per request, in it one per turn of the model, in that one for each part of the
//! turn. Attributes are those of the conventions for HTTP and for generative models; no prompt and no answer is among them.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::global::BoxedTracer;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};

use crate::metrics::TurnTimes;

/// What probes ask every few seconds is no request of anybody's.
const UNTRACED: [&str; 3] = ["/health", "/metrics", "/v1/loads"];

/// Where spans go, if anywhere. Clones go to the same place.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Target>>);

#[derive(Debug)]
struct Target {
    tracer: BoxedTracer,
    propagator: Box<dyn TextMapPropagator + Send + Sync>,
}

/// The span of a request, or nothing. It ends when the last clone is dropped, which is after the last token of a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestSpan(Option<(Arc<Target>, Context)>);

impl Traces {
    /// Spans that `tracer` makes; `propagator` reads from the headers of a request which span it belongs to.
    pub fn new(tracer: BoxedTracer, propagator: Box<dyn TextMapPropagator + Send + Sync>) -> Self {
        Self(Some(Arc::new(Target { tracer, propagator })))
    }

    fn begin(&self, request: &Request) -> RequestSpan {
        let path = request.uri().path();
        let Some(target) = self.0.as_ref().filter(|_| !UNTRACED.contains(&path)) else {
            return RequestSpan::default();
        };
        let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str);
        let attributes = [
            KeyValue::new("http.request.method", request.method().to_string()),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("url.path", path.to_owned()),
        ];
        let span = SpanBuilder::from_name(format!("{} {route}", request.method()))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        let caller = target.propagator.extract_with_context(&Context::new(), &Headers(request.headers()));
        let span = target.tracer.build_with_context(span, &caller);
        RequestSpan(Some((Arc::clone(target), caller.with_span(span))))
    }
}

/// The layer that makes a span of each request, and names the trace in its log lines.
pub(crate) async fn trace(State(traces): State<Traces>, mut request: Request, next: Next) -> Response {
    let span = traces.begin(&request);
    if let RequestSpan(Some((_, context))) = &span {
        let id = context.span().span_context().trace_id();
        tracing::Span::current().record("trace", tracing::field::display(id));
    }
    request.extensions_mut().insert(span.clone());
    let response = next.run(request).await;
    span.answered(response.status());
    response
}

impl RequestSpan {
    /// The head of the answer is out.
    fn answered(&self, status: StatusCode) {
        let Some((_, context)) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_status(Status::error(status.to_string()));
        }
    }

    /// Adds a turn that is over, and what it consisted of. `operation` is the conventions' word for the kind of request.
    pub(crate) fn add_turn(
        &self,
        operation: &'static str,
        model: &str,
        outcome: &'static str,
        times: &TurnTimes,
    ) {
        let Some((target, parent)) = &self.0 else { return };
        let begun = SystemTime::now() - times.total;
        let turn = SpanBuilder::from_name(format!("{operation} {model}"))
            .with_kind(SpanKind::Internal)
            .with_start_time(begun)
            .with_attributes(attributes(operation, model, outcome, times));
        let turn = parent.with_span(target.tracer.build_with_context(turn, parent));
        if outcome == "error" {
            turn.span().set_status(Status::error("the engine could not carry the turn on"));
        }
        let mut from = begun;
        // A turn that was never taken up did nothing but wait.
        let queued = times.queued.unwrap_or(times.total);
        for (name, part) in [("queue", Some(queued)), ("prefill", times.prefill), ("decode", times.decode)] {
            let Some(part) = part else { continue };
            let span = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(from);
            from += part;
            target.tracer.build_with_context(span, &turn).end_with_timestamp(from);
        }
        turn.span().end_with_timestamp(begun + times.total);
    }
}

fn attributes(
    operation: &'static str,
    model: &str,
    outcome: &'static str,
    times: &TurnTimes,
) -> Vec<KeyValue> {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let reasons = Value::Array(Array::String(vec![StringValue::from(outcome)]));
    vec![
        KeyValue::new("gen_ai.operation.name", operation),
        KeyValue::new("gen_ai.provider.name", "ossia"),
        KeyValue::new("gen_ai.request.model", model.to_owned()),
        KeyValue::new("gen_ai.response.model", model.to_owned()),
        KeyValue::new("gen_ai.response.finish_reasons", reasons),
        KeyValue::new("gen_ai.usage.input_tokens", count(times.num_prompt_tokens)),
        KeyValue::new("gen_ai.usage.output_tokens", count(times.num_generated_tokens)),
        KeyValue::new("ossia.cached_tokens", count(times.num_cached_tokens)),
    ]
}

/// The headers of a request, for the propagator.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
