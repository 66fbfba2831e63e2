//! What every handler shares.

use std::sync::Arc;
use std::time::Duration;

use ossia_engine::EngineHandle;
use ossia_harmony::Tokenizer;

use crate::clock;
use crate::error::ApiError;
use crate::live::LiveResponses;
use crate::seal::{Sealer, SealingKey};
use crate::store::{Store, StoreError, StoreOptions, StoreTarget};
use crate::turn::Grammars;

/// How the server presents itself and what it accepts.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Names under which the model is served; the first is the default. At least one.
    pub served_model_names: Vec<String>,
    /// Where the model comes from, as `/v1/models` says it: a repository, a path, or `scripted`.
    pub model_root: String,
    /// Answer requests for any model name instead of 404.
    pub accept_any_model: bool,
    /// When the model was loaded, Unix seconds.
    pub created: u64,
    /// Today's date in prompts as `YYYY-MM-DD`; `None` takes the clock's, in UTC.
    pub current_date: Option<String>,
    /// Most tokens that the model may think in a turn; requests may ask for fewer.
    pub max_reasoning_tokens: Option<usize>,
    /// Longest request body, in bytes.
    pub max_body_bytes: usize,
    /// Pause in a stream after which a comment is sent.
    pub keep_alive: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            served_model_names: vec!["gpt-oss".to_owned()],
            model_root: "gpt-oss".to_owned(),
            accept_any_model: false,
            created: clock::unix_now(),
            current_date: None,
            max_reasoning_tokens: None,
            max_body_bytes: 32 << 20,
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// Engine, tokenizer, configuration and store. Clones are cheap and share everything.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    engine: EngineHandle,
    tokenizer: Tokenizer,
    config: ServerConfig,
    store: Store,
    sealer: Sealer,
    live: LiveResponses,
    grammars: Grammars,
}

impl AppState {
    /// Puts the parts together, with a store in memory. The tokenizer has to be that of the engine's model.
    pub fn new(engine: EngineHandle, tokenizer: Tokenizer, config: ServerConfig) -> Self {
        let store = Store::new(StoreTarget::Memory, StoreOptions::default());
        Self::with_store(engine, tokenizer, config, store, &SealingKey::random())
    }

    /// Puts the parts together. What was sealed with `key` before can be opened again.
    pub fn with_store(
        engine: EngineHandle,
        tokenizer: Tokenizer,
        config: ServerConfig,
        store: Store,
        key: &SealingKey,
    ) -> Self {
        let (sealer, live) = (Sealer::new(key), LiveResponses::default());
        let grammars = Grammars::new(tokenizer.clone());
        Self(Arc::new(Shared { engine, tokenizer, config, store, sealer, live, grammars }))
    }

    /// Housekeeping of the store, for as long as the future is polled: says which responses this server works on,
    /// drops what is too old.
    pub async fn keep_house(self) {
        let store = self.store();
        while store.keeps() {
            tokio::time::sleep(store.options().lease / 3).await;
            if let Err(error) = self.keep_house_once().await {
                tracing::warn!(%error, "the store could not be swept");
            }
        }
    }

    /// One round of housekeeping; gives the number of responses that this server gave up, since they were cancelled
    /// or deleted through another one.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails.
    pub async fn keep_house_once(&self) -> Result<usize, StoreError> {
        let unwanted = self.store().renew(self.live().running()).await?;
        let num_unwanted = unwanted.len();
        for (tenant, id) in unwanted {
            if let Some(live) = self.live().get(&tenant, &id) {
                live.cancel().await;
            }
        }
        self.store().sweep().await?;
        Ok(num_unwanted)
    }

    /// Reads the vocabulary for grammars, which takes a second or two. Without it the first request that has a tool or
    /// a format waits for that.
    pub fn prepare_grammars(&self) {
        self.grammars().prepare();
    }

    pub(crate) fn engine(&self) -> &EngineHandle {
        &self.0.engine
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.0.sealer
    }

    pub(crate) fn live(&self) -> &LiveResponses {
        &self.0.live
    }

    pub(crate) fn grammars(&self) -> &Grammars {
        &self.0.grammars
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.engine().spec().vocab_size
    }

    pub(crate) fn current_date(&self) -> String {
        self.config().current_date.clone().unwrap_or_else(clock::today)
    }

    /// The name under which a request's answer goes out.
    ///
    /// # Errors
    /// 404 when the request names a model that is not served.
    pub(crate) fn resolve_model(&self, model: Option<&str>) -> Result<String, ApiError> {
        let config = self.config();
        match model {
            None => Ok(config.served_model_names.first().unwrap_or(&config.model_root).clone()),
            Some(name)
                if config.accept_any_model
                    || config.served_model_names.iter().any(|served| served == name) =>
            {
                Ok(name.to_owned())
            }
            Some(name) => {
                let served = config.served_model_names.join(", ");
                Err(ApiError::UnknownModel { model: name.to_owned(), served })
            }
        }
    }
}
