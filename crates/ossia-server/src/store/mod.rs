//! What outlives a request: responses with their items, conversations, stored chat completions. Kept in SQLite or
//! PostgreSQL by the same statements; an object is written whole in one transaction or not at all.

mod completions;
mod conversations;
mod event_log;
mod history;
mod lock;
mod objects;
mod pool;
mod responses;
mod sweep;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use tokio::sync::OnceCell;

pub(crate) use completions::CompletionFilter;
pub(crate) use event_log::{EventLog, LoggedEvent};
pub(crate) use history::{History, Origin};
pub(crate) use objects::ObjectKind;
use pool::Pool;
pub(crate) use pool::Tenant;
pub(crate) use responses::{StoredResponse, TurnRecord};

use crate::error::ApiError;
use crate::redact::without_password;

/// Where objects are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreTarget {
    /// Nowhere: nothing can be retrieved or continued by its id.
    Nothing,
    /// In memory, gone with the process.
    Memory,
    /// In an SQLite file, which is made if there is none. Several servers of one machine may share it.
    Sqlite(PathBuf),
    /// In the PostgreSQL database of this URL. Several servers may share it.
    Postgres(String),
}

/// How long and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Responses and chat completions are dropped so long after they were made, unless a younger response continues
    /// them.
    pub ttl: Duration,
    /// Bytes of JSON; beyond it the least recently used objects go first.
    pub max_bytes: u64,
    /// A server that does not report for so long has lost the responses that it was working on.
    pub lease: Duration,
}

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open the store at {target}")]
    Open {
        /// The file or server.
        target: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The lock file beside an SQLite file cannot be used.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The tables cannot be brought up to date.
    #[error("cannot bring the store's tables up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("the store failed")]
    Query(#[from] sqlx::Error),
    /// What is stored cannot be read, or what is to be stored cannot be written.
    #[error("an object of the store is not the JSON that it should be")]
    Json(#[from] serde_json::Error),
}

/// The store. Clones share it; it is opened when it is first used, or by [`Store::open`].
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: StoreTarget,
    options: StoreOptions,
    /// The lock is held for as long as the store is open.
    pool: OnceCell<(Pool, lock::Lock)>,
    /// About the bytes stored; counted anew by each sweep.
    num_bytes: AtomicI64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30 * 86_400), max_bytes: 4 << 30, lease: Duration::from_secs(30) }
    }
}

impl Store {
    /// A store that is not yet open.
    pub fn new(target: StoreTarget, options: StoreOptions) -> Self {
        Self(Arc::new(Inner { target, options, pool: OnceCell::new(), num_bytes: AtomicI64::new(0) }))
    }

    /// Opens the database and settles what a server that died has left unfinished.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be reached or its tables cannot be brought up to date.
    pub async fn open(&self) -> Result<(), StoreError> {
        self.pool().await.map(|_| ())
    }

    /// Whether anything is kept at all.
    pub(crate) fn keeps(&self) -> bool {
        self.0.target != StoreTarget::Nothing
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.0.options
    }

    async fn pool(&self) -> Result<Option<&Pool>, StoreError> {
        if !self.keeps() {
            return Ok(None);
        }
        let open = async {
            let lock = lock::Lock::take(&self.0.target)?;
            let pool = Pool::open(&self.0.target).await?;
            self.first_sweep(&pool, lock.is_alone()).await?;
            Ok::<_, StoreError>((pool, lock.share()?))
        };
        let (pool, _) = self.0.pool.get_or_try_init(|| open).await?;
        Ok(Some(pool))
    }
}

impl fmt::Display for StoreTarget {
    /// Without the password that a URL may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("none"),
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for StoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let mut causes = Vec::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(found) = cause {
            causes.push(found.to_string());
            cause = found.source();
        }
        tracing::error!(error = causes.join(": "), "the store failed");
        ApiError::Unavailable { reason: "the store of responses failed".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant(name.into())
    }

    /// A turn with an output item whose id every tenant has.
    fn turn(id: &str) -> TurnRecord {
        TurnRecord {
            body: json!({"id": id, "status": "completed", "output": [{"type": "message", "id": "msg_1", "role": "assistant", "content": "hi"}]}),
            input: Vec::new(),
            origin: Origin::Fresh,
            date: "2026-01-01".to_owned(),
            events: "[]".to_owned(),
        }
    }

    #[tokio::test]
    async fn nobody_sees_what_is_another_tenants() {
        let store = Store::new(StoreTarget::Memory, StoreOptions::default());
        let (mine, other) = (tenant("a"), tenant("b"));
        let conversation = json!({"id": "conv_1", "metadata": {}});
        let completion = json!({"id": "chat_1", "model": "m"});
        store.insert_turn(&mine, &turn("resp_1"), false).await.expect("kept");
        store.insert_conversation(&mine, &conversation, Vec::new(), "2026-01-01").await.expect("kept");
        store.insert_completion(&mine, &completion, Vec::new()).await.expect("kept");
        for (tenant, there) in [(&mine, true), (&other, false)] {
            let found = [
                store.response(tenant, "resp_1").await.expect("read").is_some(),
                store.history_after(tenant, "resp_1").await.expect("read").is_some(),
                store.items(ObjectKind::Response, tenant, "resp_1").await.expect("read").is_some(),
                store.item(tenant, "msg_1").await.expect("read").is_some(),
                store.object(ObjectKind::Conversation, tenant, "conv_1").await.expect("read").is_some(),
                store.conversation_history(tenant, "conv_1").await.expect("read").is_some(),
                store.add_items(tenant, "conv_1", &[]).await.expect("read"),
                store.object(ObjectKind::Completion, tenant, "chat_1").await.expect("read").is_some(),
                !store.completions(tenant, &CompletionFilter::default(), 9).await.expect("read").is_empty(),
            ];
            assert_eq!(found, [there; 9], "{tenant:?}");
        }
        for (tenant, there) in [(&other, false), (&mine, true)] {
            assert_eq!(store.delete_response(tenant, "resp_1").await.expect("done"), there);
            for (kind, id) in [(ObjectKind::Conversation, "conv_1"), (ObjectKind::Completion, "chat_1")] {
                assert_eq!(store.delete_object(kind, tenant, id).await.expect("done"), there);
            }
        }
        // The same ids are free for everybody.
        store.insert_turn(&other, &turn("resp_1"), false).await.expect("kept");
    }

    #[test]
    fn a_target_is_shown_without_its_password() {
        let target = StoreTarget::Postgres("postgres://user:secret@host:5432/db".to_owned());
        assert_eq!(
            (target.to_string(), format!("{target:?}")),
            ("postgres://user:***@host:5432/db".to_owned(), "postgres://user:***@host:5432/db".to_owned())
        );
    }
}
