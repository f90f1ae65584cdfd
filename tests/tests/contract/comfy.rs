//! ComfyUI jobs over HTTP and WebSocket.

use std::time::Duration;

use image::GenericImageView as _;
use reverie_tests::{
    Server,
    comfy::{Comfy, Fault},
    picture,
};
use serde_json::{Value, json};

use crate::{completed, connect, contract, has, output, submit, until};

/// What the recordings ran.
fn graph() -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": 24,
            "height": 16, "crop": "disabled"}},
        "3": {"class_type": "ReverieProbe", "inputs":
            {"image": ["2", 0], "seed": 1, "steps": 3, "step_ms": 40, "method": "invert"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "reverie"}},
    })
}

/// A server beside a ComfyUI, with the workflow `invert`.
pub fn beside(comfy: &Comfy) -> Server {
    let servers = format!("plugins.comfy.config.servers=[\"{}\"]", comfy.url);
    let origins = format!("plugins.comfy.origins=[\"{}\"]", comfy.url);
    let server = Server::start(&[&servers, &origins, "plugins.comfy.config.reconnect_s=1"], &[]);
    let folder = server.dir.path().join("reverie-data/workflows");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("invert.json"), graph().to_string()).expect("written");
    server
}

/// Asserts that this is a job as polling clients read it.
fn is_job(told: &Value) {
    has(
        told,
        &[
            ("id", Value::is_string),
            ("workflowId", |workflow| workflow == "invert"),
            ("status", |status| {
                ["queued", "running", "done", "error", "canceled"].iter().any(|word| status == word)
            }),
            ("created_at", Value::is_number),
            ("started_at", |at| at.is_null() || at.is_number()),
            ("finished_at", |at| at.is_null() || at.is_number()),
            ("error", |error| error.is_null() || error.is_string()),
            ("outputs", Value::is_array),
        ],
    );
    has(
        &told["progress"],
        &[
            ("nodes_total", |count| count.is_null() || count.is_u64()),
            ("nodes_seen", |count| count.is_null() || count.is_u64()),
            ("current_node", |node| node.is_null() || node.is_string()),
            ("node_progression", |all| all.as_array().is_some_and(|ids| ids.iter().all(Value::is_string))),
            ("fraction", |fraction| fraction.as_f64().is_some_and(|f| (0.0..=1.0).contains(&f))),
        ],
    );
}

#[test]
fn jobs() {
    let comfy = Comfy::start("plain");
    let server = beside(&comfy);
    let post = |picture: Option<(&str, &[u8])>, fields: &[(&str, &str)]| {
        server.post_form("/v1/comfy/jobs", picture, fields)
    };
    let start = |picture: Option<(&str, &[u8])>, fields: &[(&str, &str)]| -> String {
        let answer = post(picture, fields);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        assert!(
            told["job_id"].is_string() && told["job_id"] == told["jobId"] && told["jobId"] == told["id"],
            "{told}"
        );
        told["job_id"].as_str().unwrap().to_owned()
    };
    let get = |job: &str| -> Value {
        let answer = server.get(&format!("/v1/comfy/jobs/{job}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        is_job(&answer.json());
        answer.json()
    };
    let ended = |job: &str, status: &str| -> Value {
        let ends = |told: &Value| ["done", "error", "canceled"].iter().any(|word| told["status"] == *word);
        until("the job's end", || ends(&get(job)));
        let told = get(job);
        assert_eq!(told["status"], status, "{told}");
        told
    };
    contract(|rows| {
        rows.row("POST /v1/comfy/jobs with image: 200 {job_id, jobId, id}; done, with pictures", || {
            let content = picture(12, 8);
            let job =
                start(Some(("image", &content)), &[("workflowId", "invert"), ("params", r#"{"seed": 5}"#)]);
            let told = ended(&job, "done");
            assert_eq!(told["id"], job, "{told}");
            assert!(told["error"].is_null() && told["started_at"].is_number(), "{told}");
            assert!(told["finished_at"].as_f64() >= told["created_at"].as_f64(), "{told}");
            let outputs = told["outputs"].as_array().unwrap();
            assert_eq!(outputs.len(), 1, "{told}");
            has(
                &outputs[0],
                &[
                    ("id", Value::is_string),
                    ("filename", Value::is_string),
                    ("type", Value::is_string),
                    ("subfolder", Value::is_string),
                ],
            );
            let shown = server.get(outputs[0]["url"].as_str().expect("a url"));
            assert!(
                shown.header("content-type").is_some_and(|t| t.starts_with("image/")),
                "{:?}",
                shown.headers
            );
            assert_eq!(image::load_from_memory(&shown.body).expect("a picture").dimensions(), (24, 16));
            // The picture went to ComfyUI, and so did the parameter.
            let sent = &comfy.asked("POST /prompt").pop().expect("a prompt")["prompt"];
            assert!(sent["1"]["inputs"]["image"] != "example.png", "{sent}");
            assert_eq!(sent["3"]["inputs"]["seed"], 5, "{sent}");
        });
        rows.row("GET /v1/comfy/jobs/ID after the end: the progress is whole", || {
            let job = start(None, &[("workflowId", "invert")]);
            let progress = &ended(&job, "done")["progress"];
            assert_eq!(
                (&progress["nodes_total"], &progress["nodes_seen"]),
                (&json!(4), &json!(4)),
                "{progress}"
            );
            assert_eq!(progress["fraction"], 1.0, "{progress}");
            assert_eq!(progress["node_progression"], json!(["1", "2", "3", "4"]), "the ids in order");
        });
        rows.row("GET /v1/comfy/jobs/ID while it runs", || {
            comfy.pace(Duration::from_millis(60));
            let job = start(None, &[("workflowId", "invert")]);
            let mut seen = Vec::new();
            until("the end", || {
                let told = get(&job);
                seen.push(told.clone());
                told["status"] == "done"
            });
            comfy.pace(Duration::from_millis(5));
            let running = seen
                .iter()
                .find(|told| told["status"] == "running" && told["progress"]["current_node"] == "3");
            let running = running.unwrap_or_else(|| panic!("never at node 3: {seen:?}"));
            let progress = &running["progress"];
            assert!(running["finished_at"].is_null() && running["started_at"].is_number(), "{running}");
            assert_eq!(progress["nodes_total"], 4, "{progress}");
            assert_eq!(progress["node_progression"], json!(["1", "2", "3"]), "{progress}");
            let fractions: Vec<f64> =
                seen.iter().filter_map(|told| told["progress"]["fraction"].as_f64()).collect();
            assert!(fractions.is_sorted(), "{fractions:?}");
        });
        rows.row("the file field is called file by others", || {
            let content = picture(12, 8);
            let job = start(Some(("file", &content)), &[("workflowId", "invert")]);
            ended(&job, "done");
        });
        for (name, fields) in [
            ("unknown workflow", vec![("workflowId", "nope")]),
            ("no workflow", vec![("params", "{}")]),
            ("params that are no JSON", vec![("workflowId", "invert"), ("params", "{nope")]),
            ("params that are no object", vec![("workflowId", "invert"), ("params", "[1]")]),
            (
                "a parameter of another type",
                vec![("workflowId", "invert"), ("params", r#"{"steps": "many"}"#)],
            ),
        ] {
            rows.row(&format!("POST /v1/comfy/jobs: {name} is 400 with detail"), || {
                let answer = post(None, &fields);
                assert_eq!(answer.status, 400, "{}", answer.text());
                assert!(answer.json()["detail"].is_string(), "{}", answer.text());
            });
        }
        rows.row("params: steps and seed take effect, as text too", || {
            let job = start(
                None,
                &[("workflowId", "invert"), ("params", r#"{"steps": "4", "seed": "9", "max_wait_s": "60"}"#)],
            );
            ended(&job, "done");
            let sent = &comfy.asked("POST /prompt").pop().expect("a prompt")["prompt"];
            assert_eq!(
                (&sent["3"]["inputs"]["steps"], &sent["3"]["inputs"]["seed"]),
                (&json!(4), &json!(9)),
                "{sent}"
            );
        });
        rows.row("params that the workflow lacks are ignored over HTTP", || {
            let job = start(
                None,
                &[("workflowId", "invert"), ("params", r#"{"cfg": 7, "denoise": 0.5, "moon": 1}"#)],
            );
            ended(&job, "done");
        });
        rows.row("params that the workflow lacks come back in meta.warnings", || {
            let message = json!({"jobType": "comfy", "workflowId": "invert", "params": {"cfg": 7, "denoise": 0.5, "moon": 1}});
            let end = completed(&mut connect(&server), message);
            let warnings = end["meta"]["warnings"].to_string();
            for name in ["cfg", "denoise", "moon"] {
                assert!(warnings.contains(name), "{name}: {end}");
            }
        });
        rows.row("params.max_wait_s ends a job that takes longer", || {
            comfy.fault(Fault::Wait);
            let job = start(None, &[("workflowId", "invert"), ("params", r#"{"max_wait_s": 1}"#)]);
            let told = ended(&job, "error");
            assert!(told["error"].is_string(), "{told}");
        });
        for prefixes in 0..=3 {
            rows.row(&format!("comfy job with inputImage with {prefixes} prefixes"), || {
                let file = "fileRef:".repeat(prefixes) + &server.upload(&picture(12, 8));
                let message = json!({"jobType": "comfy", "workflowId": "invert", "inputImage": file, "params": {"seed": "3"}});
                let end = completed(&mut connect(&server), message);
                assert_eq!(image::load_from_memory(&output(&server, &end)).expect("a picture").dimensions(), (24, 16));
            });
        }
        rows.row("comfy job: job:progress with the text delta", || {
            comfy.pace(Duration::from_millis(30));
            let mut client = connect(&server);
            let job = submit(&mut client, json!({"jobType": "comfy", "workflowId": "invert"}));
            let mut deltas = 0;
            loop {
                let message = client.receive_where(|m| m["jobId"] == *job);
                if message["type"] != "job:progress" {
                    break;
                }
                deltas += usize::from(message["delta"].is_string());
            }
            comfy.pace(Duration::from_millis(5));
            assert!(deltas > 0, "none");
        });
        rows.row("a comfy job of WebSocket can be polled", || {
            let mut client = connect(&server);
            let end = completed(&mut client, json!({"jobType": "comfy", "workflowId": "invert"}));
            assert_eq!(get(end["jobId"].as_str().unwrap())["status"], "done");
        });
        rows.row("DELETE /v1/comfy/jobs/ID: canceled while queued", || {
            comfy.fault(Fault::Wait);
            let before = comfy.asked("POST /prompt").len();
            let job = start(None, &[("workflowId", "invert")]);
            until("ComfyUI has it", || comfy.asked("POST /prompt").len() > before);
            let answer = server.request("DELETE", &format!("/v1/comfy/jobs/{job}"), &[]);
            assert_eq!(answer.status, 200, "{}", answer.text());
            ended(&job, "canceled");
        });
        rows.row("DELETE /v1/comfy/jobs/ID: canceled while it runs", || {
            comfy.pace(Duration::from_millis(100));
            let job = start(None, &[("workflowId", "invert")]);
            until("it runs", || get(&job)["progress"]["current_node"] == "3");
            server.request("DELETE", &format!("/v1/comfy/jobs/{job}"), &[]);
            ended(&job, "canceled");
            comfy.pace(Duration::from_millis(5));
            assert_eq!(comfy.asked("POST /interrupt"), [json!({"prompt_id": job})], "ComfyUI goes on");
        });
        for (method, id) in
            [("GET", "nope"), ("GET", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"), ("DELETE", "nope")]
        {
            rows.row(&format!("{method} /v1/comfy/jobs/{id}: unknown is 404 with detail"), || {
                let answer = server.request(method, &format!("/v1/comfy/jobs/{id}"), &[]);
                assert_eq!(answer.status, 404, "{}", answer.text());
                assert!(answer.json()["detail"].is_string(), "{}", answer.text());
            });
        }
    });
    contract(|rows| {
        rows.row("a job that ComfyUI fails: error", || {
            comfy.play("node_error");
            let job = start(None, &[("workflowId", "invert")]);
            assert!(ended(&job, "error")["error"].is_string());
        });
    });
}
