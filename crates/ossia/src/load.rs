//! From flags to running parts: tokenizer, weights, KV cache and engine.

use std::iter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ossia_engine::{Engine, EngineConfig, EngineHandle, EngineThread, GptOssRunner, ModelRunner, RunnerSpec};
use ossia_harmony::Tokenizer;
use ossia_kernels::{CacheType, ComputeType};
use ossia_model::{
    DamagedTensor, DenseWeights, GptOss, GptOssConfig, ModelOptions, WeightAccess, WeightSizes,
};
use ossia_scripted::{Rules, ScriptedOptions, ScriptedRunner};

use crate::cli::{
    CoreList, CpuWeights, Dtype, EngineArgs, GpuWeights, KeptArgs, KvCacheDtype, LoadFormatArg, ModelArgs,
    Numa, ThreadArgs,
};
use crate::device_plan::{Budget, DevicePlan, Needs, SHORT_PASS};
use crate::hub::{self, HubEnv, RepoId};
use crate::plan::MemoryPlan;
use crate::progress::Progress;
use crate::source::ModelSource;
use crate::{demo, vocabulary};

/// A running engine and the tokenizer that speaks its ids.
pub(crate) struct Parts {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) engine: EngineHandle,
    /// Joins the engine's thread when dropped.
    pub(crate) thread: EngineThread,
}

/// What a server asks for beside the settings that all commands have.
pub(crate) struct Extra {
    /// Time per token of the scripted runner.
    pub(crate) scripted_delay: Duration,
    /// Requests that may wait.
    pub(crate) max_num_waiting: usize,
}

impl Default for Extra {
    fn default() -> Self {
        let max_num_waiting = EngineConfig::default().max_num_waiting;
        Self { scripted_delay: Duration::ZERO, max_num_waiting }
    }
}

/// Sizes the one compute pool, and says where its threads and its memory are to be. Once per process, before anything is
/// loaded.
pub(crate) fn set_threads(args: &ThreadArgs) -> Result<()> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let pinned = args.cpu_affinity.as_ref().map(|CoreList(cores)| cores);
    let threads = args.threads.or(pinned.map(Vec::len));
    ossia_kernels::set_num_threads(threads.unwrap_or_else(cores));
    if let Some(cores) = pinned {
        // The sampler's threads would otherwise be started by the thread that is pinned first, and stay on its core.
        rayon::current_num_threads();
        ossia_kernels::pin_threads(cores.clone()).context("--cpu-affinity")?;
    }
    if args.numa == Numa::Interleave {
        let nodes = ossia_kernels::interleave_memory().context("--numa interleave")?;
        tracing::info!("memory is spread over {nodes} node(s) in turns");
    }
    Ok(())
}

/// Loads what `args` name and starts an engine on it.
pub(crate) fn parts(args: &ModelArgs, engine: &EngineArgs, extra: &Extra) -> Result<Parts> {
    set_threads(&args.threads)?;
    let mut max_num_batched_tokens = engine.max_num_batched_tokens.unwrap_or(SHORT_PASS);
    let (tokenizer, runner): (Tokenizer, Box<dyn ModelRunner>) = match &args.model {
        ModelSource::Scripted(rules) => scripted(rules.as_deref(), engine, extra.scripted_delay)?,
        _ => {
            let checkpoint = Checkpoint::find(args)?;
            let tokenizer = checkpoint.tokenizer(args)?;
            let (model, device) = checkpoint.planned(args, engine)?;
            if let Some(plan) = device {
                max_num_batched_tokens = plan.max_num_batched_tokens;
            }
            (tokenizer, Box::new(runner(model, device, engine)?))
        }
    };
    let config = engine_config(&runner.spec(), engine, max_num_batched_tokens)?;
    let config = EngineConfig { max_num_waiting: extra.max_num_waiting, ..config };
    let (handle, thread) = Engine::start(runner, config)?;
    Ok(Parts { tokenizer, engine: handle, thread })
}

/// Loads the model that `args` name, without an engine.
pub(crate) fn model(args: &ModelArgs) -> Result<GptOss> {
    Checkpoint::find(args)?.model(args, &options(args)?)
}

/// The same with the memory of its device planned before.
pub(crate) fn planned(args: &ModelArgs, engine: &EngineArgs) -> Result<(GptOss, Option<DevicePlan>)> {
    Checkpoint::find(args)?.planned(args, engine)
}

/// Loads a checkpoint directory.
pub(crate) fn checkpoint(dir: &Path, options: &ModelOptions) -> Result<GptOss> {
    let mut progress = None;
    let model = GptOss::load(dir, options, &mut |step| {
        let progress = progress.get_or_insert_with(|| Progress::new("loading weights", step.total_bytes));
        progress.set(step.loaded_bytes);
    })?;
    Ok(model)
}

/// What went wrong with a model, and which of its weights is to blame, if one is visibly damaged.
pub(crate) fn blame_weights(args: &ModelArgs, error: anyhow::Error) -> anyhow::Error {
    let ModelSource::Directory(dir) = &args.model else { return error };
    match ossia_model::find_damage(dir) {
        Ok(Some(DamagedTensor { name, path, value })) => {
            anyhow!("{error:#}; tensor `{name}` in {} holds {value:e}: the file is damaged", path.display())
        }
        _ => error,
    }
}

/// Where the files of a model lie; a temporary directory lives as long as this does.
struct Checkpoint {
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Checkpoint {
    fn find(args: &ModelArgs) -> Result<Self> {
        if let Some(config) = &args.hf_config {
            let dir = config.parent().unwrap_or(Path::new(".")).to_path_buf();
            return Ok(Self { dir, _temporary: None });
        }
        match &args.model {
            ModelSource::Directory(dir) => Ok(Self { dir: dir.clone(), _temporary: None }),
            ModelSource::Hub(name) => {
                let dir = hub::pull(RepoId { name, revision: &args.revision }, &HubEnv::from_env())?;
                Ok(Self { dir, _temporary: None })
            }
            ModelSource::Demo => {
                let temporary = tempfile::tempdir().context("cannot make a directory for the demo model")?;
                demo::write_to(temporary.path())?;
                Ok(Self { dir: temporary.path().to_path_buf(), _temporary: Some(temporary) })
            }
            ModelSource::Scripted(_) => {
                bail!("the scripted runner has no weights: only `serve` and `generate` take it")
            }
        }
    }

    /// The architecture and the bytes of the weights.
    fn size(&self, args: &ModelArgs) -> Result<(GptOssConfig, WeightSizes)> {
        if let (Some(path), LoadFormatArg::Dummy) = (&args.hf_config, args.load_format) {
            let config = GptOssConfig::from_file(path)?;
            let sizes = WeightSizes::of_dummy(&config)?;
            return Ok((config, sizes));
        }
        let config = GptOssConfig::from_file(&self.dir.join("config.json"))?;
        Ok((config, WeightSizes::of_checkpoint(&self.dir)?))
    }

    /// Plans what goes where on a device with memory of its own, then loads.
    fn planned(&self, args: &ModelArgs, engine: &EngineArgs) -> Result<(GptOss, Option<DevicePlan>)> {
        let mut options = options(args)?;
        let plan = match free_memory(&options)? {
            None => None,
            Some(free) => {
                let (config, sizes) = self.size(args)?;
                let needs = |tokens: usize| Needs::new(&config, sizes, &options, engine, tokens);
                let budget = Budget { free, utilization: engine.gpu_memory_utilization };
                let plan = budget.plan_passes(engine.max_num_batched_tokens, needs, args.cpu_moe)?;
                options.cpu_moe = plan.cpu_moe;
                Some(plan)
            }
        };
        if options.cpu_moe > 0 {
            tracing::info!("the experts of {} layers stay in the machine's memory", options.cpu_moe);
        }
        Ok((self.model(args, &options)?, plan))
    }

    fn model(&self, args: &ModelArgs, options: &ModelOptions) -> Result<GptOss> {
        match (&args.hf_config, args.load_format) {
            (Some(config), LoadFormatArg::Dummy) => {
                tracing::info!("random weights of the shape in {}", config.display());
                let config = GptOssConfig::from_file(config)?;
                Ok(GptOss::dummy(config, args.dummy_seed, options)?)
            }
            (None, LoadFormatArg::Dummy) => bail!("--load-format dummy needs --hf-config"),
            (_, LoadFormatArg::Safetensors) => {
                let started = Instant::now();
                let model = checkpoint(&self.dir, options)?;
                tracing::info!("weights ready in {:.1} s", started.elapsed().as_secs_f64());
                Ok(model)
            }
        }
    }

    /// The checkpoint's tokenizer; where there is none, gpt-oss's own vocabulary if the model has room for it.
    fn tokenizer(&self, args: &ModelArgs) -> Result<Tokenizer> {
        let path = self.dir.join("tokenizer.json");
        if path.exists() {
            return Tokenizer::from_file(&path).with_context(|| format!("cannot load {}", path.display()));
        }
        let config = args.hf_config.clone().unwrap_or_else(|| self.dir.join("config.json"));
        let vocab_size = GptOssConfig::from_file(&config)?.vocab_size;
        let own = vocabulary::o200k_harmony()?;
        ensure!(
            own.vocab_size() <= vocab_size,
            "{} is missing, and gpt-oss's own vocabulary of {} tokens is not that of a model with {vocab_size}",
            path.display(),
            own.vocab_size()
        );
        Ok(own)
    }
}

/// Free bytes of the devices of all ranks, if they have memory of their own: each is as good as the fullest.
fn free_memory(options: &ModelOptions) -> Result<Option<u64>> {
    let mut least = None;
    for backend in iter::once(&options.backend).chain(&options.peers) {
        let Some((free, _)) = backend.memory()? else { return Ok(None) };
        least = Some(least.map_or(free, |least: u64| least.min(free)));
    }
    Ok(least.map(|free| free * options.num_ranks() as u64))
}

/// How a model is run, on a device that is now open.
fn options(args: &ModelArgs) -> Result<ModelOptions> {
    let options = device_options(args.dtype, &args.kept)?;
    ensure!(
        options.backend.device().is_cpu() || !args.no_mmap,
        "--no-mmap keeps weights in the machine's memory; this model runs on {} (--device)",
        options.backend.name()
    );
    let weight_access = if args.no_mmap { WeightAccess::Read } else { WeightAccess::Mapped };
    Ok(ModelOptions { cpu_moe: args.cpu_moe.unwrap_or(0), weight_access, ..options })
}

/// The same without the flags of a whole model.
pub(crate) fn device_options(dtype: Dtype, kept: &KeptArgs) -> Result<ModelOptions> {
    let compute = match dtype {
        Dtype::F32 => ComputeType::F32,
        Dtype::Bf16 => ComputeType::Bf16,
    };
    let kv_cache = match kept.kv_cache_dtype {
        KvCacheDtype::Auto => None,
        KvCacheDtype::Bf16 => Some(CacheType::Bf16),
        KvCacheDtype::Fp8 => Some(CacheType::Fp8),
        KvCacheDtype::Int8 => Some(CacheType::Int8),
    };
    let mut backends = kept.device.backends(compute, kept.tensor_parallel_size.get())?;
    let peers = backends.split_off(1);
    let backend = backends.remove(0);
    let dense_weights = match (kept.cpu_weights, kept.gpu_weights) {
        (CpuWeights::Bf16, GpuWeights::Bf16) => DenseWeights::AsStored,
        (rounded, GpuWeights::Bf16) => {
            ensure!(
                backend.device().is_cpu(),
                "--cpu-weights rounds weights for the CPU; this model runs on {} (--device)",
                backend.name()
            );
            match rounded {
                CpuWeights::Bf16 => DenseWeights::AsStored,
                CpuWeights::Int8LmHead => DenseWeights::Int8LmHead,
                CpuWeights::Int8 => DenseWeights::Int8,
                CpuWeights::Int10 => DenseWeights::Int10,
            }
        }
        (CpuWeights::Bf16, rounded) => {
            ensure!(
                backend.takes_int8_on_device(),
                "--gpu-weights rounds weights for our CUDA kernels; this model runs on {} (--device)",
                backend.name()
            );
            match rounded {
                GpuWeights::Bf16 => DenseWeights::AsStored,
                GpuWeights::Int8LmHead => DenseWeights::Int8LmHead,
                GpuWeights::Int8 => DenseWeights::Int8,
            }
        }
        _ => bail!("--cpu-weights and --gpu-weights round the same weights: give one of them"),
    };
    let options =
        ModelOptions { compute, kv_cache, dense_weights, backend, peers, ..ModelOptions::default() };
    ensure!(
        options.backend.takes_cache(options.cache_type()),
        "--kv-cache-dtype: attention on {} takes no cache in {:?}",
        options.backend.name(),
        options.cache_type()
    );
    Ok(options)
}

/// Gives the model its KV cache.
fn runner(model: GptOss, device: Option<DevicePlan>, args: &EngineArgs) -> Result<GptOssRunner> {
    let plan = MemoryPlan::new(&model, args, device)?;
    let (weights, kv_cache, num_blocks) = (plan.weights, plan.kv_cache, plan.num_blocks());
    tracing::info!(
        "computing on {}, weights {weights}, KV cache {kv_cache}: {num_blocks} blocks of {} tokens",
        model.runs_on(),
        args.block_size
    );
    Ok(GptOssRunner::new(model, num_blocks, args.block_size)?)
}

/// The engine's limits; the longest sequence is what the model and the cache allow, or what the flag asks for.
fn engine_config(
    spec: &RunnerSpec,
    args: &EngineArgs,
    max_num_batched_tokens: usize,
) -> Result<EngineConfig> {
    let fits = spec.max_len_that_fits();
    let most = spec.max_position_embeddings.min(fits);
    let max_model_len = args.max_model_len.unwrap_or(most);
    ensure!(
        max_model_len <= most,
        "--max-model-len {max_model_len} does not fit: the model has {} positions, the KV cache room for {fits} tokens",
        spec.max_position_embeddings
    );
    let concurrent = spec.num_blocks / spec.blocks_for_len(max_model_len).max(1);
    tracing::info!("room for {concurrent} sequences of {max_model_len} tokens at the same time");
    Ok(EngineConfig {
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens,
        max_model_len,
        enable_prefix_caching: !args.no_prefix_caching,
        max_prefill: Duration::from_millis(args.max_prefill_ms),
        num_speculative_tokens: args.num_speculative_tokens,
        ..EngineConfig::default()
    })
}

/// The runner that answers by rule, with gpt-oss's own vocabulary.
fn scripted(
    rules: Option<&Path>,
    args: &EngineArgs,
    delay: Duration,
) -> Result<(Tokenizer, Box<dyn ModelRunner>)> {
    tracing::warn!("scripted runner: answers come from rules, not from a model; it is for testing clients");
    let tokenizer = vocabulary::o200k_harmony()?;
    let rules = rules.map(read_rules).transpose()?.unwrap_or_default();
    let options = ScriptedOptions { block_size: args.block_size, delay, ..ScriptedOptions::default() };
    let runner = ScriptedRunner::new(tokenizer.clone(), rules, options)?;
    Ok((tokenizer, Box::new(runner)))
}

fn read_rules(path: &Path) -> Result<Rules> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Rules::from_json(&text).with_context(|| format!("rules in {}", path.display()))
}

/// Whether the rules of a scripted runner, if it has any, can be read.
pub(crate) fn scripted_rules(model: &ModelSource) -> Result<()> {
    match model {
        ModelSource::Scripted(Some(path)) => read_rules(path).map(|_| ()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::device::DeviceArg;

    const KEPT: KeptArgs = KeptArgs {
        cpu_weights: CpuWeights::Bf16,
        gpu_weights: GpuWeights::Bf16,
        kv_cache_dtype: KvCacheDtype::Auto,
        device: DeviceArg::Cpu,
        tensor_parallel_size: NonZeroUsize::MIN,
    };

    #[test]
    fn what_is_kept_in_fewer_bits_is_what_the_flags_say() {
        let options = device_options(Dtype::Bf16, &KEPT).unwrap();
        assert_eq!((options.dense_weights, options.cache_type()), (DenseWeights::AsStored, CacheType::Bf16));
        assert_eq!(device_options(Dtype::F32, &KEPT).unwrap().cache_type(), CacheType::F32);
        let small = KeptArgs { cpu_weights: CpuWeights::Int8, kv_cache_dtype: KvCacheDtype::Int8, ..KEPT };
        let options = device_options(Dtype::Bf16, &small).unwrap();
        assert_eq!((options.dense_weights, options.cache_type()), (DenseWeights::Int8, CacheType::Int8));
    }

    #[test]
    fn weights_that_are_not_where_they_are_said_to_be_are_refused() {
        let error = |kept: KeptArgs| device_options(Dtype::Bf16, &kept).unwrap_err().to_string();
        let on_cpu = error(KeptArgs { gpu_weights: GpuWeights::Int8, ..KEPT });
        assert!(on_cpu.starts_with("--gpu-weights ") && on_cpu.contains("runs on"), "{on_cpu}");
        let both = KeptArgs { cpu_weights: CpuWeights::Int8, gpu_weights: GpuWeights::Int8LmHead, ..KEPT };
        assert!(error(both).contains("--cpu-weights and --gpu-weights"));
    }
}
