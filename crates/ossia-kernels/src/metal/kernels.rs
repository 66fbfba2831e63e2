//! Our kernels on one Metal device: compiled from their sources when it is opened, encoded where candle encodes its own.

use std::collections::HashMap;

use candle_core::{DType, Device, MetalDevice, MetalError, Shape, Storage, Tensor, bail};
use candle_metal_kernels::MetalKernelError;
use candle_metal_kernels::metal::ComputePipeline;
use objc2_metal::{MTLCompileOptions, MTLSize};

use crate::Result;
use crate::gpu::Grid;

/// The sources, headers before what includes them.
const SOURCES: &[&str] = &[
    include_str!("prelude.h"),
    include_str!("../attention/paged_attention.metal"),
    include_str!("../attention/rope_and_cache.metal"),
    include_str!("../attention/tiled_attention.metal"),
    include_str!("../linear/gemv.metal"),
    include_str!("../moe/combine.metal"),
    include_str!("../moe/mxfp4_metal.h"),
    include_str!("../moe/mxfp4_gemv.metal"),
    include_str!("../moe/mxfp4_grouped.metal"),
    include_str!("../moe/router.metal"),
    include_str!("../moe/sort_slots.metal"),
    include_str!("../rms_norm/rms_norm.metal"),
];

const KERNELS: &[&str] = &[
    "gemv_bf16_f32",
    "moe_combine_f32",
    "mxfp4_down_f32",
    "mxfp4_down_grouped_f32",
    "mxfp4_gate_up_f32",
    "mxfp4_gate_up_grouped_f32",
    "paged_attention_bf16",
    "rms_norm_f32",
    "rope_and_cache_f32_bf16",
    "router_top_k_f32",
    "sort_slots_u32",
    "tiled_attention_f32_bf16",
];

/// The kernels of one device.
#[derive(Debug)]
pub(crate) struct MetalKernels {
    device: Device,
    pipelines: HashMap<&'static str, ComputePipeline>,
}

impl MetalKernels {
    /// Compiles the kernels for `device`.
    pub(crate) fn load(device: &Device) -> Result<Self> {
        let metal = metal_of(device)?.metal_device();
        let options = MTLCompileOptions::new();
        // Attention counts on infinities and the router on NaN: fast math may assume that neither comes up.
        #[allow(deprecated)]
        options.setFastMathEnabled(false);
        let library =
            metal.new_library_with_source(&joined_sources(), Some(&options)).map_err(candle_error)?;
        let mut pipelines = HashMap::new();
        for &name in KERNELS {
            let function = library.get_function(name, None).map_err(candle_error)?;
            let pipeline = metal.new_compute_pipeline_state_with_function(&function).map_err(candle_error)?;
            pipelines.insert(name, pipeline);
        }
        Ok(Self { device: device.clone(), pipelines })
    }

    /// Encodes `kernel` with its buffers in their order, `inputs` before `outputs`, and `args` after them.
    ///
    /// # Safety
    /// `args` is the `repr(C)` twin of the kernel's argument struct; the tensors are those that its file names, as large as
    /// it says for the grid, and what it writes is among `outputs`.
    pub(crate) unsafe fn launch<A: Copy>(
        &self,
        kernel: &str,
        inputs: &[&Tensor],
        outputs: &[&Tensor],
        args: A,
        grid: Grid,
    ) -> Result<()> {
        let [x, y, z] = grid.blocks.map(|count| count as usize);
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let Some(pipeline) = self.pipelines.get(kernel) else {
            return Ok(refuse(&format!("there is no kernel {kernel}"))?);
        };
        let guard = metal_of(&self.device)?.command_encoder()?;
        let encoder = guard.as_ref();
        encoder.set_compute_pipeline_state(pipeline);
        // candle's encoder puts a barrier where a buffer was written or is about to be written over.
        for (index, &tensor) in inputs.iter().chain(outputs).enumerate() {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Metal(storage) = &*storage else {
                return Ok(refuse("a tensor is not on the Metal device")?);
            };
            let Some((start, _)) = layout.contiguous_offsets() else {
                return Err(candle_core::Error::RequiresContiguous { op: "ossia-kernels" }.into());
            };
            let offset = start * tensor.dtype().size_in_bytes();
            match index < inputs.len() {
                true => encoder.set_input_buffer(index, Some(storage.buffer()), offset),
                false => encoder.set_output_buffer(index, Some(storage.buffer()), offset),
            }
        }
        encoder.set_bytes(inputs.len() + outputs.len(), &args);
        let size = |width, height, depth| MTLSize { width, height, depth };
        encoder.dispatch_thread_groups(size(x, y, z), size(grid.threads as usize, 1, 1));
        Ok(())
    }

    /// Memory for a kernel to fill.
    pub(crate) fn output(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        // SAFETY: each kernel writes every element of its outputs; its twin's test shows that.
        Ok(unsafe { Tensor::empty(shape, dtype, &self.device)? })
    }
}

/// One text: what the compiler on the device reads has no files to include.
fn joined_sources() -> String {
    let lines = SOURCES.iter().flat_map(|source| source.lines());
    let kept = lines.filter(|line| !line.starts_with("#include \"") && *line != "#pragma once");
    kept.collect::<Vec<_>>().join("\n")
}

fn metal_of(device: &Device) -> candle_core::Result<&MetalDevice> {
    device.as_metal_device()
}

fn candle_error(error: MetalKernelError) -> candle_core::Error {
    MetalError::from(error).into()
}

fn refuse<T>(message: &str) -> candle_core::Result<T> {
    bail!("Metal kernels: {message}")
}
