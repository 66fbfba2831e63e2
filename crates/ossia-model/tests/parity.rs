//! Logits against transformers' GptOssForCausalLM in float32. The goldens are made by
//! tests/parity/make_goldens.py; random checkpoints are made in memory from the same seed.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use candle_core::Device;
use common::{logits_of, parity_dir};
use ossia_model::{Backend, ComputeType, GptOss, GptOssConfig, ModelOptions};
use safetensors::{SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};

/// Largest difference allowed, in units of the largest |logit|.
const TOLERANCE: f32 = 2e-3;

/// Tokens per pass: more than one pass for the long prompt, so that it also crosses chunks.
const CHUNK: usize = 1024;

const LENGTHS: [usize; 5] = [1, 17, 129, 300, 5000];

#[derive(Debug)]
struct Difference {
    /// Largest |difference| over the largest |logit|.
    ratio: f32,
    /// Root mean square of the differences over that of the logits.
    rms: f32,
    /// Positions whose most likely token differs, of those where the reference is sure beyond the tolerance.
    wrong_argmax: usize,
}

/// What the reference says about one prompt.
struct Golden {
    ids: Vec<u32>,
    positions: Vec<u32>,
    columns: Vec<u32>,
    logits: Vec<f32>,
    argmax: Vec<u32>,
    lead: Vec<f32>,
    max_abs: f32,
}

impl Golden {
    fn read(file: &SafeTensors, length: usize) -> Self {
        let tensor = |name: &str| file.tensor(&format!("{length}.{name}")).unwrap();
        Self {
            ids: u32s(&tensor("ids")),
            positions: u32s(&tensor("positions")),
            columns: u32s(&tensor("columns")),
            logits: f32s(&tensor("logits")),
            argmax: u32s(&tensor("argmax")),
            lead: f32s(&tensor("lead")),
            max_abs: f32s(&tensor("max_abs"))[0],
        }
    }

    fn compare(&self, logits: &[f32], vocab_size: usize) -> Difference {
        let mut worst = 0f32;
        let (mut squares, mut wrong_argmax) = (0f32, 0);
        for (idx, &position) in self.positions.iter().enumerate() {
            let row = &logits[position as usize * vocab_size..][..vocab_size];
            let expected = &self.logits[idx * self.columns.len()..][..self.columns.len()];
            for (&column, expected) in self.columns.iter().zip(expected) {
                let difference = (row[column as usize] - expected).abs();
                assert!(difference.is_finite());
                worst = worst.max(difference);
                squares += difference * difference;
            }
            let argmax = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            let sure = self.lead[idx] > 2.0 * TOLERANCE * self.max_abs;
            wrong_argmax += usize::from(sure && argmax != self.argmax[idx] as usize);
        }
        let rms = (squares / self.logits.iter().map(|x| x * x).sum::<f32>()).sqrt();
        Difference { ratio: worst / self.max_abs, rms, wrong_argmax }
    }
}

fn u32s(tensor: &TensorView) -> Vec<u32> {
    tensor.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn f32s(tensor: &TensorView) -> Vec<f32> {
    tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn check(name: &str, model: &GptOss, lengths: &[usize], tolerance: f32) {
    check_file(&parity_dir().join(format!("goldens/{name}.safetensors")), model, lengths, tolerance);
}

fn check_file(path: &Path, model: &GptOss, lengths: &[usize], tolerance: f32) {
    let name = path.file_stem().unwrap().to_string_lossy();
    let file = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for &length in lengths {
        let golden = Golden::read(&file, length);
        assert_eq!(golden.ids.len(), length);
        let logits = logits_of(model, &golden.ids, CHUNK);
        let difference = golden.compare(&logits, model.config().vocab_size);
        eprintln!("{name}, {length} tokens: {difference:?}");
        assert!(difference.ratio <= tolerance, "{name}, {length} tokens: {difference:?}");
        assert!(difference.wrong_argmax == 0 || tolerance > TOLERANCE, "{name}, {length} tokens");
    }
}

fn random_model(name: &str, seed: u64, compute: ComputeType) -> GptOss {
    random_model_on(Backend::cpu(), name, seed, compute)
}

fn random_model_on(backend: Backend, name: &str, seed: u64, compute: ComputeType) -> GptOss {
    let config = GptOssConfig::from_file(&parity_dir().join(format!("configs/{name}.json"))).unwrap();
    GptOss::dummy(config, seed, &ModelOptions { compute, backend, ..ModelOptions::default() }).unwrap()
}

#[test]
fn tiny() {
    check("tiny", &random_model("tiny", 1, ComputeType::F32), &LENGTHS, TOLERANCE);
}

#[test]
fn uneven() {
    check("uneven", &random_model("uneven", 2, ComputeType::F32), &LENGTHS, TOLERANCE);
}

#[test]
fn layers_of_20b() {
    check("layers-of-20b", &random_model("layers-of-20b", 3, ComputeType::F32), &LENGTHS[..4], TOLERANCE);
}

/// Beyond the original context of 20b.
#[test]
#[ignore = "three teraflop: half a minute of an idle machine"]
fn layers_of_20b_long() {
    check("layers-of-20b", &random_model("layers-of-20b", 3, ComputeType::F32), &LENGTHS[4..], TOLERANCE);
}

/// The form that runs on every device, here on the CPU.
#[test]
fn generic_ops() {
    for (name, seed) in [("tiny", 1), ("uneven", 2)] {
        let model = random_model_on(Backend::generic(&Device::Cpu), name, seed, ComputeType::F32);
        check(name, &model, &LENGTHS[..4], TOLERANCE);
    }
    check("demo", &demo_model(Backend::generic(&Device::Cpu)), &LENGTHS[..4], TOLERANCE);
}

#[test]
fn demo() {
    check("demo", &demo_model(Backend::cpu()), &LENGTHS, TOLERANCE);
}

/// The demo checkpoint, if the golden is of its weights; two layers with their experts in RAM, whatever the backend.
fn demo_model(backend: Backend) -> GptOss {
    let checkpoint = parity_dir().join("../../models/demo");
    let weights = std::fs::read(checkpoint.join("model.safetensors")).unwrap();
    let golden = std::fs::read(parity_dir().join("goldens/demo.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let is_of_these_weights = golden.tensor("sha256").unwrap().data() == Sha256::digest(&weights).as_slice();
    assert!(is_of_these_weights, "models/demo has changed: run tests/parity/make_goldens.py demo");
    let compute = ComputeType::F32;
    let options = ModelOptions { compute, backend, cpu_moe: 2, ..ModelOptions::default() };
    GptOss::load(&checkpoint, &options, &mut |_| {}).unwrap()
}

/// What rounding activations to bf16 costs: stated, and bounded so that it cannot grow unseen.
#[test]
fn bf16_activations_stay_near() {
    let backends = [Backend::cpu(), Backend::generic(&Device::Cpu)];
    for (backend, name, seed) in backends.iter().flat_map(|b| [(b, "tiny", 1), (b, "uneven", 2)]) {
        let model = random_model_on(backend.clone(), name, seed, ComputeType::Bf16);
        let file = std::fs::read(parity_dir().join(format!("goldens/{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        for length in [17, 300] {
            let golden = Golden::read(&file, length);
            let logits = logits_of(&model, &golden.ids, CHUNK);
            let difference = golden.compare(&logits, model.config().vocab_size);
            eprintln!("{name} in bf16, {length} tokens: {difference:?}");
            assert!(difference.rms < 0.1, "{name}, {length} tokens: {difference:?}");
        }
    }
}

/// Any checkpoint against a golden of it: `OSSIA_PARITY='CHECKPOINT GOLDEN f32 2e-3' cargo nextest run -p
/// ossia-model --run-ignored all --no-capture by_hand`.
#[test]
#[ignore = "needs OSSIA_PARITY"]
fn by_hand() {
    let arguments = std::env::var("OSSIA_PARITY").unwrap();
    let [checkpoint, golden, dtype, tolerance] = arguments.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let compute = if dtype == "f32" { ComputeType::F32 } else { ComputeType::Bf16 };
    let options = ModelOptions { compute, ..ModelOptions::default() };
    let model = GptOss::load(Path::new(checkpoint), &options, &mut |_| {}).unwrap();
    check_file(Path::new(golden), &model, &LENGTHS, tolerance.parse().unwrap());
}
