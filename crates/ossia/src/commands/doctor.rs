//! `ossia doctor`: what this build and machine have, and whether the ops of a device are right and how fast they are.
//! Everything it needs lies in the program.

use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use ossia_kernels::{Backend, CheckShapes, ComputeType, OpCheck};
use ossia_model::{GptOss, ModelOptions};
use serde_json::{Value, json};

use crate::cli::DoctorArgs;
use crate::direct::Direct;
use crate::memory::{self, ByteSize};
use crate::{demo, load};

/// Tokens of the demo model's check: a prompt longer than its window, then single steps.
const PROMPT_LEN: usize = 280;
const DECODE_LEN: usize = 20;

/// Largest root mean square of the differences over that of the logits: bf16 activations against f32.
const LOGITS_LIMIT: f64 = 0.1;

/// Examines the device and, if asked for, its ops; fails if one of them is wrong.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    load::set_threads(args.threads);
    let backend = args.device.backend(ComputeType::Bf16)?;
    let mut report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "device": format!("{:?}", backend.device().location()),
        "form": backend.form_name(),
        "built_with_cuda": candle_core::utils::cuda_is_available(),
        "built_with_metal": candle_core::utils::metal_is_available(),
        "machine_memory_bytes": memory::available(),
    });
    if let Some((free, total)) = backend.memory()? {
        report["device_free_memory_bytes"] = free.into();
        report["device_total_memory_bytes"] = total.into();
    }
    let mut wrong = 0;
    if args.kernels {
        let seed = args.seed.unwrap_or_else(random_seed);
        let shapes = if backend.device().is_cpu() { CheckShapes::Small } else { CheckShapes::All };
        let checks = ossia_kernels::check_ops(&backend, shapes, seed)?;
        let (copy_gb_per_s, matmul_tflops) = ceilings(backend.device())?;
        let logits_error = demo_logits_error(&backend)?;
        wrong = checks.iter().filter(|check| !check.passed()).count();
        wrong += usize::from(logits_error.is_nan() || logits_error > LOGITS_LIMIT);
        report["seed"] = seed.into();
        report["copy_gb_per_s"] = copy_gb_per_s.into();
        report["bf16_matmul_tflops"] = matmul_tflops.into();
        report["demo_logits_error"] = logits_error.into();
        report["ops"] = checks.iter().map(op_json).collect();
        if !args.json {
            print_table(&checks, copy_gb_per_s);
        }
    }
    print_report(&report, args.json);
    ensure!(wrong == 0, "{wrong} checks failed");
    Ok(())
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// What a copy within the device's memory reaches, bytes read and written, in GB/s; and a bf16 matrix product, in
/// teraflop per second. The larger of ten runs each.
fn ceilings(device: &Device) -> Result<(f64, f64)> {
    // The CPU would need minutes for what a GPU does in milliseconds.
    let (copy_len, size) = if device.is_cpu() { (64 << 20, 512) } else { (1 << 30, 8192) };
    let bytes = Tensor::zeros(copy_len, DType::U8, device)?;
    let matrix = Tensor::rand(-1f32, 1.0, (size, size), device)?.to_dtype(DType::BF16)?;
    let copy_s = fastest(device, || Ok(drop(bytes.copy()?)))?;
    let matmul_s = fastest(device, || Ok(drop(matrix.matmul(&matrix)?)))?;
    Ok((2.0 * copy_len as f64 / copy_s / 1e9, 2.0 * (size as f64).powi(3) / matmul_s / 1e12))
}

fn fastest(device: &Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        device.synchronize()?;
        let started = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Logits of the demo model on the device against those of the CPU in f32, over a prompt and single steps.
fn demo_logits_error(backend: &Backend) -> Result<f64> {
    let expected = demo_logits(Backend::cpu(), ComputeType::F32)?;
    let found = demo_logits(backend.clone(), ComputeType::Bf16)?;
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&expected).map(|(f, e)| f64::from(*f) - f64::from(*e)));
    Ok(difference / norm(&mut expected.iter().map(|&e| f64::from(e))))
}

fn demo_logits(backend: Backend, compute: ComputeType) -> Result<Vec<f32>> {
    let dir = tempfile::tempdir()?;
    demo::write_to(dir.path())?;
    let model = GptOss::load(dir.path(), &ModelOptions { compute, backend, cpu_moe: 0 }, &mut |_| {})?;
    let vocab_size = model.config().vocab_size as u32;
    let ids: Vec<u32> =
        (0..(PROMPT_LEN + DECODE_LEN) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab_size).collect();
    let (prompt, decode) = ids.split_at(PROMPT_LEN);
    let mut direct = Direct::new(model, 1, ids.len(), PROMPT_LEN)?;
    let mut logits = direct.forward(&[prompt], 0, true)?.data().to_vec();
    for (index, id) in decode.iter().enumerate() {
        let step = direct.forward(&[std::slice::from_ref(id)], PROMPT_LEN + index, true)?;
        logits.extend_from_slice(step.data());
    }
    Ok(logits)
}

fn op_json(check: &OpCheck) -> Value {
    json!({
        "op": check.name,
        "passed": check.passed(),
        "error": check.error,
        "limit": check.limit,
        "seconds": check.seconds,
        "gb_per_s": check.gb_per_s(),
    })
}

#[allow(clippy::print_stdout)]
fn print_table(checks: &[OpCheck], copy_gb_per_s: f64) {
    println!("| op | | error | time | GB/s | of the copy |");
    println!("|---|---|---|---|---|---|");
    for check in checks {
        let verdict = if check.passed() { "ok" } else { "WRONG" };
        let (micros, gb_per_s) = (check.seconds * 1e6, check.gb_per_s());
        let share = 100.0 * gb_per_s / copy_gb_per_s;
        println!(
            "| {} | {verdict} | {:.1e} | {micros:.1} us | {gb_per_s:.1} | {share:.0}% |",
            check.name, check.error
        );
    }
    println!();
}

#[allow(clippy::print_stdout)]
fn print_report(report: &Value, as_json: bool) {
    if as_json {
        println!("{report:#}");
        return;
    }
    for (key, value) in report.as_object().into_iter().flatten().filter(|(key, _)| *key != "ops") {
        match (key.strip_suffix("_bytes"), value.as_u64()) {
            (Some(key), Some(bytes)) => println!("{key}: {}", ByteSize(bytes)),
            _ => println!("{key}: {value}"),
        }
    }
}
