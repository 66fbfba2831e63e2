//! Random weights from a seed: the same bytes in memory as in a written checkpoint.
//!
//! Each tensor is a stream of its own, seeded by the seed and its name, and each 8 bytes of it come from
//! their index alone. So tensors can be made in any order, in pieces and by many threads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ossia_kernels::WeightBytes;
use rayon::prelude::*;

use super::layout::{self, Fill, TensorSpec};
use super::{RawTensor, WeightSource, huge_pages};
use crate::{GptOssConfig, ModelError};

/// Bytes made by one task; a multiple of 8.
const CHUNK_BYTES: usize = 1 << 20;

/// The weights of a configuration and a seed.
pub(crate) struct DummyWeights {
    specs: HashMap<String, TensorSpec>,
    seed: u64,
}

impl DummyWeights {
    /// Lays out the tensors; nothing is made yet.
    pub(crate) fn new(config: &GptOssConfig, seed: u64) -> Result<Self, ModelError> {
        let specs = layout::tensors(config)?;
        Ok(Self { specs: specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect(), seed })
    }

    /// Name and bytes of each tensor.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.specs.values().map(|spec| (spec.name.as_str(), spec.size_bytes() as u64))
    }
}

impl WeightSource for DummyWeights {
    fn tensor(&self, name: &str) -> Result<Option<RawTensor>, ModelError> {
        let Some(spec) = self.specs.get(name) else { return Ok(None) };
        let bytes = generate(spec, self.seed)
            .map_err(|source| ModelError::Io { path: self.place_of(name), source })?;
        let (dtype, shape) = (spec.dtype.to_owned(), spec.shape.clone());
        Ok(Some(RawTensor { dtype, shape, bytes, path: self.place_of(name) }))
    }

    fn place_of(&self, _name: &str) -> PathBuf {
        "(random weights)".into()
    }

    fn total_bytes(&self) -> u64 {
        self.specs.values().map(|spec| spec.size_bytes() as u64).sum()
    }
}

/// Makes a whole tensor.
fn generate(spec: &TensorSpec, seed: u64) -> std::io::Result<WeightBytes> {
    let len = spec.size_bytes();
    let mut map = huge_pages(len)?;
    map.par_chunks_mut(CHUNK_BYTES)
        .enumerate()
        .for_each(|(idx, chunk)| fill(spec, seed, idx * CHUNK_BYTES, chunk));
    Ok(WeightBytes::mapped(Arc::new(map.make_read_only()?), 0..len))
}

/// Fills `out` with the bytes of the tensor from `offset` (a multiple of 8) on.
pub(super) fn fill(spec: &TensorSpec, seed: u64, offset: usize, out: &mut [u8]) {
    let stream = mix(seed ^ name_hash(&spec.name));
    let first = (offset / 8) as u64;
    let word = |idx: usize| mix(stream.wrapping_add((first + idx as u64).wrapping_mul(GAMMA)));
    match spec.fill {
        Fill::Blocks => fill_words(out, word),
        Fill::Scales { exponent } => fill_words(out, |idx| scales(word(idx), exponent)),
        Fill::Bf16 { mean, std } => {
            // A uniform variable over -1..1 has a standard deviation of 1 / sqrt(3).
            let half_width = std * 3f32.sqrt();
            fill_words(out, word);
            to_bf16_values(out, mean, half_width);
        }
    }
}

fn fill_words(out: &mut [u8], word: impl Fn(usize) -> u64) {
    let (words, rest) = out.as_chunks_mut::<8>();
    for (idx, bytes) in words.iter_mut().enumerate() {
        *bytes = word(idx).to_le_bytes();
    }
    let last = word(words.len()).to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// Each byte to `exponent - 1` (a half), `exponent` or `exponent + 1` (a quarter each).
fn scales(word: u64, exponent: u8) -> u64 {
    let bytes = word.to_le_bytes().map(|byte| exponent - 1 + [0, 0, 1, 2][usize::from(byte >> 6)]);
    u64::from_le_bytes(bytes)
}

/// Each 16 random bits to a bf16 uniform over `mean - half_width..mean + half_width`. A loop of its own,
/// which the compiler vectorises: with the conversion of the half crate a 20b took ten times as long.
fn to_bf16_values(bytes: &mut [u8], mean: f32, half_width: f32) {
    for pair in bytes.as_chunks_mut::<2>().0 {
        let uniform = (f32::from(u16::from_le_bytes(*pair)) + 0.5) / 32768.0 - 1.0;
        let bits = (mean + half_width * uniform).to_bits();
        // To nearest, ties to even; there are no NaNs here.
        let rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        *pair = (rounded as u16).to_le_bytes();
    }
}

/// Step between the states of splitmix64.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of splitmix64.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(GAMMA);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a.
fn name_hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn spec(name: &str, fill: Fill) -> TensorSpec {
        TensorSpec { name: name.to_owned(), dtype: "BF16", shape: vec![50_001], fill }
    }

    fn bytes(spec: &TensorSpec, seed: u64) -> Vec<u8> {
        let mut out = vec![0; spec.size_bytes()];
        fill(spec, seed, 0, &mut out);
        out
    }

    #[test]
    fn pieces_make_the_whole_and_streams_differ() {
        let spec = spec("a", Fill::Blocks);
        let whole = bytes(&spec, 1);
        let mut piece = vec![0; 1000];
        fill(&spec, 1, 800, &mut piece);
        assert_eq!(piece, whole[800..1800]);
        assert_eq!(generate(&spec, 1).expect("memory").as_slice(), whole);
        assert_ne!(bytes(&spec, 2), whole);
        assert_ne!(bytes(&self::spec("b", Fill::Blocks), 1), whole);
    }

    #[test]
    fn bf16_values_have_the_spread_asked_for() {
        let bytes = bytes(&spec("a", Fill::Bf16 { mean: 1.0, std: 0.25 }), 3);
        let values: Vec<f64> =
            bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((mean - 1.0).abs() < 0.01 && (var.sqrt() - 0.25).abs() < 0.01, "{mean} {}", var.sqrt());
    }

    #[test]
    fn values_are_rounded_as_bf16_rounds() {
        let mut bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        to_bf16_values(&mut bytes, 0.3, 0.7);
        for (random, found) in bytes.as_chunks::<2>().0.iter().enumerate() {
            let uniform = (random as f32 + 0.5) / 32768.0 - 1.0;
            assert_eq!(bf16::from_le_bytes(*found), bf16::from_f32(0.3 + 0.7 * uniform));
        }
    }

    #[test]
    fn scales_stay_beside_their_exponent() {
        let bytes = bytes(&spec("a", Fill::Scales { exponent: 118 }), 3);
        assert!(bytes.iter().all(|byte| (117..=119).contains(byte)));
        assert!([117, 118, 119].iter().all(|e| bytes.contains(e)));
    }
}
