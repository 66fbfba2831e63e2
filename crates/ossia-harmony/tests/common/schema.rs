//! A small JSON Schema validator of our own: it knows nothing of the grammar that it judges.

use serde_json::Value;

/// Whether `value` is valid against `schema`, which uses the keywords that the tests use; others are a test's error.
pub(crate) fn is_valid(schema: &Value, value: &Value) -> bool {
    check(schema, schema, value)
}

fn check(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(schema) = schema else { return schema == &Value::Bool(true) };
    schema.iter().all(|(keyword, wanted)| match keyword.as_str() {
        "type" => match wanted {
            Value::Array(types) => types.iter().any(|wanted| is_type(wanted, value)),
            wanted => is_type(wanted, value),
        },
        "enum" => wanted.as_array().unwrap().contains(value),
        "const" => wanted == value,
        "anyOf" => wanted.as_array().unwrap().iter().any(|schema| check(root, schema, value)),
        "$ref" => check(root, root.pointer(wanted.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= count(wanted)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= count(wanted)),
        "minItems" => value.as_array().is_none_or(|items| items.len() >= count(wanted)),
        "maxItems" => value.as_array().is_none_or(|items| items.len() <= count(wanted)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| check(root, wanted, item))),
        "required" => value.as_object().is_none_or(|object| {
            wanted.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            object
                .iter()
                .all(|(name, value)| wanted.get(name).is_none_or(|property| check(root, property, value)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let declared = schema.get("properties").and_then(Value::as_object);
            let is_extra = |name: &&String| !declared.is_some_and(|names| names.contains_key(*name));
            object.keys().filter(is_extra).all(|name| check(root, wanted, &object[name]))
        }),
        "$defs" | "description" | "title" => true,
        other => panic!("this validator does not know {other}"),
    })
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("no type is called {other}"),
    }
}
