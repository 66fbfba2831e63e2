//! `ossia serve`: the HTTP server, from settings to the last open stream.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ossia_server::{Access, AppState, Audit, Lifecycle, SealingKey, ServerConfig, Services, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::{HttpArgs, LogArgs, ServeArgs};
use crate::jwks::Provider;
use crate::lifecycle::{Signals, State, notify, report_alive};
use crate::listen::{Address, ConnectionOptions, Listener, Tls, TlsFiles, serve as accept};
use crate::load::{Extra, Parts};
use crate::otlp::Exporter;
use crate::{key_file, load, storage, watch as files};

/// How long a connection may take to say its last word.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What is read before the model is: whatever is wrong with it is said at once.
pub(crate) struct Setup {
    pub(crate) access: Access,
    provider: Option<Provider>,
    audit: Audit,
    exporter: Option<Exporter>,
    tls: Option<Tls>,
    pub(crate) store: Store,
    sealing_key: SealingKey,
}

/// Serves until SIGINT or SIGTERM; then open requests are finished, and a second signal ends them too.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let setup = Setup::new(args)?;
    // A stream is a file descriptor, and shells allow few of them.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the number of open files stays as it is");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let outcome = runtime.block_on(serve(args, setup));
    // What still runs, such as the loading of a model, is not waited for.
    runtime.shutdown_background();
    outcome
}

impl Setup {
    /// Reads keys, certificates and what else the settings name.
    pub(crate) fn new(args: &ServeArgs) -> Result<Self> {
        let access = Access::default();
        if let Some(path) = &args.access.api_keys {
            access
                .set_keys(key_file::read(path)?)
                .with_context(|| format!("API keys in {}", path.display()))?;
        }
        let provider = Provider::from_args(&args.access);
        if let Some(provider) = &provider {
            provider.load(&access)?;
        }
        let (store, sealing_key) = storage::prepare(&args.store)?;
        let exporter = args.log.otlp_endpoint.as_deref().map(Exporter::new).transpose()?;
        let (audit, tls) = (audit(&args.log)?, tls(&args.http)?);
        Ok(Self { access, provider, audit, exporter, tls, store, sealing_key })
    }
}

async fn serve(args: &ServeArgs, setup: Setup) -> Result<()> {
    let mut signals = Signals::new()?;
    let listener = listener(&args.http).await?;
    let address = listener.address()?;
    check_access(args, &setup, &address)?;
    let life = Lifecycle::default();
    let (closing, closed) = watch::channel(false);
    let options = ConnectionOptions {
        client_timeout: args.http.client_timeout.into(),
        max_connections: args.http.max_connections,
        tls: setup.tls.clone(),
    };
    watch_files(args, &setup);
    let exporter = setup.exporter.clone();
    let scheme = if setup.tls.is_some() { "https" } else { "http" };
    let server = tokio::spawn(accept(listener, life.router(), options, closed));
    tracing::info!("listening on {address}; requests are refused until the model is loaded");
    let parts = tokio::select! {
        parts = load(args) => parts?,
        () = signals.next() => {
            tracing::info!("stopped before the model was loaded");
            return Ok(());
        }
    };
    let Parts { thread, .. } = begin(args, setup, parts, &life).await?;
    match &address {
        Address::Tcp(address) => tracing::info!("ready: {scheme}://{address}/v1"),
        Address::Unix(_) => tracing::info!("ready: {address}"),
    }
    notify(State::Ready);
    signals.next().await;
    notify(State::Stopping);
    let is_patient = drain(args, &life, &mut signals).await;
    // Whoever is still there is told so, in an error that ends the stream.
    let engine = tokio::task::spawn_blocking(move || drop(thread));
    closing.send_replace(true);
    if is_patient && tokio::time::timeout(LAST_WORD, ended(engine, server)).await.is_err() {
        tracing::warn!("some connections did not end by themselves");
    }
    if let Some(exporter) = exporter {
        // What is still under way to the collector; the task does not panic.
        let _ = tokio::task::spawn_blocking(move || exporter.finish(LAST_WORD)).await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Waits for open requests; `false` if somebody does not want to wait.
async fn drain(args: &ServeArgs, life: &Lifecycle, signals: &mut Signals) -> bool {
    life.drain();
    let timeout = args.lifecycle.drain_timeout;
    tracing::info!(
        "finishing {} requests, for up to {timeout}; a second signal ends them now",
        life.num_open()
    );
    tokio::select! {
        () = life.idle() => true,
        () = tokio::time::sleep(timeout.into()) => {
            tracing::warn!("{} requests are cut off after {timeout}", life.num_open());
            true
        }
        () = signals.next() => {
            tracing::warn!("{} requests are cut off by a second signal", life.num_open());
            false
        }
    }
}

async fn ended(engine: JoinHandle<()>, server: JoinHandle<()>) {
    // Neither task panics, and if one did, it would have ended.
    let _ = tokio::join!(engine, server);
}

async fn listener(args: &HttpArgs) -> Result<Listener> {
    match (Listener::passed()?, &args.unix_socket) {
        (Some(passed), _) => Ok(passed),
        (None, Some(path)) => Listener::unix(path).await,
        (None, None) => Listener::tcp(args.host, args.port).await,
    }
}

/// Nobody else's machine may reach a server on which everybody may do everything, unless that is said.
fn check_access(args: &ServeArgs, setup: &Setup, address: &Address) -> Result<()> {
    let is_guarded = setup.access.is_required() || args.http.tls_client_ca.is_some();
    ensure!(
        is_guarded || address.is_local() || args.access.insecure,
        "without API keys anybody who reaches {address} could use this server: give --api-keys FILE (see `ossia key \
         new`), listen on 127.0.0.1, or say --insecure"
    );
    match (setup.access.is_required(), args.http.tls_client_ca.is_some()) {
        (true, _) => tracing::info!("access: requests need a key or a token"),
        (false, true) => tracing::info!("access: clients need a certificate"),
        (false, false) => tracing::info!("access: everybody who reaches {address} may do everything"),
    }
    if setup.access.is_required() && setup.tls.is_none() && !address.is_local() {
        tracing::warn!(
            "API keys travel in clear text: give --tls-cert and --tls-key, or put a proxy in front"
        );
    }
    Ok(())
}

/// Loads the model beside the async tasks.
async fn load(args: &ServeArgs) -> Result<Parts> {
    let (model, engine) = (args.model.clone(), args.engine.clone());
    let extra = Extra {
        scripted_delay: Duration::from_millis(args.scripted_delay_ms),
        max_num_waiting: args.limits.max_queue_len,
    };
    let loading = tokio::task::spawn_blocking(move || load::parts(&model, &engine, &extra));
    loading.await.context("loading the model panicked")?
}

/// Puts the API on the model and lets it in.
async fn begin(args: &ServeArgs, setup: Setup, parts: Parts, life: &Lifecycle) -> Result<Parts> {
    let Setup { access, audit, exporter, store, sealing_key, .. } = setup;
    store.open().await?;
    let traces = exporter.as_ref().map(Exporter::traces).unwrap_or_default();
    let services = Services { store, sealing_key, access, audit, traces };
    let state =
        AppState::with_services(parts.engine.clone(), parts.tokenizer.clone(), config(args), services);
    let (engine, names) = (parts.engine.config(), config(args).served_model_names.join(", "));
    tracing::info!(
        "model: {names}, up to {} tokens, {} sequences at once",
        engine.max_model_len,
        engine.max_num_seqs
    );
    let watchdog = args.lifecycle.watchdog.into();
    tokio::spawn(state.clone().keep_house());
    tokio::spawn(state.clone().watch_engine(watchdog));
    tokio::spawn(report_alive(parts.engine.clone(), watchdog));
    let grammars = state.clone();
    tokio::task::spawn_blocking(move || grammars.prepare_grammars());
    life.begin(state);
    Ok(parts)
}

fn config(args: &ServeArgs) -> ServerConfig {
    let (http, limits) = (&args.http, &args.limits);
    let names = match http.served_model_name.is_empty() {
        true => vec![args.model.model.default_name()],
        false => http.served_model_name.clone(),
    };
    ServerConfig {
        served_model_names: names,
        model_root: args.model.model.default_name(),
        accept_any_model: http.accept_any_model,
        cors_origins: http.cors_origin.clone(),
        public_metrics: args.log.public_metrics,
        max_reasoning_tokens: limits.max_reasoning_tokens,
        max_output_tokens: limits.max_output_tokens,
        max_queue: limits.max_queue_ms.map(Duration::from_millis),
        max_messages: limits.max_messages,
        max_tools: limits.max_tools,
        max_body_bytes: usize::try_from(limits.max_body_size.0).unwrap_or(usize::MAX),
        ..ServerConfig::default()
    }
}

fn tls(args: &HttpArgs) -> Result<Option<Tls>> {
    match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => {
            let (cert, key, client_ca) = (cert.clone(), key.clone(), args.tls_client_ca.clone());
            Ok(Some(Tls::load(TlsFiles { cert, key, client_ca })?))
        }
        (None, None) if args.tls_client_ca.is_none() => Ok(None),
        _ => bail!("TLS needs both --tls-cert and --tls-key"),
    }
}

fn audit(args: &LogArgs) -> Result<Audit> {
    let Some(path) = &args.audit_log else { return Ok(Audit::default()) };
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file =
        options.open(path).with_context(|| format!("cannot write the audit log {}", path.display()))?;
    Ok(Audit::new(Box::new(file), args.audit_contents))
}

/// Reads keys and certificates anew when they change.
fn watch_files(args: &ServeArgs, setup: &Setup) {
    if let Some(path) = args.access.api_keys.clone() {
        let access = setup.access.clone();
        tokio::spawn(files::on_change(vec![path.clone()], move || reread_keys(&path, &access)));
    }
    if let Some(provider) = setup.provider.clone() {
        tokio::spawn(provider.keep(setup.access.clone()));
    }
    if let Some(tls) = setup.tls.clone() {
        tokio::spawn(files::on_change(tls.paths(), move || tls.reload()));
    }
}

/// Puts changed keys in force. A file that makes no sense changes nothing.
fn reread_keys(path: &Path, access: &Access) {
    let read = key_file::read(path).and_then(|keys| Ok((keys.len(), access.set_keys(keys)?)));
    match read {
        Ok((num_keys, ())) => tracing::info!("read the API keys anew: {num_keys}"),
        Err(error) => tracing::error!("the API keys stay as they were: {error:#}"),
    }
}
