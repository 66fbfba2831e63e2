//! RMSNorm with its weight.

use ossia_kernels::RmsNorm;

use super::ModelOptions;
use crate::weights::Loader;
use crate::{GptOssConfig, ModelError};

/// The norm whose weight is the tensor `name`, of width `hidden_size`.
pub(super) fn load_norm(
    config: &GptOssConfig,
    options: &ModelOptions,
    name: &str,
    loader: &mut Loader,
) -> Result<RmsNorm, ModelError> {
    let weight = loader.vector(name, &[config.hidden_size])?;
    Ok(options.backend.rms_norm(weight, config.rms_norm_eps as f32)?)
}
