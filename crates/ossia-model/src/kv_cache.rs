//! The memory of keys and values: one pool of blocks for all layers.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use ossia_kernels::{CacheType, write_kv};

use crate::config::{GptOssConfig, LayerType};
use crate::model::Passes;
use crate::{ForwardBatch, ModelError, ModelOptions};

/// Keys and values of everything computed so far, in blocks of `block_size` tokens.
///
/// A block id belongs to one group of layers (sliding or full) at a time. The j-th sliding layer and the
/// j-th full layer share a pair of tensors, so one pool serves both groups and no memory is set aside
/// for either.
#[derive(Debug)]
pub struct KvCache {
    /// Key and value per index within a group, each `[num_blocks, block_size, kv_heads, head_len]` of `cache`.
    layers: Vec<(Tensor, Tensor)>,
    cache: CacheType,
    head_dim: usize,
    num_blocks: usize,
    block_size: usize,
    /// What passes over it keep on the device.
    pub(crate) passes: Passes,
    /// Those of the other ranks, which hold their own heads.
    pub(crate) peers: Vec<Arc<Mutex<KvCache>>>,
}

impl KvCache {
    /// Allocates the pool, with the heads of each rank on its device.
    pub(crate) fn new(
        config: &GptOssConfig,
        options: &ModelOptions,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<Self, ModelError> {
        let of_rank = |device: &Device| Self::of_rank(config, options, device, num_blocks, block_size);
        let peers = options.peers.iter().map(|backend| Ok(Arc::new(Mutex::new(of_rank(backend.device())?))));
        Ok(Self { peers: peers.collect::<Result<_, ModelError>>()?, ..of_rank(options.backend.device())? })
    }

    fn of_rank(
        config: &GptOssConfig,
        options: &ModelOptions,
        device: &Device,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<Self, ModelError> {
        let cache = options.cache_type();
        let kv_heads = config.num_key_value_heads / options.num_ranks();
        let shape = (num_blocks, block_size, kv_heads, config.head_dim);
        let zeros = || cache.zeros(shape, device);
        let layers =
            (0..num_layers(config)).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_, ModelError>>()?;
        let head_dim = config.head_dim;
        let (passes, peers) = (Passes::default(), Vec::new());
        Ok(Self { layers, cache, head_dim, num_blocks, block_size, passes, peers })
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
        let shape = (self.block_size, first.dim(2)?, self.head_dim);
        let values = (0..shape.0 * shape.1 * shape.2).map(|i| (i * 37 % 251) as f32 / 125.0 - 1.0);
        let values = Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)?;
        let block = self.cache.zeros((1, shape.0, shape.1, shape.2), &Device::Cpu)?;
        let slots: Vec<u32> = (0..shape.0 as u32).collect();
        write_kv(&values, &values, &block, &block, &slots)?;
        let block = block.to_device(first.device())?;
        for (k_cache, v_cache) in &self.layers {
            for block_idx in 0..self.num_blocks {
                k_cache.slice_set(&block, 0, block_idx)?;
                v_cache.slice_set(&block, 0, block_idx)?;
            }
        }
        for peer in &self.peers {
            peer.lock().unwrap_or_else(PoisonError::into_inner).fill_for_measurement()?;
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

    /// Checks that it is the cache of so many ranks, and that a batch names only blocks of this pool.
    pub(crate) fn validate(&self, batch: &ForwardBatch, num_ranks: usize) -> Result<(), ModelError> {
        if self.peers.len() + 1 != num_ranks {
            return Err(ModelError::Batch {
                field: "kv".to_owned(),
                message: format!("is a cache of {} ranks, made for another model", self.peers.len() + 1),
            });
        }
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

/// Bytes of one block over all layers.
pub(crate) fn bytes_per_block(config: &GptOssConfig, cache: CacheType, block_size: usize) -> usize {
    let token = config.num_key_value_heads * cache.head_len(config.head_dim) * cache.dtype().size_in_bytes();
    num_layers(config) * 2 * block_size * token
}

/// Pairs of tensors: as many as the larger group has layers.
fn num_layers(config: &GptOssConfig) -> usize {
    config.num_layers_of(LayerType::Sliding).max(config.num_layers_of(LayerType::Full))
}
