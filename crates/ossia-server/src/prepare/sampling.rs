//! Sampling fields of both APIs, checked and turned into the engine's parameters.

use std::collections::HashMap;

use ossia_engine::SamplingParams;

use super::check;
use crate::error::ApiError;

/// The fields as they came; `None` means the default.
#[derive(Debug, Default)]
pub(crate) struct SamplingFields<'a> {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) repetition_penalty: Option<f64>,
    pub(crate) logit_bias: Option<&'a HashMap<String, f64>>,
    pub(crate) seed: Option<i64>,
    pub(crate) min_tokens: Option<i64>,
    /// Alternatives to report with each token; `None` reports nothing.
    pub(crate) top_logprobs: Option<u8>,
}

/// The fields that all requests have under the same names; the others are at their defaults.
macro_rules! shared_fields {
    ($request:expr) => {
        $crate::prepare::sampling::SamplingFields {
            temperature: $request.temperature,
            top_p: $request.top_p,
            top_k: $request.top_k,
            min_p: $request.min_p,
            presence_penalty: $request.presence_penalty,
            frequency_penalty: $request.frequency_penalty,
            repetition_penalty: $request.repetition_penalty,
            seed: $request.seed,
            ..Default::default()
        }
    };
}

pub(super) use shared_fields;

/// Checks the fields.
///
/// # Errors
/// 400 naming the field that is out of range.
pub(crate) fn sampling(fields: &SamplingFields<'_>, vocab_size: usize) -> Result<SamplingParams, ApiError> {
    let unit = |param, value, default| {
        Ok::<f32, ApiError>(check::decimal(param, value, 0.0, 1.0)?.unwrap_or(default) as f32)
    };
    let penalty =
        |param, value| Ok::<f32, ApiError>(check::decimal(param, value, -2.0, 2.0)?.unwrap_or(0.0) as f32);
    Ok(SamplingParams {
        temperature: check::decimal("temperature", fields.temperature, 0.0, 2.0)?.unwrap_or(1.0) as f32,
        // OpenAI allows 0, which leaves the likeliest token only; the engine wants a share above 0.
        top_p: unit("top_p", fields.top_p, 1.0)?.max(f32::MIN_POSITIVE),
        top_k: check::integer("top_k", fields.top_k, -1, i64::from(u32::MAX))?.unwrap_or(0).max(0) as u32,
        min_p: unit("min_p", fields.min_p, 0.0)?,
        presence_penalty: penalty("presence_penalty", fields.presence_penalty)?,
        frequency_penalty: penalty("frequency_penalty", fields.frequency_penalty)?,
        repetition_penalty: repetition_penalty(fields.repetition_penalty)?,
        logit_bias: logit_bias(fields.logit_bias, vocab_size)?,
        seed: fields.seed.map(i64::cast_unsigned),
        logprobs: fields.top_logprobs,
        min_tokens: check::integer("min_tokens", fields.min_tokens, 0, i64::MAX)?.unwrap_or(0) as usize,
    })
}

fn repetition_penalty(value: Option<f64>) -> Result<f32, ApiError> {
    let number = check::decimal("repetition_penalty", value, 0.0, 2.0)?.unwrap_or(1.0);
    if number == 0.0 {
        let message = "Invalid 'repetition_penalty': expected a value > 0, but got 0 instead.";
        return Err(ApiError::invalid("repetition_penalty", "decimal_below_min_value", message));
    }
    Ok(number as f32)
}

/// Token ids as decimal strings, biases from -100 to 100. The answer is ordered by id.
fn logit_bias(value: Option<&HashMap<String, f64>>, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let mut biases = Vec::new();
    for (key, &bias) in value.into_iter().flatten() {
        let id = key.parse::<u32>().ok().filter(|&id| (id as usize) < vocab_size).ok_or_else(|| {
            let message =
                format!("Invalid 'logit_bias': the key '{key}' is not a token id below {vocab_size}.");
            ApiError::invalid("logit_bias", "invalid_value", message)
        })?;
        check::decimal(&format!("logit_bias.{key}"), Some(bias), -100.0, 100.0)?;
        biases.push((id, bias as f32));
    }
    biases.sort_unstable_by_key(|&(id, _)| id);
    Ok(biases)
}

/// `top_logprobs`, from 0 to 20.
pub(crate) fn top_logprobs(value: Option<i64>) -> Result<Option<u8>, ApiError> {
    Ok(check::integer("top_logprobs", value, 0, 20)?.map(|number| number as u8))
}
