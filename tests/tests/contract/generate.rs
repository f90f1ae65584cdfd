//! The parameters of `generate`, over WebSocket and as `POST /generate`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image::GenericImageView as _;
use reverie_tests::{Answer, Client, Server, picture};
use serde_json::{Value, json};

use crate::{completed, connect, contract, has, merged, output, quick, submit};

/// A text chunk of a PNG.
fn chunk(png: &[u8], keyword: &str) -> Option<String> {
    let mut rest = png.get(8..)?;
    loop {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let (kind, content) = (rest.get(4..8)?, rest.get(8..8 + length)?);
        if kind == b"tEXt" || kind == b"iTXt" {
            let end = content.iter().position(|byte| *byte == 0)?;
            if content[..end] == *keyword.as_bytes() {
                // An iTXt has two flags and two more names, empty here, before its text.
                let text = content.get(end + if kind == b"iTXt" { 5 } else { 1 }..)?;
                return String::from_utf8(text.to_vec()).ok();
            }
        }
        rest = rest.get(12 + length..)?;
    }
}

/// The chunk from which clients make a picture again.
fn recipe(png: &[u8]) -> Value {
    serde_json::from_str(&chunk(png, "lcm").expect("a text chunk 'lcm'")).expect("JSON")
}

fn make(server: &Server, changes: Value) -> Answer {
    let answer = server.post_json("/generate", &merged(quick(), changes));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

fn job(client: &mut Client, changes: Value) -> Value {
    completed(client, json!({"jobType": "generate", "params": merged(quick(), changes)}))
}

fn width(picture: &[u8]) -> u32 {
    image::load_from_memory(picture).expect("a picture").width()
}

#[test]
fn parameters() {
    let server = Server::with_models(&["modes.second.model=sd"], &["sd"]);
    contract(|rows| {
        rows.row("job:progress {jobId, status, progress}, then job:complete", || {
            let mut client = connect(&server);
            let job = submit(&mut client, json!({"params": merged(quick(), json!({"steps": 6}))}));
            let mut steps = 0;
            let end = loop {
                let message = client.receive_where(|m| m["jobId"] == *job);
                if message["type"] != "job:progress" {
                    break message;
                }
                assert!(message["status"].is_string() && message.get("progress").is_some(), "{message}");
                // Later clients read these at the top level.
                if message.get("step").is_some_and(|step| step.as_u64() > Some(0)) {
                    has(
                        &message,
                        &[("total", |total| total.as_u64() >= Some(6)), ("stage", Value::is_string)],
                    );
                    steps += 1;
                }
            };
            assert!(steps > 0, "no job:progress with step, total and stage");
            assert_eq!(end["type"], "job:complete", "{end}");
        });
        for (name, params, field, expected) in [
            ("steps", json!({"steps": 3}), "steps", json!(3)),
            ("num_inference_steps", json!({"steps": null, "num_inference_steps": 3}), "steps", json!(3)),
            ("cfg", json!({"cfg": 4.5}), "cfg", json!(4.5)),
            ("guidance_scale", json!({"guidance_scale": 4.5}), "cfg", json!(4.5)),
            ("seed", json!({"seed": 7}), "seed", json!(7)),
            ("seed 2^31-1", json!({"seed": 2_147_483_647}), "seed", json!(2_147_483_647)),
            ("seed 2^32-1", json!({"seed": 4_294_967_295_u32}), "seed", json!(4_294_967_295_u32)),
            ("size", json!({"size": "96x64"}), "size", json!("96x64")),
            ("prompt", json!({"prompt": "ein Bär, 熊"}), "prompt", json!("ein Bär, 熊")),
            ("negative_prompt", json!({"negative_prompt": "dogs"}), "negative_prompt", json!("dogs")),
            ("superres", json!({"superres": true, "superres_magnitude": 1}), "superres", json!(true)),
            ("scheduler_id euler_a", json!({"scheduler_id": "euler_a"}), "scheduler_id", json!("euler_a")),
            ("scheduler_id dpmpp_2m", json!({"scheduler_id": "dpmpp_2m"}), "scheduler_id", json!("dpmpp_2m")),
            ("scheduler_id lcm", json!({"scheduler_id": "lcm"}), "scheduler_id", json!("lcm")),
            ("steps as text", json!({"steps": "3"}), "steps", json!(3)),
            ("cfg as text", json!({"cfg": "1.0"}), "cfg", json!(1.0)),
            ("seed as text", json!({"seed": "42"}), "seed", json!(42)),
            (
                "superres as text",
                json!({"superres": "true", "superres_magnitude": "1"}),
                "superres",
                json!(true),
            ),
            ("superres false as text", json!({"superres": "false"}), "superres", json!(false)),
        ] {
            // That it takes effect shows in what the picture says of itself.
            rows.row(&format!("generate job: {name}"), || {
                let end = job(&mut connect(&server), params.clone());
                let told = recipe(&output(&server, &end));
                assert!(
                    told[field] == expected
                        || told[field].as_f64().is_some_and(|n| Some(n) == expected.as_f64()),
                    "{field}: {told}"
                );
            });
            rows.row(&format!("POST /generate: {name}"), || {
                let told = recipe(&make(&server, params.clone()).body);
                assert!(
                    told[field] == expected
                        || told[field].as_f64().is_some_and(|n| Some(n) == expected.as_f64()),
                    "{field}: {told}"
                );
            });
        }
        rows.row("mode", || {
            assert_eq!(make(&server, json!({"mode": "second"})).header("x-mode"), Some("second"));
            assert_eq!(job(&mut connect(&server), json!({"mode": "second"}))["meta"]["mode"], "second");
        });
        rows.row("the text chunk lcm has all fields, beside parameters", || {
            let png = make(&server, json!({"negative_prompt": "dogs"})).body;
            let told = recipe(&png);
            for field in
                ["prompt", "seed", "size", "steps", "cfg", "superres", "negative_prompt", "scheduler_id"]
            {
                assert!(told.get(field).is_some(), "{field}: {told}");
            }
            assert!(chunk(&png, "parameters").is_some_and(|text| text.contains("Steps: 2")));
        });
        rows.row("a picture is made again from its chunk lcm", || {
            let made = make(
                &server,
                json!({"scheduler_id": "euler_a", "cfg": 3, "negative_prompt": "dogs", "seed": 9}),
            );
            let again = server.post_json("/generate", &recipe(&made.body));
            assert_eq!(again.status, 200, "{}", again.text());
            assert!(again.body == made.body, "another picture");
        });
        let plain = make(&server, json!({})).body;
        for (name, params) in [
            ("level 0", json!({"style": "nope", "level": 0})),
            ("level '0'", json!({"style": "nope", "level": "0"})),
            ("level null", json!({"style": "nope", "level": null})),
            ("style null, level 0", json!({"style": null, "level": 0})),
            ("null", json!(null)),
        ] {
            rows.row(&format!("style_lora is off: {name}"), || {
                assert!(make(&server, json!({"style_lora": params})).body == plain, "another picture");
            });
        }
        rows.row("scheduler_id changes the picture", || {
            assert!(make(&server, json!({"scheduler_id": "euler_a"})).body != plain);
        });
        rows.row("init_image_ref and denoise_strength change the picture", || {
            let bare = server.upload(&picture(64, 64));
            let with = |strength: f64| {
                let params = json!({"init_image_ref": bare, "denoise_strength": strength, "steps": 4});
                output(&server, &job(&mut connect(&server), params))
            };
            let without = make(&server, json!({"steps": 4})).body;
            let (weak, strong) = (with(0.3), with(0.8));
            assert!(weak != strong && weak != without && strong != without, "the same picture");
        });
        for prefixes in 0..=3 {
            rows.row(&format!("init_image_ref with {prefixes} prefixes"), || {
                let file = "fileRef:".repeat(prefixes) + &server.upload(&picture(64, 64));
                job(&mut connect(&server), json!({"init_image_ref": file, "denoise_strength": "0.5"}));
            });
        }
        rows.row("unknown parameters come back in meta.warnings", || {
            let end = job(&mut connect(&server), json!({"brightness_of_moon": 3}));
            let warnings = end["meta"]["warnings"].as_array().unwrap_or_else(|| panic!("{end}"));
            assert!(warnings.iter().any(|w| w.to_string().contains("brightness_of_moon")), "{end}");
        });
        rows.row("known parameters warn of nothing", || {
            let end =
                job(&mut connect(&server), json!({"superres": false, "mode": "sd", "negative_prompt": ""}));
            let warnings = &end["meta"]["warnings"];
            assert!(warnings.is_null() || *warnings == json!([]), "{end}");
        });
    });
}

#[test]
fn over_http() {
    let server = Server::with_models(&[], &["sd"]);
    contract(|rows| {
        rows.row("POST /generate: headers", || {
            let answer = make(&server, json!({}));
            assert_eq!(answer.header("content-type"), Some("image/png"));
            for (header, value) in [("x-seed", "42"), ("x-superres", "0"), ("x-mode", "sd")] {
                assert_eq!(answer.header(header), Some(value), "{header}");
            }
            assert_eq!(width(&answer.body), 64);
        });
        rows.row("POST /generate: X-LCM-Image-Key is in the storage", || {
            let answer = make(&server, json!({}));
            let key = answer.header("x-lcm-image-key").expect("a key");
            let stored = server.get(&format!("/storage/{key}"));
            assert_eq!(stored.status, 200, "{}", stored.text());
            assert!(stored.body == answer.body, "another picture");
        });
        for (magnitude, passes) in [(1, "1"), (2, "2"), (3, "3")] {
            rows.row(&format!("POST /generate with superres, magnitude {magnitude}"), || {
                let answer = make(&server, json!({"superres": true, "superres_magnitude": magnitude}));
                assert_eq!(answer.header("x-superres"), Some("1"));
                assert!(answer.header("x-sr-model").is_some_and(|model| !model.is_empty()));
                let number = |header: &str| {
                    let text = answer.header(header).unwrap_or_else(|| panic!("no {header}"));
                    text.parse::<u32>().unwrap_or_else(|_| panic!("{header}: {text}"))
                };
                let (passes_told, scale) = (number("x-sr-passes"), number("x-sr-scale-per-pass"));
                assert_eq!(passes_told.to_string(), passes, "X-SR-Passes");
                assert_eq!(
                    width(&answer.body),
                    64 * scale.pow(passes_told),
                    "the width that the headers tell"
                );
                let format = answer.header("x-sr-format").expect("X-SR-Format");
                let media_type = answer.header("content-type").unwrap();
                assert_eq!(media_type, format!("image/{}", format.to_lowercase()));
            });
        }
        for (name, changes, status) in [
            ("no prompt", json!({"prompt": null}), 422),
            ("size", json!({"size": "big"}), 422),
            ("steps", json!({"steps": 51}), 422),
            ("cfg", json!({"cfg": 21}), 422),
            ("seed", json!({"seed": -1}), 422),
            ("seed 2^32", json!({"seed": 4_294_967_296_u64}), 422),
            ("superres_magnitude", json!({"superres_magnitude": 4}), 422),
            ("scheduler_id", json!({"scheduler_id": "nope"}), 422),
            ("unknown mode", json!({"mode": "nope"}), 404),
        ] {
            rows.row(&format!("POST /generate: {name} is {status} with detail"), || {
                let answer = server.post_json("/generate", &merged(quick(), changes));
                assert_eq!(answer.status, status, "{}", answer.text());
                assert!(!answer.json()["detail"].is_null(), "{}", answer.text());
            });
        }
        rows.row("POST /generate: seeds are drawn", || {
            let drawn: u64 = make(&server, json!({"seed": null})).header("x-seed").unwrap().parse().unwrap();
            assert!(drawn < 1 << 32);
        });
        rows.row("POST /generate is the job over WebSocket", || {
            let end = job(&mut connect(&server), json!({}));
            assert!(output(&server, &end) == make(&server, json!({})).body, "another picture");
        });
        rows.row("POST /v1/images/generations is the same picture", || {
            let asked = json!({"prompt": "a cat", "size": "64x64", "steps": 2, "seed": 42});
            let answer = server.post_json("/v1/images/generations", &asked).json();
            let png =
                BASE64_STANDARD.decode(answer["data"][0]["b64_json"].as_str().expect("b64_json")).unwrap();
            let pixels = |content: &[u8]| {
                image::load_from_memory(content).unwrap().pixels().map(|p| p.2.0).collect::<Vec<_>>()
            };
            assert!(pixels(&png) == pixels(&make(&server, json!({})).body), "another picture");
        });
    });
}
