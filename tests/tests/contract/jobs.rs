//! `job:submit`, `job:cancel`, `job:priority` and what they are answered with, whatever becomes of the job.

use reverie_tests::{Client, Server, picture};
use serde_json::{Value, json};

use crate::{completed, connect, contract, merged, quick, refused, slow, submit};

fn generate(changes: Value) -> Value {
    json!({"jobType": "generate", "params": merged(quick(), changes)})
}

/// Jobs of known types that are refused, with what the error must say.
fn refusals(file: &str) -> Vec<(&'static str, Value, &'static str)> {
    let gone = "6ba7b8109dad11d180b400c04fd430c8";
    let not_found = "fileRef '6ba7b8109dad11d180b400c04fd430c8' not found or expired";
    vec![
        ("no prompt", json!({"jobType": "generate", "params": {}}), "prompt"),
        ("no params", json!({"jobType": "generate"}), "prompt"),
        ("params of another type", json!({"jobType": "generate", "params": "x"}), "params"),
        ("prompt of another type", generate(json!({"prompt": 5})), "prompt"),
        ("bad size", generate(json!({"size": "512"})), "size"),
        ("size that is no size", generate(json!({"size": "64x64x64"})), "size"),
        ("steps 0", generate(json!({"steps": 0})), "steps"),
        ("steps 51", generate(json!({"steps": 51})), "steps"),
        ("num_inference_steps 51", generate(json!({"num_inference_steps": 51})), "num_inference_steps"),
        ("cfg 20.5", generate(json!({"cfg": 20.5})), "cfg"),
        ("guidance_scale -1", generate(json!({"guidance_scale": -1})), "guidance_scale"),
        ("seed -1", generate(json!({"seed": -1})), "seed"),
        ("seed 2^32", generate(json!({"seed": 4_294_967_296_u64})), "seed"),
        (
            "superres_magnitude 4",
            generate(json!({"superres": true, "superres_magnitude": 4})),
            "superres_magnitude",
        ),
        ("unknown mode", generate(json!({"mode": "nope"})), "nope"),
        ("unknown style", generate(json!({"style_lora": {"style": "nope", "level": 1}})), "nope"),
        ("style level 9", generate(json!({"style_lora": {"style": "nope", "level": 9}})), "level"),
        ("unknown scheduler_id", generate(json!({"scheduler_id": "nope"})), "nope"),
        (
            "denoise_strength 1.5",
            generate(json!({"init_image_ref": file, "denoise_strength": 1.5})),
            "denoise_strength",
        ),
        ("init_image_ref that expired", generate(json!({"init_image_ref": gone})), not_found),
        (
            "controlnets",
            generate(
                json!({"controlnets": [{"control_type": "canny", "map_asset_ref": file, "strength": 1.0}]}),
            ),
            "controlnet",
        ),
        ("bad priority", merged(generate(json!({})), json!({"priority": 1000})), "priority"),
        ("priority that is no number", merged(generate(json!({})), json!({"priority": "high"})), "priority"),
        ("sr without file", json!({"jobType": "sr"}), "fileRef"),
        ("sr of an expired file", json!({"jobType": "sr", "fileRef": gone}), not_found),
        ("sr magnitude 0", json!({"jobType": "sr", "fileRef": file, "magnitude": 0}), "magnitude"),
        ("sr magnitude 4", json!({"jobType": "sr", "fileRef": file, "magnitude": 4}), "magnitude"),
        ("sr magnitude x", json!({"jobType": "sr", "fileRef": file, "magnitude": "x"}), "magnitude"),
        ("missing workflow", json!({"jobType": "comfy", "workflowId": "nope"}), ""),
        ("no workflow", json!({"jobType": "comfy"}), "workflowId"),
    ]
}

#[test]
fn refusals_are_acknowledged_first() {
    let server = Server::with_models(&[], &["sd"]);
    contract(|rows| {
        let file = server.upload(&picture(8, 8));
        for (name, message, expected) in refusals(&file) {
            rows.row(&format!("refusal: {name}"), || {
                let mut client = connect(&server);
                let end = refused(&mut client, message.clone());
                let error = end["error"].as_str().unwrap();
                assert!(
                    error.to_lowercase().contains(&expected.to_lowercase()),
                    "says nothing of '{expected}': {end}"
                );
                // It can be asked for like one that failed.
                let got = client.ask(json!({"type": "job:get", "jobId": end["jobId"]}));
                assert_eq!(
                    (&got["job"]["status"], &got["job"]["error"]),
                    (&json!("error"), &end["error"]),
                    "{got}"
                );
            });
        }
        rows.row("unknown jobType: ack, then error with the id", || {
            let mut client = connect(&server);
            client.send(json!({"type": "job:submit", "jobType": "nope", "id": 9}));
            let mut next = || client.receive_where(|m| m["type"] != "system:status");
            let (ack, error) = (next(), next());
            assert_eq!((&ack["type"], &ack["id"]), (&json!("job:ack"), &json!(9)), "{ack}");
            assert!(ack["jobId"].is_string(), "{ack}");
            assert_eq!((&error["type"], &error["id"]), (&json!("error"), &json!(9)), "{error}");
            assert_eq!(error["error"], "Unknown jobType: nope");
        });
        rows.row("jobType is generate where none is named", || {
            let end = completed(&mut connect(&server), json!({"params": quick()}));
            assert_eq!(end["meta"]["seed"], 42, "{end}");
        });
        rows.row("job:cancel of an ended job is acknowledged", || {
            let mut client = connect(&server);
            let end = completed(&mut client, json!({"params": quick()}));
            let ack = client.ask(json!({"type": "job:cancel", "jobId": end["jobId"]}));
            assert_eq!(ack["type"], "job:cancel:ack", "{ack}");
            assert!(ack.as_object().unwrap().len() > 3, "says nothing of what was found: {ack}");
        });
        rows.row("job:priority of an ended job is acknowledged", || {
            let mut client = connect(&server);
            let end = completed(&mut client, json!({"params": quick()}));
            let ack = client.ask(json!({"type": "job:priority", "jobId": end["jobId"], "priority": 5}));
            assert_eq!(ack["type"], "job:priority:ack", "{ack}");
            assert!(ack.as_object().unwrap().len() > 3, "says nothing of what was found: {ack}");
        });
        let unknown = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        for fields in [
            json!({"jobId": unknown}),
            json!({"jobId": "x"}),
            json!({"jobId": 5}),
            json!({"jobId": null}),
            json!({}),
        ] {
            for kind in ["job:cancel", "job:priority", "job:delete"] {
                rows.row(&format!("{kind} with {fields} is acknowledged"), || {
                    let message = merged(fields.clone(), json!({"type": kind, "priority": 1}));
                    let ack = connect(&server).ask(message);
                    assert_eq!(ack["type"], format!("{kind}:ack"), "{ack}");
                    assert!(ack.as_object().unwrap().len() > 3, "says nothing of what was found: {ack}");
                });
            }
        }
        for priority in [json!("high"), json!(1000), json!(null), json!({})] {
            rows.row(&format!("job:priority to {priority} is acknowledged"), || {
                let ack = connect(&server)
                    .ask(json!({"type": "job:priority", "jobId": unknown, "priority": priority}));
                assert_eq!(ack["type"], "job:priority:ack", "{ack}");
            });
        }
    });
}

/// The queue's only running job and its only waiting one.
fn fill(client: &mut Client) -> [String; 2] {
    let running = submit(client, json!({"params": slow()}));
    client
        .receive_where(|m| m["jobId"] == *running && m["type"] == "job:progress" && m["status"] == "running");
    [running, submit(client, json!({"params": slow()}))]
}

#[test]
fn a_full_queue_and_what_leaves_it() {
    let server = Server::with_models(&["jobs.concurrency=1", "jobs.queue_limit=1"], &["sd"]);
    contract(|rows| {
        let mut client = connect(&server);
        let [running, waiting] = fill(&mut client);
        rows.row("refusal: queue full", || {
            let end = refused(&mut connect(&server), json!({"jobType": "generate", "params": quick()}));
            assert!(end["error"].as_str().unwrap().starts_with("Queue full"), "{end}");
        });
        rows.row("refusal: queue full, sr", || {
            let file = server.upload(&picture(8, 8));
            let end = refused(&mut connect(&server), json!({"jobType": "sr", "fileRef": file}));
            assert!(end["error"].as_str().unwrap().starts_with("Queue full"), "{end}");
        });
        rows.row("POST /generate while the queue is full: 429", || {
            let answer = server.post_json("/generate", &quick());
            assert_eq!(answer.status, 429, "{}", answer.text());
            assert!(answer.json()["detail"].is_string(), "{}", answer.text());
        });
        rows.row("GET /api/models/status counts what waits", || {
            let status = server.get("/api/models/status").json();
            assert_eq!(status["queue_size"], 1, "{status}");
        });
        rows.row("job:priority:ack of a waiting job, the number as text", || {
            let ack =
                connect(&server).ask(json!({"type": "job:priority", "jobId": waiting, "priority": "5"}));
            assert_eq!((&ack["type"], &ack["jobId"]), (&json!("job:priority:ack"), &json!(waiting)), "{ack}");
            assert_eq!(ack["priority"], 5, "{ack}");
        });
        rows.row("job:cancel of a waiting job", || {
            let ack = client.ask(json!({"type": "job:cancel", "jobId": waiting}));
            assert_eq!(ack["type"], "job:cancel:ack", "{ack}");
            let end = client.finish(&waiting);
            assert!(end["type"] == "job:error" && end["error"].is_string(), "{end}");
            let got = client.ask(json!({"type": "job:get", "jobId": waiting}));
            assert_eq!(got["job"]["status"], "canceled", "{got}");
        });
        rows.row("job:cancel of a running job", || {
            assert_eq!(client.ask(json!({"type": "job:cancel", "jobId": running}))["type"], "job:cancel:ack");
            let end = client.finish(&running);
            assert!(end["type"] == "job:error" && end["error"].is_string(), "{end}");
        });
        rows.row("POST /api/jobs/ID/cancel", || {
            let job = submit(&mut client, json!({"params": slow()}));
            let answer = server.request("POST", &format!("/api/jobs/{job}/cancel"), &[]);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(client.finish(&job)["type"], "job:error");
            let got = client.ask(json!({"type": "job:get", "jobId": job}));
            assert_eq!(got["job"]["status"], "canceled", "{got}");
        });
    });
}
