//! Ids of what the API hands out: a prefix that tells the kind, then 32 random hexadecimal digits.

use uuid::Uuid;

/// A fresh id such as `resp_4f0c...`.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}
