//! RMSNorm with its weight.

use candle_core::Tensor;
use ossia_kernels::rms_norm;

use super::ModelOptions;
use crate::weights::Loader;
use crate::{GptOssConfig, ModelError};

/// `weight * x / sqrt(mean(x^2) + eps)`, all in f32.
pub(super) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(super) fn load(
        config: &GptOssConfig,
        options: &ModelOptions,
        name: &str,
        loader: &mut Loader,
    ) -> Result<Self, ModelError> {
        let weight = loader.vector(name, &[config.hidden_size])?;
        let weight = Tensor::from_vec(weight, config.hidden_size, &options.device)?;
        Ok(Self { weight, eps: config.rms_norm_eps as f32 })
    }

    /// `[n, hidden]` to the same.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(rms_norm(x, &self.weight, self.eps)?)
    }
}
