//! OpenAI's images API, as old clients use it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_tests::Server;
use serde_json::{Value, json};

use crate::{contract, merged};

#[test]
fn images() {
    let server = Server::with_models(&[], &["sd"]);
    let ask = |more: Value| -> Value {
        let asked = merged(json!({"prompt": "a cat", "size": "64x64", "steps": 2, "seed": 42}), more);
        let answer = server.post_json("/v1/images/generations", &asked);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        assert!(told["created"].is_u64() && told["data"].is_array(), "{told}");
        told
    };
    let picture = |told: &Value| -> Vec<u8> {
        let text = told["data"][0]["b64_json"].as_str().unwrap_or_else(|| panic!("no b64_json"));
        BASE64_STANDARD.decode(text).expect("base64")
    };
    let width = |content: &[u8]| image::load_from_memory(content).expect("a picture").width();
    contract(|rows| {
        for (name, more) in [
            ("no model", json!({})),
            ("a mode as model", json!({"model": "sd"})),
            ("gpt-image-1", json!({"model": "gpt-image-1"})),
        ] {
            rows.row(&format!("without response_format: b64_json, {name}"), || {
                let told = ask(more);
                assert!(told["data"][0]["url"].is_null(), "both");
                assert_eq!(width(&picture(&told)), 64);
            });
        }
        for model in ["dall-e-2", "dall-e-3"] {
            rows.row(&format!("without response_format: url for {model}"), || {
                let told = ask(json!({"model": model}));
                assert!(
                    told["data"][0]["url"].is_string() && told["data"][0]["b64_json"].is_null(),
                    "{told}"
                );
            });
        }
        rows.row("response_format url: it can be got", || {
            let told = ask(json!({"response_format": "url"}));
            let url = told["data"][0]["url"].as_str().unwrap_or_else(|| panic!("{told}"));
            let path = url.strip_prefix(&format!("http://{}", server.address)).unwrap_or(url);
            assert_eq!(width(&server.get(path).body), 64);
        });
        rows.row("response_format b64_json", || {
            picture(&ask(json!({"response_format": "b64_json"})));
        });
        rows.row("n pictures", || {
            assert_eq!(ask(json!({"n": 2}))["data"].as_array().unwrap().len(), 2);
        });
        rows.row("seed is honoured", || {
            let (one, again, other) = (ask(json!({})), ask(json!({})), ask(json!({"seed": 43})));
            assert!(picture(&one) == picture(&again) && picture(&one) != picture(&other));
        });
        for (name, more) in [("steps", json!({"steps": 3})), ("cfg", json!({"cfg": 3.5}))] {
            rows.row(&format!("{name} is honoured"), || {
                assert!(picture(&ask(json!({}))) != picture(&ask(more)), "the same picture");
            });
        }
        for (magnitude, more) in
            [(1, json!({"superres": true, "superres_magnitude": 1})), (2, json!({"superres": true}))]
        {
            rows.row(&format!("superres is honoured, magnitude {magnitude}"), || {
                let enlarged = width(&picture(&ask(more)));
                assert_eq!(enlarged, 64 << magnitude);
            });
        }
        rows.row("numbers as text", || {
            let told = ask(json!({"steps": "2", "seed": "42", "n": "2"}));
            assert!(picture(&told) == picture(&ask(json!({}))), "another picture");
            let seeds: Vec<&Value> =
                told["data"].as_array().unwrap().iter().map(|one| &one["seed"]).collect();
            assert_eq!(seeds, [&json!(42), &json!(43)]);
        });
    });
}
