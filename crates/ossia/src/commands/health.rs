//! `ossia health`: asks the server that has these settings how it is. Containers check their health with it, as they have
//! no other program that could.

use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::cli::{HealthArgs, HttpArgs};
use crate::listen::reach;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks; an error unless the answer is yes.
pub(crate) fn run(args: &HealthArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let path = if args.live { "/health" } else { "/ready" };
    let asked = runtime.block_on(async { timeout(PATIENCE, ask(&args.http, path)).await });
    let (status, body) = asked.with_context(|| format!("no answer within {PATIENCE:?}"))??;
    ensure!(status.is_success(), "{path} answers {status}: {}", body.trim());
    writeln!(stdout(), "{path} answers {status}")?;
    Ok(())
}

async fn ask(http: &HttpArgs, path: &str) -> Result<(StatusCode, String)> {
    let stream = reach(http).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.context("the server does not answer")?;
    let status = answer.status();
    let body = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
