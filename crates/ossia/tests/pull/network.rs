//! What stands between this machine and the hub: nothing at all when offline, a proxy, and whoever opens TLS.

use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::hub::{Hub, Proxy, REPO};
use crate::{ossia, stderr};

#[test]
fn offline_the_missing_file_and_the_way_out_are_named() {
    let runtime = Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    let endpoint = hub.start(&runtime);
    for switch in ["OSSIA_OFFLINE", "HF_HUB_OFFLINE"] {
        let serve = ["serve", REPO, "--config", "none", "--store", "none", "--port", "0"];
        for args in [&["pull", REPO][..], &serve] {
            let output =
                ossia(home.path(), args).env(switch, "1").env("HF_ENDPOINT", &endpoint).output().unwrap();
            let message = stderr(&output);
            assert!(!output.status.success());
            for part in ["config.json is missing", switch, "ossia pull owner/model --to DIR"] {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
    }
    assert_eq!(hub.downloads(), [""; 0]);
}

#[test]
fn offline_the_keys_of_a_provider_come_from_a_file_only() {
    let home = tempfile::tempdir().unwrap();
    let serve = ["serve", "scripted:", "--config", "none", "--store", "none", "--port", "0"];
    let oidc = ["--oidc-issuer", "a", "--oidc-audience", "b", "--oidc-jwks", "http://127.0.0.1:9/keys"];
    let output =
        ossia(home.path(), &[&serve[..], &oidc].concat()).env("OSSIA_OFFLINE", "1").output().unwrap();
    let message = stderr(&output);
    assert!(
        !output.status.success() && message.contains("--oidc-jwks") && message.contains("OSSIA_OFFLINE"),
        "{message}"
    );
}

/// The name of the hub exists nowhere: only the proxy knows where to lead it.
#[test]
fn a_proxy_is_used_and_the_authority_of_this_system_is_trusted() {
    let runtime = Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    let ca = home.path().join("company-ca.pem");
    let proxy = Proxy::start(hub.start_tls(&runtime, "hub.test", &ca));
    let pull = |home: &std::path::Path| {
        let mut command = ossia(home, &["pull", REPO]);
        command.env("HF_ENDPOINT", "https://hub.test").env("HTTPS_PROXY", &proxy.url);
        command
    };

    let refused = pull(&home.path().join("a")).output().unwrap();
    let message = stderr(&refused);
    assert!(!refused.status.success() && message.contains("SSL_CERT_FILE"), "{message}");
    assert_eq!(hub.downloads(), [""; 0]);

    let pulled = pull(&home.path().join("b")).env("SSL_CERT_FILE", &ca).output().unwrap();
    assert!(pulled.status.success(), "{}", stderr(&pulled));
    assert_eq!(hub.downloads().len(), 5);
    let tunnels = proxy.tunnels.lock().unwrap();
    assert!(tunnels.iter().all(|line| line == "CONNECT hub.test:443 HTTP/1.1"), "{tunnels:?}");
}

#[test]
fn no_proxy_leads_past_the_proxy() {
    let runtime = Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    let endpoint = hub.start(&runtime);
    let proxy = Proxy::start("127.0.0.1:9".parse().unwrap());
    let mut command = ossia(home.path(), &["pull", REPO]);
    command.env("HF_ENDPOINT", endpoint).env("HTTPS_PROXY", &proxy.url).env("NO_PROXY", "127.0.0.1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(proxy.tunnels.lock().unwrap().is_empty());
}

#[test]
fn a_proxy_that_cannot_be_used_is_an_error_and_not_passed_over() {
    let runtime = Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    let mut command = ossia(home.path(), &["pull", REPO]);
    command.env("HF_ENDPOINT", hub.start(&runtime)).env("HTTPS_PROXY", "gopher://me:secret@127.0.0.1:9");
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert!(!output.status.success() && message.contains("HTTPS_PROXY is no proxy"), "{message}");
    assert!(!message.contains("secret"), "{message}");
    assert_eq!(hub.downloads(), [""; 0]);
}

#[test]
fn large_files_come_from_where_the_hub_sends_us_and_the_token_stays_with_the_hub() {
    let runtime = Runtime::new().unwrap();
    let (cdn, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    let elsewhere = cdn.start(&runtime).replace("127.0.0.1", "localhost");
    let hub = Arc::new(Hub { elsewhere: Some(elsewhere), ..Hub::with_checkpoint() });
    let mut command = ossia(home.path(), &["pull", REPO]);
    let output =
        command.env("HF_ENDPOINT", hub.start(&runtime)).env("HF_TOKEN", "hf_secret").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(cdn.downloads(), ["model-1.safetensors", "model-2.safetensors"]);
    assert_eq!(hub.downloads().len(), 3);
    assert!(hub.trusted.lock().unwrap().len() > 3);
    assert!(cdn.trusted.lock().unwrap().is_empty(), "{:?}", cdn.trusted.lock().unwrap());
}

#[test]
fn a_trust_store_that_is_named_and_not_there_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let mut command = ossia(home.path(), &["pull", REPO]);
    let output = command
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("SSL_CERT_FILE", "/nowhere.pem")
        .output()
        .unwrap();
    assert!(stderr(&output).contains("SSL_CERT_FILE=/nowhere.pem"), "{}", stderr(&output));
}
