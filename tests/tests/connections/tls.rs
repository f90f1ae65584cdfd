//! https and wss.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use reverie_tests::{Message, Server};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};

fn fixture(name: &str) -> String {
    format!("{}/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn connect(server: &Server) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("authority.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    StreamOwned::new(connection, stream)
}

#[test]
fn https_and_wss() {
    let (cert, key) = (fixture("localhost.pem"), fixture("localhost.key.pem"));
    let settings = [
        format!("server.tls.cert={cert}"),
        format!("server.tls.key={key}"),
        "server.tls.handshake_timeout_s=1".into(),
    ];
    let server = Server::start(&settings.each_ref().map(String::as_str), &[]);
    // A handshake that stops keeps nobody out, and ends.
    let mut stopped = super::sent(&server, b"\x16\x03\x01");
    let mut stream = connect(&server);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"status\":\"ok\""), "{answer}");
    let (mut socket, _) = tungstenite::client("wss://localhost/v1/ws", connect(&server)).unwrap();
    let greeting = socket.read().unwrap();
    assert!(greeting.to_text().unwrap().contains("system:status"), "{greeting}");
    socket.send(Message::text("{\"type\": \"ping\"}")).unwrap();
    assert!(socket.read().unwrap().to_text().unwrap().contains("pong"));
    assert_eq!(super::rest(&mut stopped), "");
    // Plain HTTP is not served beside it.
    assert!(!super::rest(&mut super::sent(&server, b"GET / HTTP/1.0\r\n\r\n")).contains("200"));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.pem");
    fs::write(&file, "nothing of a certificate").unwrap();
    let refused = |cert: &Path, key: &Path| {
        let output = std::process::Command::new(reverie_tests::binary())
            .current_dir(dir.path())
            .args(["serve", "--port", "0", "--set"])
            .arg(format!("server.tls.cert={}", cert.display()))
            .arg("--set")
            .arg(format!("server.tls.key={}", key.display()))
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = refused(&file, Path::new(&fixture("localhost.key.pem")));
    assert!(error.contains("server.tls") && error.contains("wrong.pem"), "{error}");
    let error = refused(Path::new(&fixture("localhost.pem")), Path::new("missing.pem"));
    assert!(error.contains("missing.pem"), "{error}");
}
