//! Where the server listens: a TCP address, a Unix domain socket, or a socket that systemd opened for it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

/// A connection, of whatever kind.
pub(crate) type BoxedStream = Box<dyn Stream>;

/// What a connection is.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A listening socket.
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// With the path that is removed in the end, if the server made it.
    #[cfg(unix)]
    Unix(UnixListener, Option<PathBuf>),
}

/// Where a server can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listener {
    /// The socket that systemd passed, if it passed one.
    #[cfg(unix)]
    pub(crate) fn passed() -> Result<Option<Self>> {
        let mut passed = listenfd::ListenFd::from_env();
        if passed.len() == 0 {
            return Ok(None);
        }
        let failed = "cannot use the socket that was passed (LISTEN_FDS)";
        if let Ok(Some(socket)) = passed.take_tcp_listener(0) {
            socket.set_nonblocking(true).context(failed)?;
            return Ok(Some(Self::Tcp(TcpListener::from_std(socket).context(failed)?)));
        }
        let socket = passed.take_unix_listener(0).context(failed)?.context(failed)?;
        socket.set_nonblocking(true).context(failed)?;
        Ok(Some(Self::Unix(UnixListener::from_std(socket).context(failed)?, None)))
    }

    #[cfg(not(unix))]
    pub(crate) fn passed() -> Result<Option<Self>> {
        Ok(None)
    }

    /// A TCP socket.
    pub(crate) async fn tcp(host: IpAddr, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((host, port)).await;
        listener.map(Self::Tcp).with_context(|| format!("cannot listen on {}", SocketAddr::new(host, port)))
    }

    /// A Unix domain socket that its owner and group may use. One that a server left behind is replaced, one that is in
    /// use is not.
    #[cfg(unix)]
    pub(crate) async fn unix(path: &Path) -> Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let failed = || format!("cannot listen on the socket {}", path.display());
        let is_socket =
            std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if is_socket && tokio::net::UnixStream::connect(path).await.is_err() {
            std::fs::remove_file(path).with_context(failed)?;
        }
        let listener = UnixListener::bind(path).with_context(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).with_context(failed)?;
        Ok(Self::Unix(listener, Some(path.to_owned())))
    }

    #[cfg(not(unix))]
    pub(crate) async fn unix(path: &Path) -> Result<Self> {
        anyhow::bail!("cannot listen on {}: this system has no Unix domain sockets", path.display())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Result<Address> {
        match self {
            Self::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?)),
            #[cfg(unix)]
            Self::Unix(listener, _) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().unwrap_or(Path::new("@")).to_owned()))
            }
        }
    }

    /// The next connection. Safe to cancel.
    pub(super) async fn accept(&self) -> io::Result<BoxedStream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Each event of a stream is a write of its own and should not wait for the next.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

impl Address {
    /// Whether only this machine can reach it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, Some(path)) = self {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}
