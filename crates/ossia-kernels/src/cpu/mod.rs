//! What the CPU ops share: which instructions to use and how to spread work over threads.

mod affinity;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16_pairs;
mod helpers;
mod isa;
mod memory;
mod pool;
mod read_speed;
mod scratch;
mod shared;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub use affinity::{interleave_memory, parse_list, pin_pass_thread, pin_threads};
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16_pairs::{Bf16Pairs, bf16_pairs, dot_bf16, to_bf16};
pub use isa::Isa;
#[cfg(target_arch = "x86_64")]
pub(crate) use isa::has_avx_vnni;
pub(crate) use memory::prefetch;
pub use memory::{ask_for_huge_pages, keep_freed_memory};
pub(crate) use pool::{for_each_task, threads_for};
pub use pool::{num_threads, set_num_threads};
pub use read_speed::measure_read_speed;
pub(crate) use scratch::Scratch;
pub(crate) use shared::{SharedSlice, filled};
#[cfg(target_arch = "x86_64")]
pub(crate) use transpose::{transpose_8x8, transpose_16x16};

use candle_core::{CpuStorage, DType, Layout, Tensor};

use crate::{KernelError, Result};

/// Fails unless `x` is `[n, width]` f32.
pub(crate) fn check_activation(op: &'static str, what: &'static str, x: &Tensor, width: usize) -> Result<()> {
    if x.dtype() != DType::F32 {
        return Err(KernelError::ActivationDType { op, found: x.dtype() });
    }
    match x.dims() {
        [_, w] if *w == width => Ok(()),
        found => {
            Err(KernelError::Shape { op, what, expected: format!("[n, {width}]"), found: found.to_vec() })
        }
    }
}

/// The elements of a contiguous f32 tensor.
pub(crate) fn contiguous_f32<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op: "ossia-kernels" }),
    }
}
