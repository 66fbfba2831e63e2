//! `ossia bench serve`: a load of streaming requests on any server that speaks OpenAI's API.
//!
//! In the open loop requests are due at random times whatever the server does, and each is timed from the
//! moment it was due, so that a server that falls behind shows it.

pub(crate) mod args;
mod client;
mod lengths;
mod slo;
mod stats;
mod workload;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use self::args::{BenchServeArgs, Endpoint};
use self::client::Client;
use self::stats::{Outcome, PERCENTILES, Summary};
use self::workload::Planned;
use super::args::OutputFormat;

/// What the tasks of a load share.
struct Load {
    client: Client,
    path: &'static str,
    requests: Vec<Planned>,
    started: Instant,
    bar: ProgressBar,
}

/// An outcome, or why there is none.
type Sent = Result<Outcome, String>;

/// Sends the load and prints what came of it.
#[allow(clippy::print_stdout)]
pub(super) fn run(args: &BenchServeArgs) -> Result<()> {
    ensure!(args.requests > 0 && args.concurrency > 0, "--requests and --concurrency must be at least 1");
    ensure!(args.rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()), "--rate must be above 0");
    // One thread: the server may be on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let summary = runtime.context("cannot start the async runtime")?.block_on(load(args))?;
    match args.output {
        OutputFormat::Json => println!("{}", summary.json()),
        OutputFormat::Md => print!("{}", markdown(&summary, args)),
    }
    let first = summary.errors.first().map_or("all were refused with status 429 or 503", String::as_str);
    ensure!(summary.num_answered() > 0, "no request was answered: {first}");
    Ok(())
}

async fn load(args: &BenchServeArgs) -> Result<Summary> {
    let client = Client::new(&args.base_url, args.api_key.as_deref())?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let path = match args.endpoint {
        Endpoint::Chat => "/chat/completions",
        Endpoint::Completions => "/completions",
    };
    let mut requests = workload::plan(args, &model, args.requests + args.warmup)?;
    for warmup in requests.drain(args.requests..) {
        client.stream(path, warmup.body, Instant::now()).await.context("the warm-up failed")?;
    }
    let load = Load { client, path, requests, started: Instant::now(), bar: bar(args.requests) };
    let outcomes = match args.rate {
        Some(_) => open_loop(Arc::new(load)).await?,
        None => closed_loop(Arc::new(load), args.concurrency).await?,
    };
    let duration_s = outcomes.1;
    Ok(Summary::new(outcomes.0, duration_s, args.slo.unwrap_or_default()))
}

/// Sends each request when it is due.
async fn open_loop(load: Arc<Load>) -> Result<(Vec<Sent>, f64)> {
    let mut tasks = JoinSet::new();
    for idx in 0..load.requests.len() {
        let load = Arc::clone(&load);
        tasks.spawn(async move {
            let due = load.started + load.requests[idx].due;
            tokio::time::sleep_until(due.into()).await;
            vec![load.send(idx, due).await]
        });
    }
    finish(tasks, &load).await
}

/// Sends a client's next request when its last is answered.
async fn closed_loop(load: Arc<Load>, concurrency: usize) -> Result<(Vec<Sent>, f64)> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..concurrency {
        let (load, next) = (Arc::clone(&load), Arc::clone(&next));
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                if idx >= load.requests.len() {
                    return outcomes;
                }
                outcomes.push(load.send(idx, Instant::now()).await);
            }
        });
    }
    finish(tasks, &load).await
}

/// The outcomes of all tasks, and how long they took in seconds.
async fn finish(mut tasks: JoinSet<Vec<Sent>>, load: &Load) -> Result<(Vec<Sent>, f64)> {
    let mut outcomes = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        outcomes.extend(joined.context("a client's task failed")?);
    }
    let duration_s = load.started.elapsed().as_secs_f64();
    load.bar.finish_and_clear();
    Ok((outcomes, duration_s))
}

impl Load {
    async fn send(&self, idx: usize, due: Instant) -> Sent {
        let body = self.requests[idx].body.clone();
        let outcome = self.client.stream(self.path, body, due).await;
        self.bar.inc(1);
        outcome.map_err(|error| format!("{error:#}"))
    }
}

/// Answered requests on stderr; nothing where nobody watches.
fn bar(num_requests: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} answered, {per_sec}, {eta} left");
    ProgressBar::new(num_requests as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn markdown(summary: &Summary, args: &BenchServeArgs) -> String {
    let load = match args.rate {
        Some(rate) => format!("{rate} requests/s, Poisson"),
        None => format!("{} clients", args.concurrency),
    };
    let json = summary.json();
    let figure = |name: &str| json[name].as_f64().unwrap_or_default();
    let mut text = format!(
        "{load}: {} answered, {} refused, {} failed in {:.1} s; {:.2} requests/s, {:.1} output tokens/s, goodput {:.2} requests/s\n",
        summary.num_answered(),
        summary.num_refused(),
        summary.errors.len(),
        summary.duration_s,
        figure("requests_per_s"),
        figure("output_tokens_per_s"),
        figure("goodput_requests_per_s"),
    );
    text += &format!(
        "prompt tokens {} (cached {}), output tokens {}\n\n",
        json["num_prompt_tokens"], json["num_cached_tokens"], json["num_output_tokens"]
    );
    text +=
        &format!("| ms | mean | {} | max |\n", PERCENTILES.map(|percent| format!("p{percent}")).join(" | "));
    text += "|---|---|---|---|---|---|---|\n";
    for (name, spread) in summary.latencies() {
        let percentiles = spread.percentiles.map(|value| format!("{value:.1}")).join(" | ");
        text += &format!("| {name} | {:.1} | {percentiles} | {:.1} |\n", spread.mean, spread.max);
    }
    if let Some(error) = summary.errors.first() {
        text += &format!("\nfirst error: {error}\n");
    }
    text
}
