//! Plugins that come, change, misbehave and go, while clients stay connected.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use reverie_tests::{Client, Server, guest, plugin};
use serde_json::{Value, json};

/// Waits for the `system:plugin` of an action.
fn plugin_event(client: &mut Client, action: &str) -> Value {
    client.receive_where(|m| m["type"] == "system:plugin" && m["action"] == action)
}

#[test]
fn a_new_version_serves_within_a_second_and_nothing_is_lost_under_load() {
    let server = Server::start(&[], &["echo"]);
    let (stop, answered, slowest) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = server.connect();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.ask(json!({"type": "echo:ping"}));
                    assert_eq!(answer["type"], "echo:pong", "{answer}");
                    let job = client.submit(json!({"jobType": "echo"}));
                    assert_eq!(client.finish(&job)["type"], "job:complete");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut watching = server.connect();
        for round in 0..6 {
            let (name, version) = if round % 2 == 0 { ("echo2", "2.0.0") } else { ("echo", "1.0.0") };
            let content = std::fs::read(guest(name)).unwrap();
            std::fs::write(server.plugin_path("echo"), content).unwrap();
            let written = Instant::now();
            let event = plugin_event(&mut watching, "reloaded");
            assert_eq!(event["version"], version);
            assert_eq!(watching.ask(json!({"type": "echo:ping"}))["version"], version);
            slowest.fetch_max(written.elapsed().as_millis() as usize, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{answered:?} exchanges, slowest reload {slowest:?} ms");
    assert!(answered.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_call_ends_on_the_version_it_began_with() {
    let server = Server::start(&[], &["echo"]);
    let mut client = server.connect();
    let job = client.submit(json!({"jobType": "echo-sleep", "ms": 100, "steps": 15}));
    client.receive_where(|m| m["jobId"] == job.as_str() && m["status"] == "running");
    std::fs::copy(guest("echo2"), server.plugin_path("echo")).unwrap();
    plugin_event(&mut client, "reloaded");
    assert_eq!(client.ask(json!({"type": "echo:ping"}))["version"], "2.0.0");
    assert_eq!(client.finish(&job)["meta"]["version"], "1.0.0");
}

#[test]
fn a_bad_version_is_reported_and_the_old_one_serves_on() {
    let server = Server::start(&[], &["echo"]);
    let mut client = server.connect();
    for (name, expected) in [
        ("wrong_world", "does not export reverie:handler/handler"),
        ("liar_reserved", "the host's own"),
        ("liar_schema", "is not a JSON Schema"),
        ("liar_undeclared", "does not ask for the capability 'storage'"),
        ("greedy", "capabilities = [\"storage\"]"),
        ("panicky", "manifest can't be read"),
    ] {
        std::fs::copy(guest(name), server.plugin_path("echo")).unwrap();
        let event = plugin_event(&mut client, "refused");
        assert!(event["error"].as_str().unwrap().contains(expected), "{name}: {event}");
        assert_eq!(client.ask(json!({"type": "echo:ping"}))["version"], "1.0.0");
    }
    std::fs::write(server.plugin_path("echo"), "no WebAssembly").unwrap();
    assert!(
        plugin_event(&mut client, "refused")["error"]
            .as_str()
            .unwrap()
            .contains("not a WebAssembly component")
    );
    let listed = server.get("/v1/plugins").json();
    let echo = listed["plugins"].as_array().unwrap().iter().find(|p| p["name"] == "echo").unwrap();
    assert!(
        echo["state"] == "active" && echo["lastError"].as_str().unwrap().contains("not a WebAssembly"),
        "{echo}"
    );
    // A half-written file takes effect once it is whole.
    let content = std::fs::read(guest("echo2")).unwrap();
    let mut file = std::fs::File::create(server.plugin_path("echo")).unwrap();
    for piece in content.chunks(content.len() / 4 + 1) {
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
    drop(file);
    assert_eq!(plugin_event(&mut client, "reloaded")["version"], "2.0.0");
}

#[test]
fn two_plugins_cannot_claim_one_type_and_a_removed_one_makes_room() {
    let server = Server::start(&[], &["echo"]);
    let mut client = server.connect();
    std::fs::copy(guest("rival"), server.plugin_path("rival")).unwrap();
    let event = plugin_event(&mut client, "refused");
    let error = event["error"].as_str().unwrap();
    assert!(error.contains("'echo:ping'") && error.contains("plugin 'echo'"), "{error}");
    std::fs::remove_file(server.plugin_path("echo")).unwrap();
    plugin_event(&mut client, "removed");
    assert_eq!(plugin_event(&mut client, "loaded")["plugin"], "rival");
    assert!(
        client.ask(json!({"type": "echo:broadcast"}))["error"].as_str().unwrap().contains("Unknown type")
    );
}

#[test]
fn a_file_takes_a_built_ins_place_and_gives_it_back() {
    let server = Server::start(&[], &[]);
    let mut client = server.connect();
    std::fs::copy(plugin("sr"), server.plugin_path("sr")).unwrap();
    plugin_event(&mut client, "loaded");
    let states = |server: &Server| -> Vec<String> {
        let plugins = server.get("/v1/plugins").json();
        plugins["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|p| p["name"] == "sr")
            .map(|p| p["state"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(states(&server), ["shadowed", "active"]);
    std::fs::remove_file(server.plugin_path("sr")).unwrap();
    plugin_event(&mut client, "removed");
    assert_eq!(states(&server), ["active"]);
    assert_eq!(client.ask(json!({"type": "sr:models"}))["type"], "sr:models:result");
}

#[test]
fn the_template_works() {
    let server = Server::start(&[], &[]);
    let mut client = server.connect();
    std::fs::copy(plugin("hello"), server.plugin_path("hello")).unwrap();
    plugin_event(&mut client, "loaded");
    assert_eq!(client.ask(json!({"type": "hello:greet", "name": "Ada"}))["text"], "Hello, Ada!");
    let wrong = client.ask(json!({"type": "hello:greet", "name": 5}));
    assert!(wrong["error"].as_str().unwrap().contains("whom to greet"), "{wrong}");
}

#[test]
fn the_sdk_leaves_no_import_of_wasi() {
    // Each would be linked anew for every call.
    for path in [plugin("sr"), guest("echo"), guest("panicky")] {
        let component = std::fs::read(&path).unwrap();
        let imports = component.windows(5).any(|bytes| bytes == b"wasi:");
        assert!(!imports, "{} imports WASI", path.display());
    }
}

#[test]
fn misbehaviour_costs_one_call() {
    let settings = [
        "plugins.bad.message_timeout_ms=1500",
        "plugins.bad.message_cpu_ms=300",
        "plugins.bad.cancel_grace_ms=200",
    ];
    let server = Server::start(&settings, &["bad", "echo"]);
    let (mut client, mut other) = (server.connect(), server.connect());
    for (kind, expected) in [
        ("panic", "trapped"),
        ("loop", "CPU time"),
        ("memory", "ran out of memory"),
        ("stack", "trapped"),
        ("sleep", "took longer than 1500 ms"),
        ("json", "is not a JSON object"),
        ("denied", "lacks the capability 'hub'"),
        ("error", "the field 'x' must be y"),
    ] {
        client.send(json!({"type": format!("bad:{kind}"), "id": "bad"}));
        assert_eq!(other.ask(json!({"type": "echo:ping"}))["type"], "echo:pong");
        let answer = client.receive_where(|m| m["id"] == "bad");
        let error = answer["error"].as_str().unwrap();
        assert!(answer["type"] == "error" && error.contains(expected), "{kind}: {answer}");
        let fault = !["json", "denied", "error"].contains(&kind);
        assert_eq!(error.contains("plugin 'bad' 1.0.0"), fault, "{kind}: {answer}");
    }
    for (kind, expected) in [("bad-incomplete", "without completing"), ("bad-panic", "trapped")] {
        let job = client.submit(json!({"jobType": kind}));
        let ended = client.finish(&job);
        assert!(
            ended["type"] == "job:error" && ended["error"].as_str().unwrap().contains(expected),
            "{ended}"
        );
    }
    let job = client.submit(json!({"jobType": "bad-deaf"}));
    client.receive_where(|m| m["jobId"] == job.as_str() && m["status"] == "running");
    client.send(json!({"type": "job:cancel", "jobId": job}));
    assert_eq!(client.finish(&job)["status"], "canceled");
}

#[test]
fn plugins_start_jobs_and_write_to_their_inboxes() {
    let server = Server::start(&[], &["echo"]);
    let (mut client, mut other) = (server.connect(), server.connect());
    let started = client.ask(json!({"type": "echo:start"}));
    let job = started["jobId"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned();
    for text in ["one", "two", "stop"] {
        let sent = client.ask(json!({"type": "echo:send", "job": job, "text": text}));
        assert_eq!(sent["type"], "echo:sent", "{sent}");
    }
    assert_eq!(client.finish(&job)["meta"]["received"], json!(["one", "two"]));
    client.send(json!({"type": "echo:broadcast"}));
    other.receive_where(|m| m["type"] == "echo:all");
}
