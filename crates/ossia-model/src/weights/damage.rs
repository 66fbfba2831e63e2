//! Which tensor of a checkpoint is damaged, when the model's logits say that one is.

use std::path::{Path, PathBuf};

use half::{bf16, f16};

use super::{Checkpoint, RawTensor, WeightAccess, WeightSource};
use crate::ModelError;

/// No weight of a model that works is larger: a flipped bit of an exponent makes it so.
const LARGEST: f32 = 1e9;
/// The MXFP4 scale 2^30, as large.
const LARGEST_SCALE: u8 = 127 + 30;

/// A tensor with a value that no weight has.
#[derive(Clone, Debug, PartialEq)]
pub struct DamagedTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// The file that holds it.
    pub path: PathBuf,
    /// What was found: not finite, or too large to be a weight.
    pub value: f32,
}

/// The first tensor by name, if any, of the checkpoint in `dir` that holds a value which is not finite or larger than 1e9.
/// Reads everything.
///
/// # Errors
/// As [`crate::GptOss::load`] for files that cannot be read.
pub fn find_damage(dir: &Path) -> Result<Option<DamagedTensor>, ModelError> {
    let checkpoint = Checkpoint::open(dir, WeightAccess::Mapped)?;
    let mut names: Vec<&str> = checkpoint.sizes().map(|(name, _)| name).collect();
    names.sort_unstable();
    for name in names {
        if let Some(tensor) = checkpoint.tensor(name)?
            && let Some(value) = implausible(name, &tensor)
        {
            return Ok(Some(DamagedTensor { name: name.to_owned(), path: tensor.path, value }));
        }
    }
    Ok(None)
}

/// A value that no weight has, if the tensor holds one.
fn implausible(name: &str, tensor: &RawTensor) -> Option<f32> {
    let bytes = tensor.bytes.as_slice();
    match tensor.dtype.as_str() {
        "BF16" => too_large(bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        "F16" => too_large(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        "F32" => too_large(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        "U8" if name.ends_with("_scales") => {
            let scale = bytes.iter().find(|scale| **scale > LARGEST_SCALE)?;
            Some(if *scale == u8::MAX { f32::NAN } else { 2f32.powi(i32::from(*scale) - 127) })
        }
        _ => None,
    }
}

fn too_large(mut values: impl Iterator<Item = f32>) -> Option<f32> {
    values.find(|value| value.is_nan() || value.abs() > LARGEST)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{GptOssConfig, write_checkpoint};

    #[test]
    fn a_flipped_bit_of_an_exponent_names_its_tensor() {
        let config = include_str!("../../../../tests/parity/configs/tiny.json");
        let config = GptOssConfig::from_json(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), &config, 3).unwrap();
        assert_eq!(find_damage(dir.path()).unwrap(), None);
        let path = dir.path().join("model.safetensors");
        let good = std::fs::read(&path).unwrap();
        let checkpoint = Checkpoint::open(dir.path(), WeightAccess::Read).unwrap();
        for (name, high_byte, bits) in [
            ("model.layers.1.self_attn.q_proj.weight", 1, 0x7f),
            ("model.layers.0.mlp.experts.down_proj_scales", 0, 0xff),
            ("model.norm.weight", 1, 0x7f),
        ] {
            let tensor = checkpoint.tensor(name).unwrap().unwrap();
            let bytes = tensor.bytes.as_slice();
            let at = good.windows(bytes.len()).position(|window| window == bytes).unwrap();
            let mut damaged = good.clone();
            damaged[at + high_byte] |= bits;
            std::fs::write(&path, damaged).unwrap();
            let found = find_damage(dir.path()).unwrap().unwrap();
            assert_eq!((found.name.as_str(), &found.path), (name, &path));
            std::fs::write(&path, &good).unwrap();
        }
    }
}
