//! Requests that together use every operation, each with the status that it is to have.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_tests::{Answer, Server, comfy::Comfy, guest, picture};
use serde_json::{Value, json};

/// A server with a model, a scorer, a ComfyUI and the plugin `echo`.
pub fn server() -> (Comfy, Server) {
    let comfy = Comfy::start("plain");
    let url = json!([comfy.url]);
    let server = Server::with_models(
        &[
            &format!("plugins.comfy.config.servers={url}"),
            &format!("plugins.comfy.origins={url}"),
            concat!("scoring.model=", env!("CARGO_MANIFEST_DIR"), "/fixtures/diffusion/clip_model"),
            "server.allowed_origins=[]",
            "plugins.dream.config.save_interval_s=0.2",
            "plugins.dream.config.candidate_min_side=64",
            r#"plugins.echo.capabilities=["jobs", "hub"]"#,
        ],
        &["lcm"],
    );
    let graph = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Picture"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "reverie"}},
    });
    let folder = server.dir.path().join("reverie-data/workflows");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("copy.json"), graph.to_string()).unwrap();
    std::fs::copy(guest("echo"), server.plugin_path("echo")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !server.get("/v1/plugins").text().contains("echo:ping") {
        assert!(Instant::now() < deadline, "the plugin does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
    (comfy, server)
}

/// Sends requests, and hands each answer with its method and path to `check`.
struct Sender<'a> {
    server: &'a Server,
    check: &'a mut dyn FnMut(&str, &str, &Answer),
}

impl Sender<'_> {
    fn took(&mut self, method: &str, path: &str, status: u16, answer: Answer) -> Answer {
        assert_eq!(answer.status, status, "{method} {path}: {:.500}", answer.text());
        (self.check)(method, path, &answer);
        answer
    }

    fn get(&mut self, path: &str, status: u16) -> Answer {
        let answer = self.server.get(path);
        self.took("get", path, status, answer)
    }

    fn delete(&mut self, path: &str, status: u16) {
        let answer = self.server.request("DELETE", path, &[]);
        self.took("delete", path, status, answer);
    }

    fn put(&mut self, path: &str, content: &str, status: u16) {
        let answer = self.server.put(path, content.as_bytes());
        self.took("put", path, status, answer);
    }

    fn post(&mut self, path: &str, body: Value, status: u16) -> Value {
        let answer = self.server.post_json(path, &body);
        let answer = self.took("post", path, status, answer);
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    fn form(
        &mut self,
        path: &str,
        file: Option<(&str, &[u8])>,
        fields: &[(&str, &str)],
        status: u16,
    ) -> Value {
        let answer = self.server.post_form(path, file, fields);
        let answer = self.took("post", path, status, answer);
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }
}

/// Uses every operation, and has many of them refuse.
pub fn run(server: &Server, check: &mut dyn FnMut(&str, &str, &Answer)) {
    let mut sender = Sender { server, check };
    read(&mut sender);
    core(&mut sender);
    pictures(&mut sender);
    modes(&mut sender);
    dreams(&mut sender);
    workflows(&mut sender);
}

const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// What is read without parameters.
fn read(sender: &mut Sender) {
    let document = sender.get("/openapi.json", 200).json();
    let paths = document["paths"].as_object().unwrap();
    let plain = paths.iter().filter(|(path, methods)| methods.get("get").is_some() && !path.contains('{'));
    for (path, _) in plain.filter(|(path, _)| *path != "/v1/ws") {
        sender.get(path, 200);
    }
    // The handshake, of which there is no answer to look at.
    assert_eq!(sender.server.connect().greeting["type"], "system:status");
    let upgraded = Answer { status: 101, headers: Vec::new(), body: Vec::new() };
    (sender.check)("get", "/v1/ws", &upgraded);
    sender.get("/v1/ws", 400);
    // A page of another origin.
    let foreign = [("Origin", "https://elsewhere.example")];
    for path in ["/health", "/v1/plugins"] {
        let answer = sender.server.request("GET", path, &foreign);
        sender.took("get", path, 403, answer);
    }
}

fn core(sender: &mut Sender) {
    sender.post("/v1/jobs?wait=60", json!({"jobType": "echo", "x": 1}), 200);
    let job = sender.post(
        "/v1/jobs",
        json!({"jobType": "echo-sleep", "ms": 300, "steps": 1, "priority": "2"}),
        202,
    );
    let job = format!("/v1/jobs/{}", job["jobId"].as_str().unwrap());
    sender.get(&job, 200);
    sender.get(&format!("{job}/events"), 200);
    sender.delete(&job, 200);
    let ended = sender.post("/v1/jobs?wait=60", json!({"jobType": "echo", "x": 1}), 200);
    sender.delete(&format!("/v1/jobs/{}/record", ended["jobId"].as_str().unwrap()), 200);
    sender.post("/v1/jobs", json!({"jobType": "nobody's"}), 422);
    sender.post("/v1/jobs?wait=x", json!({"jobType": "echo"}), 422);
    sender.post("/v1/jobs", json!([]), 400);
    let failed = sender.post("/v1/jobs?wait=60", json!({"jobType": "sr", "fileRef": "x"}), 200);
    sender.get(&format!("/v1/jobs/{}", failed["jobId"].as_str().unwrap()), 200);
    for job in [NOBODY, "x"] {
        sender.get(&format!("/v1/jobs/{job}"), 404);
        sender.get(&format!("/v1/jobs/{job}/events"), 404);
        sender.delete(&format!("/v1/jobs/{job}"), 404);
        sender.delete(&format!("/v1/jobs/{job}/record"), 404);
        sender.post(&format!("/api/jobs/{job}/cancel"), json!({}), 404);
    }
    let job = sender.post("/v1/jobs", json!({"jobType": "echo-sleep", "ms": 300, "steps": 1}), 202);
    sender.delete(&format!("/v1/jobs/{}/record", job["jobId"].as_str().unwrap()), 409);
    sender.post(&format!("/api/jobs/{}/cancel", job["jobId"].as_str().unwrap()), json!({}), 200);

    sender.post("/v1/session", json!({}), 200);
    sender.delete("/v1/session", 200);
    sender.post("/v1/sign", json!({"path": "/v1/ws", "seconds": 5}), 200);
    sender.post("/v1/sign", json!({"path": "v1/ws"}), 422);

    sender.post("/v1/messages/echo:ping", json!({}), 200);
    let inbox = sender.post("/v1/messages/echo:start", json!({}), 200)["jobId"].clone();
    sender.post("/v1/messages/echo:send", json!({"job": inbox, "text": "stop"}), 200);
    sender.post("/v1/messages/echo:send", json!({"job": inbox}), 422);
    sender.post("/v1/messages/echo:broadcast", json!({}), 200);
    sender.post("/v1/messages/sr:models", json!({}), 200);
    sender.post("/v1/messages/generate:modes", json!({}), 200);
    sender.post("/v1/messages/sr:models", json!([]), 400);

    let file = picture(16, 8);
    sender.form("/v1/upload", Some(("file", &file)), &[], 200);
    let upload = sender.form("/v1/upload", Some(("file", &file)), &[("type", "canny")], 200);
    assert_eq!((&upload["width"], &upload["height"]), (&json!(16), &json!(8)));
    sender.form("/v1/upload", None, &[], 400);
    sender.form("/v1/upload", Some(("file", &file)), &[("type", "x")], 400);
    sender.put("/storage/a-text", "content", 200);
    sender.put("/storage/a-text", "another", 409);
    sender.get("/storage/a-text", 200);
    sender.get("/storage/nothing", 404);
}

fn pictures(sender: &mut Sender) {
    let small = json!({"prompt": "a cat", "steps": 1, "size": "64x64", "seed": 3});
    let with = |more: Value| {
        let mut asked = small.clone();
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked
    };
    sender.post("/generate", small.clone(), 200);
    sender.post("/generate", with(json!({"superres": true, "superres_magnitude": 1})), 200);
    sender.post("/generate", with(json!({"steps": "x"})), 422);
    sender.post("/generate", with(json!({"mode": "nope"})), 404);
    let file = picture(16, 8);
    for path in ["/superres", "/v1/superres"] {
        sender.form(path, Some(("file", &file)), &[("magnitude", "1"), ("out_format", "JPEG")], 200);
        sender.form(path, Some(("file", &file)), &[("magnitude", "9")], 400);
        sender.form(path, None, &[], 400);
    }
    sender.post("/v1/images/generations", small.clone(), 200);
    sender.post("/v1/images/generations", with(json!({"response_format": "url", "n": 2})), 200);
    sender.post("/v1/images/generations", with(json!({"n": 99})), 400);
    let fields = [("prompt", "a cat"), ("steps", "2"), ("size", "64x64")];
    let file = picture(64, 64);
    sender.form("/v1/images/edits", Some(("image", &file)), &fields, 200);
    sender.form("/v1/images/edits", None, &fields, 400);
    let a1111 = json!({"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "batch_size": 2});
    sender.post("/sdapi/v1/txt2img", a1111.clone(), 200);
    sender.post("/sdapi/v1/img2img", a1111.clone(), 422);
    let mut from_picture = a1111;
    from_picture["init_images"] = json!([BASE64_STANDARD.encode(&file)]);
    sender.post("/sdapi/v1/img2img", from_picture, 200);
    for what in ["interrupt", "skip", "refresh-checkpoints", "refresh-loras"] {
        sender.post(&format!("/sdapi/v1/{what}"), json!({}), 200);
    }
    sender.post("/sdapi/v1/options", json!({"sd_model_checkpoint": "lcm"}), 200);
    sender.post("/sdapi/v1/options", json!({"sd_model_checkpoint": 5}), 422);
}

fn modes(sender: &mut Sender) {
    sender.post("/api/modes/switch", json!({"mode": "lcm"}), 200);
    sender.post("/api/modes/switch", json!({"mode": "nope"}), 404);
    sender.post("/api/modes/switch", json!({}), 422);
    sender.post("/api/modes/reload", json!({}), 200);
    sender.post("/api/models/load", json!({}), 200);
    // With a model in memory.
    for path in ["/api/modes", "/api/models/status", "/api/vram"] {
        sender.get(path, 200);
    }
    sender.post("/api/models/load", json!({"mode": "nope"}), 404);
    sender.post("/api/models/reload", json!({"mode": "lcm"}), 200);
    sender.post("/api/models/unload", json!({}), 200);
}

fn dreams(sender: &mut Sender) {
    let params = json!({"prompt": "a cat", "similarity_threshold": 0, "render_interval": 1});
    sender.post("/dream/guide", json!({"prompt": "a dog"}), 404);
    sender.post("/dreams/start", json!({"top_k": "x"}), 422);
    for (start, stop) in [
        ("/dreams/start", "/dreams/stop"),
        ("/dream/start", "/dream/stop"),
        ("/v1/messages/dream:start", "/v1/messages/dream:stop"),
    ] {
        sender.post(start, params.clone(), 200);
        let taken = if start == "/dreams/start" { 400 } else { 409 };
        sender.post(start, params.clone(), taken);
        let deadline = Instant::now() + Duration::from_secs(60);
        while sender.get("/dreams/top?limit=3", 200).json().as_array().is_none_or(Vec::is_empty) {
            assert!(Instant::now() < deadline, "it does not dream");
            std::thread::sleep(Duration::from_millis(100));
        }
        for path in [
            "/dreams/recent?limit=2",
            "/dreams/status",
            "/dreams/stats",
            "/dream/top?thumbnails=true",
            "/dream/stats",
        ] {
            sender.get(path, 200);
        }
        for action in ["status", "top", "recent", "stats", "subscribe", "unsubscribe"] {
            sender.post(&format!("/v1/messages/dream:{action}"), json!({}), 200);
        }
        for (action, fields) in
            [("pause", json!({})), ("resume", json!({})), ("guide", json!({"prompt": "a dog"}))]
        {
            sender.post(&format!("/dream/{action}"), fields.clone(), 200);
            sender.post(&format!("/v1/messages/dream:{action}"), fields, 200);
        }
        sender.post(stop, json!({}), 200);
    }
    sender.get("/dreams/top?limit=x", 422);
}

fn workflows(sender: &mut Sender) {
    sender.post("/v1/messages/comfy:workflows", json!({}), 200);
    sender.post("/v1/messages/comfy:servers", json!({}), 200);
    sender.post("/v1/messages/comfy:check", json!({"workflowId": "copy"}), 200);
    sender.post("/v1/messages/comfy:check", json!({"workflowId": "nope"}), 404);
    let file = picture(24, 16);
    let job = sender.form("/v1/comfy/jobs", Some(("image", &file)), &[("workflowId", "copy")], 200);
    let job = format!("/v1/comfy/jobs/{}", job["id"].as_str().unwrap());
    sender.get(&job, 200);
    sender.delete(&job, 200);
    sender.get(&job, 200);
    sender.form("/v1/comfy/jobs", Some(("image", &file)), &[("workflowId", "nope")], 400);
    sender.form("/v1/comfy/jobs", None, &[("workflowId", "copy"), ("params", "[")], 400);
    sender.get(&format!("/v1/comfy/jobs/{NOBODY}"), 404);
    sender.delete("/v1/comfy/jobs/x", 404);
}
