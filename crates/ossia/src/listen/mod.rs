//! The listening side: sockets, connections and their patience.

mod connection;
mod reach;
mod socket;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use connection::serve_connection;
pub(crate) use reach::reach;
pub(crate) use socket::{Address, Listener};
pub(crate) use tls::{Tls, TlsFiles};

/// Pause after a connection could not be accepted, mostly for want of file descriptors.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How connections are treated.
#[derive(Clone)]
pub(crate) struct ConnectionOptions {
    /// Longest a client may take to send the next bytes of a request or to take the next bytes of an answer.
    pub(crate) client_timeout: Duration,
    /// Connections at the same time; further ones wait in the system's queue.
    pub(crate) max_connections: usize,
    pub(crate) tls: Option<Tls>,
}

/// Accepts connections and serves them until `closing` says so and the last has ended.
pub(crate) async fn serve(
    listener: Listener,
    app: Router,
    options: ConnectionOptions,
    mut closing: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(options.max_connections));
    let mut connections = JoinSet::new();
    let asked_to_close = closing.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match accepted {
            Ok((stream, place)) => {
                let (app, options, closing) = (app.clone(), options.clone(), asked_to_close.clone());
                connections.spawn(async move {
                    serve_connection(stream, app, options, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The next connection, once there is a place for it. Safe to cancel.
async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(socket::BoxedStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((listener.accept().await?, place))
}
