//! How memory is shared out: weights, then the KV cache, and how many sequences of which length that holds.

use anyhow::{Result, ensure};
use ossia_engine::RunnerSpec;
use ossia_model::{GptOss, GptOssConfig};

use crate::cli::EngineArgs;
use crate::device_plan::DevicePlan;
use crate::memory::{self, ByteSize};

/// Lengths that people think in, in tokens.
const LENGTHS: [usize; 4] = [4096, 16_384, 65_536, 131_072];

/// Blocks past which a cache has nothing to hold: all sequences at their longest, each token in both layer groups.
pub(crate) fn useful_blocks(config: &GptOssConfig, args: &EngineArgs) -> u64 {
    let longest = args.max_model_len.unwrap_or(config.max_position_embeddings);
    (args.max_num_seqs * 2 * longest.div_ceil(args.block_size)) as u64
}

/// The memory of one model on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    pub(crate) weights: ByteSize,
    pub(crate) kv_cache: ByteSize,
    /// What the machine, or the device, can give, if it says so.
    pub(crate) available: Option<ByteSize>,
    spec: RunnerSpec,
}

impl MemoryPlan {
    /// The plan for a model under these settings: the device's, if it has memory of its own, else the KV cache is sized
    /// once, from what is left beside the weights.
    pub(crate) fn new(model: &GptOss, args: &EngineArgs, device: Option<DevicePlan>) -> Result<Self> {
        let config = model.config();
        let bytes_per_block = model.kv_bytes_per_block(args.block_size) as u64;
        let (weights, available, bytes) = match device {
            Some(plan) => (plan.weights, Some(plan.available), plan.kv_cache),
            None => {
                let (weights, available) = (model.weight_bytes() as u64, memory::available());
                let useful = useful_blocks(config, args) * bytes_per_block;
                let bytes = args
                    .kv_cache_memory
                    .map_or_else(|| memory::default_kv_bytes(available, weights, useful), |size| size.0);
                (weights, available, bytes)
            }
        };
        let num_blocks = (bytes / bytes_per_block) as usize;
        ensure!(
            num_blocks > 0,
            "a KV cache of {} does not hold one block of {} (--kv-cache-memory)",
            ByteSize(bytes),
            ByteSize(bytes_per_block)
        );
        let spec = RunnerSpec {
            vocab_size: config.vocab_size,
            num_blocks,
            block_size: args.block_size,
            sliding_window: config.sliding_window,
            max_position_embeddings: config.max_position_embeddings,
        };
        let kv_cache = ByteSize(num_blocks as u64 * bytes_per_block);
        Ok(Self { weights: ByteSize(weights), kv_cache, available: available.map(ByteSize), spec })
    }

    /// Blocks of the KV cache.
    pub(crate) fn num_blocks(&self) -> usize {
        self.spec.num_blocks
    }

    /// Whether weights and cache are more than the machine can give.
    pub(crate) fn is_too_much(&self) -> bool {
        self.available.is_some_and(|available| self.weights.0 + self.kv_cache.0 > available.0)
    }

    /// How many sequences of which length fit at the same time, for people.
    pub(crate) fn what_fits(&self, max_model_len: Option<usize>) -> String {
        let longest = self.spec.max_len_that_fits().min(self.spec.max_position_embeddings);
        let longest = max_model_len.unwrap_or(longest).min(longest);
        let lengths = LENGTHS.into_iter().filter(|len| *len < longest).chain([longest]);
        let fit = |len: usize| {
            format!("{} of {len} tokens", self.spec.num_blocks / self.spec.blocks_for_len(len).max(1))
        };
        lengths.map(fit).collect::<Vec<_>>().join(", ")
    }
}
