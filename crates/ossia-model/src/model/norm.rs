//! RMSNorm with its weight.

use ossia_kernels::RmsNorm;

use super::Shard;
use crate::ModelError;
use crate::weights::Loader;

/// The norm whose weight is the tensor `name`, of width `hidden_size`.
pub(super) fn load_norm(shard: &Shard, name: &str, loader: &mut Loader) -> Result<RmsNorm, ModelError> {
    let weight = loader.vector(name, [shard.config.hidden_size])?;
    Ok(shard.options.backend.rms_norm(weight, shard.config.rms_norm_eps as f32)?)
}
