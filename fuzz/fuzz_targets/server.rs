//! The whole HTTP layer in this process, over an engine that answers by rule.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use ossia_engine::{Engine, EngineConfig, EngineThread};
use ossia_scripted::{Rules, ScriptedOptions, ScriptedRunner};
use ossia_server::{Access, AppState, ServerConfig, Services, Store, StoreOptions, StoreTarget, router};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use crate::tokenizer::TOKENIZER;

pub struct Server {
    runtime: Runtime,
    app: Router,
    /// What a target may change between two requests.
    pub access: Access,
    _thread: EngineThread,
}

pub static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

impl Server {
    /// Answers are short and little is kept: what is looked at is how requests are read.
    fn start() -> Self {
        let options = ScriptedOptions { num_blocks: 2048, ..ScriptedOptions::default() };
        let runner = ScriptedRunner::new(TOKENIZER.clone(), Rules::default(), options).expect("no rules");
        let limits = EngineConfig { max_model_len: 8192, ..EngineConfig::default() };
        let (engine, thread) = Engine::start(Box::new(runner), limits).expect("an engine");
        let config = ServerConfig {
            accept_any_model: true,
            max_output_tokens: Some(4),
            max_body_bytes: 1 << 16,
            ..ServerConfig::default()
        };
        let options = StoreOptions { max_bytes: 1 << 20, ..StoreOptions::default() };
        let access = Access::default();
        let services = Services {
            store: Store::new(StoreTarget::Memory, options),
            access: access.clone(),
            ..Services::default()
        };
        let app = router(AppState::with_services(engine, TOKENIZER.clone(), config, services));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, app, access, _thread: thread }
    }

    /// The status and the whole body of an answer.
    pub fn answer(&self, request: Request<Body>) -> (u16, Vec<u8>) {
        self.runtime.block_on(async {
            let Ok(answer) = self.app.clone().oneshot(request).await;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.map(|body| body.to_bytes().to_vec());
            (status, body.unwrap_or_default())
        })
    }
}
