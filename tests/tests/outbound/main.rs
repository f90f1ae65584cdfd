//! Plugins that reach out: to what the operator lists, within limits, and to nothing else.

mod peers;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use peers::{Peer, certificates};
use reverie_tests::{Client, Server, guest};
use serde_json::{Value, json};

const GRANT: &str = "plugins.outbound.capabilities=[\"http\", \"websocket\", \"files\"]";

/// A server whose plugin `outbound` may reach these origins.
fn server(origins: &[String], settings: &[&str]) -> Server {
    let origins = format!("plugins.outbound.origins={}", json!(origins));
    let mut all = vec![GRANT, origins.as_str()];
    all.extend(settings);
    Server::start(&all, &["outbound"])
}

fn http(client: &mut Client, url: &str) -> Value {
    client.ask(json!({"type": "outbound:http", "url": url}))
}

/// Asserts an error of this kind, and that the message says all of this.
fn refused(answer: &Value, code: &str, said: &[&str]) {
    assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{answer}");
    for said in said {
        assert!(answer["error"].as_str().unwrap().contains(said), "{said}: {answer}");
    }
}

#[test]
fn a_listed_origin_is_reached_and_no_other() {
    let (peer, other) = (Peer::http(), Peer::http());
    let (port, other) = (peer.port, other.port);
    let server = server(&[format!("http://127.0.0.1:{port}")], &[]);
    let mut client = server.connect();
    let url = format!("http://127.0.0.1:{port}");
    let answer = http(&mut client, &format!("{url}/hello"));
    assert_eq!((&answer["status"], &answer["text"]), (&json!(200), &json!("hello")), "{answer}");
    assert_eq!(http(&mut client, &format!("{url}/nothing"))["status"], 404);
    let echo = client.ask(
        json!({"type": "outbound:http", "method": "PUT", "url": format!("{url}/echo"), "size": 3_000_000}),
    );
    assert_eq!(echo["text"], format!("PUT body=3000000 auth=- test=1 host=127.0.0.1:{port}"), "{echo}");

    let key = "[plugins.outbound] origins";
    refused(
        &http(&mut client, &format!("http://127.0.0.1:{other}/hello")),
        "denied",
        &[key, &other.to_string()],
    );
    for url in [
        format!("https://127.0.0.1:{port}/hello"),
        format!("http://localhost:{port}/hello"),
        format!("http://127.0.0.2:{port}/hello"),
        // The same address in other guises is not the same entry.
        format!("http://[::ffff:127.0.0.1]:{port}/hello"),
        format!("http://127.1:{port}/hello"),
        format!("http://2130706433:{port}/hello"),
        "http://example.org/".into(),
        "http://169.254.169.254/latest/meta-data/".into(),
    ] {
        refused(&http(&mut client, &url), "denied", &[key]);
    }
    refused(&http(&mut client, "ftp://127.0.0.1/"), "invalid_input", &["accepted"]);
    refused(&http(&mut client, &format!("http://127.0.0.1@{port}/")), "invalid_input", &["accepted"]);
}

#[test]
fn every_hop_of_a_redirect_is_checked() {
    let (peer, friend, stranger) = (Peer::http(), Peer::http(), Peer::http());
    let origin = |peer: &Peer| format!("http://127.0.0.1:{}", peer.port);
    let server = server(&[origin(&peer), origin(&friend)], &[]);
    let mut client = server.connect();
    let (at, friend, stranger) = (origin(&peer), origin(&friend), origin(&stranger));

    assert_eq!(http(&mut client, &format!("{at}/302?/hello"))["text"], "hello");
    assert_eq!(http(&mut client, &format!("{at}/302?hello"))["text"], "hello");
    refused(&http(&mut client, &format!("{at}/302?{stranger}/hello")), "denied", &[&stranger, "origins"]);
    refused(&http(&mut client, &format!("{at}/302?/302?{stranger}/hello")), "denied", &[&stranger]);
    let around = "/302?".repeat(6);
    refused(&http(&mut client, &format!("{at}{around}/hello")), "unavailable", &["5 redirects"]);

    // A body is sent again only where the status says so, and credentials only to the origin that they are for.
    let mut redirected =
        |url: String| client.ask(json!({"type": "outbound:redirected", "url": url}))["text"].clone();
    let told = |text: Value| text.as_str().unwrap().split(" host").next().unwrap().to_owned();
    assert_eq!(told(redirected(format!("{at}/307?/echo"))), "POST body=4 auth=secret test=1");
    assert_eq!(told(redirected(format!("{at}/302?/echo"))), "GET body=0 auth=secret test=1");
    assert_eq!(told(redirected(format!("{at}/307?{friend}/echo"))), "POST body=4 auth=- test=1");
}

#[test]
fn a_name_may_not_lead_into_a_private_network_unless_that_is_listed() {
    let peer = Peer::http();
    // The resolver makes 127.0.0.1 of it, but it is no address in an operator's list.
    let name = format!("http://127.1:{}", peer.port);
    let mapped = format!("http://[::ffff:127.0.0.1]:{}", peer.port);
    let closed = server(std::slice::from_ref(&name), &[]);
    let mut client = closed.connect();
    refused(
        &http(&mut client, &format!("{name}/hello")),
        "denied",
        &["127.0.0.1", "not a public one", "[plugins.outbound] private_networks"],
    );
    let talk = client.ask(json!({"type": "outbound:talk", "url": name.replace("http", "ws"), "texts": []}));
    refused(&talk, "denied", &["private_networks"]);

    let open =
        server(&[name.clone(), mapped.clone()], &["plugins.outbound.private_networks=[\"127.0.0.0/8\"]"]);
    let mut client = open.connect();
    assert_eq!(http(&mut client, &format!("{name}/hello"))["text"], "hello");
    // An address that is listed as such is meant.
    assert_eq!(http(&mut client, &format!("{mapped}/hello"))["text"], "hello");

    let localhost = format!("http://localhost:{}", peer.port);
    let local = server(std::slice::from_ref(&localhost), &[]);
    assert_eq!(http(&mut local.connect(), &format!("{localhost}/hello"))["text"], "hello");
}

#[test]
fn answers_have_limits() {
    let peer = Peer::http();
    let at = format!("http://127.0.0.1:{}", peer.port);
    let limits = ["plugins.outbound.http_max_body_bytes=1000", "plugins.outbound.http_timeout_ms=2000"];
    let server = server(std::slice::from_ref(&at), &limits);
    let mut client = server.connect();
    for kind in ["size", "chunked"] {
        assert_eq!(http(&mut client, &format!("{at}/{kind}?1000"))["length"], 1000);
        let answer = http(&mut client, &format!("{at}/{kind}?1001"));
        refused(&answer, "too_large", &["1000 bytes", "http_max_body_bytes"]);
    }
    for path in ["silent", "stalls"] {
        let began = Instant::now();
        refused(&http(&mut client, &format!("{at}/{path}")), "unavailable", &["in time"]);
        assert!(began.elapsed() < Duration::from_secs(10));
        let impatient = json!({"type": "outbound:http", "url": format!("{at}/{path}"), "timeout": 100});
        refused(&client.ask(impatient), "unavailable", &["in time"]);
    }
    refused(&http(&mut client, &format!("{at}/broken")), "unavailable", &[]);
    // Nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = self::server(&[format!("http://127.0.0.1:{port}")], &[]);
    refused(&http(&mut gone.connect(), &format!("http://127.0.0.1:{port}/")), "unavailable", &["refused"]);
}

#[test]
fn a_call_that_ends_closes_its_connections() {
    let (slow, peer) = (Peer::http(), Peer::websocket());
    let origins = [format!("http://127.0.0.1:{}", slow.port), format!("ws://127.0.0.1:{}", peer.port)];
    let limits = ["plugins.outbound.message_timeout_ms=1500", "plugins.outbound.connections=3"];
    let server = server(&origins, &limits);
    let mut client = server.connect();
    let late = client
        .ask(json!({"type": "outbound:talk", "url": &origins[1], "texts": ["nothing"], "wait": 60_000}));
    refused(&late, "timeout", &["1500 ms"]);
    let closed = |peer: &Peer| {
        let began = Instant::now();
        while peer.open.load(Ordering::SeqCst) > 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "the connection stays open");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    closed(&peer);
    let many = client.ask(json!({"type": "outbound:many", "url": &origins[1]}));
    assert_eq!(many["open"], 3, "{many}");
    assert!(many["error"].as_str().unwrap().contains("3 connections"), "{many}");
    closed(&peer);

    // A job that is cancelled while it waits hears of it at once, and so does one that was cancelled just before.
    for pause in [0, 300] {
        let job = client.submit(json!({"jobType": "outbound-listen", "url": &origins[1], "pause": pause}));
        client.receive_where(|m| m["jobId"] == job.as_str() && m["progress"]["fraction"] == 0.5);
        let began = Instant::now();
        client.send(json!({"type": "job:cancel", "jobId": job}));
        assert_eq!(client.finish(&job)["status"], "canceled");
        assert!(began.elapsed() < Duration::from_secs(4), "only after the grace for deaf jobs");
        closed(&peer);
    }
}

#[test]
fn websockets_carry_messages_both_ways() {
    let peer = Peer::websocket();
    let http = Peer::http();
    let (at, no_socket) =
        (format!("ws://127.0.0.1:{}", peer.port), format!("http://127.0.0.1:{}", http.port));
    // An entry of HTTP covers WebSocket there.
    let limit = "plugins.outbound.websocket_max_message_bytes=1000";
    let server = server(&[at.replace("ws", "http"), no_socket.clone()], &[limit]);
    let mut client = server.connect();
    let mut talk = |texts: &[&str]| {
        let answer = client.ask(json!({"type": "outbound:talk", "url": &at, "texts": texts, "wait": 5000}));
        answer["heard"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    };
    let heard = talk(&["echo:hé", "binary", "ping", "size:1000"]);
    assert_eq!(heard[0]["text"], "hé");
    assert_eq!(heard[1]["binary"], json!([1, 2, 3]));
    assert_eq!(heard[2]["text"], "ponged");
    assert_eq!(heard[3]["length"], 1000);
    let heard = talk(&["size:1001", "echo:never"]);
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0]["kind"], "ErrorKind::TooLarge", "{heard:?}");
    assert!(heard[0]["error"].as_str().unwrap().contains("websocket_max_message_bytes"), "{heard:?}");
    let heard = talk(&["echo:a", "close", "echo:never"]);
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[1]["kind"], "ErrorKind::Unavailable", "{heard:?}");
    assert!(heard[1]["error"].as_str().unwrap().contains("1001: going home"), "{heard:?}");
    let silent = client.ask(json!({"type": "outbound:talk", "url": &at, "texts": ["nothing"], "wait": 50}));
    assert_eq!(silent["heard"], json!([null]));

    let no_socket = no_socket.replace("http", "ws");
    let answer =
        client.ask(json!({"type": "outbound:talk", "url": format!("{no_socket}/hello"), "texts": []}));
    refused(&answer, "unavailable", &["answered 200"]);
    let other = client.ask(json!({"type": "outbound:talk", "url": "ws://127.0.0.1:1/", "texts": []}));
    refused(&other, "denied", &["origins"]);
    let wrong = client.ask(json!({"type": "outbound:talk", "url": "http://127.0.0.1:1/", "texts": []}));
    refused(&wrong, "invalid_input", &["ws://"]);
}

#[test]
fn tls_needs_a_certificate_that_the_system_trusts() {
    let peer = Peer::https();
    let origins = [format!("https://localhost:{}", peer.port), format!("https://127.0.0.1:{}", peer.port)];
    let url = format!("{}/hello", origins[0]);
    let stranger = server(&origins, &[]);
    let answer = http(&mut stranger.connect(), &url);
    refused(&answer, "unavailable", &["TLS with https://localhost"]);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("not trusted") || error.contains("no certificates of authorities"), "{error}");

    let origins_setting = format!("plugins.outbound.origins={}", json!(origins));
    let authority = format!("{}/authority.pem", certificates());
    let trusting =
        Server::start_with(&[("SSL_CERT_FILE", &authority)], &[GRANT, &origins_setting], &["outbound"]);
    let mut client = trusting.connect();
    assert_eq!(http(&mut client, &url)["text"], "hello");
    // The certificate is for the name alone.
    refused(
        &http(&mut client, &format!("{}/hello", origins[1])),
        "unavailable",
        &["not trusted", "127.0.0.1"],
    );
}

#[test]
fn without_a_grant_a_plugin_does_not_load_and_without_a_folder_it_reads_nothing() {
    let peer = Peer::http();
    let at = format!("http://127.0.0.1:{}", peer.port);
    let server = Server::start(&["plugins.outbound.capabilities=[\"http\"]"], &["outbound"]);
    let plugins = server.get("/v1/plugins").json();
    let refusal = plugins["plugins"].as_array().unwrap().iter().find(|p| p["lastError"].is_string());
    let refusal = refusal.unwrap_or_else(|| panic!("{plugins}"))["lastError"].as_str().unwrap();
    assert!(refusal.contains("not granted: websocket, files"), "{refusal}");
    drop(server);

    let server = self::server(&[], &[]);
    let mut client = server.connect();
    refused(&client.ask(json!({"type": "outbound:files"})), "denied", &["[plugins.outbound] folder"]);
    refused(&http(&mut client, &at), "denied", &["[plugins.outbound] origins"]);

    let server = self::server(&[], &["plugins.outbound.folder=mine", "plugins.outbound.file_max_bytes=10"]);
    let mut client = server.connect();
    assert_eq!(client.ask(json!({"type": "outbound:files"}))["files"], json!([]));
    let folder = server.dir.path().join("mine");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.json"), "{}").unwrap();
    std::fs::write(folder.join("long.json"), "[1, 2, 3, 4, 5]").unwrap();
    // A change is there at the next call.
    let read = client.ask(json!({"type": "outbound:files", "read": "a.json"}));
    assert_eq!((&read["content"], &read["files"][0]["len"]), (&json!("{}"), &json!(2)), "{read}");
    assert!(read["files"][0]["modified"].as_u64().unwrap() > 1_700_000_000_000, "{read}");
    for (name, code) in [("long.json", "too_large"), ("../log", "invalid_input"), ("none", "not_found")] {
        refused(&client.ask(json!({"type": "outbound:files", "read": name})), code, &[name]);
    }
}

#[test]
fn a_component_of_a_version_before_runs() {
    let server = Server::start(&[], &[]);
    let mut client = server.connect();
    // What a component of an earlier version differs in are the names of its interfaces.
    let now = b"@0.2.4";
    for before in [b"@0.2.0", b"@0.2.1", b"@0.2.2", b"@0.2.3"] {
        let mut content = std::fs::read(guest("echo")).unwrap();
        let mut renamed = 0;
        for at in 0..content.len() - now.len() {
            if content[at..].starts_with(now) {
                content[at..at + now.len()].copy_from_slice(before);
                renamed += 1;
            }
        }
        assert!(renamed > 0, "the guest is of another version");
        std::fs::write(server.plugin_path("echo"), content).unwrap();
        client.receive_where(|m| {
            m["type"] == "system:plugin" && (m["action"] == "loaded" || m["action"] == "reloaded")
        });
        assert_eq!(client.ask(json!({"type": "echo:ping"}))["version"], "1.0.0");
        let job = client.submit(json!({"jobType": "echo", "params": {"a": 1}}));
        assert_eq!(client.finish(&job)["meta"]["params"]["params"]["a"], 1);
    }
}
