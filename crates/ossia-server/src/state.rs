//! What every handler shares.

use std::sync::Arc;
use std::time::Duration;

use ossia_engine::EngineHandle;
use ossia_harmony::Tokenizer;

use crate::clock;
use crate::error::ApiError;
use crate::store::ResponseStore;

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
    /// Longest request body, in bytes.
    pub max_body_bytes: usize,
    /// Pause in a stream after which a comment is sent.
    pub keep_alive: Duration,
    /// Responses kept in memory; the oldest is dropped first.
    pub max_stored_responses: usize,
    /// JSON bytes of these responses together.
    pub max_stored_bytes: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            served_model_names: vec!["gpt-oss".to_owned()],
            model_root: "gpt-oss".to_owned(),
            accept_any_model: false,
            created: clock::unix_now(),
            current_date: None,
            max_body_bytes: 32 << 20,
            keep_alive: Duration::from_secs(15),
            max_stored_responses: 1024,
            max_stored_bytes: 256 << 20,
        }
    }
}

/// Engine, tokenizer, configuration and stored responses. Clones are cheap and share everything.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    engine: EngineHandle,
    tokenizer: Tokenizer,
    config: ServerConfig,
    store: ResponseStore,
}

impl AppState {
    /// Puts the parts together. The tokenizer has to be that of the engine's model.
    pub fn new(engine: EngineHandle, tokenizer: Tokenizer, config: ServerConfig) -> Self {
        let store = ResponseStore::new(config.max_stored_responses, config.max_stored_bytes);
        Self(Arc::new(Shared { engine, tokenizer, config, store }))
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

    pub(crate) fn store(&self) -> &ResponseStore {
        &self.0.store
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
