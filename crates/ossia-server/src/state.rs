//! What every handler shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ossia_engine::EngineHandle;
use ossia_harmony::Tokenizer;

use crate::access::Access;
use crate::audit::Audit;
use crate::clock;
use crate::error::ApiError;
use crate::live::LiveResponses;
use crate::metrics::Metrics;
use crate::seal::{Sealer, SealingKey};
use crate::store::{Store, StoreError, StoreOptions, StoreTarget};
use crate::traces::Traces;
use crate::turn::Grammars;
use crate::watchdog;

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
    /// Most tokens of an answer, whatever a request says.
    pub max_output_tokens: Option<usize>,
    /// Longest wait for the engine to take a request up.
    pub max_queue: Option<Duration>,
    /// Most messages of a chat request, or items of a response's input.
    pub max_messages: usize,
    /// Most tools of a request.
    pub max_tools: usize,
    /// Origins whose web pages may read answers, such as `https://chat.example`; `*` is any.
    pub cors_origins: Vec<String>,
    /// Let everybody read `/metrics`, also where other requests need a key.
    pub public_metrics: bool,
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
            max_output_tokens: None,
            max_queue: None,
            max_messages: 4096,
            max_tools: 1024,
            cors_origins: Vec::new(),
            public_metrics: false,
            max_body_bytes: 32 << 20,
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// What a server uses beside its engine.
#[derive(Clone)]
pub struct Services {
    /// What outlives a request.
    pub store: Store,
    /// What was sealed with it before can be opened again.
    pub sealing_key: SealingKey,
    /// Who may ask for what.
    pub access: Access,
    /// Where it is written down who asked for what.
    pub audit: Audit,
    /// Where it is told what a request consisted of.
    pub traces: Traces,
}

impl Default for Services {
    /// A store in memory, a fresh key, and everybody may do everything.
    fn default() -> Self {
        Self {
            store: Store::new(StoreTarget::Memory, StoreOptions::default()),
            sealing_key: SealingKey::random(),
            access: Access::default(),
            audit: Audit::default(),
            traces: Traces::default(),
        }
    }
}

/// Engine, tokenizer, configuration and services. Clones are cheap and share everything.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    engine: EngineHandle,
    tokenizer: Tokenizer,
    config: ServerConfig,
    services: Services,
    sealer: Sealer,
    live: LiveResponses,
    grammars: Grammars,
    metrics: Metrics,
    admits: AtomicBool,
}

impl AppState {
    /// Puts the parts together, with a store in memory. The tokenizer has to be that of the engine's model.
    pub fn new(engine: EngineHandle, tokenizer: Tokenizer, config: ServerConfig) -> Self {
        Self::with_services(engine, tokenizer, config, Services::default())
    }

    /// Puts the parts together.
    pub fn with_services(
        engine: EngineHandle,
        tokenizer: Tokenizer,
        config: ServerConfig,
        services: Services,
    ) -> Self {
        let (sealer, live) = (Sealer::new(&services.sealing_key), LiveResponses::default());
        let grammars = Grammars::new(tokenizer.clone());
        let name = config.served_model_names.first().unwrap_or(&config.model_root);
        let metrics = Metrics::new(name, engine.clone());
        Self(Arc::new(Shared {
            engine,
            tokenizer,
            config,
            services,
            sealer,
            live,
            grammars,
            metrics,
            admits: AtomicBool::new(true),
        }))
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

    /// From now on no request that generates is let in, not even on connections that stay open.
    pub(crate) fn stop_admitting(&self) {
        self.0.admits.store(false, Ordering::Relaxed);
    }

    pub(crate) fn admits(&self) -> bool {
        self.0.admits.load(Ordering::Relaxed)
    }

    /// Reports steps of the engine that take longer than `bound`, for as long as the future is polled.
    pub async fn watch_engine(self, bound: Duration) {
        watchdog::watch(self.engine(), self.metrics(), bound).await;
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
        &self.0.services.store
    }

    pub(crate) fn access(&self) -> &Access {
        &self.0.services.access
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.0.services.audit
    }

    pub(crate) fn traces(&self) -> &Traces {
        &self.0.services.traces
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
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
