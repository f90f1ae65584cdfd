//! Uploads, the storage and super-resolution.

use reverie_tests::{Server, picture};
use serde_json::{Value, json};

use crate::{completed, connect, contract, output, refused};

fn size(content: &[u8]) -> (u32, u32) {
    let picture = image::load_from_memory(content).expect("a picture");
    (picture.width(), picture.height())
}

fn is_bare(id: &Value) -> bool {
    id.as_str().is_some_and(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[test]
fn uploads() {
    let server = Server::start(&["uploads.ttl_s=1000"], &[]);
    contract(|rows| {
        rows.row("POST /v1/upload: the bare id", || {
            let answer = server.post("/v1/upload", Some(&picture(8, 8)), &[]);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(is_bare(&answer.json()["fileRef"]), "{}", answer.text());
        });
        for kind in ["canny", "depth", "pose", "image", "ref"] {
            rows.row(&format!("POST /v1/upload: type {kind}"), || {
                let answer = server.post("/v1/upload", Some(&picture(12, 8)), &[("type", kind)]);
                assert_eq!(answer.status, 200, "{}", answer.text());
                let told = answer.json();
                assert!(is_bare(&told["fileRef"]) && told["bucket"].is_string(), "{told}");
                assert_eq!((&told["width"], &told["height"]), (&json!(12), &json!(8)), "{told}");
            });
        }
        rows.row("POST /v1/upload: the field type after the file", || {
            let body = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nabc\r\n\
                        --x\r\nContent-Disposition: form-data; name=\"type\"\r\n\r\nimage\r\n--x--\r\n";
            let request = format!(
                "POST /v1/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            // Read as a picture, which it is not.
            let answer = server.raw(&request);
            assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
        });
        for (name, file) in [("empty", Some(&b""[..])), ("no file", None)] {
            rows.row(&format!("POST /v1/upload: {name} is 400 with detail"), || {
                let answer = server.post("/v1/upload", file, &[]);
                assert_eq!(answer.status, 400, "{}", answer.text());
                assert!(answer.json()["detail"].is_string(), "{}", answer.text());
            });
        }
        for prefixes in 0..=3 {
            rows.row(&format!("sr of a file reference with {prefixes} prefixes"), || {
                let file = "fileRef:".repeat(prefixes) + &server.upload(&picture(8, 6));
                let end = completed(
                    &mut connect(&server),
                    json!({"jobType": "sr", "fileRef": file, "magnitude": 1}),
                );
                assert_eq!(size(&output(&server, &end)), (16, 12));
            });
        }
        rows.row("an upload serves more than one job", || {
            let file = server.upload(&picture(8, 6));
            for _ in 0..2 {
                completed(&mut connect(&server), json!({"jobType": "sr", "fileRef": file, "magnitude": 1}));
            }
        });
        for (magnitude, width) in [(json!(1), 16), (json!(2), 32), (json!(3), 64), (json!("2"), 32)] {
            rows.row(&format!("sr job, magnitude {magnitude}"), || {
                let file = format!("fileRef:{}", server.upload(&picture(8, 8)));
                let end = completed(
                    &mut connect(&server),
                    json!({"jobType": "sr", "fileRef": file, "magnitude": magnitude}),
                );
                assert_eq!(size(&output(&server, &end)).0, width);
            });
        }
        rows.row("sr job of what is no picture", || {
            let file = server.upload(b"no picture");
            refused(&mut connect(&server), json!({"jobType": "sr", "fileRef": file}));
        });
    });
}

#[test]
fn uploads_expire() {
    let server = Server::start(&["uploads.ttl_s=0.3", "uploads.sweep_s=0.1"], &[]);
    contract(|rows| {
        rows.row("fileRef '...' not found or expired", || {
            let file = server.upload(&picture(8, 8));
            std::thread::sleep(std::time::Duration::from_millis(600));
            let end = refused(
                &mut connect(&server),
                json!({"jobType": "sr", "fileRef": format!("fileRef:{file}")}),
            );
            assert_eq!(end["error"], format!("fileRef '{file}' not found or expired"));
        });
        rows.row("uploads are kept 5 minutes by default", || {
            let mut command = std::process::Command::new(reverie_tests::binary());
            let shown = command.current_dir(server.dir.path()).arg("config").output().expect("it runs");
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.lines().any(|line| line.starts_with("ttl_s = 300")), "{shown}");
        });
    });
}

#[test]
fn storage() {
    let server = Server::start(&[], &[]);
    let uuid = "lcm_image:0f8fad5b-d9cb-469f-a165-70867728950e";
    contract(|rows| {
        for (name, key) in
            [("a plain key", "mine"), ("a key with a colon", uuid), ("a key with a dot", "a.txt")]
        {
            rows.row(&format!("PUT /storage/KEY with a payload: {name}"), || {
                let answer = server.put_json(&format!("/storage/{key}"), &json!({"payload": "Grüße, 熊"}));
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.json()["ok"], true, "{}", answer.text());
                assert_eq!(answer.json()["key"], key, "{}", answer.text());
                let stored = server.get(&format!("/storage/{key}"));
                assert_eq!((stored.status, stored.text().as_str()), (200, "Grüße, 熊"));
                assert_eq!(stored.header("x-storage-key"), Some(key));
                assert_eq!(stored.header("cache-control"), Some("no-store"));
                assert!(
                    stored.header("x-storage-created-at").is_some_and(|at| !at.is_empty()),
                    "{:?}",
                    stored.headers
                );
            });
        }
        rows.row("a key with an escaped colon is the same", || {
            server.put_json(&format!("/storage/{uuid}"), &json!({"payload": "x"}));
            assert_eq!(server.get(&format!("/storage/{}", uuid.replace(':', "%3A"))).text(), "x");
        });
        rows.row("PUT /storage/KEY replaces", || {
            for payload in ["one", "two"] {
                server.put_json("/storage/twice", &json!({"payload": payload}));
            }
            assert_eq!(server.get("/storage/twice").text(), "two");
        });
        for key in ["nothing", "nothing.png", "lcm_image:6ba7b810-9dad-11d1-80b4-00c04fd430c8"] {
            rows.row(&format!("GET /storage/{key}: unknown is 404 with detail"), || {
                let answer = server.get(&format!("/storage/{key}"));
                assert_eq!(answer.status, 404, "{}", answer.text());
                assert!(answer.json()["detail"].is_string(), "{}", answer.text());
            });
        }
        rows.row("a job's output has the storage's headers", || {
            let file = server.upload(&picture(8, 8));
            let end =
                completed(&mut connect(&server), json!({"jobType": "sr", "fileRef": file, "magnitude": 1}));
            let output = &end["outputs"][0];
            let stored = server.get(output["url"].as_str().unwrap());
            assert_eq!(stored.header("x-storage-key"), output["key"].as_str());
            assert_eq!(stored.header("cache-control"), Some("no-store"));
            assert!(stored.header("x-storage-created-at").is_some());
            assert_eq!(stored.header("content-type"), Some("image/png"));
        });
    });
}

#[test]
fn superres() {
    let server = Server::start(&[], &[]);
    contract(|rows| {
        for path in ["/superres", "/v1/superres"] {
            for (magnitude, format, media_type) in [
                ("1", "png", "image/png"),
                ("2", "PNG", "image/png"),
                ("1", "jpeg", "image/jpeg"),
                ("1", "JPEG", "image/jpeg"),
                ("1", "Webp", "image/webp"),
            ] {
                rows.row(&format!("POST {path}: magnitude {magnitude}, out_format {format}"), || {
                    let fields = [("magnitude", magnitude), ("out_format", format), ("quality", "80")];
                    let answer = server.post(path, Some(&picture(10, 8)), &fields);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert_eq!(answer.header("content-type"), Some(media_type));
                    assert!(answer.header("x-sr-model").is_some_and(|model| !model.is_empty()), "X-SR-Model");
                    assert_eq!(answer.header("x-sr-magnitude"), Some(magnitude));
                    let number = |header: &str| -> u32 {
                        answer
                            .header(header)
                            .and_then(|text| text.parse().ok())
                            .unwrap_or_else(|| panic!("{header}"))
                    };
                    let enlarged = number("x-sr-scale-per-pass").pow(number("x-sr-passes"));
                    assert_eq!(size(&answer.body), (10 * enlarged, 8 * enlarged));
                    let key = answer.header("x-lcm-image-key").expect("X-LCM-Image-Key");
                    assert!(server.get(&format!("/storage/{key}")).body == answer.body, "another picture");
                });
            }
            rows.row(&format!("POST {path}: defaults"), || {
                let answer = server.post(path, Some(&picture(10, 8)), &[]);
                assert_eq!(answer.status, 200, "{}", answer.text());
            });
            for (name, file, fields) in [
                ("magnitude 0", Some(picture(4, 4)), [("magnitude", "0")]),
                ("magnitude 4", Some(picture(4, 4)), [("magnitude", "4")]),
                ("magnitude x", Some(picture(4, 4)), [("magnitude", "x")]),
                ("out_format", Some(picture(4, 4)), [("out_format", "bmp3")]),
                ("quality", Some(picture(4, 4)), [("quality", "0")]),
                ("no picture", Some(b"no picture".to_vec()), [("magnitude", "1")]),
                ("an empty file", Some(Vec::new()), [("magnitude", "1")]),
                ("no file", None, [("magnitude", "1")]),
            ] {
                rows.row(&format!("POST {path}: {name} is 400 with detail"), || {
                    let answer = server.post(path, file.as_deref(), &fields);
                    assert_eq!(answer.status, 400, "{}", answer.text());
                    assert!(!answer.json()["detail"].is_null(), "{}", answer.text());
                });
            }
        }
    });
}
