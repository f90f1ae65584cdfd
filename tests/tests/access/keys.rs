//! Keys as they come and go, and the ways to show one.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use reverie_tests::{Answer, Server, binary};
use serde_json::{Value, json};

use crate::{connect, get, keyed, send, token};

/// Runs `reverie key` in a server's folder; what it prints.
fn key(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new(binary());
    let ran = command.current_dir(server.dir.path()).arg("key").args(arguments).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

fn with(server: &Server, token: &str, path: &str) -> Answer {
    server.request("GET", path, &[("Authorization", &format!("Bearer {token}"))])
}

/// Waits until a request has this status.
fn until(status: u16, mut ask: impl FnMut() -> Answer) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask();
        if answer.status == status {
            return;
        }
        assert!(Instant::now() < deadline, "{}: {}", answer.status, answer.text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn keys_take_effect_on_save_and_revoking_closes_connections() {
    let server = Server::start(&[], &["echo"]);
    let mut anonymous = server.connect();
    assert_eq!(server.get("/v1/plugins").status, 200);
    let admin = key(&server, &["add", "root", "--scope", "admin"]);
    until(401, || server.get("/v1/plugins"));
    assert_eq!(anonymous.closed(), Some(1008));
    assert_eq!(with(&server, &admin, "/v1/plugins").status, 200);

    let alice = key(&server, &["add", "alice", "--scope", "submit", "--scope", "read", "--concurrency", "2"]);
    let header = format!("Bearer {alice}");
    until(200, || with(&server, &alice, "/api/modes"));
    let open = || server.try_connect_with("/v1/ws", &[("authorization", &header)]);
    let (mut first, mut second) = (open().unwrap(), open().unwrap());
    let mut root =
        server.try_connect_with("/v1/ws", &[("authorization", &format!("Bearer {admin}"))]).unwrap();
    let job = first.submit(json!({"jobType": "echo-sleep", "ms": 200, "steps": 300}));
    // Its events over HTTP, too, on a connection of their own.
    let (address, path, shown) = (server.address.clone(), format!("/v1/jobs/{job}/events"), header.clone());
    let following = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {shown}\r\nConnection: close\r\n\r\n"
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let mut heard = String::new();
        std::io::Read::read_to_string(&mut stream, &mut heard).unwrap();
        heard
    });
    root.receive_where(|message| message["type"] == "system:status");
    std::thread::sleep(Duration::from_millis(300));
    key(&server, &["revoke", "alice"]);
    assert_eq!((first.closed(), second.closed()), (Some(1008), Some(1008)));
    let heard = following.join().unwrap();
    assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("job:progress"), "{heard}");
    assert!(!heard.contains("job:complete"), "{heard}");
    assert_eq!(with(&server, &alice, "/api/modes").status, 401);
    assert_eq!(open().err(), Some(401));
    // Others stay, and what was begun goes on for them to see.
    assert_eq!(root.ask(json!({"type": "ping"}))["type"], "pong");
    assert_eq!(root.ask(json!({"type": "job:get", "jobId": job}))["job"]["status"], "running");
    let listed = key(&server, &["list"]);
    assert!(listed.contains("root") && !listed.contains("alice"), "{listed}");
    // The last key that goes opens nothing.
    key(&server, &["revoke", "root"]);
    until(401, || with(&server, &admin, "/v1/plugins"));
    assert_eq!(server.get("/v1/plugins").status, 401);
    let file = std::fs::read_to_string(server.dir.path().join("reverie-data/keys.toml")).unwrap();
    assert!(!file.contains(&alice) && !file.contains(&admin), "{file}");
}

#[test]
fn a_session_stands_for_the_key_until_it_ends() {
    let server = keyed(&[], &[], &[("alice", "scopes = [\"submit\"]")]);
    assert_eq!(server.request("POST", "/v1/session", &[]).status, 401);
    assert_eq!(server.get("/v1/session").json(), json!({"keyed": true, "name": null, "scopes": []}));
    let begun = send(&server, "alice", "POST", "/v1/session", &Value::Null);
    let set = begun.header("set-cookie").unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && !set.contains("Secure"), "{set}");
    let cookie = set.split(';').next().unwrap();
    assert!(!cookie.contains(&token("alice")));
    let asked = |path: &str| server.request("GET", path, &[("Cookie", cookie)]);
    assert_eq!(asked("/v1/session").json()["name"], "alice");
    assert_eq!(asked("/api/modes").status, 200);
    assert!(server.try_connect_with("/v1/ws", &[("cookie", cookie)]).is_ok());
    // Another site's page has it sent along by nobody: SameSite; and is refused in any case.
    let cross = [("Cookie", cookie), ("Origin", "https://evil.example")];
    assert_eq!(server.request("POST", "/v1/upload", &cross).status, 403);
    let ended = server.request("DELETE", "/v1/session", &[("Cookie", cookie)]);
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(asked("/api/modes").status, 401);
    // A page that came over TLS gets a cookie that goes over TLS alone.
    let headers = [
        ("Authorization", &*crate::bearer("alice")),
        ("Origin", "https://gpu.localhost"),
        ("Host", "gpu.localhost"),
    ];
    let secure = server.request("POST", "/v1/session", &headers);
    assert!(secure.header("set-cookie").unwrap().ends_with("; Secure"), "{}", secure.text());
}

#[test]
fn addresses_carry_signatures_and_no_keys() {
    let server = keyed(&["server.auth_token=operators"], &[], &[("alice", "scopes = [\"submit\"]")]);
    send(&server, "alice", "PUT", "/storage/a.txt", &json!("hello"));
    let sign = |path: &str, seconds: u64| {
        let signed = send(&server, "alice", "POST", "/v1/sign", &json!({"path": path, "seconds": seconds}));
        assert_eq!(signed.status, 200, "{}", signed.text());
        signed.json()["url"].as_str().unwrap().to_owned()
    };
    let url = sign("/storage/a.txt", 60);
    assert!(url.starts_with("/storage/a.txt?token=") && !url.contains(&token("alice")), "{url}");
    assert_eq!(server.get(&url).text(), "\"hello\"");
    let signature = url.split_once("token=").unwrap().1;
    for path in ["/storage/b.txt", "/api/modes", "/v1/ws", "/storage/a.txt/"] {
        assert_eq!(server.get(&format!("{path}?token={signature}")).status, 401, "{path}");
    }
    let socket = sign("/v1/ws", 60);
    assert!(server.try_connect(&socket).is_ok());
    assert_eq!(server.try_connect("/v1/ws").err(), Some(401));
    let short = sign("/storage/a.txt", 1);
    assert_eq!(server.get(&short).status, 200);
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(server.get(&short).status, 401);
    // A generated key is refused there, though it is right; the operator's one token goes as before.
    let made = key(&server, &["add", "bob", "--scope", "read"]);
    until(200, || with(&server, &made, "/api/modes"));
    let refused = server.get(&format!("/api/modes?token={made}"));
    assert_eq!((refused.status, refused.text().contains("/v1/sign")), (401, true), "{}", refused.text());
    assert_eq!(server.get("/api/modes?token=operators").status, 200);
    assert!(server.try_connect("/v1/ws?token=operators").is_ok());
}

#[test]
fn guessing_is_slowed_down() {
    let server = keyed(&[], &[], &[("alice", "scopes = [\"read\"]")]);
    let made = key(&server, &["add", "bob", "--scope", "read"]);
    until(200, || with(&server, &made, "/api/modes"));
    let statuses: Vec<u16> =
        (0..40).map(|i| with(&server, &format!("guess-{i}"), "/api/modes").status).collect();
    assert!(statuses[..15].iter().all(|status| *status == 401), "{statuses:?}");
    let refused = with(&server, "guess", "/api/modes");
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true));
    // A right guess would not be told from a wrong one; nobody else's key suffers.
    assert_eq!(get(&server, "alice", "/api/modes").status, 429);
    assert_eq!(with(&server, &made, "/api/modes").status, 200);
}

#[test]
fn what_was_done_is_written_down() {
    let server = keyed(&[], &["echo"], &[("alice", "scopes = [\"submit\"]"), ("bob", "scopes = [\"read\"]")]);
    let mut client = connect(&server, "alice");
    let job = client.submit(json!({"jobType": "echo"}));
    client.finish(&job);
    client.ask(json!({"type": "job:delete", "jobId": job}));
    send(&server, "bob", "POST", "/api/modes/switch", &json!({"mode": "x"}));
    send(&server, "alice", "PUT", "/storage/a%1b.txt", &json!(1));
    let log = std::fs::read_to_string(server.dir.path().join("log")).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("audit")).collect();
    let told = |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(told(&["alice", "127.0.0.1", "job:submit", &job, "done"]), "{lines:#?}");
    assert!(told(&["alice", "127.0.0.1", "job:delete", &job]), "{lines:#?}");
    assert!(told(&["bob", "POST", "/api/modes/switch", "refused", "admin"]), "{lines:#?}");
    assert!(!log.contains(&token("alice")) && !log.contains('\u{1b}'), "{log}");
}
