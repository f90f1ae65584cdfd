//! A plugin that takes memory of the host in every way there is: it gets what `memory_mb` says and no more, whatever it does, nobody
//! else suffers, and all is given back.

#![cfg(target_os = "linux")]

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use reverie_tests::{Client, Message, Server, guest};
use serde_json::{Value, json};

const MEMORY_MB: usize = 16;

/// Calls of the plugin that run at the same time.
const CALLS: usize = 4;

/// Of `memory_mb` of each call: what it has, and as much again that is passed between guest and host at the moment. The rest is
/// what an allocator keeps.
const MOST_MB: usize = CALLS * 2 * MEMORY_MB + 96;

const GRANTED: &str =
    "plugins.hoarder.capabilities=[\"storage\", \"images\", \"jobs\", \"http\", \"websocket\"]";

/// A way to take memory, and what its end says.
const WAYS: &[(&str, &str)] = &[
    ("own memory", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("blobs", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("empty blobs", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("media types", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("reads", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("pictures", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("decoded pictures", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("encoded pictures", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("resized pictures", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("pixels", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("many values", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("stored objects", "ran out of memory (plugins.hoarder.memory_mb = 16)"),
    ("headers", "resources of WASI"),
    ("state", "plugins.hoarder.storage_mb = 2"),
    ("outputs", "plugins.hoarder.storage_mb = 2"),
    ("inbox", "the inbox of job"),
];

fn server(settings: &[&str]) -> Server {
    let memory = format!("plugins.hoarder.memory_mb={MEMORY_MB}");
    let calls = format!("plugins.hoarder.message_concurrency={CALLS}");
    let mut all = vec![
        GRANTED,
        &memory,
        &calls,
        "plugins.hoarder.storage_mb=2",
        "plugins.hoarder.message_cpu_ms=20000",
        "plugins.hoarder.message_timeout_ms=60000",
        "server.memory_mb=512",
    ];
    all.extend_from_slice(settings);
    Server::start(&all, &["echo", "hoarder"])
}

/// Bytes that are held for plugins.
fn held(server: &Server) -> usize {
    let metrics = server.get("/metrics").text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("reverie_memory_bytes{use=\"plugins\"} "));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// Waits until no more is held for plugins than their idle instances have.
fn all_given_back(server: &Server, idle: usize, after: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while held(server) > idle {
        assert!(Instant::now() < deadline, "after {after} {} bytes are held, idle {idle}", held(server));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is held when both plugins were called and wait for the next call.
fn idle(server: &Server) -> usize {
    let mut client = server.connect();
    for _ in 0..3 {
        client.ask(json!({"type": "hoarder:little"}));
        client.ask(json!({"type": "echo:ping"}));
    }
    std::thread::sleep(Duration::from_millis(300));
    held(server)
}

fn told(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn every_way_to_take_memory_ends_at_the_limit_and_nobody_else_suffers() {
    let server = server(&[]);
    let idle = idle(&server);
    let before = server.resident_mb();
    let (done, pings, slowest, most) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.connect();
            while !done.load(Relaxed) {
                let began = Instant::now();
                let answer = client.ask(json!({"type": "echo:ping"}));
                assert_eq!(answer["type"], "echo:pong", "{answer}");
                slowest.fetch_max(began.elapsed().as_millis() as usize, Relaxed);
                pings.fetch_add(1, Relaxed);
                most.fetch_max(server.resident_mb(), Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        for &(way, expected) in WAYS {
            // What has come to its end in one call may have left another less.
            let answers: Vec<Value> = std::thread::scope(|scope| {
                let calls: Vec<_> = (0..CALLS)
                    .map(|_| {
                        scope.spawn(|| server.connect().ask(json!({"type": "hoarder:take", "way": way})))
                    })
                    .collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            });
            for answer in &answers {
                assert!(told(answer).contains(expected), "{way}: {answer}");
            }
            if way != "inbox" {
                all_given_back(&server, idle, way);
            }
        }
        done.store(true, Relaxed);
    });
    let most = most.into_inner();
    println!(
        "resident: {before} MB before, {most} MB at most; {} answers of another plugin, the slowest {} ms",
        pings.into_inner(),
        slowest.into_inner()
    );
    assert!(most <= before + MOST_MB, "{before} MB before, {most} MB at most");
}

#[test]
fn what_waits_for_a_client_that_does_not_read_is_its_senders() {
    let server = server(&[]);
    let idle = idle(&server);
    let mut client = server.connect();
    client.send(json!({"type": "hoarder:take", "way": "replies", "id": 7}));
    std::thread::sleep(Duration::from_secs(3));
    let answer = client.receive_where(|m| m["type"] == "hoarder:done");
    assert!(told(&answer).contains("plugins.hoarder.memory_mb = 16"), "{answer}");
    all_given_back(&server, idle, "replies");
}

#[test]
fn messages_of_a_server_that_wait_for_a_plugin_are_the_plugins() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let peer = std::thread::spawn(move || {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        let long = vec![7; 1 << 20];
        // Until the other side closes.
        while socket.send(Message::binary(long.clone())).is_ok() {}
    });
    let origin = format!("plugins.hoarder.origins=[\"{}\"]", url.trim_end_matches('/').replace("ws", "http"));
    let server = server(&[&origin]);
    let idle = idle(&server);
    let mut client = server.connect();
    let answer = client.ask(json!({"type": "hoarder:take", "way": "websocket", "url": url}));
    assert!(told(&answer).contains("plugins.hoarder.memory_mb = 16"), "{answer}");
    all_given_back(&server, idle, "websocket");
    peer.join().unwrap();
}

#[test]
fn calls_that_the_servers_memory_does_not_suffice_for_say_so_and_others_go_on() {
    let server = server(&["server.memory_mb=64", "plugins.hoarder.memory_mb=1024"]);
    let idle = idle(&server);
    let mut other = server.connect();
    for way in ["own memory", "blobs", "pictures"] {
        let mut client = server.connect();
        client.send(json!({"type": "hoarder:take", "way": way, "id": way}));
        assert_eq!(other.ask(json!({"type": "echo:ping"}))["type"], "echo:pong");
        let answer = client.receive_where(|m| m["id"] == way);
        assert!(told(&answer).contains("server.memory_mb = 64"), "{way}: {answer}");
        all_given_back(&server, idle, way);
    }
}

#[test]
fn what_a_job_tells_and_completes_with_is_bounded() {
    let server = server(&["plugins.hoarder.memory_mb=64"]);
    let mut client = server.connect();
    let job = client.submit(json!({"jobType": "hoarder", "way": "progress"}));
    let end = client.finish(&job);
    assert_eq!(end["type"], "job:complete", "{end}");
    let record = server.get(&format!("/v1/jobs/{job}")).text();
    assert!(
        record.len() < 100_000 && record.contains("field-0") && !record.contains("field-50"),
        "{}",
        record.len()
    );
    let job = client.submit(json!({"jobType": "hoarder", "way": "completion"}));
    let end = client.finish(&job);
    assert!(end["type"] == "job:error" && told(&end).contains("a job can complete with 4194304"), "{end}");
}

#[test]
fn lines_of_the_log_are_plain_short_and_few() {
    let server = server(&["plugins.hoarder.log_lines_per_minute=50"]);
    let mut client = server.connect();
    client.ask(json!({"type": "hoarder:take", "way": "log", "lines": 10}));
    client.ask(json!({"type": "hoarder:take", "way": "log", "lines": 1000}));
    let log = std::fs::read_to_string(server.dir.path().join("log")).unwrap();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("hoarder") && line.contains("line ")).collect();
    assert!(
        lines.len() == 49 && lines[0].contains("line 0\\n\\u{1b}[31mred"),
        "{}: {}",
        lines.len(),
        lines[0]
    );
    let long = log.lines().find(|line| line.contains("bytes cut)")).expect("the one of 1 MB");
    assert!(long.len() < 5000, "{}", long.len());
}

#[test]
fn what_a_plugin_has_stored_is_known_after_a_restart() {
    let mut server = server(&[]);
    let take = |server: &Server, way: &str| server.connect().ask(json!({"type": "hoarder:take", "way": way}));
    let answer = take(&server, "state");
    assert!(answer["taken"] == 32 && told(&answer).contains("storage_mb = 2"), "{answer}");
    server.crash_and_restart();
    let answer = take(&server, "outputs");
    assert!(answer["taken"] == 0 && told(&answer).contains("storage_mb = 2"), "{answer}");
    // What takes an old one's place needs no room.
    let mut names = std::fs::read_dir(server.dir.path().join("reverie-data/storage/state/hoarder")).unwrap();
    assert!(names.next().is_some());
    let answer = take(&server, "state");
    assert!(answer["taken"] == 32, "the same names again: {answer}");
}

/// Waits for the `system:plugin` of an action.
fn plugin_event(client: &mut Client, action: &str) -> Value {
    client.receive_where(|m| m["type"] == "system:plugin" && m["action"] == action)
}

#[test]
fn only_pinned_files_are_loaded() {
    // Nothing has this one.
    let other = format!("plugin_runtime.allowed_digests=[\"sha256:{}\"]", "0".repeat(64));
    let server = Server::start(&[&other], &["echo"]);
    let plugins = server.get("/v1/plugins").json();
    let plugins = plugins["plugins"].as_array().unwrap().clone();
    let echo = plugins.iter().find(|p| p["source"].as_str().unwrap().ends_with("echo.wasm")).unwrap();
    let digest = echo["digest"].as_str().unwrap().to_owned();
    let error = echo["lastError"].as_str().unwrap();
    assert!(
        echo["state"] == "failed" && error.contains(&digest) && error.contains("allowed_digests"),
        "{echo}"
    );
    assert!(
        plugins.iter().any(|p| p["name"] == "sr" && p["state"] == "active"),
        "the binary's own are trusted"
    );
    drop(server);

    let pinned = format!("plugin_runtime.allowed_digests=[{digest:?}]");
    let server = Server::start(&[&pinned], &["echo"]);
    let mut client = server.connect();
    assert_eq!(client.ask(json!({"type": "echo:ping"}))["version"], "1.0.0");
    std::fs::copy(guest("echo2"), server.plugin_path("echo")).unwrap();
    let event = plugin_event(&mut client, "refused");
    let error = event["error"].as_str().unwrap();
    assert!(
        error.contains("sha256:") && !error.contains(&digest) && error.contains("allowed_digests"),
        "{event}"
    );
    assert_eq!(client.ask(json!({"type": "echo:ping"}))["version"], "1.0.0", "the old one serves on");
}
