//! `ossia serve`: the HTTP server, from flags to the last open stream.

use std::time::Duration;

use anyhow::{Context, Result};
use ossia_server::{AppState, ServerConfig};
use tokio::net::TcpListener;

use crate::cli::ServeArgs;
use crate::{load, storage};

/// Serves until SIGINT or SIGTERM; open requests are finished, a second signal ends them too.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let delay = Duration::from_millis(args.scripted_delay_ms);
    let parts = load::parts(&args.model, &args.engine, delay)?;
    let config = ServerConfig {
        served_model_names: served_names(args),
        model_root: args.model.model.default_name(),
        accept_any_model: args.accept_any_model,
        max_reasoning_tokens: args.max_reasoning_tokens,
        ..ServerConfig::default()
    };
    let (store, key) = storage::prepare(&args.store)?;
    let state = AppState::with_store(parts.engine, parts.tokenizer, config, store.clone(), &key);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    runtime.block_on(async {
        store.open().await?;
        tokio::spawn(state.clone().keep_house());
        let grammars = state.clone();
        tokio::task::spawn_blocking(move || grammars.prepare_grammars());
        let app = ossia_server::router(state);
        let listener = TcpListener::bind((args.host, args.port))
            .await
            .with_context(|| format!("cannot listen on {}:{}", args.host, args.port))?;
        tracing::info!("ready: http://{}/v1", listener.local_addr()?);
        let served = axum::serve(listener, app).with_graceful_shutdown(signal());
        tokio::select! {
            outcome = async { served.await } => outcome.context("the server ended"),
            () = async { signal().await; signal().await } => Ok(()),
        }
    })?;
    drop(parts.thread);
    tracing::info!("stopped");
    Ok(())
}

fn served_names(args: &ServeArgs) -> Vec<String> {
    match args.served_model_name.is_empty() {
        true => vec![args.model.model.default_name()],
        false => args.served_model_name.clone(),
    }
}

/// Ends at SIGINT, or SIGTERM where there is one.
async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler there is nothing to wait for; the default action ends the process.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
