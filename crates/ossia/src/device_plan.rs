//! What a model will take of a device's own memory, worked out before its weights are loaded.

use anyhow::{Result, bail};
use ossia_model::{GptOssConfig, ModelOptions, WeightSizes};

use crate::cli::EngineArgs;
use crate::memory::ByteSize;
use crate::plan;

/// Tokens whose keys and values a device must hold beside the weights.
const MIN_TOKENS: usize = 8192;

/// Tokens of a pass where nothing is said. On a GPU a long one takes no time to speak of, and its experts meet more tokens each.
const LONG_PASS: usize = 2048;
pub(crate) const SHORT_PASS: usize = 512;

/// What the device, or those of all ranks together, can give and how much of it may be taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Free bytes before anything is loaded.
    pub(crate) free: u64,
    /// Share of them that may be used.
    pub(crate) utilization: f64,
}

/// What has to fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    /// All weights.
    pub(crate) weights: u64,
    /// The experts of one layer, a part of that.
    pub(crate) layer_experts: u64,
    /// Layers whose experts may stay in the machine's memory.
    pub(crate) num_layers: usize,
    /// Most tokens of a pass.
    pub(crate) max_num_batched_tokens: usize,
    /// Most that a pass holds beside weights and cache.
    pub(crate) activations: u64,
    /// One block of the KV cache over all layers.
    pub(crate) bytes_per_block: u64,
    /// Blocks without which the cache is of little use.
    pub(crate) min_blocks: u64,
    /// Blocks past which more are of no use.
    pub(crate) max_blocks: u64,
}

/// What is done with a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DevicePlan {
    /// Layers whose experts stay in the machine's memory.
    pub(crate) cpu_moe: usize,
    /// Most tokens of a pass.
    pub(crate) max_num_batched_tokens: usize,
    /// Bytes of the weights that go to the device.
    pub(crate) weights: u64,
    /// Size of the KV cache.
    pub(crate) kv_cache: u64,
    /// What weights and KV cache may take together.
    pub(crate) available: u64,
}

impl Needs {
    /// What a model needs under these settings. A size of the cache that is asked for must fit, no more and no less.
    pub(crate) fn new(
        config: &GptOssConfig,
        sizes: WeightSizes,
        options: &ModelOptions,
        args: &EngineArgs,
        max_num_batched_tokens: usize,
    ) -> Self {
        let bytes_per_block = config.kv_bytes_per_block(options.cache_type(), args.block_size) as u64;
        let num_ranks = options.num_ranks() as u64;
        let asked = args.kv_cache_memory.map(|ByteSize(bytes)| bytes / bytes_per_block);
        Self {
            weights: sizes.kept_bytes(options.dense_weights) + (num_ranks - 1) * sizes.replicated_bytes(),
            layer_experts: sizes.expert_bytes / config.num_hidden_layers.max(1) as u64,
            num_layers: config.num_hidden_layers,
            max_num_batched_tokens,
            activations: num_ranks * activation_bytes(config, max_num_batched_tokens, args.max_num_seqs),
            bytes_per_block,
            min_blocks: asked.unwrap_or(MIN_TOKENS.div_ceil(args.block_size) as u64),
            max_blocks: asked.unwrap_or_else(|| plan::useful_blocks(config, args)),
        }
    }
}

impl Budget {
    /// [`Self::plan`] with passes of `asked` tokens, or else of as many as are worth their memory: not more if experts would have to leave
    /// the device for them.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub(crate) fn plan_passes(
        self,
        asked: Option<usize>,
        needs: impl Fn(usize) -> Needs,
        cpu_moe: Option<usize>,
    ) -> Result<DevicePlan> {
        let short = self.plan(&needs(asked.unwrap_or(SHORT_PASS)), cpu_moe)?;
        if asked.is_some() {
            return Ok(short);
        }
        let long = self.plan(&needs(LONG_PASS), cpu_moe).ok();
        Ok(long.filter(|long| long.cpu_moe <= short.cpu_moe).unwrap_or(short))
    }

    /// Keeps as many layers' experts in the machine's memory as `cpu_moe` says, or else as few as will do, and gives the
    /// KV cache what is left.
    ///
    /// # Errors
    /// Says what is needed and what there is, if the model does not fit.
    pub(crate) fn plan(self, needs: &Needs, cpu_moe: Option<usize>) -> Result<DevicePlan> {
        let usable = (self.free as f64 * self.utilization) as u64;
        let least_cache = needs.min_blocks * needs.bytes_per_block;
        let weights = |cpu_moe: usize| {
            let in_ram = needs.layer_experts * cpu_moe.min(needs.num_layers) as u64;
            needs.weights.saturating_sub(in_ram)
        };
        let available = usable.saturating_sub(needs.activations);
        let mut choices = cpu_moe.map_or(0..=needs.num_layers, |layers| layers..=layers);
        let Some(cpu_moe) = choices.find(|&layers| weights(layers) + least_cache <= available) else {
            bail!(
                "the model does not fit the device: weights {} ({} of each layer may stay in the machine's memory, \
                 --cpu-moe), activations {} and the smallest KV cache {}; of {} free {} may be used \
                 (--gpu-memory-utilization)",
                ByteSize(needs.weights),
                ByteSize(needs.layer_experts),
                ByteSize(needs.activations),
                ByteSize(least_cache),
                ByteSize(self.free),
                ByteSize(usable)
            );
        };
        let weights = weights(cpu_moe);
        let blocks = ((available - weights) / needs.bytes_per_block).min(needs.max_blocks);
        let max_num_batched_tokens = needs.max_num_batched_tokens;
        let kv_cache = blocks * needs.bytes_per_block;
        Ok(DevicePlan { cpu_moe, max_num_batched_tokens, weights, kv_cache, available })
    }
}

/// Most bytes that a pass of `num_tokens` with logits of `num_rows` of them holds at a time, from the sizes of the
/// tensors that the ops make; f32 where not said.
fn activation_bytes(config: &GptOssConfig, num_tokens: usize, num_rows: usize) -> u64 {
    let (hidden, inter) = (config.hidden_size, config.intermediate_size);
    let residual = 4 * hidden;
    let attention = 4 * (config.q_size() + config.kv_size());
    // Gathered, projected, activated and given back for each of a token's experts.
    let experts = config.experts_per_token * (3 * hidden + 5 * inter);
    // Both projections of one expert, unpacked in f32 and again in bf16.
    let unpacked = 3 * hidden * inter * 6;
    // Logits once more in bf16 before they are widened, and where recorded passes leave them, up to twice as much.
    let logits = num_rows * config.vocab_size * 14;
    let per_token = 4 * (residual + attention.max(experts));
    (num_tokens * per_token + unpacked + logits) as u64 + RESERVE
}

/// Partial results of attention, the workspaces of NVIDIA's libraries, and fragments.
const RESERVE: u64 = 768 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn needs(weights: u64) -> Needs {
        Needs {
            weights,
            layer_experts: GIB,
            num_layers: 10,
            max_num_batched_tokens: 512,
            activations: GIB,
            bytes_per_block: 1 << 20,
            min_blocks: 100,
            max_blocks: 50_000,
        }
    }

    fn plan(free: u64, weights: u64, cpu_moe: Option<usize>) -> Option<(usize, u64)> {
        let plan = Budget { free, utilization: 1.0 }.plan(&needs(weights), cpu_moe).ok()?;
        assert!(plan.weights + plan.kv_cache <= plan.available);
        Some((plan.cpu_moe, plan.kv_cache))
    }

    #[test]
    fn the_cache_takes_what_is_left_in_whole_blocks() {
        assert_eq!(plan(16 * GIB + 12345, 13 * GIB, None), Some((0, 2 * GIB)));
        assert_eq!(plan(1000 * GIB, 13 * GIB, None), Some((0, 50_000 << 20)), "no more than is of use");
    }

    #[test]
    fn as_few_experts_as_will_do_stay_in_ram() {
        assert_eq!(plan(16 * GIB, 18 * GIB, None), Some((4, GIB)));
        assert_eq!(plan(16 * GIB, 18 * GIB, Some(6)), Some((6, 3 * GIB)));
        assert_eq!(plan(16 * GIB, 18 * GIB, Some(3)), None, "what the flag says is done, or nothing");
        assert_eq!(plan(16 * GIB, 18 * GIB, Some(99)), Some((99, 7 * GIB)), "there are ten layers to keep");
        assert_eq!(plan(16 * GIB, 26 * GIB, None), None);
    }

    #[test]
    fn passes_are_long_where_that_costs_no_expert_its_place() {
        let tokens = |free: u64, asked: Option<usize>, cpu_moe: Option<usize>| {
            let needs = |tokens: usize| Needs {
                max_num_batched_tokens: tokens,
                activations: (tokens as u64) << 20,
                ..needs(13 * GIB)
            };
            let plan = Budget { free, utilization: 1.0 }.plan_passes(asked, needs, cpu_moe).ok()?;
            Some((plan.max_num_batched_tokens, plan.cpu_moe))
        };
        assert_eq!(tokens(16 * GIB, None, None), Some((2048, 0)));
        assert_eq!(
            tokens(14 * GIB, None, None),
            Some((512, 0)),
            "two more GiB would cost experts their place"
        );
        assert_eq!(tokens(14 * GIB, Some(2048), None), Some((2048, 2)));
        assert_eq!(tokens(14 * GIB, None, Some(0)), Some((512, 0)));
        assert_eq!(tokens(2 * GIB, None, None), None);
    }

    #[test]
    fn what_does_not_fit_is_said_before_loading() {
        let budget = Budget { free: 16 * GIB, utilization: 0.9 };
        let error = budget.plan(&needs(14 * GIB), Some(0)).expect_err("too large").to_string();
        for part in ["weights 14.00 GiB", "activations 1.00 GiB", "16.00 GiB free", "14.40 GiB may be used"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
