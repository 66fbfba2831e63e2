//! The events of a finished stream, packed for keeping: most of them differ from the one before by a few letters.
//!
//! An entry is an event without its sequence number, which is its place. Of an event that holds the response, only
//! the type is kept, since the response is stored already; of a piece of text that is like the piece before, only
//! the text.

use serde_json::{Map, Value};

/// The event that closes the stream of a finished response, by the response's status.
const TERMINAL_EVENTS: [(&str, &str); 2] =
    [("completed", "response.completed"), ("failed", "response.failed")];

/// A packed stream.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    entries: Vec<Value>,
    /// The last piece of text, unpacked.
    delta: Option<Value>,
}

/// An event as it goes out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoggedEvent {
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl EventLog {
    /// Adds the next event.
    pub(crate) fn push(&mut self, mut event: Value) {
        let Some(map) = event.as_object_mut() else { return };
        map.shift_remove("sequence_number");
        if map.contains_key("response") {
            map.retain(|key, _| key == "type");
        } else if map.contains_key("delta") {
            return self.push_delta(event);
        }
        self.entries.push(event);
    }

    fn push_delta(&mut self, event: Value) {
        let same = self.delta.as_ref().is_some_and(|last| without_delta(last).eq(without_delta(&event)));
        self.entries.push(if same { event["delta"].clone() } else { event.clone() });
        self.delta = Some(event);
    }

    /// The packed form, as a text.
    pub(crate) fn pack(self) -> String {
        Value::Array(self.entries).to_string()
    }

    /// The events of a stored response. Those of a response that was lost on the way are its beginning and its end.
    pub(crate) fn unpack(packed: &str, response: &Value) -> Vec<LoggedEvent> {
        let mut entries: Vec<Value> = serde_json::from_str(packed).unwrap_or_default();
        let status = response["status"].as_str().unwrap_or_default();
        let terminal = TERMINAL_EVENTS
            .iter()
            .find(|(of, _)| *of == status)
            .map_or("response.incomplete", |(_, name)| name);
        if entries.is_empty() {
            entries.push(serde_json::json!({"type": "response.created"}));
        }
        if entries.last().is_some_and(|last| last["type"] != terminal) {
            entries.push(serde_json::json!({"type": terminal}));
        }
        let mut delta = Value::Null;
        (0u64..)
            .zip(entries)
            .map(|(number, entry)| unpack_entry(number, entry, response, &mut delta))
            .collect()
    }
}

fn unpack_entry(number: u64, entry: Value, response: &Value, delta: &mut Value) -> LoggedEvent {
    let mut data = match entry {
        Value::String(text) => {
            delta["delta"] = text.into();
            delta.clone()
        }
        event => event,
    };
    if data.get("delta").is_some() {
        *delta = data.clone();
    }
    let name = data["type"].as_str().unwrap_or_default().to_owned();
    if data.as_object().is_some_and(|map| map.len() == 1) {
        data["response"] = match name.as_str() {
            "response.created" => beginning(response, response["background"] == true),
            "response.queued" => beginning(response, true),
            "response.in_progress" => beginning(response, false),
            _ => response.clone(),
        };
    }
    data["sequence_number"] = number.into();
    LoggedEvent { name, data }
}

/// The response before its first token.
fn beginning(response: &Value, queued: bool) -> Value {
    let mut response = response.clone();
    response["status"] = if queued { "queued" } else { "in_progress" }.into();
    response["output"] = Value::Array(Vec::new());
    for key in ["usage", "completed_at", "error", "incomplete_details"] {
        response[key] = Value::Null;
    }
    response
}

fn without_delta(event: &Value) -> impl Iterator<Item = (&String, &Value)> {
    static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    event.as_object().unwrap_or(&NOTHING).iter().filter(|(key, _)| *key != "delta")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        let finished = json!({"id": "r", "status": "completed", "background": false, "output": [1], "usage": {},
            "completed_at": 5, "error": null, "incomplete_details": null});
        let begun = json!({"id": "r", "status": "in_progress", "background": false, "output": [], "usage": null,
            "completed_at": null, "error": null, "incomplete_details": null});
        let text = |item: &str, delta: &str, logprobs: Value| json!({"type": "t.delta", "item_id": item, "delta": delta, "logprobs": logprobs});
        let mut events = vec![
            json!({"type": "response.created", "response": begun}),
            json!({"type": "response.in_progress", "response": begun}),
            json!({"type": "response.output_item.added", "item": {"id": "a"}}),
            text("a", "x", json!([])),
            text("a", "y", json!([])),
            text("a", "z", json!([{"token": "z"}])),
            text("b", "z", json!([])),
            text("b", "", json!([])),
            json!({"type": "response.completed", "response": finished}),
        ];
        let mut log = EventLog::default();
        for (number, event) in events.iter_mut().enumerate() {
            event["sequence_number"] = number.into();
            log.push(event.clone());
        }
        let packed = log.pack();
        assert_eq!(packed.matches("item_id").count(), 3, "{packed}");
        let found: Vec<Value> =
            EventLog::unpack(&packed, &finished).into_iter().map(|event| event.data).collect();
        assert_eq!(found, events);
    }

    #[test]
    fn a_lost_stream_has_a_beginning_and_an_end() {
        let response = json!({"id": "r", "status": "failed", "background": true, "output": []});
        let names: Vec<String> =
            EventLog::unpack("", &response).into_iter().map(|event| event.name).collect();
        assert_eq!(names, ["response.created", "response.failed"]);
    }
}
