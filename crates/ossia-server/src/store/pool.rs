//! The two databases behind one set of statements. Both number placeholders `$1` and know `RETURNING`,
//! `ON CONFLICT` and recursive queries; only the types of a few columns differ, which is a matter of the migrations.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, PgPool, SqlSafeStr, SqlitePool};
use tokio::sync::Mutex;

use super::{StoreError, StoreTarget};

const SQLITE_MIGRATIONS: &[(&str, &str)] =
    &[("objects", include_str!("../../migrations/sqlite/0001_objects.sql"))];
const POSTGRES_MIGRATIONS: &[(&str, &str)] =
    &[("objects", include_str!("../../migrations/postgres/0001_objects.sql"))];

/// Longest id that is looked up; what is longer is nobody's.
const MAX_KEY_BYTES: usize = 512;

/// Connections at the same time.
const MAX_CONNECTIONS: u32 = 8;
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Whose objects: nobody sees another tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tenant(pub(crate) Arc<str>);

#[derive(Debug)]
pub(super) enum Pool {
    /// With the turn to write, for which transactions of this process queue: SQLite has one writer, and lets those who
    /// wait for its lock poll, so that on a busy machine some would never find it free.
    Sqlite(SqlitePool, Mutex<()>),
    Postgres(PgPool),
}

/// Runs the same statements on either pool.
macro_rules! on_pool {
    ($pool:expr, $db:ident => $body:expr) => {
        match $pool {
            $crate::store::pool::Pool::Sqlite($db, _) => $body,
            $crate::store::pool::Pool::Postgres($db) => $body,
        }
    };
}

/// Runs the same statements in a transaction of either pool. `?` inside leaves the function and rolls back.
macro_rules! in_transaction {
    ($pool:expr, $tx:ident => $body:block) => {
        match $pool {
            $crate::store::pool::Pool::Sqlite(pool, writer) => {
                let _turn = writer.lock().await;
                // A transaction that only later begins to write may find that it no longer can.
                let mut $tx = pool.begin_with("BEGIN IMMEDIATE").await?;
                let outcome = $body;
                $tx.commit().await?;
                outcome
            }
            $crate::store::pool::Pool::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let outcome = $body;
                $tx.commit().await?;
                outcome
            }
        }
    };
}

pub(super) use {in_transaction, on_pool};

impl Pool {
    /// Connects and brings the tables up to date.
    pub(super) async fn open(target: &StoreTarget) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { target: target.to_string(), source };
        match target {
            StoreTarget::Postgres(url) => {
                let options = PgConnectOptions::from_str(url).map_err(failed)?.disable_statement_logging();
                let pool = PgPoolOptions::new().max_connections(MAX_CONNECTIONS);
                let pool = pool.connect_with(options).await.map_err(failed)?;
                migrator(POSTGRES_MIGRATIONS).run(&pool).await?;
                Ok(Self::Postgres(pool))
            }
            StoreTarget::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full) // a commit survives the loss of power too
                    .busy_timeout(BUSY_TIMEOUT)
                    .disable_statement_logging();
                let pool = SqlitePoolOptions::new().max_connections(MAX_CONNECTIONS).before_acquire(
                    // When a commit fails, on a full disk say, SQLite rolls back by itself and sqlx goes on counting
                    // the transaction: such a connection would refuse every later one.
                    |connection, _| {
                        let is_usable = !connection.is_in_transaction();
                        Box::pin(async move { Ok(is_usable) })
                    },
                );
                Self::sqlite(pool.connect_with(options).await.map_err(failed)?).await
            }
            StoreTarget::Memory | StoreTarget::Nothing => {
                // Each connection would have a memory of its own.
                let pool = SqlitePoolOptions::new()
                    .min_connections(1)
                    .max_connections(1)
                    .idle_timeout(None)
                    .max_lifetime(None);
                let options = SqliteConnectOptions::new().in_memory(true).disable_statement_logging();
                Self::sqlite(pool.connect_with(options).await.map_err(failed)?).await
            }
        }
    }

    async fn sqlite(pool: SqlitePool) -> Result<Self, StoreError> {
        migrator(SQLITE_MIGRATIONS).run(&pool).await?;
        Ok(Self::Sqlite(pool, Mutex::new(())))
    }
}

fn migrator(migrations: &[(&'static str, &'static str)]) -> Migrator {
    let migrations = (1..).zip(migrations).map(|(version, (name, sql))| {
        Migration::new(version, Cow::Borrowed(*name), MigrationType::Simple, (*sql).into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// `id` as a column can hold it: a text that PostgreSQL or an index would refuse becomes the empty one, which is
/// nobody's id.
pub(super) fn key(id: &str) -> &str {
    if id.len() > MAX_KEY_BYTES || id.contains('\0') { "" } else { id }
}
