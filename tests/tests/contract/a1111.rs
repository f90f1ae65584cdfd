//! AUTOMATIC1111's API, as old clients use it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_tests::{Server, picture};
use serde_json::{Value, json};

use crate::{contract, has, merged};

#[test]
fn sdapi() {
    let server = Server::with_models(&[], &["sd"]);
    let ask = |call: &str, more: Value| -> Vec<u8> {
        let common =
            json!({"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 42, "cfg_scale": 2});
        let answer = server.post_json(&format!("/sdapi/v1/{call}"), &merged(common, more));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        let info: Value = serde_json::from_str(told["info"].as_str().expect("info")).expect("JSON");
        assert_eq!(info["seed"], 42, "{info}");
        assert!(told["parameters"].is_object(), "no parameters");
        BASE64_STANDARD.decode(told["images"][0].as_str().expect("a picture")).expect("base64")
    };
    let width = |content: &[u8]| image::load_from_memory(content).expect("a picture").width();
    let start =
        || json!({"init_images": [BASE64_STANDARD.encode(picture(64, 64))], "denoising_strength": 0.5});
    contract(|rows| {
        rows.row("POST txt2img", || assert_eq!(width(&ask("txt2img", json!({}))), 64));
        rows.row("POST txt2img: numbers as text", || {
            let told = ask(
                "txt2img",
                json!({"width": "64", "height": "64", "steps": "2", "seed": "42", "batch_size": "1"}),
            );
            assert!(told == ask("txt2img", json!({})), "another picture");
        });
        rows.row("POST img2img", || assert_eq!(width(&ask("img2img", start())), 64));
        for call in ["txt2img", "img2img"] {
            let with = |more: Value| if call == "img2img" { merged(start(), more) } else { more };
            for (magnitude, more) in
                [(1, json!({"superres": true, "superres_magnitude": 1})), (2, json!({"superres": true}))]
            {
                rows.row(&format!("POST {call} with superres, magnitude {magnitude}"), || {
                    assert_eq!(width(&ask(call, with(more))), 64 << magnitude);
                });
            }
            rows.row(&format!("POST {call} with superres off"), || {
                assert_eq!(width(&ask(call, with(json!({"superres": false})))), 64);
            });
        }
        for (call, field) in [("sd-models", "model_name"), ("samplers", "name")] {
            rows.row(&format!("GET {call}"), || {
                let told = server.get(&format!("/sdapi/v1/{call}")).json();
                let all = told.as_array().unwrap_or_else(|| panic!("{told}"));
                assert!(!all.is_empty() && all.iter().all(|one| one[field].is_string()), "{told}");
            });
        }
        rows.row("GET options", || {
            has(&server.get("/sdapi/v1/options").json(), &[("sd_model_checkpoint", Value::is_string)]);
        });
        rows.row("GET progress", || {
            let told = server.get("/sdapi/v1/progress").json();
            has(
                &told,
                &[
                    ("progress", Value::is_number),
                    ("eta_relative", Value::is_number),
                    ("state", Value::is_object),
                ],
            );
        });
    });
}
