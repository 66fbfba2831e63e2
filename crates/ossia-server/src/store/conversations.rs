//! Conversations: an object with metadata, and items that responses and clients add to it.

use serde_json::Value;

use super::history::item_id;
use super::pool::{Pool, Tenant, in_transaction, key, on_pool};
use super::responses::{append_to_conversation, insert_items, size_of};
use super::{ObjectKind, Store, StoreError};
use crate::clock;

impl Store {
    /// Writes a new conversation; `body` is the object as the API shows it. `false` if nothing is kept.
    pub(crate) async fn insert_conversation(
        &self,
        tenant: &Tenant,
        body: &Value,
        items: Vec<Value>,
        date: &str,
    ) -> Result<bool, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(false) };
        let (text, now) = (body.to_string(), clock::unix_now() as i64);
        let items: Vec<(Value, bool)> = items.into_iter().map(|item| (item, false)).collect();
        let size = size_of(&items) + text.len() as i64;
        in_transaction!(pool, tx => {
            let (seq,): (i64,) = sqlx::query_as(
                "INSERT INTO objects (tenant, id, kind, model, status, created_at, used_at, date, body, events, size)
                 VALUES ($1, $2, 'conversation', '', '', $3, $3, $4, $5, '', $6) RETURNING seq",
            )
            .bind(&*tenant.0)
            .bind(body["id"].as_str().unwrap_or_default())
            .bind(now)
            .bind(date)
            .bind(&text)
            .bind(size)
            .fetch_one(&mut *tx)
            .await?;
            insert_items!(tx, seq, 0i64, &items);
        });
        self.grew(size).await?;
        Ok(true)
    }

    /// Adds items at the end; `false` if there is no such conversation.
    pub(crate) async fn add_items(
        &self,
        tenant: &Tenant,
        id: &str,
        items: &[Value],
    ) -> Result<bool, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(false) };
        if self.object(ObjectKind::Conversation, tenant, id).await?.is_none() {
            return Ok(false);
        }
        let items: Vec<(Value, bool)> = items.iter().map(|item| (item.clone(), false)).collect();
        let size = size_of(&items);
        in_transaction!(pool, tx => {
            append_to_conversation!(tx, &*tenant.0, id, size, &items);
        });
        self.grew(size).await?;
        Ok(true)
    }

    /// Takes an item out of a conversation; `false` if it is not there.
    pub(crate) async fn delete_item(
        &self,
        tenant: &Tenant,
        conversation: &str,
        item: &str,
    ) -> Result<bool, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(false) };
        let Some(seq) = self.conversation_seq(pool, tenant, conversation).await? else { return Ok(false) };
        let deleted = on_pool!(pool, db => {
            sqlx::query("DELETE FROM items WHERE object = $1 AND id = $2 AND id <> ''")
                .bind(seq)
                .bind(key(item))
                .execute(db)
                .await?
                .rows_affected()
        });
        Ok(deleted > 0)
    }

    pub(super) async fn conversation_seq(
        &self,
        pool: &Pool,
        tenant: &Tenant,
        id: &str,
    ) -> Result<Option<i64>, StoreError> {
        let row: Option<(i64,)> = on_pool!(pool, db => {
            sqlx::query_as("SELECT seq FROM objects WHERE tenant = $1 AND id = $2 AND kind = 'conversation'")
                .bind(&*tenant.0)
                .bind(key(id))
                .fetch_optional(db)
                .await?
        });
        Ok(row.map(|(seq,)| seq))
    }
}
