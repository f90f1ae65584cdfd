//! Servers for a plugin to reach out to: of HTTP and of WebSocket, each connection on a thread of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// The folder of the certificates.
pub fn certificates() -> String {
    format!("{}/fixtures/tls", env!("CARGO_MANIFEST_DIR"))
}

/// A server that runs as long as the tests do.
pub struct Peer {
    pub port: u16,
    /// Connections that are open.
    pub open: Arc<AtomicUsize>,
}

impl Peer {
    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let open = Arc::new(AtomicUsize::new(0));
        let (serve, counted) = (Arc::new(serve), open.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serve, open) = (serve.clone(), counted.clone());
                std::thread::spawn(move || {
                    open.fetch_add(1, Ordering::SeqCst);
                    serve(stream);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, open }
    }

    /// A server of HTTP.
    pub fn http() -> Self {
        Self::start(answer)
    }

    /// The same behind TLS, with a certificate for `localhost` by an authority of the fixtures.
    pub fn https() -> Self {
        let folder = certificates();
        let chain: Vec<CertificateDer> = CertificateDer::pem_file_iter(format!("{folder}/localhost.pem"))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let key = PrivateKeyDer::from_pem_file(format!("{folder}/localhost.key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        Self::start(move |stream| {
            answer(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream))
        })
    }

    /// A server of WebSocket that does what texts tell it.
    pub fn websocket() -> Self {
        Self::start(|stream| {
            let Ok(mut socket) = tungstenite::accept(stream) else { return };
            while let Ok(message) = socket.read() {
                let Message::Text(text) = message else { continue };
                let sent = match text.split_once(':').unwrap_or((&text, "")) {
                    ("echo", said) => socket.send(Message::text(said)),
                    ("binary", _) => socket.send(Message::binary(vec![1, 2, 3])),
                    ("size", length) => socket.send(Message::text("x".repeat(length.parse().unwrap()))),
                    ("close", _) => {
                        let reason = CloseFrame { code: CloseCode::Away, reason: "going home".into() };
                        socket.close(Some(reason))
                    }
                    // A host that answers pings by itself makes this go on.
                    ("ping", _) => {
                        socket.send(Message::Ping(vec![7].into())).unwrap();
                        match socket.read() {
                            Ok(Message::Pong(content)) if *content == [7] => {
                                socket.send(Message::text("ponged"))
                            }
                            _ => return,
                        }
                    }
                    _ => Ok(()),
                };
                if sent.is_err() {
                    return;
                }
            }
        })
    }
}

/// Answers one request.
fn answer(mut stream: impl Read + Write) {
    let mut reader = BufReader::new(&mut stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return;
        }
    }
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let respond = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
    };
    let sent = match path {
        "/hello" => respond("200 OK", "", "hello"),
        "/echo" => {
            let told =
                [("auth", header("authorization")), ("test", header("x-test")), ("host", header("host"))];
            let told: Vec<String> = told
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("-")))
                .collect();
            respond("200 OK", "", &format!("{method} body={} {}", body.len(), told.join(" ")))
        }
        "/302" | "/307" => respond(&format!("{} Moved", &path[1..]), &format!("Location: {query}\r\n"), ""),
        "/chunked" => {
            let length: usize = query.parse().unwrap();
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            format!("{head}{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length))
        }
        "/size" => respond("200 OK", "", &"x".repeat(query.parse().unwrap())),
        "/broken" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".into(),
        "/silent" => {
            std::thread::sleep(Duration::from_secs(20));
            return;
        }
        "/stalls" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            let _ = stream.flush();
            std::thread::sleep(Duration::from_secs(20));
            return;
        }
        _ => respond("404 Not Found", "", "no such path"),
    };
    let _ = stream.write_all(sent.as_bytes());
    let _ = stream.flush();
}
