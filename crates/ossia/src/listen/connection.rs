//! One connection, from its handshake to its last answer.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ossia_server::MAX_HEAD_BYTES;
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::ConnectionOptions;
use super::socket::BoxedStream;

/// Serves a connection. HTTP/1.1 only: proxies speak it to their backends, and there is no frame of HTTP/2 to abuse.
pub(super) async fn serve_connection(
    stream: BoxedStream,
    app: Router,
    options: ConnectionOptions,
    closing: watch::Receiver<bool>,
) {
    let patience = options.client_timeout;
    let stream = match &options.tls {
        None => stream,
        Some(tls) => match tokio::time::timeout(patience, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "no TLS session came about"),
            Err(_) => return tracing::debug!("a client did not finish its TLS handshake"),
        },
    };
    // Who does not read is dropped, and with the connection everything that was being written to it.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience));
    speak(Box::pin(stream), app, patience, closing).await;
}

async fn speak(
    stream: std::pin::Pin<Box<TimeoutStream<BoxedStream>>>,
    app: Router,
    patience: Duration,
    mut closing: watch::Receiver<bool>,
) {
    let app = app.layer(RequestBodyTimeoutLayer::new(patience));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut is_closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            _ = closing.wait_for(|closing| *closing), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
