//! On which device the ops run and in which form: decided once, when a model is built.

use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::WrapErr;

#[cfg(feature = "cuda")]
use crate::cuda::Kernels;
#[cfg(feature = "metal")]
use crate::metal::MetalKernels;
use crate::weight::Matrix;
use crate::{
    Attention, AttentionBatch, AttentionMetadata, AttentionSpec, CacheType, ComputeType, DeviceInput,
    Embedding, Isa, Linear, MoeExperts, MoeWeights, Result, RmsNorm, num_threads,
};

/// A device and the form that every op takes on it. All ops of a model are made by the same backend.
#[derive(Clone, Debug)]
pub struct Backend {
    device: Device,
    form: Form,
}

/// Which implementation of each op is used.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// This crate's CPU kernels.
    Cpu,
    /// candle's own ops: runs on every device that candle knows.
    Generic,
    /// This crate's CUDA kernels where they fit, candle's ops elsewhere.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Kernels>),
    /// This crate's Metal kernels where they fit, candle's ops elsewhere.
    #[cfg(feature = "metal")]
    Metal(Arc<MetalKernels>),
}

impl Backend {
    /// The CPU with this crate's kernels.
    pub const fn cpu() -> Self {
        Self { device: Device::Cpu, form: Form::Cpu }
    }

    /// The best form for `device`. Our CUDA and Metal kernels take bf16 activations only.
    ///
    /// # Errors
    /// [`crate::KernelError::Candle`] if the device refuses our kernels; [`Self::generic`] may still do.
    pub fn new(device: &Device, compute: ComputeType) -> Result<Self> {
        match (device, compute) {
            (Device::Cpu, _) => Ok(Self::cpu()),
            #[cfg(feature = "cuda")]
            (Device::Cuda(_), ComputeType::Bf16) => {
                let kernels = Arc::new(Kernels::load(device)?);
                Ok(Self { device: device.clone(), form: Form::Cuda(kernels) })
            }
            #[cfg(feature = "metal")]
            (Device::Metal(_), ComputeType::Bf16) => {
                let kernels = Arc::new(MetalKernels::load(device)?);
                Ok(Self { device: device.clone(), form: Form::Metal(kernels) })
            }
            _ => Ok(Self::generic(device)),
        }
    }

    /// candle's own ops on any device. On the CPU it is much slower than [`Self::cpu`] and there to be tested.
    pub fn generic(device: &Device) -> Self {
        Self { device: device.clone(), form: Form::Generic }
    }

    /// Where tensors of a model on this backend live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Device and form in words, for people.
    pub fn name(&self) -> String {
        let location = self.device.location();
        match self.form {
            Form::Cpu => format!("{} threads with {}", num_threads(), Isa::in_full()),
            Form::Generic => format!("{location:?} in candle's own ops"),
            #[cfg(feature = "cuda")]
            Form::Cuda(_) => format!("{location:?} with our kernels"),
            #[cfg(feature = "metal")]
            Form::Metal(_) => format!("{location:?} with our kernels"),
        }
    }

    /// Whether attention takes such a cache.
    pub fn takes_cache(&self, cache: CacheType) -> bool {
        match self.form {
            Form::Cpu => true,
            Form::Generic => matches!(cache, CacheType::F32 | CacheType::Bf16),
            #[cfg(feature = "cuda")]
            Form::Cuda(_) => matches!(cache, CacheType::Bf16 | CacheType::Fp8),
            #[cfg(feature = "metal")]
            Form::Metal(_) => cache == CacheType::Bf16,
        }
    }

    /// Whether it has a device that multiplies matrices of 8 bits as they are.
    pub fn takes_int8_on_device(&self) -> bool {
        match self.form {
            Form::Cpu | Form::Generic => false,
            #[cfg(feature = "cuda")]
            Form::Cuda(_) => true,
            #[cfg(feature = "metal")]
            Form::Metal(_) => false,
        }
    }

    /// Free and total bytes of a device's own memory; `None` where the ops share the machine's.
    ///
    /// # Errors
    /// [`crate::KernelError::Candle`] if the device does not answer.
    pub fn memory(&self) -> Result<Option<(u64, u64)>> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            let (free, total) = device.cuda_stream().context().mem_get_info().w()?;
            return Ok(Some((free as u64, total as u64)));
        }
        Ok(None)
    }

    pub(crate) fn form(&self) -> &Form {
        &self.form
    }

    /// A linear layer of `weight` `[out_features, in_features]` and `bias` `[out_features]`.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] if the bias has another length than the weight has rows,
    /// [`crate::KernelError::Candle`] if the device refuses the memory.
    pub fn linear(
        &self,
        weight: Arc<Matrix>,
        bias: Option<Vec<f32>>,
        compute: ComputeType,
    ) -> Result<Linear> {
        Linear::on_backend(self, weight, bias, compute)
    }

    /// The embedding matrix `[vocab, hidden]`.
    ///
    /// # Errors
    /// [`crate::KernelError::Candle`] if the device refuses the memory.
    pub fn embedding(&self, weight: Arc<Matrix>) -> Result<Embedding> {
        Embedding::new(self, weight)
    }

    /// RMSNorm with `weight` `[width]`.
    ///
    /// # Errors
    /// [`crate::KernelError::Candle`] if the device refuses the memory.
    pub fn rms_norm(&self, weight: Vec<f32>, eps: f32) -> Result<RmsNorm> {
        RmsNorm::new(self, weight, eps)
    }

    /// The experts of one layer.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] naming the first part that does not fit,
    /// [`crate::KernelError::Candle`] if the device refuses the memory.
    pub fn moe(&self, weights: MoeWeights, compute: ComputeType) -> Result<MoeExperts> {
        MoeExperts::on_backend(self, weights, compute)
    }

    /// The experts of one layer, left in the machine's memory and computed by the CPU kernels while the rest of the model
    /// runs on the device: for weights that do not fit it.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] naming the first part that does not fit.
    pub fn moe_in_ram(&self, weights: MoeWeights, compute: ComputeType) -> Result<MoeExperts> {
        MoeExperts::in_ram(self, weights, compute)
    }

    /// The attention of one layer.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] unless there is one sink per query head and the heads divide.
    pub fn attention(&self, spec: AttentionSpec) -> Result<Attention> {
        Attention::new(self, spec)
    }

    /// What the attention layers of one group need to know about a batch; token `i` of it is cached at
    /// `slot_mapping[i] = block * block_size + offset`.
    ///
    /// # Errors
    /// [`crate::KernelError::Candle`] if the device refuses the memory.
    pub fn attention_batch<'a>(
        &self,
        metadata: AttentionMetadata<'a>,
        slot_mapping: &'a [u32],
    ) -> Result<AttentionBatch<'a>> {
        AttentionBatch::new(self, metadata, slot_mapping, &mut DeviceInput::default())
    }

    /// The same in the memory of `input`.
    ///
    /// # Errors
    /// As [`Self::attention_batch`].
    pub fn attention_batch_in<'a>(
        &self,
        metadata: AttentionMetadata<'a>,
        slot_mapping: &'a [u32],
        input: &'a mut DeviceInput,
    ) -> Result<AttentionBatch<'a>> {
        AttentionBatch::new(self, metadata, slot_mapping, input)
    }

    /// Where tensors lie, for the key of a recording; `None` where nothing is recorded.
    pub fn addresses(&self, tensors: &[&Tensor]) -> Option<Vec<u64>> {
        match &self.form {
            #[cfg(feature = "cuda")]
            Form::Cuda(kernels) => tensors.iter().map(|tensor| kernels.address(tensor).ok()).collect(),
            _ => {
                let _ = tensors;
                None
            }
        }
    }

    /// Reads an f32 tensor of this backend into `out`, which has its number of elements.
    ///
    /// # Errors
    /// [`crate::KernelError::Candle`] if the tensor is of another type or size.
    pub fn read(&self, tensor: &Tensor, out: &mut [f32]) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Form::Cuda(kernels) = &self.form {
            return kernels.read(tensor, out);
        }
        match &*tensor.storage_and_layout().0 {
            Storage::Cpu(CpuStorage::F32(values)) if tensor.is_contiguous() && values.len() == out.len() => {
                out.copy_from_slice(values);
            }
            _ => {
                let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
                if values.len() != out.len() {
                    let message = format!("{} values for room of {}", values.len(), out.len());
                    return Err(candle_core::Error::Msg(message).into());
                }
                out.copy_from_slice(&values);
            }
        }
        Ok(())
    }

    /// A small f32 tensor on the device.
    pub(crate) fn vector(&self, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, values.len(), &self.device)?)
    }

    /// The same of one that may be missing.
    pub(crate) fn optional_vector(&self, values: Option<&[f32]>) -> Result<Option<Tensor>> {
        values.map(|values| self.vector(values)).transpose()
    }

    /// Copies a matrix to the device in the type in which it is stored; one of 8 bits is widened to f32.
    pub(crate) fn matrix(&self, matrix: &Matrix) -> Result<Tensor> {
        let shape = [matrix.rows(), matrix.cols()];
        if let Some((bytes, dtype)) = matrix.stored() {
            return self.upload(bytes, dtype, &shape);
        }
        let mut values = vec![0f32; shape[0] * shape[1]];
        for (row, values) in values.chunks_mut(shape[1]).enumerate() {
            matrix.copy_row_f32(row, values);
        }
        Ok(Tensor::from_vec(values, &shape, &self.device)?)
    }

    /// Copies little-endian elements to the device as a tensor of `shape`, in pieces, so that a weight that is mapped
    /// from a file never lies in memory a second time.
    pub(crate) fn upload(&self, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
        const PIECE_BYTES: usize = 64 << 20;
        let rows = shape.first().copied().unwrap_or(1).max(1);
        let row_bytes = bytes.len() / rows;
        let rows_per_piece = (PIECE_BYTES / row_bytes.max(1)).max(1);
        if rows_per_piece >= rows {
            return Ok(Tensor::from_raw_buffer(bytes, dtype, shape, &self.device)?);
        }
        let whole = Tensor::zeros(shape, dtype, &self.device)?;
        for (index, piece) in bytes.chunks(rows_per_piece * row_bytes).enumerate() {
            let mut piece_shape = shape.to_vec();
            piece_shape[0] = piece.len() / row_bytes;
            let piece = Tensor::from_raw_buffer(piece, dtype, &piece_shape, &self.device)?;
            whole.slice_set(&piece, 0, index * rows_per_piece)?;
        }
        Ok(whole)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        // 5 rows of 20 MiB: three to a piece, and a last piece that is not full.
        let row = 20 << 20;
        let bytes: Vec<u8> = (0..5 * row).map(|at| (at / row * 50 + at % 7) as u8).collect();
        let whole = Backend::cpu().upload(&bytes, DType::U8, &[5, row]).unwrap();
        assert!(whole.flatten_all().unwrap().to_vec1::<u8>().unwrap() == bytes);
    }
}
