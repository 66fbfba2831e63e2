//! Housekeeping: what is too old or too much goes, what a dead server left unfinished is marked failed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::pool::{Pool, Tenant, on_pool};
use super::responses::drop_hidden;
use super::{Store, StoreError};
use crate::clock;

/// Share of the bound that is left after it was passed, in percent.
const FILL_AFTER_PERCENT: i64 = 90;
/// Objects dropped at a time when there is too much.
const DROPPED_AT_ONCE: i64 = 64;

/// What may be dropped: finished, and continued by nothing.
const DELETE_EXPIRED: &str = "
    DELETE FROM objects WHERE kind <> 'conversation' AND used_at < $1 AND lease_until IS NULL AND NOT EXISTS (
        SELECT 1 FROM objects child WHERE child.tenant = objects.tenant AND child.previous_id = objects.id)";
const OLDEST: &str = "
    SELECT o.seq, o.size FROM objects o WHERE o.lease_until IS NULL AND NOT EXISTS (
        SELECT 1 FROM objects child WHERE child.tenant = o.tenant AND child.previous_id = o.id)
    ORDER BY o.used_at, o.seq LIMIT $1";

impl Store {
    /// Says that this server still works on these responses; gives those that nobody wants any more, since they
    /// were cancelled or deleted through another server.
    pub(crate) async fn renew(
        &self,
        running: Vec<(Tenant, String)>,
    ) -> Result<Vec<(Tenant, String)>, StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(Vec::new()) };
        let mut unwanted = Vec::new();
        for (tenant, id) in running {
            let renewed = on_pool!(pool, db => {
                sqlx::query(
                    "UPDATE objects SET lease_until = $3
                     WHERE tenant = $1 AND id = $2 AND lease_until IS NOT NULL",
                )
                .bind(&*tenant.0)
                .bind(&id)
                .bind(self.lease_until())
                .execute(db)
                .await?
                .rows_affected()
            });
            if renewed == 0 {
                unwanted.push((tenant, id));
            }
        }
        Ok(unwanted)
    }

    /// Drops what is too old or too much, and fails what nobody works on any more.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        let Some(pool) = self.pool().await? else { return Ok(()) };
        fail_abandoned(pool, clock::unix_now() as i64).await?;
        self.expire(pool).await?;
        self.shrink(pool).await
    }

    /// The lease of a turn that this server works on now.
    pub(super) fn lease_until(&self) -> i64 {
        clock::unix_now() as i64 + seconds(self.options().lease)
    }

    /// Counts what was added, and makes room if it is too much.
    pub(super) async fn grew(&self, bytes: i64) -> Result<(), StoreError> {
        let now = self.0.num_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match self.pool().await? {
            Some(pool) if now > self.max_bytes() => self.shrink(pool).await,
            _ => Ok(()),
        }
    }

    /// Whoever is alone with the database knows that all that is unfinished was lost with a server that died.
    pub(super) async fn first_sweep(&self, pool: &Pool, alone: bool) -> Result<(), StoreError> {
        let before = if alone { i64::MAX } else { clock::unix_now() as i64 };
        fail_abandoned(pool, before).await?;
        self.0.num_bytes.store(num_bytes(pool).await?, Ordering::Relaxed);
        Ok(())
    }

    async fn expire(&self, pool: &Pool) -> Result<(), StoreError> {
        let cutoff = clock::unix_now() as i64 - seconds(self.options().ttl);
        loop {
            let dropped = on_pool!(pool, db => {
                sqlx::query(DELETE_EXPIRED).bind(cutoff).execute(db).await?.rows_affected()
            });
            if dropped == 0 {
                return drop_hidden(pool).await;
            }
        }
    }

    async fn shrink(&self, pool: &Pool) -> Result<(), StoreError> {
        let mut found = num_bytes(pool).await?;
        if found > self.max_bytes() {
            let target = self.max_bytes() / 100 * FILL_AFTER_PERCENT;
            while found > target {
                let dropped = drop_oldest(pool, found - target).await?;
                found -= dropped;
                if dropped == 0 {
                    break;
                }
            }
            drop_hidden(pool).await?;
        }
        self.0.num_bytes.store(found, Ordering::Relaxed);
        Ok(())
    }

    fn max_bytes(&self) -> i64 {
        i64::try_from(self.options().max_bytes).unwrap_or(i64::MAX)
    }
}

/// Drops the oldest objects, up to `excess` bytes or a good number; gives the bytes that they had.
async fn drop_oldest(pool: &Pool, excess: i64) -> Result<i64, StoreError> {
    let oldest: Vec<(i64, i64)> = on_pool!(pool, db => {
        sqlx::query_as(OLDEST).bind(DROPPED_AT_ONCE).fetch_all(db).await?
    });
    let mut dropped = 0;
    for (seq, size) in oldest {
        if dropped >= excess {
            break;
        }
        on_pool!(pool, db => {
            sqlx::query("DELETE FROM objects WHERE seq = $1").bind(seq).execute(db).await?.rows_affected()
        });
        dropped += size;
    }
    Ok(dropped)
}

/// Marks as failed what some server worked on under a lease that ended before `before`.
async fn fail_abandoned(pool: &Pool, before: i64) -> Result<(), StoreError> {
    let rows: Vec<(i64, String)> = on_pool!(pool, db => {
        sqlx::query_as("SELECT seq, body FROM objects WHERE lease_until < $1").bind(before).fetch_all(db).await?
    });
    for (seq, body) in rows {
        let mut body: Value = serde_json::from_str(&body)?;
        body["status"] = "failed".into();
        body["error"] = json!({"code": "server_error", "message": "The server stopped before the response was complete."});
        on_pool!(pool, db => {
            sqlx::query(
                "UPDATE objects SET status = 'failed', body = $3, lease_until = NULL
                 WHERE seq = $1 AND lease_until < $2",
            )
            .bind(seq)
            .bind(before)
            .bind(body.to_string())
            .execute(db)
            .await?
            .rows_affected()
        });
    }
    Ok(())
}

async fn num_bytes(pool: &Pool) -> Result<i64, StoreError> {
    let (sum,): (i64,) = on_pool!(pool, db => {
        sqlx::query_as("SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM objects").fetch_one(db).await?
    });
    Ok(sum)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}
