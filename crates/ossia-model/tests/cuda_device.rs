//! The whole model on the first CUDA device against the CPU: on a GPU, or over the driver that runs our kernels' CPU twins
//! (`cargo xtask cuda-dry-run`). Passes are of up to eight tokens, which need no kernel of candle's and no cuBLAS.

#![allow(clippy::unwrap_used)]

mod common;

use candle_core::Device;
use common::{logits_of, parity_dir};
use ossia_model::{Backend, ComputeType, GptOss, GptOssConfig, ModelOptions};

/// Crosses blocks and, for the demo, the window.
const LEN: usize = 150;

fn backend() -> Backend {
    let device = Device::new_cuda_with_stream(0).unwrap();
    let backend = Backend::new(&device, ComputeType::Bf16).unwrap();
    assert!(backend.name().contains("our kernels"), "{}", backend.name());
    backend
}

/// Root mean square of the difference over that of the CPU's exact logits.
fn error(load: impl Fn(&ModelOptions) -> GptOss, chunk: usize) -> f64 {
    let exact = load(&ModelOptions { compute: ComputeType::F32, ..ModelOptions::default() });
    let on_device = load(&ModelOptions { backend: backend(), ..ModelOptions::default() });
    let vocab_size = exact.config().vocab_size as u32;
    let ids: Vec<u32> = (0..LEN as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab_size).collect();
    let (found, expected) = (logits_of(&on_device, &ids, chunk), logits_of(&exact, &ids, LEN));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&expected).map(|(f, e)| f64::from(f - e)));
    difference / norm(&mut expected.iter().map(|&e| f64::from(e)))
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn random_weights() {
    for (name, chunk) in [("tiny", 1), ("tiny", 8), ("uneven", 3)] {
        let config = || GptOssConfig::from_file(&parity_dir().join(format!("configs/{name}.json"))).unwrap();
        let error = error(|options| GptOss::dummy(config(), 1, options).unwrap(), chunk);
        eprintln!("{name}, {chunk} tokens a pass: {error:.2e}");
        assert!(error < 0.02, "{name}, {chunk} tokens a pass: {error}");
    }
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn trained_weights() {
    let demo = parity_dir().join("../../models/demo");
    let error = error(|options| GptOss::load(&demo, options, &mut |_| {}).unwrap(), 8);
    eprintln!("demo: {error:.2e}");
    assert!(error < 0.1, "{error}");
}
