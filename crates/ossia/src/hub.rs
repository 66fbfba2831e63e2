//! Checkpoints from the Hugging Face hub: cached where every other tool caches them, resumed, and verified by hash.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::progress::Progress;

/// Files beside the weights that a gpt-oss checkpoint may have and that we read or keep for other tools.
const SMALL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];
/// Files without which there is no model.
const REQUIRED_FILES: [&str; 2] = ["config.json", "tokenizer.json"];
const INDEX_FILE: &str = "model.safetensors.index.json";
const RETRIES: usize = 5;

/// Environment of the hub tools, read once.
pub(crate) struct HubEnv {
    cache: Cache,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

impl HubEnv {
    /// Reads HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and OSSIA_OFFLINE.
    pub(crate) fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = match variable("HF_HUB_CACHE") {
            Some(dir) => Cache::new(dir.into()),
            None => Cache::from_env(),
        };
        let is_on = |name: &str| {
            variable(name)
                .is_some_and(|value| !matches!(value.to_lowercase().as_str(), "0" | "false" | "no" | "off"))
        };
        Self {
            token: variable("HF_TOKEN").or_else(|| cache.token()),
            cache,
            endpoint: variable("HF_ENDPOINT").map(|url| url.trim_end_matches('/').to_owned()),
            offline: is_on("HF_HUB_OFFLINE") || is_on("OSSIA_OFFLINE"),
        }
    }
}

/// Makes `repo_id` at `revision` complete in the local cache and gives its snapshot directory.
///
/// Offline, nothing is contacted and a missing file is an error that names it.
pub(crate) fn pull(repo_id: &str, revision: &str, env: &HubEnv) -> Result<PathBuf> {
    let repo = Repo::with_revision(repo_id.to_owned(), RepoType::Model, revision.to_owned());
    let cached = env.cache.repo(repo.clone());
    if let Some(dir) = complete_snapshot(&cached) {
        tracing::info!("{repo_id}@{revision} is in the cache: {}", dir.display());
        return Ok(dir);
    }
    if env.offline {
        bail!(
            "{repo_id}@{revision} is not complete in {} and HF_HUB_OFFLINE is set",
            env.cache.path().display()
        );
    }
    let api = api(env)?.repo(repo);
    let info = api.info().with_context(|| format!("cannot list the files of {repo_id}@{revision}"))?;
    let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    for name in REQUIRED_FILES {
        ensure!(names.contains(&name), "{repo_id}@{revision} has no {name}: not a gpt-oss checkpoint");
    }
    for name in SMALL_FILES.into_iter().chain([INDEX_FILE]).filter(|name| names.contains(name)) {
        fetch(&api, &cached, name)?;
    }
    for name in weight_files(&cached, &names)? {
        fetch(&api, &cached, &name)?;
    }
    complete_snapshot(&cached)
        .with_context(|| format!("{repo_id}@{revision}: the files fetched do not make a checkpoint"))
}

/// The snapshot directory of a checkpoint, if all of it is in the cache.
pub(crate) fn cached(repo_id: &str, revision: &str, env: &HubEnv) -> Option<PathBuf> {
    let repo = Repo::with_revision(repo_id.to_owned(), RepoType::Model, revision.to_owned());
    complete_snapshot(&env.cache.repo(repo))
}

/// Compares every file of a snapshot with the hash that the hub gave for it; says how many there are.
pub(crate) fn verify_snapshot(dir: &Path) -> Result<usize> {
    let mut num_files = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        verify(&entry?.path())?;
        num_files += 1;
    }
    Ok(num_files)
}

fn api(env: &HubEnv) -> Result<Api> {
    let mut builder = ApiBuilder::from_cache(env.cache.clone())
        .with_token(env.token.clone())
        .with_retries(RETRIES)
        .with_user_agent("ossia", env!("CARGO_PKG_VERSION"));
    if let Some(endpoint) = &env.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    builder.build().context("cannot set up the hub client")
}

/// The snapshot directory when every file that the checkpoint needs is there.
fn complete_snapshot(cached: &CacheRepo) -> Option<PathBuf> {
    for name in REQUIRED_FILES {
        cached.get(name)?;
    }
    let dir = cached.get(REQUIRED_FILES[0])?.parent()?.to_path_buf();
    let shards = match cached.get(INDEX_FILE) {
        Some(index) => indexed_shards(&index).ok()?,
        None => vec!["model.safetensors".to_owned()],
    };
    shards.iter().all(|name| dir.join(name).exists()).then_some(dir)
}

/// The weight files to fetch: those of the index, or the single file.
fn weight_files(cached: &CacheRepo, names: &[&str]) -> Result<Vec<String>> {
    if let Some(index) = cached.get(INDEX_FILE) {
        return indexed_shards(&index);
    }
    ensure!(
        names.contains(&"model.safetensors"),
        "the repository has neither {INDEX_FILE} nor model.safetensors"
    );
    Ok(vec!["model.safetensors".to_owned()])
}

/// The distinct shard names of a safetensors index.
fn indexed_shards(index: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(index).with_context(|| format!("cannot read {}", index.display()))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", index.display()))?;
    let map =
        json["weight_map"].as_object().with_context(|| format!("{} has no weight_map", index.display()))?;
    let mut shards: Vec<String> = map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    shards.sort_unstable();
    shards.dedup();
    Ok(shards)
}

/// Downloads one file unless it is there, and checks its hash.
fn fetch(api: &ApiRepo, cached: &CacheRepo, name: &str) -> Result<()> {
    if cached.get(name).is_some() {
        return Ok(());
    }
    let path = api.download_with_progress(name, DownloadProgress(None)).with_context(|| {
        format!("cannot download {name} (what has arrived is kept; run the command again to go on)")
    })?;
    verify(&path).inspect_err(|_| {
        // A damaged blob must not be taken for a good one by the next run or by another tool.
        if let Ok(blob) = path.canonicalize() {
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(&path);
    })
}

/// Compares a cached file with the hash that is its blob's name: SHA-256 for large files, git's SHA-1 for small ones.
fn verify(path: &Path) -> Result<()> {
    let blob = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
    let expected = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let found = match expected.len() {
        64 => hash_file::<Sha256>(&blob, None)?,
        40 => {
            let size = blob.metadata()?.len();
            hash_file::<Sha1>(&blob, Some(format!("blob {size}\0")))?
        }
        _ => {
            tracing::warn!("{}: the hub gave no hash, so it was not verified", path.display());
            return Ok(());
        }
    };
    ensure!(found == expected, "{}: hash mismatch: expected {expected}, found {found}", path.display());
    Ok(())
}

/// Hex digest of a file, after an optional header.
fn hash_file<D: Digest>(path: &Path, header: Option<String>) -> Result<String> {
    let mut file = File::open(path)?;
    let mut digest = D::new();
    digest.update(header.unwrap_or_default());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Our progress behind hf-hub's trait.
struct DownloadProgress(Option<Progress>);

impl hf_hub::api::Progress for DownloadProgress {
    fn init(&mut self, size: usize, filename: &str) {
        self.0 = Some(Progress::new(filename, size as u64));
    }

    fn update(&mut self, size: usize) {
        if let Some(progress) = &mut self.0 {
            progress.advance(size as u64);
        }
    }

    fn finish(&mut self) {
        if let Some(progress) = &mut self.0 {
            progress.finish();
        }
    }
}
