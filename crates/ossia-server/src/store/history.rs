//! What came before a turn: the items of the turns before it, and where they are kept.

use serde_json::Value;

use super::pool::{Pool, Tenant, key, on_pool};
use super::{Store, StoreError};
use crate::wire::responses::InputItem;

/// The items before a turn, and the date in the system message that all of them share.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) items: Vec<InputItem>,
    pub(crate) date: String,
    pub(crate) origin: Origin,
}

/// Where a turn's history comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// There is none.
    Fresh,
    /// A connection keeps it, and the store does not.
    Connection,
    /// The turn continues this response.
    Response(String),
    /// The turn is the next one of this conversation, which had so many items.
    Conversation { id: String, len: i64 },
}

/// `chain`: the turns from the one named back to the first.
macro_rules! chain {
    ($select:literal) => {
        concat!(
            "WITH RECURSIVE chain (seq, previous_id, depth) AS (
                 SELECT seq, previous_id, 0 FROM objects
                 WHERE tenant = $1 AND id = $2 AND kind = 'response' AND NOT hidden AND lease_until IS NULL
                 UNION ALL
                 SELECT o.seq, o.previous_id, c.depth + 1 FROM chain c
                 JOIN objects o ON o.tenant = $1 AND o.id = c.previous_id AND o.kind = 'response'
             ) ",
            $select
        )
    };
}

/// The first turn: what it continues (nothing, if the chain is whole), its conversation, its date.
const CHAIN_ROOT: &str = chain!(
    "SELECT o.previous_id, o.conversation_id, o.conversation_len, o.date
     FROM chain c JOIN objects o ON o.seq = c.seq ORDER BY c.depth DESC LIMIT 1"
);
/// The items of all turns, in order.
const CHAIN_ITEMS: &str =
    chain!("SELECT i.body FROM chain c JOIN items i ON i.object = c.seq ORDER BY c.depth DESC, i.position");

type ChainRoot = (Option<String>, Option<String>, Option<i64>, String);

impl History {
    /// No turns yet; the system message of all that follow will say this date.
    pub(crate) fn new(date: String) -> Self {
        Self { items: Vec::new(), date, origin: Origin::Fresh }
    }
}

impl Store {
    /// Everything up to and including the response `id`; `None` if it is not there whole and finished.
    pub(crate) async fn history_after(
        &self,
        tenant: &Tenant,
        id: &str,
    ) -> Result<Option<History>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(None) };
        let root: Option<ChainRoot> = on_pool!(pool, db => {
            sqlx::query_as(CHAIN_ROOT).bind(&*tenant.0).bind(key(id)).fetch_optional(db).await?
        });
        let Some((None, conversation, conversation_len, date)) = root else { return Ok(None) };
        let mut items = Vec::new();
        if let (Some(conversation), Some(len)) = (conversation, conversation_len) {
            let Some(before) = self.conversation_seq(pool, tenant, &conversation).await? else {
                return Ok(None);
            };
            items.extend(items_of(pool, before, len).await?);
        }
        let rows: Vec<(String,)> = on_pool!(pool, db => {
            sqlx::query_as(CHAIN_ITEMS).bind(&*tenant.0).bind(key(id)).fetch_all(db).await?
        });
        for (body,) in &rows {
            items.push(read_item(body)?);
        }
        let origin = Origin::Response(id.to_owned());
        Ok(Some(History { items, date, origin }))
    }

    /// The items of a conversation so far.
    pub(crate) async fn conversation_history(
        &self,
        tenant: &Tenant,
        id: &str,
    ) -> Result<Option<History>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(None) };
        let row: Option<(i64, String)> = on_pool!(pool, db => {
            sqlx::query_as("SELECT seq, date FROM objects WHERE tenant = $1 AND id = $2 AND kind = 'conversation'")
                .bind(&*tenant.0)
                .bind(key(id))
                .fetch_optional(db)
                .await?
        });
        let Some((seq, date)) = row else { return Ok(None) };
        let items = items_of(pool, seq, i64::MAX).await?;
        let len = next_position(pool, seq).await?;
        let origin = Origin::Conversation { id: id.to_owned(), len };
        Ok(Some(History { items, date, origin }))
    }

    /// The item of this id, in whatever was stored last with it.
    pub(crate) async fn item(&self, tenant: &Tenant, id: &str) -> Result<Option<InputItem>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(None) };
        let row: Option<(String,)> = on_pool!(pool, db => {
            sqlx::query_as(
                "SELECT i.body FROM items i JOIN objects o ON o.seq = i.object
                 WHERE i.id = $2 AND i.id <> '' AND o.tenant = $1 AND NOT o.hidden
                 ORDER BY o.seq DESC, i.position DESC LIMIT 1",
            )
            .bind(&*tenant.0)
            .bind(key(id))
            .fetch_optional(db)
            .await?
        });
        row.map(|(body,)| read_item(&body)).transpose()
    }
}

/// The items of an object at the first `len` positions, in order.
async fn items_of(pool: &Pool, object: i64, len: i64) -> Result<Vec<InputItem>, StoreError> {
    let rows: Vec<(String,)> = on_pool!(pool, db => {
        sqlx::query_as("SELECT body FROM items WHERE object = $1 AND position < $2 ORDER BY position")
            .bind(object)
            .bind(len)
            .fetch_all(db)
            .await?
    });
    rows.iter().map(|(body,)| read_item(body)).collect()
}

async fn next_position(pool: &Pool, object: i64) -> Result<i64, StoreError> {
    let (next,): (i64,) = on_pool!(pool, db => {
        sqlx::query_as("SELECT COALESCE(MAX(position) + 1, 0) FROM items WHERE object = $1")
            .bind(object)
            .fetch_one(db)
            .await?
    });
    Ok(next)
}

/// The item as the model is shown it: where the chain of thought is there, nobody needs it sealed.
fn read_item(body: &str) -> Result<InputItem, StoreError> {
    let mut item: InputItem = serde_json::from_str(body)?;
    if item.kind.as_deref() == Some("reasoning") && item.content.is_some() {
        item.encrypted_content = None;
    }
    Ok(item)
}

/// An item's id in its JSON, or the empty text.
pub(super) fn item_id(item: &Value) -> &str {
    key(item["id"].as_str().unwrap_or_default())
}
