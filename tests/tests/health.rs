//! `GET /health` and what `system:status` says of it: of a server that is well, that computes, that has lost its ledger or its
//! storage.

use std::{
    fs,
    time::{Duration, Instant},
};

use reverie_tests::Server;
use serde_json::{Value, json};

const PARTS: [&str; 4] = ["store", "execution", "plugins", "storage"];

/// The answer, which comes within a second and names no folder of the machine.
fn health(server: &Server) -> (u16, Value) {
    let began = Instant::now();
    let answer = server.get("/health");
    let took = began.elapsed();
    let folder = server.dir.path().to_str().unwrap();
    assert!(!answer.text().contains(folder), "{}", answer.text());
    // What the connection takes is beside it.
    assert!(took < Duration::from_millis(1500), "{took:?}");
    let mut body = answer.json();
    // Beside what WebSocket clients are told.
    let connections =
        body.as_object_mut().and_then(|body| body.remove("connections")).expect("they are told");
    assert!(
        connections["open"].as_u64() >= Some(1) && connections["limit"].as_u64() >= Some(1),
        "{connections}"
    );
    (answer.status, body)
}

/// The first answer for which `wanted` holds.
fn wait_for(server: &Server, what: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, body) = health(server);
        if wanted(status, &body) {
            return body;
        }
        assert!(Instant::now() < deadline, "{what}: {body}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_server_that_is_well_says_so_while_it_computes_too() {
    let server = Server::start(&["server.auth_token=secret"], &[]);
    let (status, body) = health(&server);
    let well: serde_json::Map<String, Value> =
        PARTS.iter().map(|part| ((*part).to_owned(), json!({"ok": true}))).collect();
    assert_eq!((status, &body), (200, &json!({"status": "ok", "checks": well})));

    let mut client = server.connect_to("/v1/ws?token=secret");
    assert_eq!(client.greeting["health"], body);
    assert_eq!(client.ask(json!({"type": "system:status"}))["health"], body);
    let generate = json!({"jobType": "generate", "prompt": "a cat", "num_inference_steps": 50});
    let jobs = [(); 12].map(|()| client.submit(generate.clone()));
    client.receive_where(|m| m["jobId"] == jobs[0].as_str() && m["progress"]["step"].as_u64() >= Some(1));
    for _ in 0..5 {
        assert_eq!(health(&server), (200, body.clone()));
        std::thread::sleep(Duration::from_millis(400));
    }
    let got = client.ask(json!({"type": "job:get", "jobId": jobs[11]}));
    assert!(
        got["job"]["status"] == "queued" || got["job"]["status"] == "running",
        "it computed all the time: {got}"
    );
}

#[test]
fn a_lost_ledger_is_noted_and_one_that_cannot_be_made_anew_is_failing() {
    let server = Server::start(&["jobs.ledger=books/ledger.db"], &["echo"]);
    let (books, away) = (server.dir.path().join("books"), server.dir.path().join("away"));
    fs::remove_file(books.join("ledger.db")).unwrap();
    let body = wait_for(&server, "it is noted", |_, body| body["checks"]["store"]["notes"].is_array());
    assert_eq!((&body["status"], &body["checks"]["store"]["ok"]), (&json!("ok"), &json!(true)), "{body}");

    fs::rename(&books, &away).unwrap();
    fs::write(&books, "no folder").unwrap();
    let body = wait_for(&server, "it fails", |status, _| status == 503);
    assert_eq!(body["status"], "failing");
    let checks = &body["checks"];
    assert!(checks["store"]["ok"] == false && checks["store"]["error"].is_string(), "{body}");
    assert!(PARTS[1..].iter().all(|part| checks[part]["ok"] == true), "{body}");
    let mut client = server.connect();
    assert_eq!(client.greeting["health"]["status"], "failing");
    assert_eq!(client.greeting["store"]["ok"], false);

    fs::remove_file(&books).unwrap();
    wait_for(&server, "it is well again", |status, _| status == 200);
    let job = client.submit(json!({"jobType": "echo", "x": 1}));
    client.finish(&job);
}

#[test]
fn a_storage_that_takes_nothing_is_failing() {
    let server = Server::start(&["storage.location=shelf"], &[]);
    assert_eq!(health(&server).0, 200);
    let (shelf, away) = (server.dir.path().join("shelf"), server.dir.path().join("away"));
    fs::rename(&shelf, &away).unwrap();
    fs::write(&shelf, "no folder").unwrap();
    let body = wait_for(&server, "it fails", |status, _| status == 503);
    assert_eq!(body["checks"]["storage"]["ok"], false, "{body}");
    assert!(PARTS[..3].iter().all(|part| body["checks"][part]["ok"] == true), "{body}");
    fs::remove_file(&shelf).unwrap();
    fs::rename(&away, &shelf).unwrap();
    wait_for(&server, "it is well again", |status, _| status == 200);
}
