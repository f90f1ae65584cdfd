//! The connection, `ping`, `system:status`, ids and errors.

use std::time::{Duration, Instant};

use reverie_tests::{Message, Server};
use serde_json::{Value, json};

use crate::{connect, contract, has};

/// Ids of every type of JSON.
fn ids() -> Vec<Value> {
    vec![
        json!(0),
        json!(7),
        json!(-3),
        json!(1.5),
        json!(1.0),
        json!(9_007_199_254_740_993_u64),
        json!("text"),
        json!("7"),
        json!(""),
        json!(true),
        json!(false),
        json!(null),
        json!([]),
        json!([1, [2, {"a": null}]]),
        json!({}),
        json!({"a": {"b": [1, "2", 3.5]}}),
    ]
}

#[test]
fn messages() {
    let server = Server::with_models(&[], &["sd"]);
    contract(|rows| {
        rows.row("system:status on connect", || {
            let greeting = connect(&server).greeting;
            has(
                &greeting,
                &[
                    ("ts", Value::is_number),
                    ("mode", |mode| mode == "sd"),
                    ("storage", |storage| storage["ok"] == true),
                    ("ws_clients", |count| count.as_u64() >= Some(1)),
                ],
            );
            let vram = &greeting["vram"];
            assert!(
                vram.is_null() || (vram["free_mb"].is_number() && vram["total_mb"].is_number()),
                "{vram}"
            );
        });
        rows.row("system:status counts clients", || {
            let _one = connect(&server);
            assert!(connect(&server).greeting["ws_clients"].as_u64() >= Some(2));
        });
        // Messages whose direct reply repeats the id, with the reply's type.
        for (reply, message) in [
            ("pong", json!({"type": "ping"})),
            ("job:ack", json!({"type": "job:submit", "jobType": "sr", "fileRef": "x"})),
            ("job:ack", json!({"type": "job:submit", "params": {}})),
            ("error", json!({"type": "job:submit", "jobType": "nope"})),
            ("job:cancel:ack", json!({"type": "job:cancel", "jobId": "x"})),
            ("job:priority:ack", json!({"type": "job:priority", "jobId": "x", "priority": 1})),
            ("dream:stopped", json!({"type": "dream:stop"})),
            ("dream:top:result", json!({"type": "dream:top"})),
            ("error", json!({"type": "dream:nonsense"})),
            ("error", json!({"type": "nonsense"})),
        ] {
            rows.row(&format!("id comes back: {message} -> {reply}"), || {
                let mut client = connect(&server);
                let mut wrong = Vec::new();
                for id in ids() {
                    let mut asked = message.clone();
                    asked["id"] = id.clone();
                    client.send(asked);
                    let answer = client.receive_where(|m| m["type"] == reply);
                    // As text: a number must stay the number that it was.
                    let back = answer.get("id").map(Value::to_string);
                    if back != Some(id.to_string()) {
                        wrong.push(format!("{id} as {back:?}"));
                    }
                }
                assert!(wrong.is_empty(), "{wrong:?}");
            });
        }
        rows.row("a message without id is answered", || {
            let mut client = connect(&server);
            client.send(json!({"type": "ping"}));
            let pong = client.receive_where(|m| m["type"] == "pong");
            assert!(pong.get("id").is_none_or(Value::is_null), "{pong}");
        });
        rows.row("Invalid JSON; the connection stays", || {
            let mut client = connect(&server);
            for text in ["{nope", "", "{\"type\": \"ping\""] {
                client.send_text(text);
                let error = client.receive_where(|m| m["type"] != "system:status");
                assert_eq!(
                    (&error["type"], &error["error"]),
                    (&json!("error"), &json!("Invalid JSON")),
                    "{text}"
                );
            }
            assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
        });
        for unknown in ["nonsense", "dream:nonsense", "job:nonsense", "system:nonsense"] {
            rows.row(&format!("Unknown type: {unknown}; the connection stays"), || {
                let mut client = connect(&server);
                let error = client.ask(json!({"type": unknown}));
                assert_eq!(error["type"], "error", "{error}");
                assert_eq!(error["error"], format!("Unknown type: {unknown}"));
                assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
            });
        }
        rows.row("every message is one JSON object with a type", || {
            let mut client = connect(&server);
            client.send(json!({"type": "job:submit", "params": crate::quick()}));
            for _ in 0..100 {
                let Message::Text(text) = client.socket.read().expect("a frame") else { continue };
                let message: Value = serde_json::from_str(&text).expect("one JSON object");
                let kind = message["type"].as_str().unwrap_or_else(|| panic!("no type: {text}"));
                let bare = ["ping", "pong", "error"].contains(&kind);
                assert!(bare || kind.contains(':'), "no domain: {kind}");
                if kind == "job:complete" {
                    return;
                }
            }
            panic!("no job:complete");
        });
    });
}

#[test]
fn status_comes_every_five_seconds() {
    let server = Server::start(&[], &[]);
    let mut client = connect(&server);
    let begun = Instant::now();
    let status = client.receive();
    assert_eq!(status["type"], "system:status");
    // Others may have been told in between, never later.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(client.receive()["type"], "system:status");
    let interval = begun.elapsed().as_secs_f64();
    assert!((4.5..5.5).contains(&interval), "{interval} s");
}
