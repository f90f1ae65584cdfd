//! Bodies that are broken, and forms that say too much.

use std::{io::Write, net::Shutdown};

use reverie_tests::Server;
use serde_json::Value;

use super::{log, rest, sent};

/// What takes a body, of every API.
const TAKERS: &[&str] = &[
    "POST /v1/jobs",
    "POST /v1/messages/dream:status",
    "POST /v1/upload",
    "PUT /storage/a.png",
    "POST /generate",
    "POST /superres",
    "POST /v1/comfy/jobs",
    "POST /api/modes/switch",
    "POST /dream/start",
    "POST /dreams/start",
    "POST /v1/images/generations",
    "POST /v1/images/edits",
    "POST /sdapi/v1/txt2img",
    "POST /sdapi/v1/img2img",
];

/// Framings that are wrong, with what comes of them; the last two are no HTTP at all, so that no handler hears of them.
const BROKEN: &[(&str, &str, bool)] = &[
    ("a chunk without a length", "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc", true),
    ("a chunk with more than its length", "Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n", true),
    ("chunks that break off", "Transfer-Encoding: chunked\r\n\r\n50\r\n{\"a\"", true),
    ("a body that breaks off", "Content-Length: 100\r\n\r\n{\"a\"", true),
    ("a length that is none", "Content-Length: -1\r\n\r\n", false),
    ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", false),
];

#[test]
fn broken_ones_are_the_clients_fault() {
    let server = Server::start(&[], &[]);
    for taker in TAKERS {
        for content_type in ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", ""]
        {
            for (what, body, is_http) in BROKEN {
                let request = format!(
                    "{taker} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {content_type}\r\n{body}"
                );
                let mut stream = sent(&server, request.as_bytes());
                stream.shutdown(Shutdown::Write).unwrap();
                let answer = rest(&mut stream);
                assert!(answer.starts_with("HTTP/1.1 400"), "{taker}, {content_type}, {what}: {answer}");
                if *is_http {
                    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
                    let told: Value = serde_json::from_str(body).unwrap_or_default();
                    assert!(told.is_object(), "{taker}, {content_type}, {what}: {answer}");
                }
            }
        }
    }
    let log = log(&server);
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn forms_are_bounded_but_for_their_content() {
    let server = Server::start(&[], &[]);
    let part = |head: &str| format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\nabc\r\n");
    let long = "y".repeat(2 << 20);
    let before = server.memory_kb();
    for (what, form, status) in [
        ("many parts", part("name=\"a\"").repeat(1000), 413),
        ("many files", part("name=\"file\"; filename=\"a\"").repeat(1000), 413),
        ("a header without an end", part(&format!("name=\"file\"; filename=\"{long}\"")), 413),
        ("a long name", part(&format!("name=\"{}\"", &long[..1000])), 400),
        ("a long file name", part(&format!("name=\"file\"; filename=\"{}\"", &long[..5000])), 400),
        ("a long type", part(&format!("name=\"file\"\r\nContent-Type: image/{}", &long[..1000])), 400),
        ("no form", long.clone(), 413),
    ] {
        let request = format!(
            "POST /v1/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n{form}--x--\r\n",
            form.len() + 7
        );
        let mut stream = sent(&server, b"");
        // The answer may come before all is sent.
        let _ = stream.write_all(request.as_bytes());
        let answer = rest(&mut stream);
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
    }
    let after = server.memory_kb();
    assert!(after < before + 20_000, "from {before} to {after} kB");
    assert_eq!(server.post("/v1/upload", Some(&vec![1; 20 << 20]), &[]).status, 200, "content may be long");
}
