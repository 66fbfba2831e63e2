//! Other ways in: a Unix domain socket, TLS, certificates of clients, other web pages.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::{Answer, Server, read_answer, serve_args};

/// Writes a certificate for `name` signed by an authority of its own: `NAME.crt`, `NAME.key`, `NAME-ca.crt`.
pub(crate) fn certificate(dir: &Path, name: &str) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let signed = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let signed = signed.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    std::fs::write(dir.join(format!("{name}-ca.crt")), ca_certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.crt")), signed.pem()).unwrap();
}

/// Asks for `/health` over TLS; `None` if no session comes about.
fn ask(server: &Server, authority: &str, client: Option<&str>) -> Option<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.path(authority)).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(name) => {
            let certificate = CertificateDer::from_pem_file(server.path(&format!("{name}.crt"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(server.path(&format!("{name}.key"))).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(session, server.connect());
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").ok()?;
    let answer = read_answer(&mut stream);
    (answer.status > 0).then_some(answer)
}

#[test]
fn tls_and_a_certificate_that_changes() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "localhost");
    std::fs::rename(dir.path().join("localhost-ca.crt"), dir.path().join("old-ca.crt")).unwrap();
    let server = Server::start_in(dir, &["--tls-cert", "localhost.crt", "--tls-key", "localhost.key"]);
    assert!(server.log().contains("ready: https://"));
    assert_eq!(ask(&server, "old-ca.crt", None).unwrap().status, 200);
    assert_eq!(server.get("/health").status, 0, "plain text is not answered");
    certificate(server.dir.path(), "localhost");
    server.wait_for_log("read the certificates anew");
    while ask(&server, "localhost-ca.crt", None).is_none() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(ask(&server, "old-ca.crt", None).is_none());
}

#[test]
fn mutual_tls_lets_in_whom_the_authority_signed() {
    let dir = tempfile::tempdir().unwrap();
    ["localhost", "friend", "stranger"].into_iter().for_each(|name| certificate(dir.path(), name));
    let args =
        ["--tls-cert", "localhost.crt", "--tls-key", "localhost.key", "--tls-client-ca", "friend-ca.crt"];
    let server = Server::start_in(dir, &args);
    assert_eq!(ask(&server, "localhost-ca.crt", Some("friend")).unwrap().status, 200);
    assert!(ask(&server, "localhost-ca.crt", Some("stranger")).is_none());
    assert!(ask(&server, "localhost-ca.crt", None).is_none());
}

#[test]
fn a_unix_socket_is_there_while_the_server_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ossia.sock");
    let mut server = Server::start_in(dir, &["--unix-socket", "ossia.sock"]);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 ") && answer.contains("ready"), "{answer}");
    server.signal("-TERM");
    assert!(server.wait().success());
    assert!(!path.exists());
}

#[test]
fn a_service_manager_is_told_and_passes_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify.sock")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = Command::new("sh");
    // As systemd does it: the socket is the file of number 3, and the variables are for this process.
    command.args([
        "-c",
        "exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_ossia"),
    ]);
    command.args(serve_args(&dir)).stdin(OwnedFd::from(listener));
    command.env("NOTIFY_SOCKET", dir.path().join("notify.sock"));
    let mut server = Server::launch(dir, command);
    assert_eq!(server.address, address);
    let told = || {
        let mut buffer = [0; 256];
        let len = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    assert!(told().contains("READY=1"));
    assert_eq!(server.get("/ready").status, 200);
    server.signal("-TERM");
    assert!(told().contains("STOPPING=1"));
    assert!(server.wait().success());
}

#[test]
fn other_web_pages_may_read_only_if_the_server_says_so() {
    let ask = |server: &Server| {
        server.send("OPTIONS /v1/models HTTP/1.0\r\norigin: https://chat.example\r\naccess-control-request-method: POST\r\n\r\n")
    };
    let closed = Server::start(&[]);
    assert!(!ask(&closed).head.contains("access-control-allow-origin"));
    let open = Server::start(&["--cors-origin", "https://chat.example"]);
    assert!(
        ask(&open).head.contains("access-control-allow-origin: https://chat.example"),
        "{}",
        ask(&open).head
    );
    let other = open.send("GET /v1/models HTTP/1.0\r\norigin: https://evil.example\r\n\r\n");
    assert!(!other.head.contains("access-control-allow-origin"), "{}", other.head);
}
