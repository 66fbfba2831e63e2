//! The cache of the Hugging Face tools, whose layout hf-hub knows: the files by hash under `blobs`, links to them by
//! name under `snapshots/COMMIT`, and under `refs` which commit a branch or tag was.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{REQUIRED_FILES, RepoId};

/// A repository in the cache, there or not.
pub(super) struct CachedRepo {
    repo: CacheRepo,
    blobs: PathBuf,
    revision: String,
}

impl CachedRepo {
    pub(super) fn new(cache: &Path, repo: RepoId) -> Self {
        let revision = repo.revision.to_owned();
        let repo = Repo::with_revision(repo.name.to_owned(), RepoType::Model, revision.clone());
        let blobs = cache.join(repo.folder_name()).join("blobs");
        Self { repo: Cache::new(cache.to_owned()).repo(repo), blobs, revision }
    }

    /// The directory of the files by name, if there is one for the revision.
    pub(super) fn snapshot(&self) -> Option<PathBuf> {
        self.get(REQUIRED_FILES[0])?.parent().map(Path::to_owned)
    }

    /// A file by name, if it is there. The revision is a commit, or `refs` says which it was.
    pub(super) fn get(&self, name: &str) -> Option<PathBuf> {
        let of_commit =
            || Some(self.repo.pointer_path(&self.revision).join(name)).filter(|path| path.exists());
        self.repo.get(name).or_else(of_commit)
    }

    /// Where the file with this hash belongs; its directory is made.
    pub(super) fn blob(&self, hash: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.blobs)
            .with_context(|| format!("cannot make {}", self.blobs.display()))?;
        Ok(self.blobs.join(hash))
    }

    /// Gives the file at `blob` its name in the snapshot of a commit, and notes that the revision is this commit.
    pub(super) fn link(&self, commit: &str, name: &str, blob: &Path) -> Result<()> {
        ensure!(
            commit.chars().all(|c| c.is_ascii_alphanumeric()) && !commit.is_empty(),
            "the hub gives '{commit}' as the commit of {name}, expected a hash"
        );
        let path = self.repo.pointer_path(commit).join(name);
        write_parent(&path)?;
        let _ = std::fs::remove_file(&path);
        link(blob, &path).with_context(|| format!("cannot link {}", path.display()))?;
        self.repo.create_ref(commit).with_context(|| format!("cannot note the commit of {}", path.display()))
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
    Cache::new(home.join("hub")).token()
}
