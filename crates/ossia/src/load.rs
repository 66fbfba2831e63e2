//! From flags to running parts: tokenizer, weights, KV cache and engine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ossia_engine::{Engine, EngineConfig, EngineHandle, EngineThread, GptOssRunner, ModelRunner, RunnerSpec};
use ossia_harmony::Tokenizer;
use ossia_kernels::ComputeType;
use ossia_model::{GptOss, GptOssConfig, ModelOptions, WeightSizes};
use ossia_scripted::{Rules, ScriptedOptions, ScriptedRunner};

use crate::cli::{Dtype, EngineArgs, LoadFormatArg, ModelArgs};
use crate::device::DeviceArg;
use crate::hub::{self, HubEnv};
use crate::memory::{self, ByteSize};
use crate::plan::{self, Budget, MemoryPlan, Needs};
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

/// Sizes the one compute pool.
pub(crate) fn set_threads(threads: Option<usize>) {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    ossia_kernels::set_num_threads(threads.unwrap_or_else(cores));
}

/// Loads what `args` name and starts an engine on it.
pub(crate) fn parts(args: &ModelArgs, engine: &EngineArgs, delay: Duration) -> Result<Parts> {
    set_threads(args.threads);
    let (tokenizer, runner): (Tokenizer, Box<dyn ModelRunner>) = match &args.model {
        ModelSource::Scripted(rules) => scripted(rules.as_deref(), engine, delay)?,
        _ => {
            let checkpoint = Checkpoint::find(args)?;
            let mut options = options(args)?;
            let plan = checkpoint.plan(args, engine, &options)?;
            options.cpu_moe = plan.map_or(options.cpu_moe, |plan| plan.cpu_moe);
            let model = checkpoint.model(args, &options)?;
            let kv_cache_bytes = plan.map(|plan| plan.kv_cache_bytes);
            (checkpoint.tokenizer()?, Box::new(runner(model, engine, kv_cache_bytes)?))
        }
    };
    let config = engine_config(&runner.spec(), engine)?;
    let (handle, thread) = Engine::start(runner, config)?;
    Ok(Parts { tokenizer, engine: handle, thread })
}

/// Loads the model that `args` name, without an engine.
pub(crate) fn model(args: &ModelArgs) -> Result<GptOss> {
    Checkpoint::find(args)?.model(args, &options(args)?)
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
            ModelSource::Hub(repo) => {
                let dir = hub::pull(repo, &args.revision, &HubEnv::from_env())?;
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

    /// What goes where on a device with memory of its own, before anything is loaded onto it.
    fn plan(
        &self,
        args: &ModelArgs,
        engine: &EngineArgs,
        options: &ModelOptions,
    ) -> Result<Option<MemoryPlan>> {
        let Some((free, _)) = options.backend.memory()? else { return Ok(None) };
        let (config, weights) = self.size(args)?;
        let needs = Needs {
            weights: weights.total_bytes,
            layer_experts: weights.expert_bytes / config.num_hidden_layers.max(1) as u64,
            num_layers: config.num_hidden_layers,
            activations: plan::activation_bytes(&config, engine.max_num_batched_tokens, engine.max_num_seqs),
            bytes_per_block: config.kv_bytes_per_block(options.compute, engine.block_size) as u64,
            min_blocks: MIN_TOKENS.div_ceil(engine.block_size) as u64,
            max_blocks: useful_blocks(&config, engine),
        };
        let budget = Budget { free, utilization: engine.gpu_memory_utilization };
        let plan = budget.plan(&needs, args.cpu_moe)?;
        if plan.cpu_moe > 0 {
            tracing::info!("the experts of {} layers stay in the machine's memory", plan.cpu_moe);
        }
        Ok(Some(plan))
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

    /// The checkpoint's tokenizer; a bare config.json gets gpt-oss's own vocabulary.
    fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.dir.join("tokenizer.json");
        match path.exists() {
            true => Ok(Tokenizer::from_file(&path)?),
            false => vocabulary::o200k_harmony(),
        }
    }
}

/// How a model is run, on a device that is now open.
fn options(args: &ModelArgs) -> Result<ModelOptions> {
    let options = device_options(args.dtype, args.device)?;
    Ok(ModelOptions { cpu_moe: args.cpu_moe.unwrap_or(0), ..options })
}

/// The same without the flags of a whole model.
pub(crate) fn device_options(dtype: Dtype, device: DeviceArg) -> Result<ModelOptions> {
    let compute = match dtype {
        Dtype::F32 => ComputeType::F32,
        Dtype::Bf16 => ComputeType::Bf16,
    };
    Ok(ModelOptions { compute, backend: device.backend(compute)?, cpu_moe: 0 })
}

/// Tokens whose keys and values a device must hold beside the weights.
const MIN_TOKENS: usize = 8192;

/// Blocks past which a cache has nothing to hold: all sequences at their longest, each token in both layer groups.
fn useful_blocks(config: &GptOssConfig, args: &EngineArgs) -> u64 {
    let longest = args.max_model_len.unwrap_or(config.max_position_embeddings);
    (args.max_num_seqs * 2 * longest.div_ceil(args.block_size)) as u64
}

/// Gives the model its KV cache: as the flag says, as was planned for the device, or sized from what the machine has left
/// beside the weights.
fn runner(model: GptOss, args: &EngineArgs, planned: Option<u64>) -> Result<GptOssRunner> {
    let bytes_per_block = model.kv_bytes_per_block(args.block_size) as u64;
    let weights = model.weight_bytes() as u64;
    let bytes = match (args.kv_cache_memory, planned) {
        (Some(ByteSize(bytes)), _) | (None, Some(bytes)) => bytes,
        (None, None) => {
            let useful = useful_blocks(model.config(), args) * bytes_per_block;
            memory::default_kv_bytes(memory::available(), weights, useful)
        }
    };
    let num_blocks = (bytes / bytes_per_block) as usize;
    ensure!(
        num_blocks > 0,
        "a KV cache of {} does not hold one block of {} (--kv-cache-memory)",
        ByteSize(bytes),
        ByteSize(bytes_per_block)
    );
    tracing::info!(
        "weights {}, KV cache {}: {num_blocks} blocks of {} tokens",
        ByteSize(weights),
        ByteSize(num_blocks as u64 * bytes_per_block),
        args.block_size
    );
    Ok(GptOssRunner::new(model, num_blocks, args.block_size)?)
}

/// The engine's limits; the longest sequence is what the model and the cache allow, or what the flag asks for.
fn engine_config(spec: &RunnerSpec, args: &EngineArgs) -> Result<EngineConfig> {
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
        max_num_batched_tokens: args.max_num_batched_tokens,
        max_model_len,
        enable_prefix_caching: !args.no_prefix_caching,
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
    let rules = match rules {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Rules::from_json(&text).with_context(|| format!("rules in {}", path.display()))?
        }
        None => Rules::default(),
    };
    let options = ScriptedOptions { block_size: args.block_size, delay, ..ScriptedOptions::default() };
    let runner = ScriptedRunner::new(tokenizer.clone(), rules, options)?;
    Ok((tokenizer, Box::new(runner)))
}
