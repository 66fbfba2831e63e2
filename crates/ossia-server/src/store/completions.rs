//! Stored chat completions: the completion object, and the request's messages as its items.

use serde_json::Value;

use super::history::item_id;
use super::pool::{Tenant, in_transaction, key, on_pool};
use super::responses::{insert_items, size_of};
use super::{Store, StoreError};
use crate::clock;

/// Rows read at a time while looking for matches.
const BATCH: i64 = 100;

/// Which completions to list, and from where.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompletionFilter {
    pub(crate) model: Option<String>,
    /// All of these have to match.
    pub(crate) metadata: Vec<(String, String)>,
    /// The completion before the first one wanted.
    pub(crate) after: Option<String>,
    pub(crate) descending: bool,
}

impl CompletionFilter {
    fn matches(&self, body: &Value) -> bool {
        self.model.as_deref().is_none_or(|model| body["model"] == model)
            && self.metadata.iter().all(|(key, value)| body["metadata"][key] == *value)
    }
}

impl Store {
    /// Writes a completion and the messages that it answered.
    pub(crate) async fn insert_completion(
        &self,
        tenant: &Tenant,
        body: &Value,
        messages: Vec<Value>,
    ) -> Result<(), StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(()) };
        let (text, now) = (body.to_string(), clock::unix_now() as i64);
        let items: Vec<(Value, bool)> = messages.into_iter().map(|message| (message, false)).collect();
        let size = size_of(&items) + text.len() as i64;
        in_transaction!(pool, tx => {
            let (seq,): (i64,) = sqlx::query_as(
                "INSERT INTO objects (tenant, id, kind, model, status, created_at, used_at, date, body, events, size)
                 VALUES ($1, $2, 'completion', $3, '', $4, $4, '', $5, '', $6) RETURNING seq",
            )
            .bind(&*tenant.0)
            .bind(body["id"].as_str().unwrap_or_default())
            .bind(key(body["model"].as_str().unwrap_or_default()))
            .bind(now)
            .bind(&text)
            .bind(size)
            .fetch_one(&mut *tx)
            .await?;
            insert_items!(tx, seq, 0i64, &items);
        });
        self.grew(size).await
    }

    /// Up to `limit` matching completions, by age; nothing if `after` is not there.
    pub(crate) async fn completions(
        &self,
        tenant: &Tenant,
        filter: &CompletionFilter,
        limit: usize,
    ) -> Result<Vec<Value>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(Vec::new()) };
        let mut after = if filter.descending { i64::MAX } else { 0 };
        if let Some(id) = &filter.after {
            let row: Option<(i64,)> = on_pool!(pool, db => {
                sqlx::query_as("SELECT seq FROM objects WHERE tenant = $1 AND id = $2 AND kind = 'completion'")
                    .bind(&*tenant.0)
                    .bind(key(id))
                    .fetch_optional(db)
                    .await?
            });
            let Some((seq,)) = row else { return Ok(Vec::new()) };
            after = seq;
        }
        let sql = if filter.descending {
            "SELECT seq, body FROM objects WHERE tenant = $1 AND kind = 'completion' AND seq < $2
             ORDER BY seq DESC LIMIT $3"
        } else {
            "SELECT seq, body FROM objects WHERE tenant = $1 AND kind = 'completion' AND seq > $2
             ORDER BY seq LIMIT $3"
        };
        let mut found = Vec::new();
        loop {
            let rows: Vec<(i64, String)> = on_pool!(pool, db => {
                sqlx::query_as(sql).bind(&*tenant.0).bind(after).bind(BATCH).fetch_all(db).await?
            });
            let Some((last, _)) = rows.last() else { return Ok(found) };
            after = *last;
            for (_, body) in &rows {
                let body: Value = serde_json::from_str(body)?;
                if filter.matches(&body) {
                    found.push(body);
                }
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
    }
}
