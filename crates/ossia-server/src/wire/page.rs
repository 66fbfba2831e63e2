//! Lists that are sent a page at a time.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A page of whatever is listed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    pub object: &'static str,
    pub data: Vec<Value>,
    pub first_id: String,
    pub last_id: String,
    pub has_more: bool,
}

/// Which page: the items after the one named, so many, in which order.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PageQuery {
    pub after: Option<String>,
    pub limit: Option<i64>,
    pub order: Option<String>,
}
