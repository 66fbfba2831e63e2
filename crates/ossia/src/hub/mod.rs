//! Checkpoints from the Hugging Face hub: resumed, verified by hash, and kept in the cache that other tools share, or
//! in a directory that can be carried to where there is no network.

mod cache;
pub(crate) mod checksums;
mod client;
mod download;
mod env;
mod hash;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use cache::CachedRepo;
use client::{Client, RemoteFile};
pub(crate) use env::{HubEnv, RepoId};

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
const SINGLE_FILE: &str = "model.safetensors";

/// Makes `repo` complete in the local cache and gives its snapshot directory.
///
/// Offline, nothing is contacted and a missing file is an error that names it.
pub(crate) fn pull(repo: RepoId, env: &HubEnv) -> Result<PathBuf> {
    let cached = env.cached(repo);
    let missing = match whole_snapshot(&cached) {
        Ok(dir) => {
            tracing::info!("{repo} is in the cache: {}", dir.display());
            return Ok(dir);
        }
        Err(missing) => missing,
    };
    check_online(repo, env, &missing)?;
    let client = Client::new(env, repo)?;
    let names = client.files()?;
    for name in small_files(repo, &names)? {
        fetch(&client, &cached, name)?;
    }
    for name in weight_files(cached.get(INDEX_FILE).as_deref(), &names)? {
        fetch(&client, &cached, &name)?;
    }
    whole_snapshot(&cached).map_err(|name| anyhow::anyhow!("{repo}: after all downloads {name} is missing"))
}

/// Writes the files of `repo` and their SHA-256 to `dir`, to be carried elsewhere. What the cache has comes from there;
/// what `dir` has already, whole or in part, is kept.
pub(crate) fn pull_to(repo: RepoId, dir: &Path, env: &HubEnv) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    match whole_snapshot(&env.cached(repo)) {
        Ok(snapshot) => copy_snapshot(&snapshot, dir)?,
        Err(missing) => {
            check_online(repo, env, &missing)?;
            download_to(repo, dir, &Client::new(env, repo)?)?;
        }
    }
    checksums::write(dir)
}

/// The snapshot directory of a checkpoint, if all of it is in the cache.
pub(crate) fn cached(repo: RepoId, env: &HubEnv) -> Option<PathBuf> {
    whole_snapshot(&env.cached(repo)).ok()
}

/// The snapshot directory of a checkpoint in the cache.
///
/// # Errors
/// Part of it is not there: names the file.
pub(crate) fn find_cached(repo: RepoId, env: &HubEnv) -> Result<PathBuf> {
    whole_snapshot(&env.cached(repo)).map_err(|name| {
        anyhow::anyhow!("{repo} is not complete in {}: {name} is missing", env.cache.display())
    })
}

fn check_online(repo: RepoId, env: &HubEnv, missing: &str) -> Result<()> {
    let Some(switch) = env.offline else { return Ok(()) };
    bail!(
        "{repo} is not complete in {}: {missing} is missing, and {switch} is set, so nothing is downloaded. Where there is a \
         network, `ossia pull {} --to DIR` makes a directory that can be carried here and be served by its path",
        env.cache.display(),
        repo.name
    )
}

/// The snapshot directory when every file that the checkpoint needs is there, else the name of the first that is not.
fn whole_snapshot(cached: &CachedRepo) -> Result<PathBuf, String> {
    let find = |name: &str| cached.get(name).ok_or_else(|| name.to_owned());
    for name in REQUIRED_FILES {
        find(name)?;
    }
    let shards = match cached.get(INDEX_FILE) {
        Some(index) => {
            indexed_shards(&index).map_err(|error| format!("a readable {INDEX_FILE} ({error:#})"))?
        }
        None => vec![SINGLE_FILE.to_owned()],
    };
    shards.iter().try_for_each(|name| find(name).map(|_| ()))?;
    cached.snapshot().ok_or_else(|| REQUIRED_FILES[0].to_owned())
}

/// The files beside the weights that the repository has.
fn small_files(repo: RepoId, names: &[String]) -> Result<Vec<&'static str>> {
    let has = |name: &str| names.iter().any(|listed| listed == name);
    for name in REQUIRED_FILES {
        ensure!(has(name), "{repo} has no {name}: not a gpt-oss checkpoint");
    }
    Ok(SMALL_FILES.into_iter().chain([INDEX_FILE]).filter(|name| has(name)).collect())
}

/// The weight files to fetch: those of the index, or the single file.
fn weight_files(index: Option<&Path>, names: &[String]) -> Result<Vec<String>> {
    if let Some(index) = index {
        return indexed_shards(index);
    }
    ensure!(
        names.iter().any(|name| name == SINGLE_FILE),
        "the repository has neither {INDEX_FILE} nor {SINGLE_FILE}"
    );
    Ok(vec![SINGLE_FILE.to_owned()])
}

/// The distinct shard names of a safetensors index. They become paths, so none may lead elsewhere.
fn indexed_shards(index: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(index).with_context(|| format!("cannot read {}", index.display()))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", index.display()))?;
    let map =
        json["weight_map"].as_object().with_context(|| format!("{} has no weight_map", index.display()))?;
    let mut shards: Vec<String> = map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    shards.sort_unstable();
    shards.dedup();
    for name in &shards {
        ensure!(is_file_name(name), "{} names the shard '{name}', expected a file name", index.display());
    }
    Ok(shards)
}

/// Whether this is the name of a file in the directory at hand, and of no other.
fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\\']) && !matches!(name, "" | "." | "..")
}

/// Downloads one file to the cache unless it is there, and checks its hash.
fn fetch(client: &Client, cached: &CachedRepo, name: &str) -> Result<()> {
    if cached.get(name).is_some() {
        return Ok(());
    }
    let remote = client.look_up(name)?;
    let blob = cached.blob(&remote.hash)?;
    if !blob.exists() {
        receive(client, &remote, &blob)?;
    }
    cached.link(&remote.commit, name, &blob)
}

/// Downloads all files to a directory. One that is there is kept if it has the hash that the hub gives.
fn download_to(repo: RepoId, dir: &Path, client: &Client) -> Result<()> {
    let names = client.files()?;
    for name in small_files(repo, &names)? {
        receive_unless_there(client, &dir.join(name), name)?;
    }
    let index = Some(dir.join(INDEX_FILE)).filter(|path| path.exists());
    for name in weight_files(index.as_deref(), &names)? {
        receive_unless_there(client, &dir.join(&name), &name)?;
    }
    Ok(())
}

fn receive_unless_there(client: &Client, path: &Path, name: &str) -> Result<()> {
    let remote = client.look_up(name)?;
    if path.exists() && hash::check(path, &remote.hash).is_ok() {
        return Ok(());
    }
    receive(client, &remote, path)
}

/// Downloads a file beside `path`, where a part of it may lie, and puts it there when its hash is right.
fn receive(client: &Client, remote: &RemoteFile, path: &Path) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".incomplete");
    let partial = PathBuf::from(partial);
    download::download(client, remote, &partial)?;
    if let Err(error) = hash::check(&partial, &remote.hash) {
        // What is damaged must not be gone on with.
        let _ = std::fs::remove_file(&partial);
        return Err(
            error.context(format!("{} of {} arrived damaged and was not kept", remote.name, remote.repo))
        );
    }
    std::fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies what a checkpoint needs from the cache.
fn copy_snapshot(snapshot: &Path, dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(snapshot).with_context(|| format!("cannot list {}", snapshot.display()))? {
        let from = entry?.path();
        let Some(name) = from.file_name().filter(|_| from.is_file()) else { continue };
        hash::check_blob(&from)?;
        let to = dir.join(name);
        tracing::info!("copying {}", from.display());
        std::fs::copy(&from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_lead_nowhere_else() {
        for (name, legal) in [
            ("model-00001-of-00002.safetensors", true),
            ("../../etc/passwd", false),
            ("/etc/passwd", false),
            ("a\\b", false),
            ("..", false),
            ("", false),
        ] {
            assert_eq!(is_file_name(name), legal, "{name}");
        }
    }
}
