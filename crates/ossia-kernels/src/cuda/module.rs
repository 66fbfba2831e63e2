//! Our kernels on one CUDA device: loaded once, launched on candle's stream.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{DType, Device, Shape, Storage, Tensor, bail};
use half::bf16;

use crate::Result;
use crate::gpu::Grid;

// FATBINS: machine code for several architectures of each source, and PTX for later ones. Empty where a stand-in for
// nvcc made it.
include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The kernels by source.
const KERNELS: &[(&str, &[&str])] = &[
    ("bf16_gemv", &["bf16_gemv_f32"]),
    ("combine", &["moe_combine_f32"]),
    ("embedding", &["embedding_bf16_f32"]),
    ("exact_gemv", &["exact_gemv_f32"]),
    ("mxfp4_down", &["mxfp4_down_f32"]),
    ("mxfp4_gate_up", &["mxfp4_gate_up_f32"]),
    ("mxfp4_grouped", &["mxfp4_gate_up_grouped_f32", "mxfp4_down_grouped_f32"]),
    ("paged_attention", &["paged_attention_split_bf16", "paged_attention_join_f32"]),
    ("rms_norm", &["rms_norm_f32"]),
    ("rope_and_cache", &["rope_and_cache_f32_bf16"]),
    ("router", &["router_top_k_f32"]),
    ("sort_slots", &["sort_slots_u32"]),
    ("tiled_attention", &["tiled_attention_bf16"]),
];

/// The kernels of one device.
#[derive(Debug)]
pub(crate) struct Kernels {
    device: Device,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
}

/// A kernel's arguments, handed over byte by byte.
#[repr(transparent)]
struct Bytes<A>(A);

// SAFETY: launched kernels copy the bytes of a `repr(C)` struct of plain numbers and addresses.
unsafe impl<A: Copy> DeviceRepr for Bytes<A> {}

impl Kernels {
    /// Loads the kernels onto `device`.
    pub(crate) fn load(device: &Device) -> Result<Self> {
        let cuda = device.as_cuda_device()?;
        // SAFETY: everything of this device is made, used and freed on its one stream, in order, so no event need be
        // recorded for each use of each tensor.
        unsafe { cuda.disable_event_tracking() };
        let stream = cuda.cuda_stream();
        let mut functions = HashMap::new();
        for (source, names) in KERNELS {
            let fatbin =
                FATBINS.iter().find(|(stem, _)| stem == source).map_or(&[][..], |(_, fatbin)| fatbin);
            if fatbin.is_empty() {
                return Ok(refuse(&format!("this build was made without nvcc and lacks {source}"))?);
            }
            let module = stream.context().load_module(Ptx::from_binary(fatbin.to_vec())).w()?;
            for &name in *names {
                functions.insert(name, module.load_function(name).w()?);
            }
        }
        Ok(Self { device: device.clone(), stream, functions })
    }

    /// Launches `kernel` on candle's stream.
    ///
    /// # Safety
    /// `args` is the `repr(C)` twin of the kernel's argument struct; its addresses are those of live memory of this
    /// device, as large as the kernel's file says for the grid, and stay live until this stream has passed.
    pub(crate) unsafe fn launch<A: Copy>(&self, kernel: &'static str, args: A, grid: Grid) -> Result<()> {
        let [x, y, z] = grid.blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let Some(function) = self.functions.get(kernel) else {
            return Ok(refuse(&format!("there is no kernel {kernel}"))?);
        };
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (grid.threads, 1, 1), shared_mem_bytes: 0 };
        let args = Bytes(args);
        let mut launch = self.stream.launch_builder(function);
        launch.arg(&args);
        // SAFETY: promised by the caller.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }

    /// Memory for a kernel to fill.
    pub(crate) fn output(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        // SAFETY: each kernel writes every element of its outputs; its twin's test shows that.
        Ok(unsafe { Tensor::empty(shape, dtype, &self.device)? })
    }

    /// Address of the first element of a contiguous tensor on this device. Work on the stream is in order, so the
    /// address stays good for launches that follow until the tensor is dropped, which frees in order too.
    pub(crate) fn address(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            return Ok(refuse("a tensor is not on the CUDA device")?);
        };
        let Some((start, _)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op: "ossia-kernels" }.into());
        };
        let base = match tensor.dtype() {
            DType::F32 => base_address(storage.as_cuda_slice::<f32>()?, &self.stream),
            DType::BF16 => base_address(storage.as_cuda_slice::<bf16>()?, &self.stream),
            DType::U32 => base_address(storage.as_cuda_slice::<u32>()?, &self.stream),
            DType::U8 => base_address(storage.as_cuda_slice::<u8>()?, &self.stream),
            dtype => return Ok(refuse(&format!("no kernel takes {dtype:?}"))?),
        };
        Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
    }
}

fn base_address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    slice.device_ptr(stream).0
}

fn refuse<T>(message: &str) -> candle_core::Result<T> {
    bail!("CUDA kernels: {message}")
}
