//! Every op of a backend against the CPU kernels on random inputs, with its time: what a user runs on a device that we
//! have not seen.

mod attention;
mod dense;
mod moe;
mod random;

use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};

pub(crate) use self::random::Random;
use crate::{Backend, Result};

/// What one op did with one shape.
#[derive(Clone, Debug)]
pub struct OpCheck {
    /// The op and the shape in words.
    pub name: String,
    /// Norm of the difference to the CPU kernel over the norm of the CPU kernel's result; NaN if a value is not finite.
    pub error: f64,
    /// Largest error that passes.
    pub limit: f64,
    /// Median time of a call, in seconds.
    pub seconds: f64,
    /// Fewest bytes that a call must read and write.
    pub bytes: u64,
}

impl OpCheck {
    /// Whether the result was right.
    pub fn passed(&self) -> bool {
        self.error <= self.limit
    }

    /// Achieved bandwidth in GB/s, counting [`Self::bytes`].
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e9
    }
}

/// Rounding of activations to bf16 between and inside the ops.
const LIMIT: f64 = 1e-2;

/// Calls that are timed.
const REPETITIONS: usize = 20;

/// Which shapes are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckShapes {
    /// Small and odd ones: seconds on a CPU.
    Small,
    /// Those and gpt-oss-20b's.
    All,
}

/// Checks and times every op of `backend`.
///
/// # Errors
/// The first op that fails outright.
pub fn check_ops(backend: &Backend, shapes: CheckShapes, seed: u64) -> Result<Vec<OpCheck>> {
    let random = &mut Random::new(seed);
    let mut checks = dense::check(backend, shapes, random)?;
    checks.extend(moe::check(backend, shapes, random)?);
    checks.extend(attention::check(backend, shapes, random)?);
    Ok(checks)
}

/// Calls `run` on the CPU and on `backend`, compares and times.
fn compare(
    name: String,
    backend: &Backend,
    bytes: u64,
    mut run: impl FnMut(&Backend) -> Result<Box<dyn FnMut() -> Result<Tensor>>>,
) -> Result<OpCheck> {
    let expected = run(&Backend::cpu())?()?;
    let mut on_device = run(backend)?;
    let error = relative_error(&on_device()?, &expected)?;
    let seconds = median_time(backend, &mut on_device)?.as_secs_f64();
    Ok(OpCheck { name, error, limit: LIMIT, seconds, bytes })
}

fn relative_error(found: &Tensor, expected: &Tensor) -> Result<f64> {
    let values = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
    let (found, expected) = (values(found)?, values(expected)?);
    if found.len() != expected.len() || found.iter().any(|x| !x.is_finite()) {
        return Ok(f64::NAN);
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&expected).map(|(f, e)| f64::from(*f) - f64::from(*e)));
    Ok(difference / norm(&mut expected.iter().map(|&e| f64::from(e))))
}

fn median_time(backend: &Backend, run: &mut dyn FnMut() -> Result<Tensor>) -> Result<Duration> {
    let mut times = Vec::with_capacity(REPETITIONS);
    for _ in 0..REPETITIONS {
        backend.device().synchronize()?;
        let started = Instant::now();
        run()?;
        backend.device().synchronize()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[REPETITIONS / 2])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn candles_ops_pass() {
        let checks = check_ops(&Backend::generic(&Device::Cpu), CheckShapes::Small, 1).unwrap();
        assert!(checks.len() >= 19);
        for check in checks {
            assert!(check.passed() && check.seconds > 0.0, "{check:?}");
        }
    }

    #[test]
    fn a_wrong_or_unfinished_result_does_not_pass() {
        let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let error = |found: &[f32]| relative_error(&tensor(found), &tensor(&[3.0, 4.0])).unwrap();
        assert_eq!(error(&[3.0, 4.0]), 0.0);
        assert!((error(&[3.0, 4.5]) - 0.1).abs() < 1e-9);
        let check = |error| OpCheck { name: String::new(), error, limit: LIMIT, seconds: 1.0, bytes: 1 };
        assert!(check(error(&[3.0, 4.01])).passed() && !check(error(&[3.0, 4.1])).passed());
        assert!(!check(error(&[3.0])).passed() && !check(error(&[3.0, f32::NAN])).passed());
    }
}
