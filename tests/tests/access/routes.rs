//! Every route with every kind of key.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{get, keyed, send};

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    /// Everyone, without a key too.
    All,
    /// Any key.
    Any,
    /// Whoever submits something: all keys but those that only read.
    Submitters,
    /// Whoever submits things of this type or domain.
    Type(&'static str),
    Operators,
}

/// All routes but those of messages, which plugins add. A route that is not in here fails the test.
const ROUTES: &[(&str, To)] = &[
    ("get /", To::All),
    ("get /ui/", To::All),
    ("get /docs", To::All),
    ("get /docs/script.js", To::All),
    ("get /docs/style.css", To::All),
    ("get /health", To::All),
    ("get /v1/session", To::All),
    ("delete /v1/session", To::All),
    // Needs a key to begin one, which its handler sees to.
    ("post /v1/session", To::Any),
    ("post /v1/sign", To::Any),
    ("get /openapi.json", To::Any),
    ("get /v1/ws", To::Any),
    ("get /v1/jobs/{id}", To::Any),
    ("get /v1/jobs/{id}/events", To::Any),
    ("post /v1/jobs", To::Submitters),
    ("delete /v1/jobs/{id}", To::Submitters),
    ("delete /v1/jobs/{id}/record", To::Submitters),
    ("post /v1/upload", To::Submitters),
    ("get /storage/{key}", To::Any),
    ("get /storage/health", To::Any),
    ("put /storage/{key}", To::Submitters),
    ("get /v1/plugins", To::Operators),
    ("get /metrics", To::Operators),
    ("post /generate", To::Type("generate")),
    ("post /superres", To::Type("sr")),
    ("post /v1/superres", To::Type("sr")),
    ("post /v1/comfy/jobs", To::Type("comfy")),
    ("get /v1/comfy/jobs/{id}", To::Any),
    ("delete /v1/comfy/jobs/{id}", To::Submitters),
    ("get /v1/comfy/workflows", To::Any),
    ("get /v1/comfy/servers", To::Any),
    ("post /v1/images/generations", To::Type("generate")),
    ("post /v1/images/edits", To::Type("generate")),
    ("get /api/modes", To::Any),
    ("get /api/models/status", To::Any),
    ("get /api/vram", To::Any),
    ("post /api/modes/switch", To::Operators),
    ("post /api/modes/reload", To::Operators),
    ("post /api/models/load", To::Operators),
    ("post /api/models/unload", To::Operators),
    ("post /api/models/reload", To::Operators),
    ("post /api/jobs/{id}/cancel", To::Submitters),
    ("post /sdapi/v1/txt2img", To::Type("generate")),
    ("post /sdapi/v1/img2img", To::Type("generate")),
    ("post /sdapi/v1/options", To::Operators),
    ("post /sdapi/v1/refresh-checkpoints", To::Operators),
    ("post /sdapi/v1/refresh-loras", To::Operators),
    ("post /sdapi/v1/interrupt", To::Submitters),
    ("post /sdapi/v1/skip", To::Submitters),
    ("get /sdapi/v1/sd-models", To::Any),
    ("get /sdapi/v1/samplers", To::Any),
    ("get /sdapi/v1/schedulers", To::Any),
    ("get /sdapi/v1/loras", To::Any),
    ("get /sdapi/v1/upscalers", To::Any),
    ("get /sdapi/v1/options", To::Any),
    ("get /sdapi/v1/progress", To::Any),
    ("get /sdapi/v1/scripts", To::Any),
    ("get /sdapi/v1/cmd-flags", To::Any),
    ("get /sdapi/v1/embeddings", To::Any),
    ("get /sdapi/v1/sd-vae", To::Any),
    ("get /sdapi/v1/hypernetworks", To::Any),
    ("get /sdapi/v1/face-restorers", To::Any),
    ("get /sdapi/v1/prompt-styles", To::Any),
    ("get /sdapi/v1/script-info", To::Any),
    ("get /sdapi/v1/memory", To::Any),
    ("get /dreams/status", To::Any),
    ("get /dreams/top", To::Any),
    ("get /dreams/recent", To::Any),
    ("get /dreams/stats", To::Any),
    ("post /dreams/start", To::Type("dream")),
    ("post /dreams/stop", To::Type("dream")),
    ("get /dream/status", To::Any),
    ("get /dream/top", To::Any),
    ("get /dream/recent", To::Any),
    ("get /dream/stats", To::Any),
    ("post /dream/start", To::Type("dream")),
    ("post /dream/stop", To::Type("dream")),
    ("post /dream/guide", To::Type("dream")),
    ("post /dream/pause", To::Type("dream")),
    ("post /dream/resume", To::Type("dream")),
];

const KEYS: &[(&str, &str)] = &[
    ("reader", "scopes = [\"read\"]"),
    ("submitter", "scopes = [\"submit\"]"),
    ("sr", "scopes = [\"plugins:sr\"]"),
    ("dreamer", "scopes = [\"plugins:dream\"]"),
    ("operator", "scopes = [\"admin\"]"),
];

fn is_let_in(key: Option<&str>, to: &To) -> bool {
    match (key, to) {
        (_, To::All) | (Some("operator"), _) => true,
        (None, _) | (_, To::Operators) => false,
        (_, To::Any) => true,
        (Some("reader"), _) => false,
        (_, To::Submitters) | (Some("submitter"), _) => true,
        (Some("sr"), To::Type(of)) => *of == "sr",
        (Some("dreamer"), To::Type(of)) => *of == "dream",
        (Some(key), to) => panic!("{key} {to:?}"),
    }
}

#[test]
fn each_key_reaches_what_its_scopes_say() {
    // Nothing is computed: without a model what is asked fails after it was let in.
    let server = keyed(&["diffusion.embedded=false"], &[], KEYS);
    let document = get(&server, "operator", "/openapi.json").json();
    let mut expected: BTreeMap<String, To> =
        ROUTES.iter().map(|(route, to)| (route.to_string(), *to)).collect();
    let paths = document["paths"].as_object().unwrap();
    let mut checked = 0;
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let route = format!("{method} {path}");
            let to = match path.strip_prefix("/v1/messages/") {
                Some(kind) => To::Type(kind.split(':').next().unwrap().to_owned().leak()),
                None => {
                    expected.remove(&route).unwrap_or_else(|| panic!("{route} is not in the table of routes"))
                }
            };
            let path =
                path.replace("{id}", "6ba7b810-9dad-11d1-80b4-00c04fd430c8").replace("{key}", "nothing");
            let method = method.to_uppercase();
            for key in [None].into_iter().chain(KEYS.iter().map(|(name, _)| Some(*name))) {
                // Of the job type that the key is for.
                let body = match (&*route, key) {
                    ("post /v1/jobs", Some("dreamer")) => json!({"jobType": "dream"}),
                    ("post /v1/jobs", _) => json!({"jobType": "sr"}),
                    ("get /", _) => Value::Null,
                    _ if method == "GET" || method == "DELETE" => Value::Null,
                    _ => json!({}),
                };
                let status = match key {
                    Some(key) => send(&server, key, &method, &path, &body).status,
                    None => {
                        let json = [("Content-Type", "application/json")];
                        server.send(&method, &path, &json, body.to_string().as_bytes()).status
                    }
                };
                let refused = if key.is_none() { 401 } else { 403 };
                match is_let_in(key, &to) {
                    true => assert!(![401, 403].contains(&status), "{route} with {key:?}: {status}"),
                    false => assert_eq!(status, refused, "{route} with {key:?}"),
                }
                checked += 1;
            }
        }
    }
    assert!(expected.is_empty(), "in the table, and not described: {expected:?}");
    assert!(checked > 500, "{checked}");
}

#[test]
fn what_is_no_route_is_not_told_from_what_is_not_allowed() {
    let server = keyed(&[], &[], KEYS);
    for path in ["/nowhere", "/v1/secret", "/api/secret"] {
        assert_eq!(server.get(path).status, 401, "{path}");
        assert_eq!(get(&server, "submitter", path).status, 403, "{path}");
        assert_eq!(get(&server, "operator", path).status, 404, "{path}");
    }
}

#[test]
fn a_type_says_which_jobs_and_messages() {
    let server = keyed(&[], &["echo"], KEYS);
    for (key, kind, status) in [
        ("sr", "generate", 403),
        ("sr", "echo", 403),
        ("dreamer", "sr", 403),
        ("submitter", "echo", 202),
        ("operator", "echo", 202),
    ] {
        let answer = send(&server, key, "POST", "/v1/jobs", &json!({"jobType": kind}));
        assert_eq!(answer.status, status, "{key} {kind}: {}", answer.text());
    }
    // The default type is one of them.
    assert_eq!(send(&server, "sr", "POST", "/v1/jobs", &json!({"prompt": "x"})).status, 403);
    for (key, kind, status) in [
        ("sr", "sr:models", 200),
        ("sr", "sr%3Amodels", 200),
        ("dreamer", "sr%3Amodels", 403),
        ("reader", "sr:models", 403),
    ] {
        let answer = send(&server, key, "POST", &format!("/v1/messages/{kind}"), &json!({}));
        assert_eq!(answer.status, status, "{key} {kind}: {}", answer.text());
    }
    // The same over WebSocket, in the forms that clients wait for.
    let mut reader = crate::connect(&server, "reader");
    assert_eq!(reader.ask(json!({"type": "ping"}))["type"], "pong");
    assert_eq!(reader.ask(json!({"type": "job:list"}))["type"], "job:list:result");
    assert_eq!(reader.ask(json!({"type": "sr:models"}))["code"], "denied");
    let job = reader.submit(json!({"jobType": "echo"}));
    let refused = reader.finish(&job);
    assert_eq!((&refused["type"], &refused["code"]), (&json!("job:error"), &json!("denied")), "{refused}");
    let ack = reader.ask(json!({"type": "job:cancel", "jobId": job}));
    assert_eq!((&ack["type"], &ack["code"]), (&json!("job:cancel:ack"), &json!("denied")), "{ack}");
    assert_eq!(reader.ask(json!({"type": "job:list", "all": true}))["code"], "denied");
    let mut sr = crate::connect(&server, "sr");
    assert_eq!(sr.ask(json!({"type": "sr:models"}))["type"], "sr:models:result");
    let job = sr.submit(json!({"jobType": "echo"}));
    assert_eq!(sr.finish(&job)["code"], "denied");
}
