//! Range checks of request fields, each fault naming its field in OpenAI's words.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// An integer that must not be below `min` nor above `max`.
pub(crate) fn integer(param: &str, value: Option<i64>, min: i64, max: i64) -> Result<Option<i64>, ApiError> {
    let Some(number) = value else { return Ok(None) };
    let fault = |code, word, bound| {
        let message =
            format!("Invalid '{param}': integer {word}. Expected a value {bound}, but got {number} instead.");
        ApiError::invalid(param, code, message)
    };
    if number < min {
        return Err(fault("integer_below_min_value", "below minimum value", format!(">= {min}")));
    }
    if number > max {
        return Err(fault("integer_above_max_value", "above maximum value", format!("<= {max}")));
    }
    Ok(Some(number))
}

/// A finite number that must not be below `min` nor above `max`.
pub(crate) fn decimal(param: &str, value: Option<f64>, min: f64, max: f64) -> Result<Option<f64>, ApiError> {
    let Some(number) = value else { return Ok(None) };
    let fault = |code, word, bound| {
        let message =
            format!("Invalid '{param}': decimal {word}. Expected a value {bound}, but got {number} instead.");
        ApiError::invalid(param, code, message)
    };
    if number.is_nan() || number < min {
        return Err(fault("decimal_below_min_value", "below minimum value", format!(">= {min}")));
    }
    if number > max {
        return Err(fault("decimal_above_max_value", "above maximum value", format!("<= {max}")));
    }
    Ok(Some(number))
}

/// A list that must not be longer than `max`.
pub(crate) fn length(param: &str, len: usize, max: usize) -> Result<(), ApiError> {
    if len <= max {
        return Ok(());
    }
    let message =
        format!("Invalid '{param}': array too long. Expected at most {max} entries, but got {len}.");
    Err(ApiError::invalid(param, "array_above_max_length", message))
}

/// A word out of a list.
pub(crate) fn word(param: &str, value: Option<&str>, allowed: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(found) if !allowed.contains(&found) => Err(ApiError::invalid_value(param, found, allowed)),
        _ => Ok(()),
    }
}

/// A field that is refused whenever it is there.
pub(crate) fn absent<T>(param: &str, value: Option<&T>, reason: &str) -> Result<(), ApiError> {
    match value {
        Some(_) => Err(ApiError::unsupported(param, reason)),
        None => Ok(()),
    }
}

/// `stream_options` belongs to a stream.
pub(crate) fn stream_options(present: bool, stream: bool) -> Result<(), ApiError> {
    if present && !stream {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(ApiError::invalid("stream_options", "invalid_value", message));
    }
    Ok(())
}

/// The fields of both APIs that OpenAI lets a server ignore: their values are checked and they change nothing.
pub(crate) fn service_tier(value: Option<&str>) -> Result<(), ApiError> {
    word("service_tier", value, &["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"])
}

/// `safety_identifier`: at most 64 characters, checked and without effect.
pub(crate) fn safety_identifier(value: Option<&str>) -> Result<(), ApiError> {
    match value.map(|text| text.chars().count()) {
        Some(found) if found > 64 => {
            let message = format!(
                "Invalid 'safety_identifier': string too long. Expected at most 64 characters, but got {found}."
            );
            Err(ApiError::invalid("safety_identifier", "string_above_max_length", message))
        }
        _ => Ok(()),
    }
}

/// `metadata`: at most 16 pairs, keys of at most 64 and string values of at most 512 characters.
pub(crate) fn metadata(value: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    let Some(map) = value else { return Ok(()) };
    if map.len() > 16 {
        let message =
            format!("Invalid 'metadata': too many properties. Expected at most 16, but got {}.", map.len());
        return Err(ApiError::invalid("metadata", "object_above_max_properties", message));
    }
    for (key, value) in map {
        let param = format!("metadata.{key}");
        let Some(text) = value.as_str() else {
            let message = format!("Invalid type for '{param}': expected a string.");
            return Err(ApiError::invalid(param, "invalid_type", message));
        };
        if key.chars().count() > 64 || text.chars().count() > 512 {
            let message =
                format!("Invalid '{param}': keys have at most 64 characters and values at most 512.");
            return Err(ApiError::invalid(param, "string_above_max_length", message));
        }
    }
    Ok(())
}
