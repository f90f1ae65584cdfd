//! Whose things are whose.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use reverie_tests::{Client, Server, picture};
use serde_json::{Value, json};

use crate::{connect, enlargement, get, keyed, send, upload};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const KEYS: &[(&str, &str)] = &[
    ("alice", "scopes = [\"submit\", \"read\"]"),
    ("bob", "scopes = [\"submit\"]"),
    ("carol", "scopes = [\"plugins:sr\"]"),
    // Another key of alice's.
    ("screen", "scopes = [\"read\"], owner = \"alice\""),
    ("operator", "scopes = [\"admin\"]"),
];

/// What a user does. The second number says to what, modulo what there is.
#[derive(Debug, Clone)]
enum Action {
    Upload,
    Enlarge(usize),
    Put(usize),
    Read(usize),
    Fetch(usize),
    Steer(usize),
    Forget(usize),
    List,
}

fn action() -> impl Strategy<Value = (usize, Action)> {
    let any = 0usize..64;
    let action = prop_oneof![
        Just(Action::Upload),
        any.clone().prop_map(Action::Enlarge),
        any.clone().prop_map(Action::Put),
        any.clone().prop_map(Action::Read),
        any.clone().prop_map(Action::Fetch),
        any.clone().prop_map(Action::Steer),
        any.prop_map(Action::Forget),
        Just(Action::List),
    ];
    (0..USERS.len(), action)
}

/// What there is, and whose it is.
struct World {
    server: Server,
    clients: Vec<Client>,
    uploads: Vec<(usize, String)>,
    /// Owner, id, where the output is served.
    jobs: Vec<(usize, String, String)>,
    /// By owner and name.
    stored: BTreeMap<(usize, usize), u64>,
    puts: u64,
}

impl World {
    fn new() -> Self {
        let server = keyed(&[], &[], KEYS);
        let clients = USERS.iter().map(|user| connect(&server, user)).collect();
        Self { server, clients, uploads: Vec::new(), jobs: Vec::new(), stored: BTreeMap::new(), puts: 0 }
    }

    /// Does one thing, and sees that it goes as it should for who does it.
    fn act(&mut self, user: usize, action: &Action) {
        let (server, name) = (&self.server, USERS[user]);
        match action {
            Action::Upload => self.uploads.push((user, upload(server, name, &picture(4, 4)))),
            Action::Enlarge(n) if !self.uploads.is_empty() => {
                let (owner, file_ref) = &self.uploads[n % self.uploads.len()];
                let job = send(server, name, "POST", "/v1/jobs?wait=60", &enlargement(file_ref)).json();
                if *owner == user {
                    assert_eq!(job["status"], "done", "{name}: {job}");
                    let url = job["outputs"][0]["url"].as_str().unwrap().to_owned();
                    self.jobs.push((user, job["jobId"].as_str().unwrap().to_owned(), url));
                } else {
                    let told = job["error"].as_str().unwrap_or_default();
                    assert!(told.ends_with("not found or expired"), "{name} used another's upload: {job}");
                    self.jobs.push((user, job["jobId"].as_str().unwrap().to_owned(), String::new()));
                }
            }
            Action::Put(n) => {
                self.puts += 1;
                let path = format!("/storage/notes/{}.txt", n % 4);
                let answer = send(server, name, "PUT", &path, &json!(self.puts));
                assert_eq!(answer.status, 200, "{}", answer.text());
                self.stored.insert((user, n % 4), self.puts);
            }
            Action::Fetch(n) => {
                let answer = get(server, name, &format!("/storage/notes/{}.txt", n % 4));
                match self.stored.get(&(user, n % 4)) {
                    Some(own) => assert_eq!(answer.text(), own.to_string(), "{name} {n}"),
                    None => assert_eq!(answer.status, 404, "{name} {n}: {}", answer.text()),
                }
            }
            Action::Read(n) if !self.jobs.is_empty() => {
                let (owner, id, url) = &self.jobs[n % self.jobs.len()];
                let status = if *owner == user { 200 } else { 404 };
                for path in [format!("/v1/jobs/{id}"), format!("/v1/jobs/{id}/events")] {
                    assert_eq!(get(server, name, &path).status, status, "{name} {path}");
                }
                if !url.is_empty() {
                    assert_eq!(get(server, name, url).status, status, "{name} {url}");
                    assert_eq!(get(server, "operator", url).status, 200, "{url}");
                    let by_screen = if *owner == 0 { 200 } else { 404 };
                    assert_eq!(get(server, "screen", url).status, by_screen, "{url}");
                    // Nor under the name that it has among another's things.
                    let bare = url.rsplit('/').next().unwrap();
                    assert_eq!(
                        get(server, name, &format!("/storage/{bare}")).status,
                        status,
                        "{name} {bare}"
                    );
                }
                for kind in ["job:get", "job:subscribe"] {
                    let answer = self.clients[user].ask(json!({"type": kind, "jobId": id}));
                    assert_eq!(answer["type"] == "error", *owner != user, "{name}: {answer}");
                }
            }
            Action::Steer(n) if !self.jobs.is_empty() => {
                let (owner, id, _) = &self.jobs[n % self.jobs.len()];
                let status = if *owner == user { 200 } else { 404 };
                assert_eq!(
                    send(server, name, "DELETE", &format!("/v1/jobs/{id}"), &Value::Null).status,
                    status
                );
                let path = format!("/api/jobs/{id}/cancel");
                assert_eq!(send(server, name, "POST", &path, &Value::Null).status, status);
                for kind in ["job:cancel", "job:priority"] {
                    let ack = self.clients[user].ask(json!({"type": kind, "jobId": id, "priority": 1}));
                    assert_eq!(ack["status"] == "unknown", *owner != user, "{name}: {ack}");
                }
            }
            Action::Forget(n) if !self.jobs.is_empty() => {
                let at = n % self.jobs.len();
                let (owner, id, url) = self.jobs[at].clone();
                let answer = send(server, name, "DELETE", &format!("/v1/jobs/{id}/record"), &Value::Null);
                if owner != user {
                    assert_eq!(answer.status, 404, "{name} deleted another's job");
                } else if answer.status == 200 {
                    self.jobs.remove(at);
                } else {
                    assert!(url.is_empty(), "{name}: {}", answer.text());
                }
            }
            Action::List => {
                let own: BTreeSet<&str> = self
                    .jobs
                    .iter()
                    .filter(|job| job.0 == user && !job.2.is_empty())
                    .map(|job| &*job.1)
                    .collect();
                let listed = self.clients[user].ask(json!({"type": "job:list"}));
                let ids = listed["jobs"].as_array().unwrap().iter();
                let done = ids.clone().filter(|job| job["status"] == "done");
                let done: BTreeSet<&str> = done.map(|job| job["jobId"].as_str().unwrap()).collect();
                assert_eq!(done, own, "{name}");
                let others: BTreeSet<&str> =
                    self.jobs.iter().filter(|job| job.0 != user).map(|job| &*job.1).collect();
                assert!(
                    ids.clone().all(|job| !others.contains(job["jobId"].as_str().unwrap())),
                    "{name}: {listed}"
                );
            }
            _ => {}
        }
        // What one asks is no event of another's.
        for (other, client) in self.clients.iter_mut().enumerate() {
            client.ask(json!({"type": "ping"}));
            let heard = client.passed();
            let foreign = |message: &&Value| {
                self.jobs.iter().any(|job| job.0 != other && message["jobId"] == *job.1)
                    && message["type"].as_str().is_some_and(|kind| kind.starts_with("job:"))
            };
            assert_eq!(heard.iter().find(foreign), None, "{} heard of another's job", USERS[other]);
        }
    }
}

#[test]
fn a_random_mix_of_users_never_sees_anothers() {
    let world = RefCell::new(World::new());
    let config = Config { cases: 12, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let run = TestRunner::new(config).run(&prop::collection::vec(action(), 25), |actions| {
        for (user, action) in &actions {
            world.borrow_mut().act(*user, action);
        }
        Ok(())
    });
    run.unwrap();
    let world = world.borrow();
    // It was no empty mix.
    assert!(world.uploads.len() > 10 && world.jobs.len() > 10 && world.stored.len() > 5);
}

#[test]
fn names_that_can_be_guessed_list_nothing() {
    let server = Server::start(&[], &["echo"]);
    let job = json!({"jobType": "echo"});
    for name in ["sdapi", "me", "aaaaaaaaaaaaaaaaaaaaaaaa"] {
        let mut client = server.connect_to(&format!("/v1/ws?clientId={name}"));
        assert_ne!(client.greeting["clientId"], name);
        let refused = client.ask(json!({"type": "job:list"}));
        assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("denied")), "{refused}");
        assert!(refused["error"].as_str().unwrap().contains("clientId"), "{refused}");
        // It works all the same, as a client without a name.
        let id = client.submit(job.clone());
        assert_eq!(client.finish(&id)["type"], "job:complete");
        let answer = server.post_json(&format!("/v1/jobs?clientId={name}"), &job);
        assert_eq!(
            (answer.status, answer.text().contains("can be guessed")),
            (422, true),
            "{}",
            answer.text()
        );
    }
    for name in ["key%20alice%20x", "api%20sdapi%20127.0.0.1"] {
        assert_eq!(server.try_connect(&format!("/v1/ws?clientId={name}")).err(), Some(422), "{name}");
        assert_eq!(server.post_json(&format!("/v1/jobs?clientId={name}"), &job).status, 422, "{name}");
    }
    // What old clients do: another connection cancels, by the job's id.
    let (mut one, mut other) = (server.connect(), server.connect());
    let id = one.submit(json!({"jobType": "echo-sleep", "ms": 50, "steps": 1000}));
    let ack = other.ask(json!({"type": "job:cancel", "jobId": id}));
    assert!(ack["error"].is_null(), "{ack}");
    assert_eq!(one.finish(&id)["status"], "canceled");
}

#[test]
fn what_is_stored_is_not_replaced() {
    let server = Server::start(&[], &[]);
    let file_ref = server.upload(&picture(4, 4));
    let job = server.post_json("/v1/jobs?wait=60", &enlargement(&file_ref)).json();
    let url = job["outputs"][0]["url"].as_str().unwrap();
    let made = server.get(url).body;
    assert_eq!(server.put(url, b"another picture").status, 409);
    // Nor hidden behind a text, which would be found first.
    assert_eq!(server.put_json(url, &json!({"payload": "a text"})).status, 409);
    assert_eq!(server.get(url).body, made);
    // A text is replaced by another one, as clients of the Python server do.
    for text in ["one", "two"] {
        assert_eq!(server.put_json("/storage/scratch", &json!({"payload": text})).status, 200);
        assert_eq!(server.get("/storage/scratch").text(), text);
    }
    assert_eq!(server.put("/storage/keys/alice/x", b"x").status, 403);
}

#[test]
fn dreams_and_foreign_apis_are_apart() {
    let server = keyed(&[], &[], KEYS);
    let dream = |user: &str, method: &str, action: &str, body: &Value| {
        let answer = send(&server, user, method, &format!("/dream/{action}"), body);
        (answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap_or_default())
    };
    let none = &Value::Null;
    let started = dream("alice", "POST", "start", &json!({"prompt": "a cat"}));
    assert_eq!(started.0, 200, "{}", started.1);
    let (_, status) = dream("bob", "GET", "status", none);
    assert_eq!((&status["active"], &status["sessions"]), (&json!(false), &json!([])), "{status}");
    assert_eq!(dream("bob", "POST", "guide", &json!({"prompt": "a dog"})).0, 404);
    assert_eq!(dream("bob", "POST", "stop", none).0, 200);
    let (_, status) = dream("alice", "GET", "status", none);
    assert_eq!((&status["active"], &status["sessions"]), (&json!(true), &json!(["default"])), "{status}");
    // A session of the same name is another one.
    assert_eq!(dream("bob", "POST", "start", &json!({"prompt": "a dog"})).0, 200);
    let (_, status) = dream("bob", "GET", "status", none);
    assert_eq!((&status["active"], &status["base_prompt"] != "a cat"), (&json!(true), true), "{status}");
    let job = started.1["jobId"].as_str().unwrap();
    assert_eq!(get(&server, "bob", &format!("/v1/jobs/{job}")).status, 404);
    assert_eq!(get(&server, "operator", &format!("/v1/jobs/{job}")).status, 200);
    for user in ["alice", "bob"] {
        assert_eq!(dream(user, "POST", "stop", none).0, 200);
    }
    // One user of A1111's API interrupts their own pictures alone.
    let asked = json!({"prompt": "smile", "steps": 50, "width": 512, "height": 512, "batch_size": 8});
    std::thread::scope(|scope| {
        let made = scope.spawn(|| send(&server, "alice", "POST", "/sdapi/v1/txt2img", &asked).status);
        let running = |user: &str| {
            get(&server, user, "/sdapi/v1/progress").json()["state"]["job_count"].as_u64().unwrap_or(0) > 0
        };
        while !running("alice") {
            assert!(!made.is_finished(), "it is made before anybody looked");
        }
        assert!(!running("bob"));
        assert_eq!(send(&server, "bob", "POST", "/sdapi/v1/interrupt", &Value::Null).status, 200);
        assert!(running("alice") || made.is_finished());
        send(&server, "alice", "POST", "/sdapi/v1/interrupt", &Value::Null);
        assert_eq!(made.join().unwrap(), 409);
    });
}
