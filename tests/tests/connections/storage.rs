//! HEAD, ranges and conditional requests.

use std::io::Read;

use reverie_tests::Server;
use serde_json::json;

use super::{rest, sent};

/// An answer's status, headers in small letters, and body.
fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let answer = rest(&mut sent(server, request.as_bytes()));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn head_is_get_without_a_body() {
    let server = Server::start(&[], &["echo"]);
    server.put("/storage/a.txt", b"a text");
    server.put_json("/storage/kept", &json!({"payload": "kept for minutes"}));
    let job = server.post_json("/v1/jobs?wait=30", &json!({"jobType": "echo-sleep", "ms": 1})).json();
    let job = format!("/v1/jobs/{}", job["jobId"].as_str().unwrap());
    for path in [
        "/",
        "/ui/",
        "/docs",
        "/docs/script.js",
        "/openapi.json",
        "/v1/plugins",
        "/api/modes",
        "/storage/a.txt",
        "/storage/kept",
        "/storage/nothing",
        "/nothing",
        "/sdapi/v1/samplers",
        &job,
    ] {
        let (status, head, body) = ask(&server, "GET", path, &[]);
        let (head_status, head_head, head_body) = ask(&server, "HEAD", path, &[]);
        assert_eq!((head_status, head_body.as_str()), (status, ""), "{path}");
        let length = header(&head, "content-length").unwrap_or_else(|| panic!("{path}: {head}"));
        assert_eq!(header(&head_head, "content-length"), Some(length), "{path}");
        assert_eq!(length, body.len().to_string(), "{path}");
        assert_eq!(header(&head_head, "content-type"), header(&head, "content-type"), "{path}");
    }
    assert_eq!(ask(&server, "HEAD", "/v1/upload", &[]).0, 405);
    let handshake = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(ask(&server, "HEAD", "/v1/ws", &handshake).0, 400, "only GET makes a WebSocket");
    let (status, head, _) = ask(
        &server,
        "OPTIONS",
        "/storage/a.txt",
        &[("Origin", "http://localhost"), ("Access-Control-Request-Method", "HEAD")],
    );
    assert!(
        status == 200 && header(&head, "access-control-allow-methods").unwrap().contains("head"),
        "{head}"
    );
}

#[test]
fn ranges_and_conditions() {
    let server = Server::start(&[], &[]);
    let content: String = (0..200_000).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    assert_eq!(server.put("/storage/a.txt", content.as_bytes()).status, 200);
    assert_eq!(server.put_json("/storage/kept", &json!({"payload": content})).status, 200);
    for path in ["/storage/a.txt", "/storage/kept"] {
        let get = |headers: &[(&str, &str)]| ask(&server, "GET", path, headers);
        let (status, head, body) = get(&[]);
        assert!(status == 200 && body == content, "{path}: {head}");
        assert_eq!(header(&head, "accept-ranges"), Some("bytes"));
        let tag = header(&head, "etag").unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "strong: {tag}");
        let modified = rest(&mut sent(&server, format!("HEAD {path} HTTP/1.0\r\n\r\n").as_bytes()));
        let modified =
            modified.lines().find_map(|line| line.strip_prefix("last-modified: ")).unwrap().to_owned();

        let (status, head, body) = get(&[("Range", "bytes=150000-150009")]);
        assert_eq!((status, body.as_str()), (206, &content[150_000..150_010]));
        assert_eq!(header(&head, "content-range"), Some("bytes 150000-150009/200000"));
        assert_eq!(header(&head, "content-length"), Some("10"));
        assert_eq!(get(&[("Range", "bytes=-3")]).2, content[199_997..]);
        assert!(get(&[("Range", "bytes=1-")]).2 == content[1..]);
        let (status, head, body) = get(&[("Range", "bytes=200000-")]);
        assert_eq!((status, header(&head, "content-range")), (416, Some("bytes */200000")), "{body}");
        assert!(body.contains("200000 bytes"), "{body}");
        assert_eq!(get(&[("Range", "bytes=0-0,5-6")]).0, 200);

        for (name, value) in
            [("If-None-Match", tag.as_str()), ("If-None-Match", "*"), ("If-Modified-Since", &modified)]
        {
            let (status, head, body) = get(&[(name, value)]);
            assert_eq!((status, body.as_str()), (304, ""), "{name}: {value}");
            assert_eq!(header(&head, "etag"), Some(tag.as_str()));
        }
        assert_eq!(get(&[("If-None-Match", "\"other\"")]).0, 200);
        for (validator, status) in [(tag.as_str(), 206), (&modified, 206), ("\"other\"", 200)] {
            assert_eq!(get(&[("Range", "bytes=0-0"), ("If-Range", validator)]).0, status, "{validator}");
        }
    }
    let tag = header(&ask(&server, "HEAD", "/storage/a.txt", &[]).1, "etag").unwrap().to_owned();
    // Over HTTP nobody without a key replaces what is stored.
    assert_eq!(server.put("/storage/a.txt", b"another").status, 409);
    std::fs::write(server.dir.path().join("reverie-data/storage/a.txt"), content.to_uppercase()).unwrap();
    assert_eq!(ask(&server, "GET", "/storage/a.txt", &[("If-None-Match", &tag)]).0, 200, "it is another one");
    assert_eq!(ask(&server, "GET", "/storage/empty", &[]).0, 404);
    server.put("/storage/empty", b"");
    assert_eq!(ask(&server, "GET", "/storage/empty", &[("Range", "bytes=0-")]).0, 416);
    assert_eq!(ask(&server, "GET", "/storage/empty", &[]).2, "");
}

#[test]
fn stored_content_is_never_whole_in_memory() {
    const SIZE: usize = 200 << 20;
    let server = Server::start(&[], &[]);
    // As a job's output of that size would lie there.
    let file = std::fs::File::create(server.dir.path().join("reverie-data/storage/large.bin")).unwrap();
    file.set_len(SIZE as u64).unwrap();
    let before = server.memory_kb();
    let mut streams: Vec<_> = (0..4)
        .map(|_| {
            sent(&server, b"GET /storage/large.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        })
        .collect();
    let (mut most, mut piece, mut total) = (0, vec![0; 1 << 20], 0);
    while !streams.is_empty() {
        streams.retain_mut(|stream| {
            let length = stream.read(&mut piece).expect("more of it");
            total += length;
            length > 0
        });
        if total % 64 < 4 {
            most = most.max(server.memory_kb());
        }
    }
    most = most.max(server.memory_kb());
    assert!(total > SIZE * 4, "{total}");
    assert!(most < before + 40_000, "from {before} to {most} kB");
}
