//! Responses: written when they begin (in the background) or when they end, read, cancelled, deleted.

use serde_json::Value;

use super::history::item_id;
use super::pool::{Pool, Tenant, in_transaction, key, on_pool};
use super::{Origin, Store, StoreError};
use crate::clock;
use crate::wire::responses::InputItem;

/// A turn as it is written.
#[derive(Debug, Clone)]
pub(crate) struct TurnRecord {
    /// The response object.
    pub(crate) body: Value,
    pub(crate) input: Vec<InputItem>,
    pub(crate) origin: Origin,
    pub(crate) date: String,
    /// The packed event log; empty while the response runs.
    pub(crate) events: String,
}

/// A response as it is read.
#[derive(Debug, Clone)]
pub(crate) struct StoredResponse {
    pub(crate) body: Value,
    pub(crate) events: String,
    /// Whether some server works on it.
    pub(crate) running: bool,
}

impl TurnRecord {
    fn id(&self) -> &str {
        self.body["id"].as_str().unwrap_or_default()
    }

    fn status(&self) -> &str {
        self.body["status"].as_str().unwrap_or_default()
    }

    fn output(&self) -> &[Value] {
        self.body["output"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Input and output, each as JSON, with whether it is output.
    fn items(&self) -> Result<Vec<(Value, bool)>, StoreError> {
        let input = self.input.iter().map(|item| Ok((serde_json::to_value(item)?, false)));
        let output = self.output().iter().map(|item| Ok((item.clone(), true)));
        input.chain(output).collect()
    }

    /// A failed turn says nothing that a conversation could go on from.
    fn belongs_to_conversation(&self) -> Option<&str> {
        match &self.origin {
            Origin::Conversation { id, .. } if self.status() != "failed" => Some(id),
            _ => None,
        }
    }
}

/// The items of a response are written once, when it is finished; those of a conversation are added to.
macro_rules! insert_items {
    ($tx:ident, $object:expr, $first:expr, $items:expr) => {
        for (position, (item, output)) in ($first..).zip($items) {
            sqlx::query("INSERT INTO items (object, position, id, output, body) VALUES ($1, $2, $3, $4, $5)")
                .bind($object)
                .bind(position)
                .bind(item_id(item))
                .bind(*output)
                .bind(item.to_string())
                .execute(&mut *$tx)
                .await?;
        }
    };
}

/// Adds the turn to its conversation. The conversation's row is locked first, so that two turns that end at the same
/// time stand one after the other.
macro_rules! append_to_conversation {
    ($tx:ident, $tenant:expr, $id:expr, $size:expr, $items:expr) => {
        let row: Option<(i64,)> = sqlx::query_as(
            "UPDATE objects SET used_at = $3, size = size + $4
             WHERE tenant = $1 AND id = $2 AND kind = 'conversation' RETURNING seq",
        )
        .bind($tenant)
        .bind(key($id))
        .bind(clock::unix_now() as i64)
        .bind($size)
        .fetch_optional(&mut *$tx)
        .await?;
        if let Some((seq,)) = row {
            let (next,): (i64,) =
                sqlx::query_as("SELECT COALESCE(MAX(position) + 1, 0) FROM items WHERE object = $1")
                    .bind(seq)
                    .fetch_one(&mut *$tx)
                    .await?;
            insert_items!($tx, seq, next, $items);
        }
    };
}

pub(super) use {append_to_conversation, insert_items};

impl Store {
    /// Writes a turn that begins or that has ended; `running` says which.
    pub(crate) async fn insert_turn(
        &self,
        tenant: &Tenant,
        turn: &TurnRecord,
        running: bool,
    ) -> Result<(), StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(()) };
        let items = turn.items()?;
        let (body, now) = (turn.body.to_string(), clock::unix_now() as i64);
        let size = size_of(&items) + (body.len() + turn.events.len()) as i64;
        let (previous, conversation) = match &turn.origin {
            Origin::Fresh | Origin::Connection => (None, None),
            Origin::Response(id) => (Some(key(id)), None),
            Origin::Conversation { id, len } => (None, Some((key(id), *len))),
        };
        in_transaction!(pool, tx => {
            let (seq,): (i64,) = sqlx::query_as(
                "INSERT INTO objects (tenant, id, kind, model, status, created_at, used_at, lease_until,
                     previous_id, conversation_id, conversation_len, date, body, events, size)
                 VALUES ($1, $2, 'response', '', $3, $4, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING seq",
            )
            .bind(&*tenant.0)
            .bind(turn.id())
            .bind(turn.status())
            .bind(now)
            .bind(running.then(|| self.lease_until()))
            .bind(previous)
            .bind(conversation.map(|(id, _)| id))
            .bind(conversation.map(|(_, len)| len))
            .bind(&turn.date)
            .bind(&body)
            .bind(&turn.events)
            .bind(size)
            .fetch_one(&mut *tx)
            .await?;
            insert_items!(tx, seq, 0i64, &items);
            if let (Some(id), false) = (turn.belongs_to_conversation(), running) {
                append_to_conversation!(tx, &*tenant.0, id, size_of(&items), &items);
            }
        });
        self.grew(size).await
    }

    /// Adds a turn to its conversation, and keeps nothing else of it.
    pub(crate) async fn append_turn(&self, tenant: &Tenant, turn: &TurnRecord) -> Result<(), StoreError> {
        let Some(id) = turn.belongs_to_conversation() else { return Ok(()) };
        let items: Vec<Value> = turn.items()?.into_iter().map(|(item, _)| item).collect();
        self.add_items(tenant, id, &items).await.map(|_| ())
    }

    /// Writes the state of a running turn; `false` if it is no longer running: cancelled or deleted elsewhere.
    pub(crate) async fn update_turn(
        &self,
        tenant: &Tenant,
        turn: &TurnRecord,
        running: bool,
    ) -> Result<bool, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(true) };
        let items = turn.items()?;
        let body = turn.body.to_string();
        let grown = (body.len() + turn.events.len()) as i64;
        let updated = in_transaction!(pool, tx => {
            let row: Option<(i64,)> = sqlx::query_as(
                "UPDATE objects SET status = $3, lease_until = $4, body = $5, events = $6, size = size + $7
                 WHERE tenant = $1 AND id = $2 AND lease_until IS NOT NULL RETURNING seq",
            )
            .bind(&*tenant.0)
            .bind(turn.id())
            .bind(turn.status())
            .bind(running.then(|| self.lease_until()))
            .bind(&body)
            .bind(&turn.events)
            .bind(grown)
            .fetch_optional(&mut *tx)
            .await?;
            if let (Some((seq,)), false) = (row, running) {
                insert_items!(tx, seq, turn.input.len() as i64, &items[turn.input.len()..]);
                if let Some(id) = turn.belongs_to_conversation() {
                    append_to_conversation!(tx, &*tenant.0, id, size_of(&items), &items);
                }
            }
            row.is_some()
        });
        self.grew(grown).await?;
        Ok(updated)
    }

    /// The response of this id.
    pub(crate) async fn response(
        &self,
        tenant: &Tenant,
        id: &str,
    ) -> Result<Option<StoredResponse>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(None) };
        let row: Option<(String, String, Option<i64>)> = on_pool!(pool, db => {
            sqlx::query_as(
                "SELECT body, events, lease_until FROM objects
                 WHERE tenant = $1 AND id = $2 AND kind = 'response' AND NOT hidden",
            )
            .bind(&*tenant.0)
            .bind(key(id))
            .fetch_optional(db)
            .await?
        });
        let Some((body, events, lease)) = row else { return Ok(None) };
        Ok(Some(StoredResponse { body: serde_json::from_str(&body)?, events, running: lease.is_some() }))
    }

    /// Marks a response as cancelled that another server works on, if it still runs.
    pub(crate) async fn cancel_response(
        &self,
        tenant: &Tenant,
        id: &str,
        mut body: Value,
    ) -> Result<(), StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(()) };
        body["status"] = "cancelled".into();
        on_pool!(pool, db => {
            sqlx::query(
                "UPDATE objects SET status = 'cancelled', body = $3, lease_until = NULL
                 WHERE tenant = $1 AND id = $2 AND lease_until IS NOT NULL",
            )
            .bind(&*tenant.0)
            .bind(key(id))
            .bind(body.to_string())
            .execute(db)
            .await?
            .rows_affected()
        });
        Ok(())
    }

    /// Forgets a response; `false` if there is none. What other responses continue is only hidden.
    pub(crate) async fn delete_response(&self, tenant: &Tenant, id: &str) -> Result<bool, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(false) };
        let deleted = on_pool!(pool, db => {
            sqlx::query(
                "UPDATE objects SET hidden = TRUE, lease_until = NULL
                 WHERE tenant = $1 AND id = $2 AND kind = 'response' AND NOT hidden",
            )
            .bind(&*tenant.0)
            .bind(key(id))
            .execute(db)
            .await?
            .rows_affected()
        });
        drop_hidden(pool).await?;
        Ok(deleted > 0)
    }
}

/// Deletes what is hidden and no longer continued by anything.
pub(super) async fn drop_hidden(pool: &Pool) -> Result<(), StoreError> {
    loop {
        let dropped = on_pool!(pool, db => {
            sqlx::query(
                "DELETE FROM objects WHERE hidden AND NOT EXISTS (
                     SELECT 1 FROM objects child
                     WHERE child.tenant = objects.tenant AND child.previous_id = objects.id)",
            )
            .execute(db)
            .await?
            .rows_affected()
        });
        if dropped == 0 {
            return Ok(());
        }
    }
}

pub(super) fn size_of(items: &[(Value, bool)]) -> i64 {
    items.iter().map(|(item, _)| item.to_string().len() as i64).sum()
}
