//! `/v1/models`.

use serde::Serialize;

/// One model that may be named in a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: String,
    /// Extension, as other servers send it: the longest prompt plus answer, in tokens.
    pub max_model_len: usize,
    /// Extension: the alias's origin, such as the checkpoint's name or `scripted`.
    pub root: String,
}

/// The list of all models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelList {
    pub object: &'static str,
    pub data: Vec<Model>,
}

/// `/version`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    pub version: &'static str,
}

/// `/health` and `/ready`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    pub status: &'static str,
}
