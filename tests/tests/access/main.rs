//! Who may do what, against the real server: which websites can drive it, what each key reaches, and whose things are whose.

mod keys;
mod limits;
mod others;
mod routes;
mod sites;

use reverie_access::Token;
use reverie_tests::{Answer, Client, Server};
use serde_json::{Value, json};

/// A key of the tests: its name, and its scopes or further settings as `[[keys]]` has them.
type Key<'a> = (&'a str, &'a str);

/// The token of a key, which the configuration holds the hash of.
fn token(name: &str) -> String {
    format!("the-token-of-{name}")
}

/// A server with these keys.
fn keyed(settings: &[&str], guests: &[&str], keys: &[Key<'_>]) -> Server {
    let table = |(name, more): &Key<'_>| {
        let more = more.replace(", ", "\n").replace("\"\n\"", "\", \"");
        format!("[[keys]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", Token::sha256(&token(name)))
    };
    let tables: Vec<String> = keys.iter().map(table).collect();
    Server::start_in(&tables.concat(), &[], settings, guests)
}

fn bearer(name: &str) -> String {
    format!("Bearer {}", token(name))
}

/// Sends JSON with a key.
fn send(server: &Server, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let headers = [("Authorization", &*bearer(key)), ("Content-Type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.send(method, path, &headers, body.as_bytes())
}

fn get(server: &Server, key: &str, path: &str) -> Answer {
    send(server, key, "GET", path, &Value::Null)
}

/// Uploads a file with a key; its `fileRef`.
fn upload(server: &Server, key: &str, content: &[u8]) -> String {
    let mut body =
        b"--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n".to_vec();
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n--limit--\r\n");
    let headers = [("Authorization", &*bearer(key)), ("Content-Type", "multipart/form-data; boundary=limit")];
    let answer = server.send("POST", "/v1/upload", &headers, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["fileRef"].as_str().unwrap().to_owned()
}

/// A WebSocket with a key, after its greeting.
fn connect(server: &Server, key: &str) -> Client {
    let mut client = server.try_connect_with("/v1/ws", &[("authorization", &bearer(key))]).expect("let in");
    assert_eq!(client.receive()["type"], "system:status");
    client
}

/// What a cheap job is asked with: a picture enlarged without a network.
fn enlargement(file_ref: &str) -> Value {
    json!({"jobType": "sr", "fileRef": file_ref, "scale": 2, "model": "bicubic"})
}
