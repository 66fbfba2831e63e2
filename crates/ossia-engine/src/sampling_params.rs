//! How the next token is chosen.

use crate::SubmitError;

/// How the next token is chosen from a row of logits.
///
/// Applied in this order: repetition penalty, presence and frequency penalties, `logit_bias`, the
/// constraint's mask, `min_tokens`, temperature, `min_p`, `top_k`, `top_p`.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most probable token (of equals, the lowest id).
    pub temperature: f32,
    /// Keeps the most probable tokens whose mass reaches this share, (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Drops tokens less probable than this share of the most probable, [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Subtracted from the logit of every token that was generated.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token for each time it was generated.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens of the prompt or the generation; 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same prompt, parameters and seed: same tokens. Drawn at random when absent.
    pub seed: Option<u64>,
    /// Report the log-probability of the chosen token and of this many most probable ones, from the
    /// model's own logits (before penalties, masks and temperature).
    pub logprobs: Option<u8>,
    /// Stop tokens are not chosen before this many tokens were generated, unless nothing else is allowed.
    pub min_tokens: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: None,
            logprobs: None,
            min_tokens: 0,
        }
    }
}

impl SamplingParams {
    /// Default parameters with temperature 0.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether any parameter needs to know which tokens came before.
    pub(crate) fn has_penalties(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }

    /// Whether something changes the logits beside a mask, or wants to see them.
    pub(crate) fn needs_logits(&self) -> bool {
        self.has_penalties() || !self.logit_bias.is_empty() || self.logprobs.is_some()
    }

    /// Whether not every token that may be drawn is left to draw from.
    pub(crate) fn has_filters(&self) -> bool {
        self.top_p < 1.0 || self.top_k > 0 || self.min_p > 0.0
    }

    /// Refuses values that have no meaning. Wire limits (temperature at most 2) are the caller's.
    pub(crate) fn validate(&self) -> Result<(), SubmitError> {
        let Self { temperature, top_p, min_p, .. } = *self;
        let repetition = self.repetition_penalty;
        check("temperature", temperature, temperature >= 0.0, "a number of at least 0")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1")?;
        check("presence_penalty", self.presence_penalty, true, "a finite number")?;
        check("frequency_penalty", self.frequency_penalty, true, "a finite number")?;
        check("repetition_penalty", repetition, repetition > 0.0, "above 0")?;
        self.logit_bias.iter().try_for_each(|&(_, bias)| check("logit_bias", bias, true, "a finite number"))
    }
}

fn check(param: &'static str, value: f32, in_range: bool, expected: &'static str) -> Result<(), SubmitError> {
    if in_range && value.is_finite() {
        return Ok(());
    }
    Err(SubmitError::InvalidParameter { param, value: value.to_string(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_without_meaning_are_refused_by_name() {
        type Break = fn(&mut SamplingParams);
        let cases: [(&str, Break); 9] = [
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::NAN),
            ("temperature", |p| p.temperature = f32::INFINITY),
            ("top_p", |p| p.top_p = 0.0),
            ("top_p", |p| p.top_p = 1.01),
            ("min_p", |p| p.min_p = -0.01),
            ("repetition_penalty", |p| p.repetition_penalty = 0.0),
            ("frequency_penalty", |p| p.frequency_penalty = f32::NAN),
            ("logit_bias", |p| p.logit_bias = vec![(0, f32::NEG_INFINITY)]),
        ];
        for (expected, break_it) in cases {
            let mut params = SamplingParams::default();
            params.validate().expect("the defaults");
            break_it(&mut params);
            match params.validate() {
                Err(SubmitError::InvalidParameter { param, .. }) => assert_eq!(param, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
