//! What `--device` names, and the backend that it gives.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use candle_core::{Device, DeviceLocation};
use ossia_kernels::{Backend, ComputeType};

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// The first GPU that this build and this machine have, else the CPU.
    Auto,
    Cpu,
    /// The CPU in candle's own ops, as a device without kernels of ours runs; slow, for tests.
    CpuGeneric,
    /// The CUDA device of this index.
    Cuda(usize),
    Metal,
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cpu-generic" => Ok(Self::CpuGeneric),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(index)) => Ok(Self::Cuda(index)),
                _ => Err(format!("'{text}' is not one of auto, cpu, cuda:N, metal")),
            },
        }
    }
}

impl DeviceArg {
    /// Opens the device, with the form of the ops that is best there for `compute`.
    pub(crate) fn backend(self, compute: ComputeType) -> Result<Backend> {
        let device = match self {
            Self::Auto => first_gpu().unwrap_or(Device::Cpu),
            Self::Cpu => Device::Cpu,
            Self::CpuGeneric => return Ok(Backend::generic(&Device::Cpu)),
            Self::Cuda(index) => cuda(index).with_context(|| format!("--device cuda:{index}"))?,
            Self::Metal => metal().context("--device metal")?,
        };
        Ok(Backend::new(&device, compute).unwrap_or_else(|error| {
            tracing::warn!("our kernels do not run on this device, candle's ops take their place: {error}");
            Backend::generic(&device)
        }))
    }

    /// The same for each of `num_ranks` ranks: GPUs one after the other, or all of them on the CPU.
    pub(crate) fn backends(self, compute: ComputeType, num_ranks: usize) -> Result<Vec<Backend>> {
        let first = self.backend(compute)?;
        let next = |rank: usize| match first.device().location() {
            DeviceLocation::Cpu => Ok(first.clone()),
            DeviceLocation::Cuda { gpu_id } => Self::Cuda(gpu_id + rank).backend(compute),
            DeviceLocation::Metal { .. } => bail!("this machine has one Metal device"),
        };
        let others =
            (1..num_ranks).map(next).collect::<Result<Vec<_>>>().context("--tensor-parallel-size")?;
        Ok([vec![first], others].concat())
    }
}

/// The first GPU, `None` if this build or this machine has none; the log says why.
fn first_gpu() -> Option<Device> {
    if candle_core::utils::cuda_is_available() {
        match cuda(0) {
            Ok(device) => return Some(device),
            Err(error) => tracing::info!("no CUDA device: {error}"),
        }
    }
    if candle_core::utils::metal_is_available() {
        match metal() {
            Ok(device) => return Some(device),
            Err(error) => tracing::info!("no Metal device: {error}"),
        }
    }
    None
}

/// On a stream of its own, so that its work can be captured in a graph.
fn cuda(index: usize) -> candle_core::Result<Device> {
    Device::new_cuda_with_stream(index)
}

fn metal() -> candle_core::Result<Device> {
    Device::new_metal(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_argument_is_read_as_what_it_names() {
        for (text, expected) in [
            ("auto", Some(DeviceArg::Auto)),
            ("cpu", Some(DeviceArg::Cpu)),
            ("cuda", Some(DeviceArg::Cuda(0))),
            ("cuda:3", Some(DeviceArg::Cuda(3))),
            ("metal", Some(DeviceArg::Metal)),
            ("cuda:", None),
            ("cuda:-1", None),
            ("gpu", None),
        ] {
            assert_eq!(text.parse::<DeviceArg>().ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named_in_the_error() {
        // No machine has that many.
        let error = DeviceArg::Cuda(4096).backend(ComputeType::Bf16).expect_err("no such device");
        assert!(format!("{error:#}").starts_with("--device cuda:4096: "), "{error:#}");
    }

    #[test]
    fn ranks_are_on_the_cpu_or_on_gpus_one_after_the_other() {
        assert_eq!(DeviceArg::Cpu.backends(ComputeType::Bf16, 3).expect("the CPU").len(), 3);
        let error = DeviceArg::Cuda(4096).backends(ComputeType::Bf16, 2).expect_err("no such device");
        assert!(format!("{error:#}").starts_with("--device cuda:4096: "), "{error:#}");
    }

    #[test]
    fn auto_always_finds_a_device() {
        DeviceArg::Auto.backend(ComputeType::Bf16).expect("the CPU at least");
    }
}
