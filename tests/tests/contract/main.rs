//! The contract with the clients of the server that Reverie takes over from: a named row for each claim, WebSocket and HTTP, for
//! both generations of clients. Black box: it knows the contract and nothing of how the server is made.

mod a1111;
mod api;
mod browser;
mod comfy;
mod dreams;
mod files;
mod front_end;
mod generate;
mod http;
mod jobs;
mod openai;
mod websocket;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use reverie_tests::{Client, Server};
use serde_json::{Value, json};

/// How long a reply may take. An old client gives an acknowledgement ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rows of a part of the contract. All are tried; those that fail are named together at the end.
#[derive(Default)]
struct Rows {
    tried: usize,
    failed: Vec<String>,
}

impl Rows {
    fn row(&mut self, name: &str, check: impl FnOnce()) {
        self.tried += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked");
            self.failed.push(format!("ROW {name}: {text}"));
        }
    }
}

/// Tries the rows that `all` names.
fn contract(all: impl FnOnce(&mut Rows)) {
    let mut rows = Rows::default();
    all(&mut rows);
    let Rows { tried, failed } = rows;
    assert!(tried > 0 && failed.is_empty(), "{} of {tried} rows fail:\n{}", failed.len(), failed.join("\n"));
}

/// A client that is as patient as the contract's.
fn connect(server: &Server) -> Client {
    server.connect().with_patience(PATIENCE)
}

/// What every message has in common: the fields of `more` set in `message`.
fn merged(mut message: Value, more: Value) -> Value {
    message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    message
}

/// Submits a job as an old client does: the acknowledgement must be the first that is heard of it. Returns the job's id.
fn submit(client: &mut Client, message: Value) -> String {
    let id = json!({"of": "the client"});
    client.send(merged(message, json!({"type": "job:submit", "id": id})));
    let heard = std::cell::RefCell::new(Vec::new());
    let ack = client.receive_where(|m| {
        heard.borrow_mut().push(m["jobId"].clone());
        m["id"] == id
    });
    assert_eq!(ack["type"], "job:ack", "{ack}");
    let job = ack["jobId"].as_str().unwrap_or_else(|| panic!("the acknowledgement names no job: {ack}"));
    assert_eq!(
        heard.into_inner().iter().filter(|other| **other == job).count(),
        1,
        "heard of before the ack"
    );
    job.to_owned()
}

/// Submits a job that is to be refused, and returns the `job:error` after the acknowledgement.
fn refused(client: &mut Client, message: Value) -> Value {
    let job = submit(client, message);
    let end = client.finish(&job);
    assert!(end["type"] == "job:error" && end["error"].is_string(), "{end}");
    end
}

/// Runs a job to its `job:complete`.
fn completed(client: &mut Client, message: Value) -> Value {
    let job = submit(client, message);
    let end = client.finish(&job);
    assert_eq!(end["type"], "job:complete", "{end}");
    assert!(end["meta"].is_object(), "{end}");
    for output in end["outputs"].as_array().expect("outputs") {
        assert!(output["url"].is_string() && output["key"].is_string(), "{end}");
    }
    end
}

/// The first output of a job, as it is stored.
fn output(server: &Server, end: &Value) -> Vec<u8> {
    let answer = server.get(end["outputs"][0]["url"].as_str().expect("an output"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.body
}

/// A field and what holds for it.
type Field = (&'static str, fn(&Value) -> bool);

/// Asserts that an object has these fields.
fn has(object: &Value, fields: &[Field]) {
    for (field, fits) in fields {
        assert!(object.get(field).is_some_and(fits), "'{field}' is missing or wrong: {object}");
    }
}

/// A picture of a few steps.
fn quick() -> Value {
    json!({"prompt": "a cat", "size": "64x64", "steps": 2, "seed": 42})
}

/// A picture that takes a while.
fn slow() -> Value {
    json!({"prompt": "a cat", "size": "256x256", "steps": 50, "seed": 1})
}

/// Waits until `wanted` holds.
fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !wanted() {
        assert!(Instant::now() < deadline, "it does not come to it: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
