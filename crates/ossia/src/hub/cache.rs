//! The cache of the Hugging Face tools: `models--OWNER--NAME` with the files by hash under `blobs`, links to them by
//! name under `snapshots/COMMIT`, and under `refs` which commit a branch or tag was.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::RepoId;

/// A repository in the cache, there or not.
pub(super) struct CachedRepo {
    dir: PathBuf,
    revision: String,
}

impl CachedRepo {
    pub(super) fn new(cache: &Path, repo: RepoId) -> Self {
        let dir = cache.join(format!("models--{}", repo.name.replace('/', "--")));
        Self { dir, revision: repo.revision.to_owned() }
    }

    /// The directory of the files by name, if the revision is known here: it is a commit, or `refs` says which.
    pub(super) fn snapshot(&self) -> Option<PathBuf> {
        let commit = match std::fs::read_to_string(self.dir.join("refs").join(&self.revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => self.revision.clone(),
        };
        let dir = self.dir.join("snapshots").join(commit);
        dir.is_dir().then_some(dir)
    }

    /// A file by name, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<PathBuf> {
        self.snapshot().map(|dir| dir.join(name)).filter(|path| path.exists())
    }

    /// Where the file with this hash belongs; its directory is made.
    pub(super) fn blob(&self, hash: &str) -> Result<PathBuf> {
        let dir = self.dir.join("blobs");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir.join(hash))
    }

    /// Gives the file at `blob` its name in the snapshot of a commit, and notes that the revision is this commit.
    pub(super) fn link(&self, commit: &str, name: &str, blob: &Path) -> Result<()> {
        ensure!(
            commit.chars().all(|c| c.is_ascii_alphanumeric()) && !commit.is_empty(),
            "the hub gives '{commit}' as the commit of {name}, expected a hash"
        );
        let path = self.dir.join("snapshots").join(commit).join(name);
        write_parent(&path)?;
        let _ = std::fs::remove_file(&path);
        link(blob, &path).with_context(|| format!("cannot link {}", path.display()))?;
        let reference = self.dir.join("refs").join(&self.revision);
        write_parent(&reference)?;
        std::fs::write(&reference, commit).with_context(|| format!("cannot write {}", reference.display()))
    }
}

fn write_parent(path: &Path) -> Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// A relative link, so that the cache may move.
#[cfg(unix)]
fn link(blob: &Path, path: &Path) -> std::io::Result<()> {
    let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(target, path)
}

/// Links need a privilege elsewhere.
#[cfg(not(unix))]
fn link(blob: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, path).or_else(|_| std::fs::copy(blob, path).map(|_| ()))
}

/// Where the hub tools keep things when no variable says otherwise.
pub(super) fn default_home() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("huggingface")
}

/// The token that `hf auth login` left.
pub(super) fn saved_token(home: &Path) -> Option<String> {
    let token = std::fs::read_to_string(home.join("token")).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}
