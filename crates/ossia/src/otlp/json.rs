//! Spans as OTLP writes them in JSON: ids in hexadecimal, 64-bit numbers as text, kinds and statuses as numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry::{Array, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use serde_json::{Value as Json, json};

/// An `ExportTraceServiceRequest`.
pub(super) fn batch(resource: &Resource, spans: &[SpanData]) -> Json {
    let of_resource: Vec<Json> = resource.iter().map(|(key, value)| attribute(key.as_str(), value)).collect();
    let scope = spans.first().map_or("", |span| span.instrumentation_scope.name());
    json!({"resourceSpans": [{
        "resource": {"attributes": of_resource},
        "scopeSpans": [{"scope": {"name": scope}, "spans": spans.iter().map(span).collect::<Vec<_>>()}],
    }]})
}

fn span(span: &SpanData) -> Json {
    let context = &span.span_context;
    let parent = match span.parent_span_id {
        SpanId::INVALID => String::new(),
        id => id.to_string(),
    };
    json!({
        "traceId": context.trace_id().to_string(),
        "spanId": context.span_id().to_string(),
        "parentSpanId": parent,
        "traceState": context.trace_state().header(),
        "flags": context.trace_flags().to_u8(),
        "name": span.name,
        "kind": kind(&span.span_kind),
        "startTimeUnixNano": nanos(span.start_time),
        "endTimeUnixNano": nanos(span.end_time),
        "attributes": attributes(&span.attributes),
        "status": status(&span.status),
    })
}

fn attributes(attributes: &[KeyValue]) -> Vec<Json> {
    attributes.iter().map(|pair| attribute(pair.key.as_str(), &pair.value)).collect()
}

fn attribute(key: &str, value: &Value) -> Json {
    json!({"key": key, "value": any_value(value)})
}

fn any_value(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!({"boolValue": value}),
        Value::I64(value) => json!({"intValue": value.to_string()}),
        Value::F64(value) => json!({"doubleValue": value}),
        Value::Array(Array::String(values)) => {
            let values: Vec<Json> = values.iter().map(|text| json!({"stringValue": text.as_str()})).collect();
            json!({"arrayValue": {"values": values}})
        }
        other => json!({"stringValue": other.as_str()}),
    }
}

fn kind(kind: &SpanKind) -> u8 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn status(status: &Status) -> Json {
    match status {
        Status::Unset => json!({}),
        Status::Ok => json!({"code": 1}),
        Status::Error { description } => json!({"code": 2, "message": description}),
    }
}

/// Since the epoch; a clock before it is at it.
fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos()).to_string()
}
