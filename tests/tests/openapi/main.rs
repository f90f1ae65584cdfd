//! `/openapi.json` against what the server really answers, both ways.

mod document;
mod examples;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use document::Document;
use reverie_tests::{Server, guest, skipped};
use serde_json::{Value, json};

#[test]
fn the_document_is_valid() {
    let server = Server::start(&[], &["echo"]);
    let document = Document::of(&server);
    assert_eq!(document.0["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (method, path, operation) in document.operations() {
        assert!(ids.insert(operation["operationId"].as_str()), "{method} {path}: an id of another operation");
        let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let described = parameters.iter().filter(|parameter| parameter["in"] == "path");
        let described: Vec<&str> = described.filter_map(|parameter| parameter["name"].as_str()).collect();
        assert_eq!(named.collect::<Vec<_>>(), described, "{method} {path}");
    }
    references(&document.0, &mut |reference| {
        assert!(document.0.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    });
    for (name, schema) in document.0["components"]["schemas"].as_object().unwrap() {
        let whole = json!({"allOf": [schema], "components": document.0["components"]});
        assert!(jsonschema::validator_for(&whole).is_ok(), "{name}");
    }

    let file = server.dir.path().join("openapi.json");
    std::fs::write(&file, document.0.to_string()).unwrap();
    let mut validators = [Command::new("openapi-spec-validator"), Command::new("redocly")];
    validators[1].arg("lint").arg("--extends=spec");
    let ran = validators.iter_mut().find_map(|validator| validator.arg(&file).output().ok());
    let Some(ran) = ran else {
        return skipped("neither openapi-spec-validator nor redocly is installed");
    };
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");
}

/// Calls `check` for each reference inside the document.
fn references(value: &Value, check: &mut impl FnMut(&str)) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str).filter(|r| r.starts_with('#'))
            {
                check(reference);
            }
            object.values().for_each(|value| references(value, check));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, check)),
        _ => {}
    }
}

#[test]
fn every_operation_is_answered_as_described() {
    let (_comfy, server) = examples::server();
    let document = Document::of(&server);
    let mut answered = BTreeSet::new();
    examples::run(&server, &mut |method, path, answer| {
        let operation = document.check(method, path, answer);
        if answer.status < 400 {
            answered.insert(operation);
        }
    });
    let all: BTreeSet<(String, String)> =
        document.operations().map(|(method, path, _)| (method, path)).collect();
    let missing: Vec<_> = all.difference(&answered).collect();
    assert!(missing.is_empty(), "described, and never answered: {missing:?}");
}

/// Each path that a route is made of, as the sources have it, is described.
#[test]
fn every_route_is_described() {
    let server = Server::start(&[], &[]);
    let document = Document::of(&server);
    let mut found = 0;
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src/http")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for route in text.split("warp::path!(").skip(1) {
            let route = route.split(')').next().unwrap_or_default();
            let segments = route.split('/').map(str::trim);
            let segments: Vec<&str> =
                segments.map(|s| s.strip_prefix('"').map_or("any", |s| s.trim_end_matches('"'))).collect();
            let mut path = format!("/{}", segments.join("/"));
            if path == "/v1/messages/any" {
                path = "/v1/messages/sr:models".into();
            } else if path == "/v1/comfy/any" {
                path = "/v1/comfy/workflows".into();
            } else if path == "/ui" {
                path = "/ui/".into();
            }
            assert!(document.path_of(&path).is_some(), "{path} of {} is not described", file.display());
            found += 1;
        }
    }
    assert!(found >= 15, "{found} routes were found in the sources");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn a_plugin_that_comes_is_described_without_a_restart() {
    let server = Server::start(&[], &[]);
    let path = "/v1/messages/echo:send";
    let described = || Document::of(&server).0["paths"][path].clone();
    let until = |there: bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while described().is_null() == there {
            assert!(Instant::now() < deadline, "{path}: {}", described());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    assert!(described().is_null());
    std::fs::copy(guest("echo"), server.plugin_path("echo")).unwrap();
    until(true);
    let document = Document::of(&server);
    let fields = &document.0["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert!(document.errors(fields, &json!({"job": "x", "text": "y"})).is_empty());
    assert!(!document.errors(fields, &json!({"job": "x"})).is_empty());
    let job =
        &document.0["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert!(document.errors(job, &json!({"jobType": "echo-sleep", "ms": 5, "priority": 3})).is_empty());
    std::fs::remove_file(server.plugin_path("echo")).unwrap();
    until(false);
}

#[test]
fn jobs_are_described_by_their_plugins_schemas() {
    let server = Server::start(&[], &["echo"]);
    let document = Document::of(&server);
    let of = |path: &str| &document.0["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    let submit = of("/v1/jobs");
    for (job, fits) in [
        (json!({"jobType": "sr", "fileRef": "x", "magnitude": 2}), true),
        (json!({"jobType": "sr", "fileRef": "x", "magnitude": 9}), false),
        (json!({"jobType": "sr", "fileRef": "x", "params": {"magnitude": 9}}), false),
        (json!({"jobType": "sr", "fileRef": "x", "priority": 1000}), false),
        (json!({"jobType": "nobody's"}), false),
        (json!({"jobType": "generate", "prompt": "a cat"}), true),
        (json!({"prompt": "a cat"}), true),
        (json!({"prompt": 5}), false),
    ] {
        let errors = document.errors(submit, &job);
        assert_eq!(errors.is_empty(), fits, "{job}: {errors:?}");
        let status = server.post_json("/v1/jobs", &job).status;
        assert_eq!(status < 300, fits, "{job}: {status}");
    }
    assert!(!document.errors(of("/generate"), &json!({"steps": "many"})).is_empty());
}

#[test]
fn the_page_is_open_and_the_document_is_not() {
    let server = Server::start(&["server.auth_token=secret"], &[]);
    let page = server.get("/docs");
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    for file in ["/docs/script.js", "/docs/style.css"] {
        assert!(page.text().contains(file));
        let answer = server.get(file);
        assert_eq!((answer.status, answer.text().contains("://")), (200, false), "{file}");
    }
    assert!(!page.text().contains("://"), "it asks another server");
    assert_eq!(server.get("/docs/nothing?token=secret").status, 404);

    assert_eq!(server.get("/openapi.json").status, 401);
    let document = Document(server.get("/openapi.json?token=secret").json());
    document.check("get", "/openapi.json", &server.get("/openapi.json"));
    assert_eq!(document.0["security"], json!([{"bearer": []}, {"session": []}, {"token": []}]));
    for (method, path, operation) in
        document.operations().filter(|(method, path, _)| method == "get" && !path.contains('{'))
    {
        let open = operation["security"] == json!([]);
        let status = server.get(&path).status;
        assert_eq!(status != 401, open, "{method} {path}: {status}");
    }
}
