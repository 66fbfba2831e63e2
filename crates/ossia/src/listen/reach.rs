//! The other end of `socket.rs`: a connection to the server that listens with these settings on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version,
};

use super::socket::BoxedStream;
use super::tls::certificates;
use crate::cli::HttpArgs;

/// Connects.
pub(crate) async fn reach(http: &HttpArgs) -> Result<BoxedStream> {
    ensure!(
        http.tls_client_ca.is_none(),
        "--tls-client-ca lets nobody in without a certificate, and this has none"
    );
    let stream = match &http.unix_socket {
        Some(path) => unix(path).await?,
        None => tcp(http.host, http.port).await?,
    };
    match &http.tls_cert {
        None => Ok(stream),
        Some(path) => tls(stream, path, http.host).await,
    }
}

async fn tcp(host: IpAddr, port: u16) -> Result<BoxedStream> {
    // Who listens on every address is reached by loopback.
    let host = match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let address = SocketAddr::new(host, port);
    let stream = TcpStream::connect(address).await.with_context(|| format!("nobody listens on {address}"))?;
    Ok(Box::new(stream))
}

#[cfg(unix)]
async fn unix(path: &Path) -> Result<BoxedStream> {
    let stream = tokio::net::UnixStream::connect(path).await;
    Ok(Box::new(stream.with_context(|| format!("nobody listens on the socket {}", path.display()))?))
}

#[cfg(not(unix))]
async fn unix(path: &Path) -> Result<BoxedStream> {
    bail!("cannot connect to {}: this system has no Unix domain sockets", path.display())
}

async fn tls(stream: BoxedStream, cert: &Path, host: IpAddr) -> Result<BoxedStream> {
    let provider = Arc::new(ring::default_provider());
    let Some(cert) = certificates(cert)?.into_iter().next() else { bail!("there is no certificate") };
    let verifier = Arc::new(SameCertificate { cert, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .context("TLS cannot be configured")?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::from(host), stream).await;
    Ok(Box::new(stream.context("no TLS with the certificate in --tls-cert")?))
}

/// Accepts the certificate that the server was given and no other: it is hardly ever one for `localhost`.
#[derive(Debug)]
struct SameCertificate {
    cert: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SameCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match end_entity.as_ref() == self.cert.as_ref() {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
