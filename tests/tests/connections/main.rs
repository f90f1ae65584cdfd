//! The real server over its connections: peers that stop, crowds, TLS, what HTTP says of stored content and of bodies that are
//! broken, and the memory of clients.

mod bodies;
mod crowds;
mod half_open;
mod memory;
mod storage;
mod tls;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use reverie_tests::Server;

/// Longer than anything may take that is timed here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection on which `content` was sent.
fn sent(server: &Server, content: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(content).expect("sent");
    stream
}

/// What comes until the connection's end, which is waited for.
fn rest(stream: &mut impl Read) -> String {
    let mut content = Vec::new();
    if let Err(error) = stream.read_to_end(&mut content) {
        let timed_out = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        assert!(!timed_out, "the connection stays open");
    }
    String::from_utf8_lossy(&content).into_owned()
}

/// A figure of `/metrics`, by its name and labels.
fn figure(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics").text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

/// What the server's log says.
fn log(server: &Server) -> String {
    std::fs::read_to_string(server.dir.path().join("log")).expect("a log")
}
