//! The APIs of other servers: what they refuse, and how they say it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use reverie_tests::{Answer, Server, picture};
use serde_json::{Value, json};

fn said(answer: &Answer, status: u16, expected: &str) {
    assert!(
        answer.status == status && answer.text().contains(expected),
        "{}: {}",
        answer.status,
        answer.text()
    );
}

/// A mask whose left half is white, or its right one.
fn half(left: bool) -> String {
    let mask = GrayImage::from_fn(64, 64, |x, _| Luma([if (x < 32) == left { 255 } else { 0 }]));
    let mut content = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageLuma8(mask).write_to(&mut content, ImageFormat::Png).expect("to memory");
    BASE64_STANDARD.encode(content.into_inner())
}

#[test]
fn an_inverted_mask_makes_the_other_half_anew() {
    let server = Server::with_models(&[], &["sd"]);
    let make = |changes: Value| {
        let mut asked = json!({"prompt": "a cat", "seed": 3, "steps": 2, "width": 64, "height": 64,
            "init_images": [BASE64_STANDARD.encode(picture(64, 64))]});
        asked.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        server.post_json("/sdapi/v1/img2img", &asked)
    };
    let images = |changes: Value| make(changes).json()["images"].clone();
    let right = images(json!({"mask": half(false)}));
    assert!(right[0].is_string());
    assert_ne!(right, images(json!({"mask": half(true)})));
    for invert in [json!(1), json!(true)] {
        assert_eq!(right, images(json!({"mask": half(true), "inpainting_mask_invert": invert})), "{invert}");
    }
    for keep in [json!(0), json!(false), json!(null)] {
        assert_eq!(right, images(json!({"mask": half(false), "inpainting_mask_invert": keep})), "{keep}");
    }
    let wrong = json!({"mask": half(true), "inpainting_mask_invert": "yes"});
    said(&make(wrong), 422, "inpainting_mask_invert: accepted are 0 and 1");
    said(&make(json!({"mask": 5})), 422, "mask: must be a text");
    let text = json!({"mask": BASE64_STANDARD.encode("no picture"), "inpainting_mask_invert": 1});
    said(&make(text), 422, "not a picture");
}

#[test]
fn a1111_fields_are_refused_rather_than_changed() {
    let server = Server::with_models(&[], &["sd", "lcm"]);
    let make = |changes: Value| {
        let mut asked = json!({"prompt": "a cat", "steps": 1, "width": 64, "height": 64});
        asked.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        server.post_json("/sdapi/v1/txt2img", &asked)
    };
    for seed in [json!(1_u64 << 40), json!(1_u64 << 32), json!("x"), json!(1.5)] {
        said(&make(json!({"seed": seed})), 422, "seed");
    }
    let seeds = |changes: Value| -> Value {
        let made = make(changes).json();
        let info: Value = serde_json::from_str(made["info"].as_str().unwrap()).unwrap();
        info["all_seeds"].clone()
    };
    for drawn in [json!({}), json!({"seed": -1}), json!({"seed": null})] {
        assert!(seeds(drawn)[0].as_u64().unwrap() < 1 << 31);
    }
    assert_eq!(seeds(json!({"seed": u32::MAX, "batch_size": 2})), json!([u32::MAX, 0]));
    assert_eq!(seeds(json!({"seed": 7.0, "n_iter": 2})), json!([7, 8]));
    for (wrong, expected) in [
        (json!({"sampler_name": 5}), "sampler_name: must be a text"),
        (json!({"scheduler": 5}), "scheduler: must be a text"),
        (json!({"override_settings": {"sd_model_checkpoint": 5}}), "sd_model_checkpoint: must be a text"),
        (json!({"override_settings": {"CLIP_stop_at_last_layers": "x"}}), "clip_skip"),
    ] {
        said(&make(wrong), 422, expected);
    }

    said(&server.get("/sdapi/v1/txt2img"), 405, "method");
    said(&server.post_json("/sdapi/v1/samplers", &json!({})), 405, "method");
    said(&server.get("/sdapi/v1/nothing"), 404, "not served");

    let checkpoint = || server.get("/sdapi/v1/options").json()["sd_model_checkpoint"].clone();
    let before = checkpoint();
    for wrong in [json!(5), json!("nope")] {
        said(&server.post_json("/sdapi/v1/options", &json!({"sd_model_checkpoint": wrong})), 422, "");
        assert_eq!(checkpoint(), before, "{wrong}");
    }
    assert_eq!(server.post_json("/sdapi/v1/options", &json!({"samples_format": "png"})).status, 200);
    assert_eq!(server.post_json("/sdapi/v1/options", &json!({"sd_model_checkpoint": "sd"})).status, 200);
    assert_eq!(checkpoint(), "sd");
}

#[test]
fn an_interrupted_request_says_so() {
    let server = Server::with_models(&[], &["sd"]);
    let long = json!({"prompt": "a cat", "steps": 50, "width": 256, "height": 256});
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post_json("/sdapi/v1/txt2img", &long));
        while server.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0 {
            assert!(!waiting.is_finished(), "it ended by itself");
        }
        assert_eq!(server.post_json("/sdapi/v1/interrupt", &json!({})).status, 200);
        said(&waiting.join().unwrap(), 409, "job canceled");
    });
}

/// The error of an answer in OpenAI's shape.
fn openai_error(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    let error = answer.json()["error"].clone();
    for field in ["message", "type", "code"] {
        assert!(error[field].is_string(), "{}", answer.text());
    }
    assert!(error.get("param").is_some() && answer.header("content-type") == Some("application/json"));
    error
}

#[test]
fn every_error_of_openais_resources_has_its_shape() {
    let settings = ["server.auth_token=secret", "jobs.concurrency=1", "jobs.queue_limit=1"];
    let server = Server::with_models(&settings, &["sd"]);
    let generations = "/v1/images/generations?token=secret";
    let edits = "/v1/images/edits?token=secret";
    for (answer, status, code) in [
        (server.get(generations), 405, "method_not_allowed"),
        (server.get(edits), 405, "method_not_allowed"),
        (server.get("/v1/images/nothing?token=secret"), 404, "not_found"),
        (server.get("/v1/images/generations"), 401, "unauthorized"),
        (server.post_json(edits, &json!({"prompt": "x"})), 400, "bad_request"),
        (server.post_json(generations, &json!([])), 400, "bad_request"),
        (server.post(edits, None, &[("prompt", "x")]), 400, "invalid_input"),
    ] {
        let error = openai_error(&answer, status);
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("invalid_request_error"), &json!(code)),
            "{error}"
        );
    }
    for (field, wrong) in [("model", json!(5)), ("response_format", json!(5)), ("seed", json!(1_u64 << 40))] {
        let mut asked = json!({"prompt": "x"});
        asked[field] = wrong;
        let error = openai_error(&server.post_json(generations, &asked), 400);
        assert!(error["message"].as_str().unwrap().contains(field), "{error}");
    }
    // Other resources keep theirs.
    assert_eq!(server.get("/generate?token=secret").json()["code"], "method_not_allowed");

    let mut client = server.connect_to("/v1/ws?token=secret");
    let long = json!({"params": {"prompt": "a cat", "steps": 50, "size": "256x256"}});
    let running = client.submit(long.clone());
    client.receive_where(|m| m["jobId"] == running.as_str() && m["status"] == "running");
    client.submit(long);
    let full = server.post_json(generations, &json!({"prompt": "a dog"}));
    let error = openai_error(&full, 429);
    assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("rate_limit_exceeded")));
    assert!(full.header("retry-after").is_some());
}

#[test]
fn texts_of_a_form_may_look_like_numbers() {
    let server = Server::with_models(&[], &["sd"]);
    let fields =
        [("prompt", "7"), ("negative_prompt", "13"), ("steps", "2"), ("size", "64x64"), ("seed", "3")];
    let made = server.post_form("/v1/images/edits", Some(("image", &picture(64, 64))), &fields);
    assert_eq!((made.status, &made.json()["data"][0]["seed"]), (200, &json!(3)), "{}", made.text());
    let wrong = server.post_form(
        "/v1/images/edits",
        Some(("image", &picture(64, 64))),
        &[("prompt", "x"), ("n", "two")],
    );
    assert!(openai_error(&wrong, 400)["message"].as_str().unwrap().starts_with("n: "), "{}", wrong.text());
}
