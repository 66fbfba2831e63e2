//! The memory of keys and values: one pool of blocks for all layers.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use half::vec::HalfBitsVecExt;
use ossia_kernels::ComputeType;

use crate::config::{GptOssConfig, LayerType};
use crate::model::Passes;
use crate::{ForwardBatch, ModelError};

/// Keys and values of everything computed so far, in blocks of `block_size` tokens.
///
/// A block id belongs to one group of layers (sliding or full) at a time. The j-th sliding layer and the
/// j-th full layer share a pair of tensors, so one pool serves both groups and no memory is set aside
/// for either.
#[derive(Debug)]
pub struct KvCache {
    /// Key and value per index within a group, each `[num_blocks, block_size, kv_heads, head_dim]`.
    layers: Vec<(Tensor, Tensor)>,
    num_blocks: usize,
    block_size: usize,
    /// What passes over it keep on the device.
    pub(crate) passes: Passes,
}

impl KvCache {
    /// Allocates the pool.
    pub(crate) fn new(
        config: &GptOssConfig,
        compute: ComputeType,
        device: &Device,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<Self, ModelError> {
        let shape = (num_blocks, block_size, config.num_key_value_heads, config.head_dim);
        let zeros = || zeros(shape, kv_dtype(compute), device);
        let layers =
            (0..num_layers(config)).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_, ModelError>>()?;
        Ok(Self { layers, num_blocks, block_size, passes: Passes::default() })
    }

    /// Blocks of the pool.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens of a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Fills every block with pseudo-random keys and values, so that a depth can be measured without being
    /// computed. (Zeros would not do: pages that nobody wrote to are not read from memory.)
    ///
    /// # Errors
    /// [`ModelError::Candle`] if the device refuses the memory of one block's values.
    pub fn fill_for_measurement(&self) -> Result<(), ModelError> {
        let Some((first, _)) = self.layers.first() else { return Ok(()) };
        let (_, block_size, num_kv_heads, head_dim) = first.dims4()?;
        let len = block_size * num_kv_heads * head_dim;
        let values = (0..len).map(|i| (i * 37 % 251) as f32 / 125.0 - 1.0);
        let block = Tensor::from_iter(values, first.device())?.to_dtype(first.dtype())?;
        let block = block.reshape((1, block_size, num_kv_heads, head_dim))?;
        for (k_cache, v_cache) in &self.layers {
            for block_idx in 0..self.num_blocks {
                k_cache.slice_set(&block, 0, block_idx)?;
                v_cache.slice_set(&block, 0, block_idx)?;
            }
        }
        Ok(())
    }

    /// Key and value cache of the `index`-th layer of a group.
    pub(crate) fn layer(&self, index: usize) -> Result<(&Tensor, &Tensor), ModelError> {
        match self.layers.get(index) {
            Some((k, v)) => Ok((k, v)),
            None => Err(ModelError::Batch {
                field: "kv".to_owned(),
                message: format!("is a cache of {} layers, made for another model", self.layers.len()),
            }),
        }
    }

    /// Checks that a batch names only blocks of this pool.
    pub(crate) fn validate(&self, batch: &ForwardBatch) -> Result<(), ModelError> {
        let num_slots = self.num_blocks * self.block_size;
        for (group, metadata) in [("full", &batch.full), ("sliding", &batch.sliding)] {
            if let Some(slot) = metadata.slot_mapping.iter().find(|&&slot| slot as usize >= num_slots) {
                return Err(ModelError::Batch {
                    field: format!("{group}.slot_mapping"),
                    message: format!("{slot} is not one of {num_slots} slots"),
                });
            }
        }
        Ok(())
    }
}

/// Zeros that cost memory only once they are written to: candle's own bf16 zeros touch every page, and a pool of
/// gigabytes would count in full from the start.
fn zeros(shape: (usize, usize, usize, usize), dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    if dtype != DType::BF16 || !device.is_cpu() {
        return Tensor::zeros(shape, dtype, device);
    }
    let (num_blocks, block_size, num_heads, head_dim) = shape;
    let mut bits = vec![0u16; num_blocks * block_size * num_heads * head_dim];
    ossia_kernels::ask_for_huge_pages(&mut bits);
    Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, device)
}

/// Bytes of one block over all layers.
pub(crate) fn bytes_per_block(config: &GptOssConfig, compute: ComputeType, block_size: usize) -> usize {
    num_layers(config) * 2 * block_size * config.kv_size() * kv_dtype(compute).size_in_bytes()
}

/// Pairs of tensors: as many as the larger group has layers.
fn num_layers(config: &GptOssConfig) -> usize {
    config.num_layers_of(LayerType::Sliding).max(config.num_layers_of(LayerType::Full))
}

/// Keys and values are kept as precisely as the matrix products take them.
fn kv_dtype(compute: ComputeType) -> DType {
    match compute {
        ComputeType::F32 => DType::F32,
        ComputeType::Bf16 => DType::BF16,
    }
}
