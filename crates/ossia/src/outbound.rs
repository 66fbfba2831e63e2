//! What may leave this machine: one way to make an HTTP client, and the switch that forbids it.
//!
//! The client trusts the authorities of this system (`SSL_CERT_FILE` and `SSL_CERT_DIR` say others), so that it works
//! where a company's proxy opens TLS, and goes through the proxy that `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY` names
//! except to the hosts in `NO_PROXY`.

use std::time::Duration;

use anyhow::{Result, ensure};
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Error, Proxy};

/// Either of these set means that nothing is contacted.
const SWITCHES: [&str; 2] = ["OSSIA_OFFLINE", "HF_HUB_OFFLINE"];
/// Where the trust store is, if not where the system has it.
const TRUST_STORE: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// The first of these that is set is the proxy.
const PROXIES: [&str; 6] =
    ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// A variable of the environment that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable that forbids connections, if one does.
pub(crate) fn offline() -> Option<&'static str> {
    let is_on = |name: &&str| {
        variable(name)
            .is_some_and(|value| !matches!(value.to_lowercase().as_str(), "0" | "false" | "no" | "off"))
    };
    SWITCHES.into_iter().find(is_on)
}

/// The settings that all connections have in common; the caller adds its own.
///
/// # Errors
/// The environment names a trust store without a certificate that can be read, or a proxy that cannot be used.
pub(crate) fn agent() -> Result<ConfigBuilder<AgentScope>> {
    check_proxy()?;
    let tls = TlsConfig::builder().root_certs(roots()?).build();
    let agent = concat!("ossia/", env!("CARGO_PKG_VERSION"));
    Ok(Agent::config_builder().tls_config(tls).user_agent(agent).timeout_connect(Some(CONNECT)))
}

/// ureq passes over a proxy that it cannot use and connects without it, which is not what was asked for.
fn check_proxy() -> Result<()> {
    let set = PROXIES.into_iter().find_map(|name| Some((name, variable(name)?)));
    let Some((name, value)) = set else { return Ok(()) };
    // The value may have a password.
    ensure!(
        Proxy::new(&value).is_ok(),
        "{name} is no proxy that can be used, expected http:// or socks5://[USER:PASSWORD@]HOST:PORT"
    );
    Ok(())
}

/// The authorities of this system. One without a trust store, as a bare container is, gets Mozilla's, which are built in.
fn roots() -> Result<RootCerts> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        let certs: Vec<_> =
            found.certs.iter().map(|cert| Certificate::from_der(cert.as_ref()).to_owned()).collect();
        return Ok(RootCerts::new_with_certs(&certs));
    }
    let named = TRUST_STORE.into_iter().find_map(|name| Some((name, variable(name)?)));
    let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    ensure!(
        named.is_none(),
        "{} has no certificate that can be read: {}",
        named.map_or_else(String::new, |(name, value)| format!("{name}={value}")),
        reasons.join("; ")
    );
    tracing::debug!("this system has no trust store: Mozilla's authorities are used");
    Ok(RootCerts::WebPki)
}

/// What whoever runs this can do about a connection that failed.
pub(crate) fn advice(error: &Error) -> &'static str {
    // rustls's errors come wrapped as I/O errors.
    let text = error.to_string();
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        return ": if a proxy here opens TLS, put its authority into the trust store of this system, or name a file with it in \
                SSL_CERT_FILE";
    }
    match error {
        Error::HostNotFound | Error::ConnectionFailed | Error::Io(_) | Error::Timeout(_) => {
            ": HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror, and docs/air-gap.md says how to carry a model in"
        }
        _ => "",
    }
}
