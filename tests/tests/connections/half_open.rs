//! Requests that are begun and not ended.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use reverie_tests::Server;
use serde_json::json;

use super::{figure, rest, sent};

const SHORT: &[&str] = &[
    "server.header_timeout_s=1",
    "server.body_timeout_s=1",
    "server.write_timeout_s=1",
    "server.keep_alive_timeout_s=1",
    "storage.max_put_bytes=100000000",
];

/// One kind of them, on a connection of its own: what it does until it is ended, and what it is told.
type Kind = (&'static str, fn(&Server) -> String);

/// Sends a byte every 50 ms until the connection is ended.
fn drip(server: &Server, head: &str) -> String {
    let mut stream = sent(server, head.as_bytes());
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut answer = Vec::new();
    loop {
        assert!(began.elapsed() < Duration::from_secs(15), "the connection stays open");
        let mut piece = [0; 1024];
        match std::io::Read::read(&mut stream, &mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if stream.write_all(b"a").is_err() {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

const KINDS: [Kind; 7] = [
    ("no byte", |server| rest(&mut sent(server, b""))),
    ("half a line", |server| rest(&mut sent(server, b"GET /hea"))),
    ("half the headers", |server| {
        rest(&mut sent(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Half"))
    }),
    ("headers byte by byte", |server| drip(server, "GET /health HTTP/1.1\r\nX-Slow: ")),
    ("a body that stops", |server| {
        rest(&mut sent(
            server,
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{\"jobType\"",
        ))
    }),
    ("a body byte by byte", |server| {
        drip(server, "PUT /storage/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n")
    }),
    ("an idle connection", |server| {
        rest(&mut sent(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }),
];

#[test]
fn they_end_in_their_time_and_others_are_served() {
    let server = Server::start(SHORT, &[]);
    assert_eq!(server.put("/storage/large.bin", &vec![7; 64 << 20]).status, 200);
    let mut client = server.connect();
    thread::scope(|scope| {
        let running: Vec<_> = KINDS
            .iter()
            .map(|(name, end)| {
                let server = &server;
                let ended = scope.spawn(move || {
                    let began = Instant::now();
                    (end(server), began.elapsed())
                });
                (name, ended)
            })
            .collect();
        // The eighth: an answer that nobody reads.
        let unread = sent(&server, b"GET /storage/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n");
        for _ in 0..10 {
            assert_eq!(server.get("/health").status, 200);
            assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
            thread::sleep(Duration::from_millis(100));
        }
        for (name, ended) in running {
            let (answer, took) = ended.join().unwrap_or_else(|_| panic!("{name}: it stays open"));
            assert!((1.0..10.0).contains(&took.as_secs_f64()), "{name}: {took:?}");
            match name {
                &"an idle connection" => assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}"),
                name if name.contains("body") => assert!(
                    answer.starts_with("HTTP/1.1 400") && answer.contains("the body came too slowly"),
                    "{name}: {answer}"
                ),
                _ => assert_eq!(answer, "", "{name}"),
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while figure(&server, "reverie_connections_total{event=\"timeout_write\"}") < 1.0 {
            assert!(Instant::now() < deadline, "an answer that nobody reads stays");
            thread::sleep(Duration::from_millis(100));
        }
        drop(unread);
    });
    for (kind, count) in [("header", 4.0), ("body", 2.0), ("idle", 1.0)] {
        let counted = figure(&server, &format!("reverie_connections_total{{event=\"timeout_{kind}\"}}"));
        assert!(counted >= count, "{kind}: {counted}");
    }
    // The WebSocket has times of its own.
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
}

#[test]
fn a_job_may_take_longer_than_any_of_these_times() {
    let server = Server::start(SHORT, &["echo"]);
    let answer = server.post_json("/v1/jobs?wait=30", &json!({"jobType": "echo-sleep", "ms": 4000}));
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("done")), "{}", answer.text());
    let job = server.post_json("/v1/jobs", &json!({"jobType": "echo-sleep", "ms": 4000})).json();
    let events = server.get(&format!("/v1/jobs/{}/events", job["jobId"].as_str().unwrap()));
    assert!(events.text().contains("event:job:complete"), "{}", events.text());
}
