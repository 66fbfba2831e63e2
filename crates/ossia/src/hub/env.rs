//! Which repository of models, and where: the environment that all tools for the hub read.

use std::path::PathBuf;

use super::cache::{self, CachedRepo};
use crate::outbound::{self, variable};

const ENDPOINT: &str = "https://huggingface.co";

/// Environment of the hub tools, read once.
pub(crate) struct HubEnv {
    pub(super) cache: PathBuf,
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
    /// The variable that forbids connections.
    pub(super) offline: Option<&'static str>,
}

/// A repository of models at a branch, tag or commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RepoId<'a> {
    /// `owner/name`.
    pub(crate) name: &'a str,
    pub(crate) revision: &'a str,
}

impl std::fmt::Display for RepoId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)
    }
}

impl HubEnv {
    /// Reads HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and OSSIA_OFFLINE.
    pub(crate) fn from_env() -> Self {
        let home = variable("HF_HOME").map_or_else(cache::default_home, PathBuf::from);
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self {
            token: variable("HF_TOKEN").or_else(|| cache::saved_token(&home)),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: outbound::offline(),
        }
    }

    pub(super) fn cached(&self, repo: RepoId) -> CachedRepo {
        CachedRepo::new(&self.cache, repo)
    }
}
