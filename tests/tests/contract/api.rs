//! `/api/*`: modes and models.

use reverie_tests::Server;
use serde_json::{Value, json};

use crate::{connect, contract, has, merged, quick, refused, until};

#[test]
fn modes_and_models() {
    let server = Server::with_models(&["modes.second.model=lcm"], &["sd", "lcm"]);
    let post = |path: &str, body: Value| server.post_json(path, &body);
    let empty = |path: &str| server.request("POST", path, &[]);
    contract(|rows| {
        rows.row("GET /api/modes: default_mode and modes", || {
            let told = server.get("/api/modes").json();
            let modes = told["modes"].as_object().expect("modes");
            assert!(told["default_mode"].as_str().is_some_and(|name| modes.contains_key(name)), "{told}");
            for name in ["sd", "lcm", "second"] {
                has(
                    &modes[name],
                    &[
                        ("model", Value::is_string),
                        ("loras", Value::is_array),
                        ("default_size", is_size),
                        ("default_steps", Value::is_u64),
                        ("default_guidance", Value::is_number),
                    ],
                );
            }
        });
        rows.row("GET /api/modes: resolution_sets", || {
            let told = server.get("/api/modes").json();
            let sets = told["resolution_sets"].as_object().unwrap_or_else(|| panic!("{told}"));
            for set in sets.values() {
                assert!(
                    set.as_array().is_some_and(|all| all.iter().all(|one| is_size(&one["size"]))),
                    "{set}"
                );
            }
            for mode in told["modes"].as_object().unwrap().values() {
                let named = mode["resolution_set"].as_str();
                assert!(named.is_none_or(|name| sets.contains_key(name)), "{mode}");
            }
        });
        rows.row("GET /api/modes: what later clients read of a mode", || {
            for mode in server.get("/api/modes").json()["modes"].as_object().expect("modes").values() {
                let option = |one: &Value| is_size(&one["size"]) && one["aspect_ratio"].is_string();
                let options = mode["resolution_options"].as_array().unwrap_or_else(|| panic!("{mode}"));
                assert!(options.iter().all(option), "{mode}");
                has(
                    mode,
                    &[
                        ("resolution_set", |name| name.is_string() || name.is_null()),
                        ("recommended_size", is_size),
                        ("allowed_scheduler_ids", Value::is_array),
                        ("default_scheduler_id", Value::is_string),
                        ("negative_prompt_templates", |all| all.is_array() || all.is_object()),
                        ("allow_custom_negative_prompt", Value::is_boolean),
                    ],
                );
                let policy = &mode["controlnet_policy"];
                assert!(
                    policy["max_attachments"].is_u64() && policy["allowed_control_types"].is_array(),
                    "{mode}"
                );
                assert_eq!(policy["enabled"], false, "nothing is done with controlnets");
            }
        });
        rows.row("GET /api/modes: a mode without restrictions allows the clients' scheduler ids", || {
            let told = server.get("/api/modes").json();
            let mode = &told["modes"]["sd"];
            let allowed = mode["allowed_scheduler_ids"].as_array().expect("ids");
            assert!(allowed.contains(&mode["default_scheduler_id"]), "{mode}");
            for id in ["lcm", "euler_a", "dpmpp_2m"] {
                assert!(allowed.contains(&json!(id)), "{id}: {mode}");
            }
        });
        rows.row("each allowed scheduler id is taken", || {
            let told = server.get("/api/modes").json();
            for id in told["modes"]["sd"]["allowed_scheduler_ids"].as_array().expect("ids") {
                let answer =
                    post("/generate", merged(quick(), json!({"mode": "sd", "steps": 3, "scheduler_id": id})));
                assert_eq!(answer.status, 200, "{id}: {}", answer.text());
            }
        });
        rows.row("POST /api/modes/switch: queued, then already_loaded", || {
            let from = server.get("/api/models/status").json()["current_mode"].clone();
            let to = if from == "sd" { "lcm" } else { "sd" };
            let answer = post("/api/modes/switch", json!({"mode": to}));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = answer.json();
            assert_eq!(
                (&told["status"], &told["from_mode"], &told["to_mode"]),
                (&json!("queued"), &from, &json!(to)),
                "{told}"
            );
            assert!(told["message"].is_string(), "{told}");
            until("the mode is switched", || {
                let status = server.get("/api/models/status").json();
                status["current_mode"] == to && status["pending_mode"].is_null()
            });
            let told = post("/api/modes/switch", json!({"mode": to})).json();
            assert_eq!((&told["status"], &told["mode"]), (&json!("already_loaded"), &json!(to)), "{told}");
            assert!(told["message"].is_string(), "{told}");
            assert_eq!(post("/generate", quick()).header("x-mode"), Some(to));
            assert_eq!(connect(&server).greeting["mode"], to);
        });
        rows.row("POST /api/modes/switch: unknown is 404", || {
            let answer = post("/api/modes/switch", json!({"mode": "nope"}));
            assert_eq!(answer.status, 404, "{}", answer.text());
            assert!(answer.json()["detail"].is_string(), "{}", answer.text());
        });
        rows.row("POST /api/modes/reload", || {
            let answer = empty("/api/modes/reload");
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = answer.json();
            assert_eq!(told["status"], "reloaded", "{told}");
            let names = told["modes"].as_array().unwrap_or_else(|| panic!("{told}"));
            assert_eq!(told["modes_count"], names.len(), "{told}");
            for name in ["sd", "lcm", "second"] {
                assert!(names.contains(&json!(name)), "{told}");
            }
            assert!(told["default_mode"].is_string(), "{told}");
        });
        rows.row("GET /api/models/status: first generation", || {
            let told = server.get("/api/models/status").json();
            has(
                &told,
                &[
                    ("current_mode", Value::is_string),
                    ("queue_size", |size| *size == 0),
                    ("vram", Value::is_object),
                ],
            );
        });
        rows.row("GET /api/models/status: later clients", || {
            let told = server.get("/api/models/status").json();
            has(
                &told,
                &[
                    ("backend", Value::is_string),
                    ("backend_version", Value::is_string),
                    ("is_loaded", Value::is_boolean),
                    ("pending_mode", |mode| mode.is_null() || mode.is_string()),
                ],
            );
            for name in ["generation", "modes", "superres", "img2img"] {
                assert_eq!(told["capabilities"][format!("supports_{name}")], true, "{name}: {told}");
            }
            assert_eq!(told["capabilities"]["supports_describe"], false, "{told}");
        });
        let is_loaded = || server.get("/api/models/status").json()["is_loaded"].clone();
        for (path, loaded) in [
            ("/api/models/load", true),
            ("/api/models/unload", false),
            ("/api/models/load", true),
            ("/api/models/reload", true),
        ] {
            rows.row(&format!("POST {path}: is_loaded is {loaded} then"), || {
                let answer = empty(path);
                assert_eq!(answer.status, 200, "{}", answer.text());
                until("the model is as asked", || is_loaded() == loaded);
            });
        }
        rows.row("POST /api/models/unload frees what /api/vram counts", || {
            post("/generate", quick());
            let before = server.get("/api/vram").json();
            empty("/api/models/unload");
            until("another figure", || server.get("/api/vram").json() != before);
            assert_eq!(post("/generate", quick()).status, 200, "it loads again where it is needed");
        });
        rows.row("GET /api/vram", || {
            let answer = server.get("/api/vram");
            assert!(answer.status == 200 && answer.json().is_object(), "{}", answer.text());
        });
        rows.row("an unknown mode names those that there are", || {
            let end =
                refused(&mut connect(&server), json!({"params": merged(quick(), json!({"mode": "nope"}))}));
            assert!(end["error"].as_str().unwrap().contains("sd"), "{end}");
        });
    });
}

fn is_size(value: &Value) -> bool {
    let number = |text: &str| text.parse::<u32>().is_ok();
    value.as_str().and_then(|text| text.split_once('x')).is_some_and(|(w, h)| number(w) && number(h))
}
