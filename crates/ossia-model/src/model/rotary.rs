//! YaRN rotary embedding: frequencies once, angles per batch.

use std::f64::consts::PI;

use ossia_kernels::{Backend, CosSin, DeviceInput};

use crate::{GptOssConfig, ModelError, YarnConfig};

/// Rotary frequencies. Angles are made per batch: 32 of them a token cost less than a table of 131072 positions.
pub(super) struct RotaryEmbedding {
    /// Angle per position, `[head_dim / 2]`, in f32 as both references have it.
    inv_freq: Vec<f32>,
    attention_factor: f64,
}

impl RotaryEmbedding {
    pub(super) fn new(config: &GptOssConfig) -> Self {
        let pos_freqs = pos_freqs(config.rope_theta, config.head_dim);
        match &config.rope_scaling {
            None => {
                let inv_freq = pos_freqs.iter().map(|freq| 1.0 / freq).collect();
                Self { inv_freq, attention_factor: 1.0 }
            }
            Some(yarn) => Self {
                inv_freq: stretch(&pos_freqs, yarn, config.rope_theta),
                attention_factor: yarn.attention_factor,
            },
        }
    }

    /// Cosines and sines at `positions`, scaled by YaRN's attention factor, on the device of `backend` in the memory of `input`.
    pub(super) fn at(
        &self,
        positions: &[u32],
        backend: &Backend,
        input: &mut DeviceInput,
    ) -> Result<CosSin, ModelError> {
        let shape = (positions.len(), self.inv_freq.len());
        let len = shape.0 * shape.1;
        let mut values = vec![0f32; 2 * len];
        let (cos, sin) = values.split_at_mut(len);
        let angles = positions.iter().flat_map(|&p| self.inv_freq.iter().map(move |freq| p as f32 * freq));
        for ((angle, cos), sin) in angles.zip(cos).zip(sin) {
            let scaled = f64::from(angle).sin_cos();
            *cos = (scaled.1 * self.attention_factor) as f32;
            *sin = (scaled.0 * self.attention_factor) as f32;
        }
        let values = input.place(backend, &values)?;
        let part = |first: usize| values.narrow(0, first, len)?.reshape(shape);
        Ok(CosSin { cos: part(0)?, sin: part(len)? })
    }
}

/// Positions per radian of each pair of dimensions, `[head_dim / 2]`.
fn pos_freqs(theta: f64, head_dim: usize) -> Vec<f32> {
    // The exponent is rounded to f32 and so is the power, as in the references.
    let power = |dim: usize| theta.powf(f64::from(2.0 * dim as f32 / head_dim as f32)) as f32;
    (0..head_dim / 2).map(power).collect()
}

/// Keeps the frequencies that turn often over the original context, divides the slow ones by `factor`,
/// and ramps between. Each step is rounded to f32 as in the references: at position 5000 one unit in the
/// last place of a frequency turns its pair by 0.0003 radians, more than all other rounding together.
fn stretch(pos_freqs: &[f32], yarn: &YarnConfig, theta: f64) -> Vec<f32> {
    let head_dim = 2.0 * pos_freqs.len() as f64;
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
    let (low, width) = (low as f32, (high - low) as f32);
    let stretched = |(dim, &pos_freq): (usize, &f32)| {
        let (kept, divided) = (1.0 / pos_freq, 1.0 / (yarn.factor as f32 * pos_freq));
        let keep = 1.0 - ((dim as f32 - low) / width).clamp(0.0, 1.0);
        divided * (1.0 - keep) + kept * keep
    };
    pos_freqs.iter().enumerate().map(stretched).collect()
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
        let stretched = stretch(&pos_freqs(150_000.0, 64), &yarn, 150_000.0);
        for (dim, expected) in EXPECTED {
            let relative = (stretched[dim] - expected).abs() / expected;
            assert!(relative < 1.3e-7, "{dim}: {} {expected}", stretched[dim]);
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
        (18, 3.830_881e-5),
        (31, 3.023_511_4e-7),
    ];
}
