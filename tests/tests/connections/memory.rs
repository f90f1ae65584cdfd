//! What clients cost.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use reverie_tests::{Client, Message, Server};
use serde_json::json;

use super::sent;

/// kB for each WebSocket client.
const EACH: u64 = 30;
const CLIENTS: u64 = 400;

fn connected(server: &Server) -> Vec<Client> {
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
    }
    clients
}

#[test]
fn clients_are_small_and_their_memory_is_given_back() {
    let server = Server::start(&[], &[]);
    drop(server.connect());
    thread::sleep(Duration::from_secs(2));
    let before = server.memory_kb();
    let clients = connected(&server);
    let with = server.memory_kb();
    assert!(with < before + CLIENTS * EACH, "from {before} to {with} kB");
    drop(clients);
    let deadline = Instant::now() + Duration::from_secs(30);
    // A quarter of it may stay: what threads keep at hand.
    let given_back = |now: u64| now < before + (with.saturating_sub(before) / 4).max(3000);
    while !given_back(server.memory_kb()) {
        assert!(Instant::now() < deadline, "from {before} over {with} to {} kB", server.memory_kb());
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_flood_of_pings_fills_nothing() {
    let server = Server::start(&["hub.slow_client_grace_s=60", "hub.idle_timeout_s=60"], &[]);
    let mut client = server.connect();
    let before = server.memory_kb();
    // 125 bytes each, masked with zeroes; of the answers none is read.
    let ping: Vec<u8> = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[7; 125]].concat();
    let mut flood = sent(
        &server,
        b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    flood.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let pings = ping.repeat(1000);
    let (mut taken, mut most) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) && taken < 400 << 20 {
        match flood.write(&pings) {
            Ok(length) => taken += length,
            // The server reads no more of who reads no answers.
            Err(_) => break,
        }
        if taken % (1 << 20) < pings.len() {
            most = most.max(server.memory_kb());
        }
    }
    most = most.max(server.memory_kb());
    assert!(most < before + 8000, "from {before} to {most} kB after {taken} bytes");
    assert!(taken < 400 << 20, "the flood goes on");
    client.socket.send(Message::Ping(vec![7u8].into())).unwrap();
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
}
