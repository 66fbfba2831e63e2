//! Our kernels on one CUDA device: loaded once, launched on candle's stream.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{DType, Device, Shape, Storage, Tensor, WithDType, bail};
use float8::F8E4M3;
use half::{bf16, f16};

use crate::Result;
use crate::gpu::Grid;

// FATBINS: machine code for several architectures of each source, and PTX for later ones. Empty where a stand-in for
// nvcc made it.
include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The kernels by source.
const KERNELS: &[(&str, &[&str])] = &[
    ("bf16_activations", &["pack_bf16_f32", "add_bias_bf16_f32"]),
    ("bf16_mma", &["bf16_mma_8", "bf16_mma_16", "bf16_mma_32", "bf16_mma_64"]),
    ("combine", &["moe_combine_f32"]),
    ("decode_attention", &["decode_attention_bf16", "decode_attention_fp8"]),
    ("draw", &["draw_forbid_f32", "draw_mask_f32", "draw_parts_f32", "draw_token_f32"]),
    ("draw_filtered", &["draw_filtered_f32"]),
    ("embedding", &["embedding_bf16_f32"]),
    ("exact_gemv", &["exact_gemv_f32", "exact_gemv_many_f32"]),
    ("int8_mma", &["int8_mma_8", "int8_mma_16", "int8_mma_32", "int8_mma_64", "widen_int8_bf16"]),
    ("mxfp4_grouped", &["mxfp4_gate_up_grouped", "mxfp4_down_grouped"]),
    (
        "mxfp4_mma",
        &[
            "mxfp4_gate_up_mma_8",
            "mxfp4_gate_up_mma_16",
            "mxfp4_gate_up_mma_32",
            "mxfp4_down_mma_8",
            "mxfp4_down_mma_16",
            "mxfp4_down_mma_32",
        ],
    ),
    (
        "paged_attention",
        &["paged_attention_split_bf16", "paged_attention_split_fp8", "paged_attention_join_f32"],
    ),
    ("rms_norm", &["rms_norm_f32"]),
    ("rope_and_cache", &["rope_and_cache_bf16", "rope_and_cache_fp8"]),
    ("route", &["route_f32", "choose_and_pack_f32", "sort_slots_u32"]),
    ("tiled_attention", &["tiled_attention_bf16", "tiled_attention_fp8"]),
];

/// The kernels of one device.
#[derive(Debug)]
pub(crate) struct Kernels {
    device: Device,
    pub(super) stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    /// Whether a kernel may begin while the one before it ends: the code that was loaded waits for it (`await_previous`).
    overlaps: bool,
    multiprocessors: usize,
}

impl Kernels {
    /// Loads the kernels onto `device`.
    pub(crate) fn load(device: &Device) -> Result<Self> {
        let cuda = device.as_cuda_device()?;
        // SAFETY: everything of this device is made, used and freed on its one stream, in order, so no event need be
        // recorded for each use of each tensor.
        unsafe { cuda.disable_event_tracking() };
        let stream = cuda.cuda_stream();
        keep_freed_memory(&stream)?;
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
        let overlaps = functions.values().all(waits_for_previous);
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = stream.context().attribute(attribute).w()?.max(1) as usize;
        Ok(Self { device: device.clone(), stream, functions, overlaps, multiprocessors })
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
        let mut overlaps = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut overlaps,
            numAttrs: u32::from(self.overlaps),
        };
        let mut args = [(&raw const args).cast_mut().cast::<c_void>()];
        self.stream.context().bind_to_thread().w()?;
        // SAFETY: promised by the caller; the driver has read the one argument when this returns.
        let launched = unsafe {
            sys::cuLaunchKernelEx(&config, function.cu_function(), args.as_mut_ptr(), std::ptr::null_mut())
        };
        Ok(launched.result().w()?)
    }

    /// Which of the machine's devices it is.
    pub(crate) fn ordinal(&self) -> usize {
        self.stream.context().ordinal()
    }

    /// The stream on which everything of this device is done in order.
    pub(crate) fn cu_stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    /// Multiprocessors of the device.
    pub(crate) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Memory for a kernel to fill.
    pub(crate) fn output(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        // SAFETY: each kernel writes every element of its outputs; its twin's test shows that.
        Ok(unsafe { Tensor::empty(shape, dtype, &self.device)? })
    }

    /// Writes `values` over the first elements of a tensor.
    pub(crate) fn write<T: WithDType>(&self, to: &Tensor, values: &[T]) -> Result<()> {
        if values.len() > to.elem_count() || to.dtype() != T::DTYPE {
            return Ok(refuse("more or other values than the memory is for")?);
        }
        if values.is_empty() {
            return Ok(());
        }
        let address = self.address(to)?;
        // SAFETY: the memory has room for the values; the driver has read pageable memory when this returns.
        unsafe { result::memcpy_htod_async(address, values, self.stream.cu_stream()) }.w()?;
        Ok(())
    }

    /// Reads a whole tensor and waits for it.
    pub(crate) fn read<T: WithDType>(&self, from: &Tensor, values: &mut [T]) -> Result<()> {
        if values.len() != from.elem_count() || from.dtype() != T::DTYPE {
            return Ok(refuse("other values than there are")?);
        }
        if values.is_empty() {
            return Ok(());
        }
        let address = self.address(from)?;
        // SAFETY: as many values as the tensor has; the stream has passed before anybody looks at them.
        unsafe { result::memcpy_dtoh_async(values, address, self.stream.cu_stream()) }.w()?;
        self.stream.synchronize().w()?;
        Ok(())
    }

    /// Copies a tensor into the memory of another of the same size.
    pub(crate) fn copy(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        if from.elem_count() != to.elem_count() || from.dtype() != to.dtype() {
            return Ok(refuse("a copy of another size")?);
        }
        let num_bytes = from.elem_count() * from.dtype().size_in_bytes();
        let (from, to) = (self.address(from)?, self.address(to)?);
        // SAFETY: both have that many bytes.
        unsafe { result::memcpy_dtod_async(to, from, num_bytes, self.stream.cu_stream()) }.w()?;
        Ok(())
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
            DType::F64 => base_address(storage.as_cuda_slice::<f64>()?, &self.stream),
            DType::F16 => base_address(storage.as_cuda_slice::<f16>()?, &self.stream),
            DType::U8 => base_address(storage.as_cuda_slice::<u8>()?, &self.stream),
            DType::F8E4M3 => base_address(storage.as_cuda_slice::<F8E4M3>()?, &self.stream),
            dtype => return Ok(refuse(&format!("no kernel takes {dtype:?}"))?),
        };
        Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
    }
}

/// Whether code is made for an architecture that `await_previous` waits on.
fn waits_for_previous(function: &CudaFunction) -> bool {
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
    function.get_attribute(attribute).is_ok_and(|version| version >= 90)
}

/// Tells the device's pool to keep what is freed: by default each wait for the device gives it back to the driver, and the
/// next pass's memory is mapped anew.
fn keep_freed_memory(stream: &CudaStream) -> Result<()> {
    if !stream.context().has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    // SAFETY: the pool is the device's own, and the attribute is a number of 64 bits.
    unsafe {
        let pool = result::device::get_default_mem_pool(stream.context().cu_device()).w()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result().w()?;
    }
    Ok(())
}

fn base_address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    slice.device_ptr(stream).0
}

fn refuse<T>(message: &str) -> candle_core::Result<T> {
    bail!("CUDA kernels: {message}")
}
