//! The stores that a test runs on, one after the other: every kind that keeps anything.
#![allow(dead_code, clippy::unwrap_used)]

use ossia_engine::{Engine, EngineConfig};
use ossia_scripted::{Rules, ScriptedOptions, ScriptedRunner};
use ossia_server::{AppState, SealingKey, ServerConfig, Services, Store, StoreOptions, StoreTarget, router};
use tempfile::TempDir;

use super::postgres::Postgres;
use super::{TestServer, tokenizer};

/// An empty database, which several servers may open one after the other.
pub(crate) struct TestStore {
    pub(crate) target: StoreTarget,
    key: SealingKey,
    _postgres: Option<Postgres>,
    _dir: Option<TempDir>,
}

/// One of each kind.
pub(crate) fn stores() -> Vec<TestStore> {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = TestStore {
        target: StoreTarget::Sqlite(dir.path().join("store.sqlite")),
        key: SealingKey::random(),
        _postgres: None,
        _dir: Some(dir),
    };
    let postgres = Postgres::start().map(|server| TestStore {
        target: StoreTarget::Postgres(server.database("ossia")),
        key: SealingKey::random(),
        _postgres: Some(server),
        _dir: None,
    });
    std::iter::once(sqlite).chain(postgres).collect()
}

impl TestStore {
    /// The store with limits of its own.
    pub(crate) fn open(&self, options: StoreOptions) -> Store {
        Store::new(self.target.clone(), options)
    }

    /// A server on this store.
    pub(crate) fn server(&self, rules: &str) -> TestServer {
        self.server_with(rules, self.open(StoreOptions::default()))
    }

    /// A server on `store`.
    pub(crate) fn server_with(&self, rules: &str, store: Store) -> TestServer {
        let tokenizer = tokenizer::small();
        let options = ScriptedOptions { num_blocks: 4096, ..ScriptedOptions::default() };
        let rules = Rules::from_json(rules).unwrap();
        let runner = ScriptedRunner::new(tokenizer.clone(), rules, options).unwrap();
        let (engine, thread) = Engine::start(Box::new(runner), EngineConfig::default()).unwrap();
        let config = ServerConfig::default();
        let services = Services { store, sealing_key: self.key.clone(), ..Services::default() };
        let state = AppState::with_services(engine.clone(), tokenizer, config, services);
        TestServer { app: router(state.clone()), engine, state, _thread: thread }
    }
}
