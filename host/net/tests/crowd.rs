//! Many connections, and what they send.

mod common;

use std::time::{Duration, Instant};

use common::{LATER, Running, TIME, limits, rest};
use reverie_net::Limits;
use tokio::{io::AsyncReadExt, net::TcpStream};

const LONG: Duration = Duration::from_secs(600);

/// With times that do not end anything by themselves.
fn patient() -> Limits {
    Limits { head: LONG, idle: LONG, ..limits() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_sockets_shut_nobody_out() {
    let server = Running::start(Limits { connections: 500, ..patient() }, None).await;
    let mut idle: Vec<TcpStream> = Vec::new();
    for number in 0..1000 {
        idle.push(match number % 2 {
            0 => server.connect().await,
            _ => server.sent("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await,
        });
        if number % 100 == 99 {
            server.serves_others().await;
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.serves_others().await;
    let figures = server.connections.figures();
    assert!(figures.open <= 500 && figures.evicted >= 500, "{figures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_not_closed_and_others_are_told() {
    let server = Running::start(Limits { connections: 4, ..patient() }, None).await;
    let mut working = Vec::new();
    for _ in 0..4 {
        working.push(server.sent("GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await);
    }
    tokio::time::sleep(TIME).await;
    for _ in 0..100 {
        let mut refused = server.sent("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let answer = rest(&mut refused).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
        assert!(answer.contains("(server.max_connections)"), "{answer}");
    }
    assert_eq!(server.connections.figures().refused, 100);
    for stream in &mut working {
        assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
    }
    server.serves_others().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_limit_of_its_own() {
    let server = Running::start(Limits { connections_per_address: 2, ..patient() }, None).await;
    let slow = "GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut working = [server.sent(slow).await, server.sent(slow).await];
    tokio::time::sleep(TIME).await;
    let answer = rest(&mut server.sent("GET / HTTP/1.1\r\n\r\n").await).await;
    assert!(answer.contains("server.max_connections_per_address"), "{answer}");
    for stream in &mut working {
        assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(server.connections.figures().refused_of_address, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let server = Running::start(limits(), None).await;
    let long = "x".repeat(20_000);
    let many = "A: b\r\n".repeat(101);
    for head in [
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{many}\r\n"),
    ] {
        let answer = rest(&mut server.sent(&head).await).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let few = Running::start(Limits { headers: 10, ..limits() }, None).await;
    let answer = rest(&mut few.sent(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(11))).await).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_at_the_end() {
    let mut server = Running::start(patient(), None).await;
    let mut working = server.sent("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut idle = server.sent("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut answer = [0; 15];
    idle.read_exact(&mut answer).await.unwrap();
    tokio::time::sleep(TIME / 2).await;
    server.stop();
    let since = Instant::now();
    rest(&mut idle).await;
    assert!(since.elapsed() < TIME * 2, "idle connections are closed at once");
    assert!(TcpStream::connect(server.address).await.is_err(), "nothing is accepted any more");
    assert!(rest(&mut working).await.starts_with("HTTP/1.1 200"));
    assert!(since.elapsed() < TIME * 4 + LATER);
    server.ended().await;
}
