//! What `--device` names, and the backend that it gives.

use std::str::FromStr;

use anyhow::{Context, Result};
use candle_core::Device;
use ossia_kernels::Backend;

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
    /// Opens the device.
    pub(crate) fn backend(self) -> Result<Backend> {
        match self {
            Self::Auto => Ok(first_gpu().unwrap_or_else(Backend::cpu)),
            Self::Cpu => Ok(Backend::cpu()),
            Self::CpuGeneric => Ok(Backend::generic(&Device::Cpu)),
            Self::Cuda(index) => cuda(index).with_context(|| format!("--device cuda:{index}")),
            Self::Metal => metal().context("--device metal"),
        }
    }
}

/// The first GPU, `None` if this build or this machine has none; the log says why.
fn first_gpu() -> Option<Backend> {
    if candle_core::utils::cuda_is_available() {
        match cuda(0) {
            Ok(backend) => return Some(backend),
            Err(error) => tracing::info!("no CUDA device: {error:#}"),
        }
    }
    if candle_core::utils::metal_is_available() {
        match metal() {
            Ok(backend) => return Some(backend),
            Err(error) => tracing::info!("no Metal device: {error:#}"),
        }
    }
    None
}

/// On a stream of its own, so that its work can be captured in a graph.
fn cuda(index: usize) -> Result<Backend> {
    Ok(Backend::new(&Device::new_cuda_with_stream(index)?))
}

fn metal() -> Result<Backend> {
    Ok(Backend::new(&Device::new_metal(0)?))
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
        let error = DeviceArg::Cuda(4096).backend().expect_err("no such device");
        assert!(format!("{error:#}").starts_with("--device cuda:4096: "), "{error:#}");
    }

    #[test]
    fn auto_always_finds_a_device() {
        DeviceArg::Auto.backend().expect("the CPU at least");
    }
}
