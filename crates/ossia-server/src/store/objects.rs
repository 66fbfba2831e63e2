//! What all kinds of objects have in common: they are found by their ids, have metadata and items, and are deleted.

use serde_json::{Map, Value};

use super::pool::{Tenant, key, on_pool};
use super::{Store, StoreError};
use crate::clock;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    /// Its items are the input and the output of its turn.
    Response,
    /// Its items are those of all its turns, and those that clients added.
    Conversation,
    /// A stored chat completion; its items are the messages of the request.
    Completion,
}

impl ObjectKind {
    /// As it stands in the column `kind`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Conversation => "conversation",
            Self::Completion => "completion",
        }
    }
}

impl Store {
    /// The object of this id, as the API shows it.
    pub(crate) async fn object(
        &self,
        kind: ObjectKind,
        tenant: &Tenant,
        id: &str,
    ) -> Result<Option<Value>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(None) };
        let row: Option<(String,)> = on_pool!(pool, db => {
            sqlx::query_as(
                "SELECT body FROM objects WHERE tenant = $1 AND id = $2 AND kind = $3 AND NOT hidden",
            )
            .bind(&*tenant.0)
            .bind(key(id))
            .bind(kind.as_str())
            .fetch_optional(db)
            .await?
        });
        row.map(|(body,)| Ok(serde_json::from_str(&body)?)).transpose()
    }

    /// The items of an object in order, of a response those of its input; `None` if there is no such object.
    pub(crate) async fn items(
        &self,
        kind: ObjectKind,
        tenant: &Tenant,
        id: &str,
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(None) };
        // An object without items is one row without an item.
        let rows: Vec<(Option<String>,)> = on_pool!(pool, db => {
            sqlx::query_as(
                "SELECT i.body FROM objects o
                 LEFT JOIN items i ON i.object = o.seq AND (o.kind <> 'response' OR NOT i.output)
                 WHERE o.tenant = $1 AND o.id = $2 AND o.kind = $3 AND NOT o.hidden ORDER BY i.position",
            )
            .bind(&*tenant.0)
            .bind(key(id))
            .bind(kind.as_str())
            .fetch_all(db)
            .await?
        });
        if rows.is_empty() {
            return Ok(None);
        }
        let items = rows.iter().flat_map(|(body,)| body).map(|body| serde_json::from_str(body));
        Ok(Some(items.collect::<Result<_, _>>()?))
    }

    /// Replaces the metadata; gives the object, if there is one.
    pub(crate) async fn set_metadata(
        &self,
        kind: ObjectKind,
        tenant: &Tenant,
        id: &str,
        metadata: Map<String, Value>,
    ) -> Result<Option<Value>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(None) };
        let Some(mut body) = self.object(kind, tenant, id).await? else { return Ok(None) };
        body["metadata"] = Value::Object(metadata);
        on_pool!(pool, db => {
            sqlx::query("UPDATE objects SET body = $4, used_at = $5 WHERE tenant = $1 AND id = $2 AND kind = $3")
                .bind(&*tenant.0)
                .bind(key(id))
                .bind(kind.as_str())
                .bind(body.to_string())
                .bind(clock::unix_now() as i64)
                .execute(db)
                .await?
                .rows_affected()
        });
        Ok(Some(body))
    }

    /// Forgets an object with its items; `false` if there is none. A response that others continue has to be hidden
    /// instead, see [`Store::delete_response`].
    pub(crate) async fn delete_object(
        &self,
        kind: ObjectKind,
        tenant: &Tenant,
        id: &str,
    ) -> Result<bool, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(false) };
        let deleted = on_pool!(pool, db => {
            sqlx::query("DELETE FROM objects WHERE tenant = $1 AND id = $2 AND kind = $3")
                .bind(&*tenant.0)
                .bind(key(id))
                .bind(kind.as_str())
                .execute(db)
                .await?
                .rows_affected()
        });
        Ok(deleted > 0)
    }
}
