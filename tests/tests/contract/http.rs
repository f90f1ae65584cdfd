//! What holds for all of HTTP: health, bodies, preflights, errors, and that `/openapi.json` and `/docs` describe it.

use reverie_tests::{Server, picture};
use serde_json::{Value, json};

use crate::contract;

/// Every call of the contract, as the description must have it.
const CALLS: &[(&str, &str)] = &[
    ("get", "/v1/ws"),
    ("post", "/v1/upload"),
    ("post", "/generate"),
    ("post", "/superres"),
    ("post", "/v1/superres"),
    ("get", "/storage/{key}"),
    ("put", "/storage/{key}"),
    ("post", "/v1/comfy/jobs"),
    ("get", "/v1/comfy/jobs/{id}"),
    ("delete", "/v1/comfy/jobs/{id}"),
    ("post", "/dreams/start"),
    ("post", "/dreams/stop"),
    ("get", "/dreams/status"),
    ("get", "/dreams/top"),
    ("get", "/dreams/recent"),
    ("get", "/dreams/stats"),
    ("get", "/api/modes"),
    ("post", "/api/modes/switch"),
    ("post", "/api/modes/reload"),
    ("get", "/api/models/status"),
    ("post", "/api/models/unload"),
    ("post", "/api/models/load"),
    ("post", "/api/models/reload"),
    ("get", "/api/vram"),
    ("post", "/api/jobs/{id}/cancel"),
    ("post", "/v1/images/generations"),
    ("post", "/sdapi/v1/txt2img"),
    ("post", "/sdapi/v1/img2img"),
    ("get", "/sdapi/v1/sd-models"),
    ("get", "/sdapi/v1/samplers"),
    ("get", "/sdapi/v1/options"),
    ("get", "/sdapi/v1/progress"),
    ("get", "/health"),
];

/// A path with its parameters unnamed: how they are called is no matter of the contract.
fn unnamed(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn bodies_preflights_and_errors() {
    // A page that is not the server's own is listed.
    let server = Server::with_models(&["server.allowed_origins=[\"https://page.example\"]"], &["sd"]);
    contract(|rows| {
        rows.row("GET /health", || {
            let answer = server.get("/health");
            assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("ok")));
        });
        for path in [
            "/dreams/stop",
            "/api/modes/reload",
            "/api/models/unload",
            "/api/models/load",
            "/api/models/reload",
            "/sdapi/v1/interrupt",
        ] {
            for (kind, more) in [
                ("", ""),
                (" as JSON", "Content-Type: application/json\r\n"),
                (" of length 0", "Content-Length: 0\r\n"),
            ] {
                rows.row(&format!("POST {path}: empty body{kind}"), || {
                    let request =
                        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n");
                    let answer = server.raw(&request);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                });
            }
        }
        rows.row("POST /api/jobs/ID/cancel: empty body", || {
            let request = "POST /api/jobs/6ba7b810-9dad-11d1-80b4-00c04fd430c8/cancel HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let answer = server.raw(request);
            // The job is unknown; the body is not what is wrong.
            assert!([200, 404].contains(&answer.status), "{} {}", answer.status, answer.text());
        });
        for path in ["/generate", "/dreams/start"] {
            rows.row(&format!("POST {path}: an empty body is no server error"), || {
                let answer = server
                    .raw(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
                assert!(answer.status != 411 && answer.status < 500, "{} {}", answer.status, answer.text());
                server.request("POST", "/dreams/stop", &[]);
            });
        }
        for (method, path) in [
            ("POST", "/generate"),
            ("POST", "/v1/upload"),
            ("PUT", "/storage/x"),
            ("DELETE", "/v1/comfy/jobs/x"),
            ("GET", "/dreams/top"),
            ("POST", "/api/modes/switch"),
        ] {
            rows.row(&format!("preflight of {method} {path} with any header"), || {
                let asked =
                    "content-type,x-of-the-client,authorization,cache-control,pragma,X-Requested-With";
                let answer = server.request(
                    "OPTIONS",
                    path,
                    &[
                        ("Origin", "https://page.example"),
                        ("Access-Control-Request-Method", method),
                        ("Access-Control-Request-Headers", asked),
                    ],
                );
                assert!([200, 204].contains(&answer.status), "{} {}", answer.status, answer.text());
                let allowed =
                    answer.header("access-control-allow-headers").unwrap_or_default().to_lowercase();
                let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
                for header in asked.to_lowercase().split(',') {
                    assert!(allowed.contains(&header) || allowed == ["*"], "{header} is not in {allowed:?}");
                }
                let methods = answer.header("access-control-allow-methods").unwrap_or_default();
                assert!(methods.contains(method) || methods == "*", "{methods}");
                let origin = answer.header("access-control-allow-origin");
                assert!(matches!(origin, Some("*" | "https://page.example")), "{origin:?}");
            });
        }
        rows.row("headers of the contract can be read by pages of other origins", || {
            let answer = server.request("GET", "/health", &[("Origin", "https://page.example")]);
            let exposed = answer.header("access-control-expose-headers").unwrap_or_default().to_lowercase();
            for header in [
                "x-seed",
                "x-superres",
                "x-mode",
                "x-lcm-image-key",
                "x-sr-model",
                "x-sr-passes",
                "x-sr-scale-per-pass",
                "x-sr-format",
                "x-sr-magnitude",
                "x-storage-key",
                "x-storage-created-at",
            ] {
                assert!(
                    exposed.split(',').any(|one| one.trim() == header) || exposed == "*",
                    "{header}: {exposed}"
                );
            }
        });
        let json = |path: &str, body: Value| server.post_json(path, &body);
        for (name, answer, status) in [
            ("POST /generate", json("/generate", json!({})), 422),
            ("POST /api/modes/switch", json("/api/modes/switch", json!({"mode": "nope"})), 404),
            ("GET /storage/KEY", server.get("/storage/nope"), 404),
            ("POST /superres", server.post("/superres", Some(&picture(4, 4)), &[("magnitude", "9")]), 400),
            ("POST /v1/upload", server.post("/v1/upload", Some(b""), &[]), 400),
            ("POST /v1/comfy/jobs", server.post("/v1/comfy/jobs", None, &[("workflowId", "nope")]), 400),
            ("GET /v1/comfy/jobs/ID", server.get("/v1/comfy/jobs/nope"), 404),
            ("GET /api/nothing", server.get("/api/nothing"), 404),
            ("GET /v1/nothing", server.get("/v1/nothing"), 404),
            ("GET /generate", server.get("/generate"), 405),
        ] {
            rows.row(&format!("error of {name}: {status} with detail"), || {
                assert_eq!(answer.status, status, "{}", answer.text());
                assert!(
                    answer.json().get("detail").is_some_and(|detail| !detail.is_null()),
                    "{}",
                    answer.text()
                );
            });
        }
    });
}

#[test]
fn the_description() {
    let server = Server::with_models(&[], &["sd"]);
    contract(|rows| {
        rows.row("GET /openapi.json", || {
            let answer = server.get("/openapi.json");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.header("content-type").is_some_and(|t| t.starts_with("application/json")));
            assert!(
                answer.json()["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")),
                "{}",
                answer.text()
            );
        });
        rows.row("GET /docs", || {
            let answer = server.get("/docs");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.header("content-type").is_some_and(|t| t.starts_with("text/html")));
        });
        let described = server.get("/openapi.json");
        let described: Value = serde_json::from_slice(&described.body).unwrap_or_default();
        for (method, path) in CALLS {
            rows.row(&format!("/openapi.json describes {method} {path}"), || {
                let paths = described["paths"].as_object().expect("paths");
                let of_path = paths.iter().filter(|(own, _)| unnamed(own) == unnamed(path));
                assert!(of_path.into_iter().any(|(_, methods)| methods.get(method).is_some()), "it does not");
            });
        }
    });
}
