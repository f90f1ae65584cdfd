//! TLS: who is answered by which certificate, and handshakes that do not end.

mod common;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{LATER, Running, TIME, ends_in_time, limits, rest};
use reverie_net::{TimedOut, Tls, tls};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The files that a server uses; at first those of the first certificate.
struct Files(tempfile::TempDir);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.replace("first.pem", "first.key.pem");
        files
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    fn replace(&self, certificate: &str, key: &str) {
        std::fs::copy(fixture(certificate), self.certificate()).unwrap();
        std::fs::copy(fixture(key), self.key()).unwrap();
    }
}

/// A connection of a client that trusts one certificate alone.
async fn connect(server: &Running, trusted: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture(trusted)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = server.connect().await;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    rest(stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_tls_say_so() {
    let files = Files::new();
    let tls = Tls::open(&files.certificate(), &files.key()).unwrap();
    let server = Running::start(limits(), Some(tls)).await;
    let mut stream = connect(&server, "first.pem").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask(&mut stream).await;
    assert!(answer.ends_with("127.0.0.1 true"), "{answer}");
    assert!(connect(&server, "second.pem").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_stop_end_in_their_time() {
    let files = Files::new();
    let tls = Tls::open(&files.certificate(), &files.key()).unwrap();
    let server = Running::start(limits(), Some(tls)).await;
    // Nothing, and the head of a record that does not come.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let (mut stream, since) = (server.connect().await, Instant::now());
        stream.write_all(begun).await.unwrap();
        assert!(ask(&mut connect(&server, "first.pem").await.unwrap()).await.starts_with("HTTP/1.1 200"));
        ends_in_time(&mut stream, since).await;
    }
    assert_eq!(server.connections.figures().timed_out, TimedOut { handshake: 2, ..TimedOut::default() });
    // A handshake that has ended has its request's time: no byte of it comes here.
    let (stream, since) = (connect(&server, "first.pem").await.unwrap(), Instant::now());
    ends_in_time(&mut stream.into_inner().0, since).await;
    assert_eq!(server.connections.figures().timed_out.head, 1);
    assert!(rest(&mut server.sent("GET / HTTP/1.1\r\n\r\n").await).await.len() < 10, "an alert at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_while_connections_stay() {
    let files = Files::new();
    let tls = Tls::open(&files.certificate(), &files.key()).unwrap();
    let server = Running::start(common::limits(), Some(tls)).await;
    let upgrade = b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut before = connect(&server, "first.pem").await.unwrap();
    before.write_all(upgrade).await.unwrap();
    // A key that belongs to another certificate changes nothing.
    files.replace("second.pem", "first.key.pem");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    connect(&server, "first.pem").await.expect("the pair before stays");
    files.replace("second.pem", "second.key.pem");
    let since = Instant::now();
    while connect(&server, "second.pem").await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(3) + LATER, "the new certificate is not used");
        tokio::time::sleep(TIME / 4).await;
    }
    assert!(connect(&server, "first.pem").await.is_err());
    before.write_all(b"still").await.unwrap();
    before.shutdown().await.unwrap();
    let heard = rest(&mut before).await;
    assert!(heard.starts_with("HTTP/1.1 101") && heard.ends_with("\r\n\r\nstill"), "{heard}");
}

#[test]
fn errors_name_the_file() {
    let files = Files::new();
    let (certificate, key) = (files.certificate(), files.key());
    tls::check(&certificate, &key).unwrap();
    let error = |certificate: &Path, key: &Path| tls::check(certificate, key).unwrap_err();
    assert!(error(&files.0.path().join("none.pem"), &key).contains("none.pem"));
    assert!(error(&key, &key).contains("key.pem': there is no certificate"));
    assert!(error(&certificate, &certificate).contains("certificate.pem': there is no private key"));
    assert!(error(&certificate, &fixture("second.key.pem")).contains("is not the key of the certificate"));
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(error(&certificate, &key).contains("key.pem': the private key can't be used"));
}
