//! Requests that are begun and not ended: each goes in its time, and others are served meanwhile.

mod common;

use std::time::{Duration, Instant};

use common::{LATER, Running, TIME, ends_in_time, limits, rest};
use reverie_net::TimedOut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_do_not_come() {
    let server = Running::start(limits(), None).await;
    for head in ["", "GET /ha", "GET / HTTP/1.1\r\nHost: x\r\nX-Half: "] {
        let since = Instant::now();
        let mut stream = server.sent(head).await;
        server.serves_others().await;
        assert_eq!(ends_in_time(&mut stream, since).await, "", "{head:?}");
    }
    assert_eq!(server.connections.figures().timed_out, TimedOut { head: 3, ..TimedOut::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_byte_by_byte() {
    let server = Running::start(limits(), None).await;
    let (mut stream, since) = (server.sent("GET / HTTP/1.1\r\nX-Slow: ").await, Instant::now());
    let (mut reader, mut writer) = stream.split();
    let drip = async {
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(TIME / 20).await;
        }
    };
    tokio::select! {
        () = drip => {}
        read = reader.read_u8() => assert!(read.is_err(), "nothing is answered"),
        () = tokio::time::sleep(TIME + LATER) => panic!("the connection stays"),
    }
    assert!(since.elapsed() >= TIME, "{:?}", since.elapsed());
    server.serves_others().await;
    assert_eq!(server.connections.figures().timed_out.head, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops() {
    let server = Running::start(limits(), None).await;
    let since = Instant::now();
    let mut stream = server.sent("POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf").await;
    server.serves_others().await;
    let answer = ends_in_time(&mut stream, since).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "its handler answers: {answer}");
    assert_eq!(server.connections.figures().timed_out, TimedOut { body: 1, ..TimedOut::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles() {
    let server = Running::start(limits(), None).await;
    let mut stream = server.sent("POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n").await;
    let since = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let drip = async {
        // Never silent for long: only its rate is low.
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(TIME / 8).await;
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = drip => {}
        read = reader.read_exact(&mut answer) => drop(read.unwrap()),
        () = tokio::time::sleep(TIME * 2 + LATER) => panic!("the connection stays"),
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(since.elapsed() >= TIME, "{:?}", since.elapsed());
    server.serves_others().await;
    assert_eq!(server.connections.figures().timed_out.body, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_read() {
    let server = Running::start(limits(), None).await;
    let mut stream = server.sent("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let since = Instant::now();
    while server.connections.figures().open > 0 {
        assert!(since.elapsed() < TIME * 2 + LATER, "the connection stays");
        server.serves_others().await;
        tokio::time::sleep(TIME / 10).await;
    }
    assert!(since.elapsed() >= TIME);
    assert_eq!(server.connections.figures().timed_out, TimedOut { write: 1, ..TimedOut::default() });
    assert!(rest(&mut stream).await.len() < 64 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_read_slowly_goes_on() {
    let server = Running::start(limits(), None).await;
    let mut stream = server.sent("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let (since, mut got, mut piece) = (Instant::now(), 0, vec![0; 4 << 20]);
    loop {
        match stream.read(&mut piece).await.expect("the connection stays") {
            0 => break,
            length => got += length,
        }
        if since.elapsed() < TIME * 3 {
            tokio::time::sleep(TIME / 8).await;
        }
    }
    assert!(got > 64 << 20 && since.elapsed() > TIME * 2, "{got} {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_idle() {
    let server = Running::start(limits(), None).await;
    let mut stream = server.sent("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let since = Instant::now();
    tokio::time::sleep(TIME / 4).await;
    assert_eq!(server.connections.figures().idle, 1);
    server.serves_others().await;
    let answer = ends_in_time(&mut stream, since).await;
    assert!(answer.ends_with("127.0.0.1 false"), "{answer}");
    assert_eq!(server.connections.figures().timed_out, TimedOut { idle: 1, ..TimedOut::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_stays() {
    let server = Running::start(limits(), None).await;
    let mut stream = server.connect().await;
    for _ in 0..6 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let (mut body, ended) = (Vec::new(), |body: &[u8]| body.ends_with(b"127.0.0.1 false"));
        while !ended(&body) {
            body.push(stream.read_u8().await.unwrap());
        }
        tokio::time::sleep(TIME / 2).await;
    }
    assert_eq!(server.connections.figures().accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_and_other_protocols_take_their_time() {
    let server = Running::start(limits(), None).await;
    let mut slow = server.sent("GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut upgraded = server.sent(upgrade).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(upgraded.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    assert!(rest(&mut slow).await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(TIME * 2).await;
    assert_eq!((server.connections.figures().open, server.connections.figures().upgraded), (1, 1));
    upgraded.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    upgraded.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still here");
    assert_eq!(server.connections.figures().timed_out, TimedOut::default());
    drop(upgraded);
    let since = Instant::now();
    while server.connections.figures().open > 0 {
        assert!(since.elapsed() < LATER, "its place is given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
