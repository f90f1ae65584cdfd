//! Many connections at once.

use std::{
    net::TcpStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use reverie_tests::{Server, skipped};
use serde_json::json;

use super::{figure, log, rest, sent};

const GET: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn a_thousand_idle_sockets_shut_nobody_out() {
    let server = Server::start(&["server.max_connections=300"], &[]);
    let mut client = server.connect();
    let mut idle: Vec<TcpStream> = Vec::new();
    for number in 0..1000 {
        idle.push(sent(&server, if number % 2 == 0 { b"" } else { GET }));
        if number % 100 == 0 {
            assert_eq!(server.get("/health").status, 200);
        }
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong", "what works is not closed");
    let open = server.get("/health").json()["connections"].clone();
    assert!(open["open"].as_u64().unwrap() <= 300 && open["limit"] == 300, "{open}");
    assert!(figure(&server, "reverie_connections_total{event=\"evicted\"}") >= 700.0);
}

#[test]
fn further_ones_are_told_where_all_are_at_work() {
    for key in ["server.max_connections", "server.max_connections_per_address"] {
        let server = Server::start(&[&format!("{key}=3")], &[]);
        let clients = [server.connect(), server.connect(), server.connect()];
        for _ in 0..50 {
            let answer = rest(&mut sent(&server, GET));
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After: "), "{answer}");
            assert!(
                answer.contains("\"code\":\"unavailable\"") && answer.contains(&format!("({key})")),
                "{answer}"
            );
        }
        drop(clients);
        let deadline = Instant::now() + Duration::from_secs(10);
        while rest(&mut sent(&server, b"GET /health HTTP/1.0\r\n\r\n")).starts_with("HTTP/1.1 503") {
            assert!(Instant::now() < deadline, "their places stay taken");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(
            server.get("/health").json()["connections"]["refused"].as_u64().map(|n| n >= 50),
            Some(true)
        );
    }
}

#[test]
fn a_process_without_descriptors_goes_on_when_there_are_some_again() {
    let server = Server::start(&[], &[]);
    let pid = server.pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    let Ok(open) = open else { return skipped("there is no /proc") };
    let limit = format!("--nofile={0}:{0}", open + 20);
    if !Command::new("prlimit").args(["--pid", &pid, &limit]).status().is_ok_and(|status| status.success()) {
        return skipped("there is no prlimit");
    }
    let mut clients: Vec<TcpStream> =
        (0..60).map(|_| sent(&server, b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n")).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !log(&server).contains("connections can't be accepted for now") {
        assert!(Instant::now() < deadline, "{}", log(&server));
        thread::sleep(Duration::from_millis(50));
    }
    // Those that wait for a request are closed to make room, so that others come in at once.
    assert_eq!(server.get("/health").json()["checks"]["plugins"]["ok"], true);
    clients.clear();
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(log(&server).matches("connections can't be accepted for now").count(), 1, "it is said once");
}
