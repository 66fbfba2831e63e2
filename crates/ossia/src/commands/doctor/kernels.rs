//! `ossia doctor --kernels`: are the ops of a device right, and how fast? Everything it needs lies in the program, so that
//! one command tells about a device that we have not seen.

use std::fmt;

use anyhow::{Result, bail};
use ossia_kernels::{Backend, CheckShapes, ComputeType, OpCheck};
use ossia_model::{GptOss, ModelOptions};

use crate::demo;
use crate::device_speed;
use crate::direct::Direct;
use crate::memory::ByteSize;

/// Tokens of the demo model's check: a prompt longer than its window, then single steps.
const PROMPT_LEN: usize = 280;
const DECODE_LEN: usize = 20;

/// Largest root mean square of the differences over that of the logits: bf16 activations against f32.
const LOGITS_LIMIT: f64 = 0.1;

/// What was found about the ops of a device; shown as what a user would send in.
pub(super) struct KernelReport {
    device: String,
    /// Free and total bytes of the device's own memory.
    memory: Option<(u64, u64)>,
    seed: u64,
    copy_gb_per_s: f64,
    bf16_matmul_tflops: f64,
    demo_logits_error: f64,
    checks: Vec<OpCheck>,
}

impl KernelReport {
    /// Runs every op of `backend` on inputs of `seed`, or of a random one.
    pub(super) fn new(backend: &Backend, seed: Option<u64>) -> Result<Self> {
        let seed = seed.unwrap_or_else(random_seed);
        let shapes = if backend.device().is_cpu() { CheckShapes::Small } else { CheckShapes::All };
        let checks = ossia_kernels::check_ops(backend, shapes, seed)?;
        let copy_gb_per_s = device_speed::copy_bytes_per_s(backend.device())? / 1e9;
        let bf16_matmul_tflops = device_speed::bf16_matmul_flops(backend.device())? / 1e12;
        Ok(Self {
            device: backend.name(),
            memory: backend.memory()?,
            seed,
            copy_gb_per_s,
            bf16_matmul_tflops,
            demo_logits_error: demo_logits_error(backend)?,
            checks,
        })
    }

    /// # Errors
    /// Names what is wrong.
    pub(super) fn verdict(&self) -> Result<String> {
        let mut wrong: Vec<&str> =
            self.checks.iter().filter(|check| !check.passed()).map(|check| check.name.as_str()).collect();
        if self.demo_logits_error.is_nan() || self.demo_logits_error > LOGITS_LIMIT {
            wrong.push("the demo model's logits");
        }
        if !wrong.is_empty() {
            bail!("wrong on {}, seed {}: {}", self.device, self.seed, wrong.join("; "));
        }
        Ok(format!("{} checks passed on {}", self.checks.len() + 1, self.device))
    }
}

impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ossia {}, {}, seed {}", env!("CARGO_PKG_VERSION"), self.device, self.seed)?;
        if let Some((free, total)) = self.memory {
            writeln!(f, "memory {} free of {}", ByteSize(free), ByteSize(total))?;
        }
        writeln!(
            f,
            "copy {:.1} GB/s, bf16 product {:.2} TFLOP/s, demo model's logits off by {:.1e}\n",
            self.copy_gb_per_s, self.bf16_matmul_tflops, self.demo_logits_error
        )?;
        writeln!(f, "| op | | error | time | GB/s | of the copy |\n|---|---|---|---|---|---|")?;
        for check in &self.checks {
            let verdict = if check.passed() { "ok" } else { "WRONG" };
            let (micros, gb_per_s) = (check.seconds * 1e6, check.gb_per_s());
            let share = 100.0 * gb_per_s / self.copy_gb_per_s;
            writeln!(
                f,
                "| {} | {verdict} | {:.1e} | {micros:.1} us | {gb_per_s:.1} | {share:.0}% |",
                check.name, check.error
            )?;
        }
        Ok(())
    }
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
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
    let options = ModelOptions { compute, backend, ..ModelOptions::default() };
    let model = GptOss::load(dir.path(), &options, &mut |_| {})?;
    let vocab_size = model.config().vocab_size as u32;
    let ids: Vec<u32> =
        (0..(PROMPT_LEN + DECODE_LEN) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab_size).collect();
    let (prompt, decode) = ids.split_at(PROMPT_LEN);
    let mut direct = Direct::new(model, 1, ids.len(), PROMPT_LEN)?;
    let mut logits = all_rows(&mut direct, prompt, 0)?;
    for (index, id) in decode.iter().enumerate() {
        logits.extend(all_rows(&mut direct, std::slice::from_ref(id), PROMPT_LEN + index)?);
    }
    Ok(logits)
}

fn all_rows(direct: &mut Direct, ids: &[u32], context_len: usize) -> Result<Vec<f32>> {
    Ok(direct.forward(&[ids], context_len, true)?.data().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(error: f64, demo_logits_error: f64) -> KernelReport {
        let check =
            OpCheck { name: "linear".to_owned(), error, limit: 1e-2, seconds: 1e-3, bytes: 2_000_000 };
        KernelReport {
            device: "a device".to_owned(),
            memory: None,
            seed: 7,
            copy_gb_per_s: 4.0,
            bf16_matmul_tflops: 1.0,
            demo_logits_error,
            checks: vec![check],
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_the_seed_that_repeats_it() {
        assert!(report(1e-3, 1e-3).verdict().is_ok());
        let error = report(2e-2, f64::NAN).verdict().expect_err("wrong").to_string();
        assert_eq!(error, "wrong on a device, seed 7: linear; the demo model's logits");
        let shown = report(f64::NAN, 0.0).to_string();
        assert!(shown.contains("| linear | WRONG | NaN | 1000.0 us | 2.0 | 50% |"), "{shown}");
    }
}
