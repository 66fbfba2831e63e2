//! YaRN rotary embedding: frequencies once, angles per batch.

use std::f64::consts::PI;

use candle_core::{Device, Tensor};

use crate::{GptOssConfig, ModelError, YarnConfig};

/// Cosines and sines of the tokens of a batch, scaled by YaRN's attention factor.
pub(super) struct CosSin {
    /// `[num_tokens, head_dim / 2]`.
    pub(super) cos: Tensor,
    /// `[num_tokens, head_dim / 2]`.
    pub(super) sin: Tensor,
}

/// Rotary frequencies. Angles are made per batch: 32 of them a token cost less than a table of 131072 positions.
pub(super) struct RotaryEmbedding {
    /// Angle per position, `[head_dim / 2]`, in f32 as both references have it.
    inv_freq: Vec<f32>,
    attention_factor: f64,
}

impl RotaryEmbedding {
    pub(super) fn new(config: &GptOssConfig) -> Self {
        let head_dim = config.head_dim;
        let inv_freq = |dim: usize| 1.0 / (config.rope_theta as f32).powf(2.0 * dim as f32 / head_dim as f32);
        let plain: Vec<f32> = (0..head_dim / 2).map(inv_freq).collect();
        match &config.rope_scaling {
            None => Self { inv_freq: plain, attention_factor: 1.0 },
            Some(yarn) => Self {
                inv_freq: stretch(&plain, yarn, config.rope_theta),
                attention_factor: yarn.attention_factor,
            },
        }
    }

    /// Cosines and sines at `positions`.
    pub(super) fn at(&self, positions: &[u32]) -> Result<CosSin, ModelError> {
        let shape = (positions.len(), self.inv_freq.len());
        let angles: Vec<f32> =
            positions.iter().flat_map(|&p| self.inv_freq.iter().map(move |freq| p as f32 * freq)).collect();
        let scaled = |f: fn(f64) -> f64| -> Result<Tensor, ModelError> {
            let values =
                angles.iter().map(|&angle| (f(f64::from(angle)) * self.attention_factor) as f32).collect();
            Ok(Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu)?)
        };
        Ok(CosSin { cos: scaled(f64::cos)?, sin: scaled(f64::sin)? })
    }
}

/// Keeps the frequencies that turn often over the original context, divides the slow ones by `factor`,
/// and ramps between.
fn stretch(plain: &[f32], yarn: &YarnConfig, theta: f64) -> Vec<f32> {
    let head_dim = 2.0 * plain.len() as f64;
    // The dimension that turns `rotations` times over the original context.
    let dim_of = |rotations: f64| {
        let context = yarn.original_max_position_embeddings as f64;
        head_dim * (context / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (dim_of(yarn.beta_fast), dim_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let low = low.max(0.0);
    let mut high = high.min(head_dim - 1.0);
    if low == high {
        high += 0.001;
    }
    let stretched = |(dim, &freq): (usize, &f32)| {
        let slow = ((dim as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (f64::from(freq) / yarn.factor * slow + f64::from(freq) * (1.0 - slow)) as f32
    };
    plain.iter().enumerate().map(stretched).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequencies of gpt-oss, as transformers 5 computes them.
    #[test]
    fn frequencies_are_those_of_the_reference() {
        let yarn = YarnConfig {
            factor: 32.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
            attention_factor: 1.3465735902799727,
        };
        let plain: Vec<f32> = (0..32).map(|i| 1.0 / 150_000f32.powf(i as f32 / 32.0)).collect();
        let stretched = stretch(&plain, &yarn, 150_000.0);
        for (dim, expected) in EXPECTED {
            let relative = (stretched[dim] - expected).abs() / expected;
            assert!(relative < 1e-6, "{dim}: {} {expected}", stretched[dim]);
        }
    }

    const EXPECTED: [(usize, f32); 9] = [
        (0, 1.0),
        (1, 0.689_044_3),
        (7, 0.073_744_565),
        (8, 0.050_813_273),
        (9, 0.031_705_696),
        (15, 0.001_052_602_2),
        (17, 1.293_187e-4),
        (18, 3.830_881_2e-5),
        (31, 3.023_511_4e-7),
    ];
}
