//! The browser page of the contract's last section, at work: what its users do with it, and what goes wrong for them.

use std::time::{Duration, Instant};

use image::GenericImageView as _;
use reverie_tests::{
    Server,
    comfy::{Comfy, Fault},
    old_client::{Pace, Page},
    picture,
};
use serde_json::{Value, json};

use crate::{comfy, contract, dreams, merged, quick, slow};

/// Ten times as fast where only the page waits.
fn pace() -> Pace {
    Pace::shortened(10)
}

/// A job as the page of January sends it.
fn first_generation(changes: Value) -> Value {
    let params = json!({"prompt": "a cat", "size": "64x64", "num_inference_steps": 2, "guidance_scale": 1.0, "seed": 42,
        "superres": false, "superres_magnitude": 2, "mode": null, "style_lora": {"style": null, "level": 0}});
    json!({"jobType": "generate", "params": merged(params, changes)})
}

/// A job as the page of August sends it.
fn later_generation(changes: Value) -> Value {
    let more = json!({"negative_prompt": "dogs", "scheduler_id": "euler_a", "controlnets": []});
    let mut message = first_generation(merged(more, changes));
    message["source"] = "page".into();
    message
}

/// What the page shows of a job that ended well: its picture.
fn shown(page: &Page, server: &Server, ended: Result<Value, String>) -> image::DynamicImage {
    let end = ended.unwrap_or_else(|error| panic!("the job failed: {error}"));
    page.show(server, end["outputs"][0]["url"].as_str().unwrap_or_else(|| panic!("no output: {end}")))
}

fn never_full(attempt: usize) {
    panic!("the queue was full at attempt {attempt}");
}

#[test]
fn makes_pictures() {
    let server = Server::with_models(&[], &["sd"]);
    contract(|rows| {
        let mut page = Page::open(&server, pace());
        for (generation, message) in
            [("first", first_generation as fn(Value) -> Value), ("later", later_generation)]
        {
            rows.row(&format!("page, {generation} generation: generate"), || {
                let end = page.run(&message(json!({})), never_full);
                assert_eq!(end.as_ref().map(|end| end["meta"]["seed"].clone()), Ok(json!(42)));
                assert_eq!(shown(&page, &server, end).dimensions(), (64, 64));
            });
            rows.row(&format!("page, {generation} generation: generate + superres"), || {
                let asked = message(json!({"superres": true, "superres_magnitude": 1}));
                let end = page.run(&asked, never_full);
                assert_eq!(end.as_ref().map(|end| end["meta"]["sr"].clone()), Ok(json!(true)));
                assert_eq!(shown(&page, &server, end).dimensions(), (128, 128));
            });
        }
        rows.row("page: progress comes before the end", || {
            let job = page.submit(first_generation(json!({"num_inference_steps": 8}))).expect("acknowledged");
            page.end(&job).expect("it ends well");
            let progress =
                |m: &Value| m["jobId"] == *job && m["type"] == "job:progress" && m["status"].is_string();
            assert!(page.message(Duration::ZERO, progress).is_some(), "none");
        });
        rows.row("page: sr with upload", || {
            let file = page.upload(&server, &picture(10, 8));
            let end = page.run(&json!({"jobType": "sr", "fileRef": file, "magnitude": 1}), never_full);
            assert_eq!(shown(&page, &server, end).dimensions(), (20, 16));
        });
        rows.row("page, later generation: generate from a picture", || {
            let file = page.upload(&server, &picture(64, 64));
            let asked = later_generation(json!({"init_image_ref": file, "denoise_strength": 0.6}));
            let end = page.run(&asked, never_full);
            assert_eq!(shown(&page, &server, end).dimensions(), (64, 64));
        });
        let gone = "fileRef:6ba7b8109dad11d180b400c04fd430c8";
        for (name, message, expected) in [
            ("bad size", first_generation(json!({"size": "big"})), "size"),
            ("bad steps", first_generation(json!({"num_inference_steps": 51})), "steps"),
            ("unknown mode", first_generation(json!({"mode": "nope"})), "nope"),
            ("unknown scheduler", later_generation(json!({"scheduler_id": "nope"})), "nope"),
            (
                "controlnets",
                later_generation(json!({"controlnets": [{"control_type": "canny", "map_asset_ref": gone,
                "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}]})),
                "controlnet",
            ),
            (
                "expired picture",
                later_generation(json!({"init_image_ref": gone, "denoise_strength": 0.5})),
                "not found or expired",
            ),
            (
                "sr of an expired file",
                json!({"jobType": "sr", "fileRef": gone, "magnitude": 2}),
                "not found or expired",
            ),
            ("sr without a file", json!({"jobType": "sr", "magnitude": 2}), "fileRef"),
            ("missing workflow", json!({"jobType": "comfy", "workflowId": "nope", "params": {}}), ""),
        ] {
            rows.row(&format!("page: refused, {name}"), || {
                let begun = Instant::now();
                let error = page.run(&message, never_full).expect_err("it is refused");
                assert!(error.contains(expected) && error != "not acknowledged", "{error}");
                assert!(begun.elapsed() < Duration::from_secs(10), "the page waited for its own limits");
            });
        }
        rows.row("page: an unknown jobType is acknowledged, then an error with the id", || {
            page.submit(json!({"jobType": "nope"})).expect("acknowledged");
            let patience = Duration::from_secs(10);
            let error =
                page.message(patience, |m| m["type"] == "error" && m["error"] == "Unknown jobType: nope");
            assert!(error.expect("an error")["id"].is_number());
        });
        rows.row("page: abort", || {
            let job = page.submit(json!({"params": slow()})).expect("acknowledged");
            let runs = |m: &Value| m["jobId"] == *job && m["type"] == "job:progress";
            page.message(Duration::from_secs(30), runs).expect("it runs");
            page.abort(&job);
            page.end(&job).expect_err("it is cancelled");
            // The next one does not wait for it.
            page.run(&first_generation(json!({})), never_full).expect("a picture");
        });
        rows.row("page: abort of what has ended harms nothing", || {
            let job = page.submit(first_generation(json!({}))).expect("acknowledged");
            page.end(&job).expect("a picture");
            page.abort(&job);
            let ack = page
                .message(Duration::from_secs(10), |m| m["type"] == "job:cancel:ack" && m["jobId"] == *job);
            assert!(ack.is_some(), "not acknowledged");
        });
        assert_eq!(page.connections(), 1, "the page had to connect again");
    });
}

#[test]
fn tries_again_while_the_queue_is_full() {
    let server = Server::with_models(&["jobs.concurrency=1", "jobs.queue_limit=1"], &["sd"]);
    contract(|rows| {
        let mut page = Page::open(&server, pace());
        let fill = |page: &mut Page| {
            let running = page.submit(json!({"params": slow()})).expect("acknowledged");
            let runs = |m: &Value| m["jobId"] == *running && m["status"] == "running";
            page.message(Duration::from_secs(30), runs).expect("it runs");
            [running, page.submit(json!({"params": slow()})).expect("acknowledged")]
        };
        rows.row("page: three tries on a full queue, then its error", || {
            let jobs = fill(&mut page);
            let mut tries = 0;
            let error = page.run(&json!({"params": quick()}), |attempt| tries = attempt).expect_err("full");
            assert_eq!(tries, 3);
            assert!(error.starts_with("Queue full"), "{error}");
            jobs.iter().for_each(|job| page.abort(job));
            jobs.iter().for_each(|job| drop(page.end(job)));
        });
        rows.row("page: a full queue that empties in time", || {
            let jobs = fill(&mut page);
            let other = Page::open(&server, pace());
            let mut tries = 0;
            let end = page.run(&json!({"params": quick()}), |attempt| {
                tries = attempt;
                jobs.iter().for_each(|job| other.abort(job));
            });
            assert_eq!(shown(&page, &server, end).dimensions(), (64, 64));
            assert!(tries > 0, "the queue was never full");
        });
    });
}

#[test]
fn reconnects() {
    let mut server = Server::with_models(&[], &["sd"]);
    contract(|rows| {
        let mut page = Page::open(&server, pace());
        let job = page.submit(json!({"params": merged(quick(), json!({"steps": 50, "size": "128x128"}))}));
        let job = job.expect("acknowledged");
        server.crash();
        page.until_closed();
        let before = page.connections();
        page.send(&json!({"type": "ping", "id": "lost"}));
        server.restart_in_place();
        page.until_open();
        rows.row("page: it connects again by itself and is greeted", || {
            assert_eq!(page.connections(), before + 1);
            assert_eq!(page.ask(json!({"type": "ping"}), "pong").expect("a pong")["type"], "pong");
            assert!(page.message(Duration::ZERO, |m| m["id"] == "lost").is_none(), "it was kept");
        });
        rows.row("page: a job after reconnecting", || {
            let end = page.run(&json!({"params": quick()}), never_full);
            assert_eq!(shown(&page, &server, end).dimensions(), (64, 64));
        });
        rows.row("page: abort of a job from before is acknowledged", || {
            page.abort(&job);
            let ack = page
                .message(Duration::from_secs(10), |m| m["type"] == "job:cancel:ack" && m["jobId"] == *job);
            assert!(ack.is_some(), "not acknowledged");
        });
    });
}

#[test]
fn runs_workflows() {
    let comfy = Comfy::start("plain");
    let server = comfy::beside(&comfy);
    contract(|rows| {
        let mut page = Page::open(&server, pace());
        rows.row("page: comfy with a picture, by polling", || {
            let mut statuses = Vec::new();
            let params = json!({"steps": 3, "cfg": 7.0, "denoise": 0.5, "seed": 11, "max_wait_s": 60});
            let told = page.comfy(&server, "invert", &params, Some(&picture(12, 8)), |told| {
                statuses.push(told["status"].clone());
            });
            assert_eq!(told["status"], "done", "{told}");
            assert!(
                statuses.iter().all(|one| ["queued", "running", "done"].iter().any(|word| one == word)),
                "{statuses:?}"
            );
            let url = told["outputs"][0]["url"].as_str().unwrap_or_else(|| panic!("{told}"));
            assert_eq!(page.show(&server, url).dimensions(), (24, 16));
        });
        rows.row("page: comfy without a picture", || {
            assert_eq!(page.comfy(&server, "invert", &json!({}), None, |_| ())["status"], "done");
        });
        rows.row("page: comfy with a picture over the socket", || {
            let file = page.upload(&server, &picture(12, 8));
            let asked = json!({"jobType": "comfy", "workflowId": "invert", "inputImage": file, "params": {"seed": 11}});
            let end = page.run(&asked, never_full);
            assert_eq!(shown(&page, &server, end).dimensions(), (24, 16));
        });
        rows.row("page: comfy cancelled, polling ends on canceled", || {
            comfy.fault(Fault::Silence(10));
            let mut cancelled = false;
            let told = page.comfy(&server, "invert", &json!({}), None, |told| {
                if !cancelled && told["status"] == "running" {
                    let path = format!("/v1/comfy/jobs/{}", told["id"].as_str().expect("an id"));
                    assert_eq!(server.request("DELETE", &path, &[]).status, 200);
                    cancelled = true;
                }
            });
            assert_eq!(told["status"], "canceled", "{told}");
        });
        rows.row("page: comfy fails, polling ends on error", || {
            comfy.play("node_error");
            let told = page.comfy(&server, "invert", &json!({}), None, |_| ());
            assert!(told["status"] == "error" && told["error"].is_string(), "{told}");
        });
    });
}

#[test]
fn dreams_by_polling() {
    let server = dreams::dreaming();
    contract(|rows| {
        let page = Page::open(&server, pace());
        rows.row("page: dreams by polling", || {
            let asked = json!({"prompt": "a cat", "duration_hours": 1.0, "temperature": 0.5, "similarity_threshold": 0.0,
                "render_interval": 2, "top_k": 100});
            let answer = server.post_json("/dreams/start", &asked);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = page.dreams(&server, |status| status["candidates"].as_u64() > Some(6));
            assert_eq!(told["is_dreaming"], true, "{told}");
            let list = server.get("/dreams/top?limit=50&min_score=0&rendered_only=false").json();
            assert!(dreams::dreams(&list).len() > 3, "{list}");
            let pictures = server.get("/dreams/top?limit=12&rendered_only=true").json();
            // As `data:image/png;base64,` in an <img>.
            assert!(dreams::dreams(&pictures).iter().all(|dream| dream["image_data"].is_string()), "{pictures}");
            assert_eq!(server.request("POST", "/dreams/stop", &[]).status, 200);
            page.dreams(&server, |status| status["is_dreaming"] == false);
        });
        rows.row("page: dreams over the socket", || {
            let mut page = Page::open(&server, pace());
            let started = page.ask(
                json!({"type": "dream:start", "params": {"prompt": "a dog", "similarity_threshold": 0}}),
                "dream:started",
            );
            assert!(started.expect("an answer")["error"].is_null());
            let more =
                page.ask(json!({"type": "dream:guide", "params": {"temperature": 0.3}}), "dream:guide:ack");
            assert_eq!(more.expect("an answer")["updated"], json!({"temperature": 0.3}));
            let list =
                page.ask(json!({"type": "dream:top", "limit": 5, "min_score": 0.0}), "dream:top:result");
            dreams::dreams(&list.expect("an answer")["dreams"]);
            let stopped = page.ask(json!({"type": "dream:stop"}), "dream:stopped").expect("an answer");
            assert!(stopped["total_dreams"].is_u64() && stopped["candidates_kept"].is_u64(), "{stopped}");
        });
    });
}
