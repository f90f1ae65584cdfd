//! Dreams: `dream:*` and `/dreams/*`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_tests::{Answer, Server};
use serde_json::{Value, json};

use crate::{Field, connect, contract, has, until};

/// A server that dreams fast, with tiny models.
pub fn dreaming() -> Server {
    let scorer = concat!("scoring.model=", env!("CARGO_MANIFEST_DIR"), "/fixtures/diffusion/clip_model");
    let settings =
        [scorer, "plugins.dream.config.save_interval_s=0.2", "plugins.dream.config.candidate_min_side=64"];
    Server::with_models(&settings, &["lcm"])
}

/// Everything is kept, and every second dream drawn in full.
fn eager() -> Value {
    json!({"prompt": "a cat", "similarity_threshold": 0.0, "render_interval": 2})
}

/// Asserts that this is a list of dreams as clients read them, and returns it.
pub fn dreams(list: &Value) -> Vec<Value> {
    let list = list.as_array().unwrap_or_else(|| panic!("no bare array: {list}"));
    for dream in list {
        has(
            dream,
            &[
                ("seed", Value::is_u64),
                ("prompt", Value::is_string),
                ("score", Value::is_number),
                // Seconds of Unix time: of this century.
                ("timestamp", |at| at.as_f64().is_some_and(|at| (1.7e9..4e9).contains(&at))),
                ("rendered", Value::is_boolean),
                ("image_data", |data| data.is_null() || is_png(data)),
            ],
        );
    }
    list.clone()
}

fn is_png(data: &Value) -> bool {
    let content = data.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    content.is_some_and(|content| image::guess_format(&content).ok() == Some(image::ImageFormat::Png))
}

fn scores(dreams: &[Value]) -> Vec<f64> {
    dreams.iter().map(|dream| dream["score"].as_f64().expect("a number")).collect()
}

#[test]
fn over_websocket() {
    let server = dreaming();
    contract(|rows| {
        let mut client = connect(&server);
        let mut ask = |message: Value| client.ask(message);
        rows.row("dream:stop while none dreams", || {
            let told = ask(json!({"type": "dream:stop"}));
            assert_eq!(
                (&told["type"], &told["status"]),
                (&json!("dream:stopped"), &json!("stopped")),
                "{told}"
            );
            assert_eq!((&told["total_dreams"], &told["candidates_kept"]), (&json!(0), &json!(0)), "{told}");
        });
        rows.row("dream:top while none ever dreamt", || {
            let told = ask(json!({"type": "dream:top"}));
            assert_eq!((&told["type"], &told["dreams"]), (&json!("dream:top:result"), &json!([])), "{told}");
        });
        for (name, message) in [
            ("no params", json!({"type": "dream:start"})),
            ("empty params", json!({"type": "dream:start", "params": {}})),
        ] {
            rows.row(&format!("dream:start with {name}: the defaults"), || {
                let told = ask(message);
                assert!(told["type"] == "dream:started" && told["error"].is_null(), "{told}");
                assert!(told["status"].is_string() && told["top_k"].is_u64(), "{told}");
                assert_eq!(
                    (&told["base_prompt"], &told["duration_hours"]),
                    (&json!(""), &json!(1.0)),
                    "{told}"
                );
            });
            let _ = ask(json!({"type": "dream:stop"}));
        }
        rows.row("dream:start with all params, numbers as text", || {
            let params = json!({"prompt": "a dog", "duration_hours": "0.5", "temperature": "0.5", "similarity_threshold": "0.7",
                "render_interval": "100", "strategy": "random"});
            let told = ask(json!({"type": "dream:start", "params": params}));
            assert!(told["type"] == "dream:started" && told["error"].is_null(), "{told}");
            assert_eq!((&told["base_prompt"], &told["duration_hours"]), (&json!("a dog"), &json!(0.5)), "{told}");
        });
        rows.row("dream:start while one dreams: the same type with error", || {
            let told = ask(json!({"type": "dream:start", "params": eager()}));
            assert!(told["type"] == "dream:started" && told["error"].is_string(), "{told}");
        });
        let _ = ask(json!({"type": "dream:stop"}));
        let _ = ask(json!({"type": "dream:start", "params": eager()}));
        rows.row("dream:top: best first, with pictures where rendered", || {
            let mut last = Value::Null;
            until("enough dreams", || {
                last = ask(json!({"type": "dream:top"}));
                let enough = last["dreams"].as_array().is_some_and(|all| all.len() > 5);
                enough && last["dreams"].to_string().contains("\"rendered\":true")
            });
            let all = dreams(&last["dreams"]);
            assert!(scores(&all).is_sorted_by(|a, b| a >= b), "{:?}", scores(&all));
            assert!(
                all.iter().any(|dream| dream["rendered"] == true && is_png(&dream["image_data"])),
                "{last}"
            );
        });
        rows.row("dream:top: limit and min_score at the top level", || {
            let all = dreams(&ask(json!({"type": "dream:top"}))["dreams"]);
            let some = dreams(&ask(json!({"type": "dream:top", "limit": 2}))["dreams"]);
            assert_eq!(some.len(), 2);
            let some = dreams(&ask(json!({"type": "dream:top", "limit": "2"}))["dreams"]);
            assert_eq!(some.len(), 2, "as text");
            let least = scores(&all)[1];
            let some = dreams(&ask(json!({"type": "dream:top", "min_score": least}))["dreams"]);
            assert!(
                !some.is_empty() && scores(&some).iter().all(|score| *score >= least),
                "{least}: {some:?}"
            );
            assert!(dreams(&ask(json!({"type": "dream:top", "min_score": 2.0}))["dreams"]).is_empty());
        });
        rows.row("dream:guide: only what changed", || {
            for (params, updated) in [
                (json!({"prompt": "a red house"}), json!({"prompt": "a red house"})),
                (json!({"temperature": 0.25}), json!({"temperature": 0.25})),
                (
                    json!({"temperature": 0.75, "prompt": "a dog"}),
                    json!({"temperature": 0.75, "prompt": "a dog"}),
                ),
                (json!({"prompt": "a cat", "temperature": null}), json!({"prompt": "a cat"})),
            ] {
                let told = ask(json!({"type": "dream:guide", "params": params}));
                assert_eq!(
                    (&told["type"], &told["updated"]),
                    (&json!("dream:guide:ack"), &updated),
                    "{told}"
                );
            }
        });
        rows.row("dream:stop: total_dreams and candidates_kept", || {
            let told = ask(json!({"type": "dream:stop"}));
            assert_eq!(
                (&told["type"], &told["status"]),
                (&json!("dream:stopped"), &json!("stopped")),
                "{told}"
            );
            let count = |field: &str| told[field].as_u64().unwrap_or_else(|| panic!("{field}: {told}"));
            assert!(
                count("total_dreams") >= count("candidates_kept") && count("candidates_kept") > 0,
                "{told}"
            );
        });
        for strategy in ["random", "linear_walk", "grid", "evolve"] {
            rows.row(&format!("dream:start with the strategy {strategy}"), || {
                let told =
                    ask(json!({"type": "dream:start", "params": {"prompt": "a cat", "strategy": strategy}}));
                assert!(told["type"] == "dream:started" && told["error"].is_null(), "{told}");
                ask(json!({"type": "dream:stop"}));
            });
        }
    });
}

#[test]
fn over_http() {
    let server = dreaming();
    let get = |path: &str| -> Answer {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    };
    let start = |body: Value| server.post_json("/dreams/start", &body);
    let stop = || server.request("POST", "/dreams/stop", &[]);
    let status_fields: &[Field] = &[
        ("is_dreaming", Value::is_boolean),
        ("dream_count", Value::is_u64),
        ("dreams_per_second", Value::is_number),
        ("candidates", Value::is_u64),
        ("top_k", Value::is_u64),
        ("elapsed_seconds", Value::is_number),
    ];
    contract(|rows| {
        rows.row("GET /dreams/status while none ever dreamt", || {
            let told = get("/dreams/status").json();
            has(&told, status_fields);
            assert_eq!((&told["is_dreaming"], &told["dream_count"]), (&json!(false), &json!(0)), "{told}");
        });
        for path in ["/dreams/top", "/dreams/recent"] {
            rows.row(&format!("GET {path} while none ever dreamt: a bare array"), || {
                assert_eq!(get(path).json(), json!([]));
            });
        }
        for top_k in [9, 1001] {
            rows.row(&format!("POST /dreams/start: top_k {top_k} is refused"), || {
                let answer = start(json!({"prompt": "a cat", "top_k": top_k}));
                stop();
                assert!([400, 422].contains(&answer.status), "{} {}", answer.status, answer.text());
                assert!(!answer.json()["detail"].is_null(), "{}", answer.text());
            });
        }
        for top_k in [10, 1000] {
            rows.row(&format!("POST /dreams/start: top_k {top_k}"), || {
                let answer = start(json!({"prompt": "a cat", "top_k": top_k}));
                assert_eq!(answer.status, 200, "{}", answer.text());
                until("the status tells it", || get("/dreams/status").json()["top_k"] == top_k);
                stop();
            });
        }
        rows.row("POST /dreams/start: top_k is 100 by default", || {
            let answer = start(eager());
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = get("/dreams/status").json();
            assert_eq!((&told["is_dreaming"], &told["top_k"]), (&json!(true), &json!(100)), "{told}");
        });
        rows.row("POST /dreams/start while one dreams: 400 with detail", || {
            let answer = start(eager());
            assert_eq!(answer.status, 400, "{}", answer.text());
            assert!(answer.json()["detail"].is_string(), "{}", answer.text());
        });
        rows.row("dream:start while HTTP's dreams: it is the same session", || {
            let told = connect(&server).ask(json!({"type": "dream:start", "params": eager()}));
            assert!(told["type"] == "dream:started" && told["error"].is_string(), "{told}");
        });
        rows.row("GET /dreams/status while one dreams", || {
            until("some candidates", || get("/dreams/status").json()["candidates"].as_u64() > Some(5));
            let told = get("/dreams/status").json();
            has(&told, status_fields);
            assert!(told["dream_count"].as_u64() >= told["candidates"].as_u64(), "{told}");
            assert!(told["elapsed_seconds"].as_f64() > Some(0.0), "{told}");
            assert!(told["dreams_per_second"].as_f64() > Some(0.0), "{told}");
        });
        rows.row("GET /dreams/stats: status with dreams_per_hour", || {
            let told = get("/dreams/stats").json();
            has(&told, status_fields);
            let (second, hour) =
                (told["dreams_per_second"].as_f64().unwrap(), told["dreams_per_hour"].as_f64());
            let hour = hour.unwrap_or_else(|| panic!("no dreams_per_hour: {told}"));
            assert!((hour / 3600.0 - second).abs() <= 0.05 * second + 0.01, "{told}");
        });
        rows.row("GET /dreams/top: best first", || {
            let all = dreams(&get("/dreams/top").json());
            assert!(all.len() > 5 && scores(&all).is_sorted_by(|a, b| a >= b), "{:?}", scores(&all));
        });
        rows.row("GET /dreams/top?limit&min_score", || {
            assert_eq!(dreams(&get("/dreams/top?limit=3").json()).len(), 3);
            let least = scores(&dreams(&get("/dreams/top").json()))[2];
            let some = dreams(&get(&format!("/dreams/top?limit=1000&min_score={least}")).json());
            assert!(!some.is_empty() && scores(&some).iter().all(|score| *score >= least));
            assert!(dreams(&get("/dreams/top?min_score=2").json()).is_empty());
        });
        rows.row("GET /dreams/top?rendered_only", || {
            let mut some = Vec::new();
            until("a rendered dream", || {
                some = dreams(&get("/dreams/top?rendered_only=true").json());
                !some.is_empty()
            });
            assert!(
                some.iter().all(|dream| dream["rendered"] == true && is_png(&dream["image_data"])),
                "{some:?}"
            );
            let all = dreams(&get("/dreams/top?rendered_only=false").json());
            assert!(all.iter().any(|dream| dream["rendered"] == false), "{all:?}");
        });
        rows.row("GET /dreams/recent?limit: latest first", || {
            let some = dreams(&get("/dreams/recent?limit=4").json());
            assert_eq!(some.len(), 4);
            let times: Vec<f64> = some.iter().map(|dream| dream["timestamp"].as_f64().unwrap()).collect();
            assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
        });
        for path in ["/dreams/top", "/dreams/recent"] {
            rows.row(&format!("GET {path}: a limit up to 1000"), || {
                get(&format!("{path}?limit=1000"));
                for limit in ["1001", "-1", "x"] {
                    let answer = server.get(&format!("{path}?limit={limit}"));
                    assert!(
                        [400, 422].contains(&answer.status),
                        "{limit}: {} {}",
                        answer.status,
                        answer.text()
                    );
                    assert!(!answer.json()["detail"].is_null(), "{}", answer.text());
                }
            });
        }
        rows.row("POST /dreams/stop", || {
            assert_eq!(stop().status, 200);
            until("none dreams", || get("/dreams/status").json()["is_dreaming"] == false);
            assert!(!dreams(&get("/dreams/top").json()).is_empty(), "what was found stays");
        });
        rows.row("POST /dreams/stop while none dreams", || {
            assert_eq!(stop().status, 200);
        });
        rows.row("POST /dreams/start again", || {
            assert_eq!(start(eager()).status, 200);
            stop();
        });
    });
}
