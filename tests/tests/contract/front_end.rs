//! `GET /` and any other path: the operator's front end, or Reverie's own page.

use std::path::Path;

use reverie_tests::{Answer, Server};

use crate::contract;

const INDEX: &str = "<!doctype html><title>Operator's</title><script src=\"/assets/app.js\"></script>";

fn front_end(folder: &Path) {
    let write = |name: &str, content: &[u8]| {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(file, content).expect("written");
    };
    write("index.html", INDEX.as_bytes());
    write("assets/app.js", b"console.log('0123456789')");
    write("assets/app.css", b"body {}");
    write("logo.png", &reverie_tests::picture(4, 4));
    write("health", b"not the server's");
    write("sub/index.html", b"<title>Sub</title>");
}

fn is_html(answer: &Answer) -> bool {
    answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html"))
}

#[test]
fn of_the_operator() {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("secret.txt"), "secret").expect("written");
    let folder = outside.path().join("dist");
    front_end(&folder);
    let server = Server::start(&[&format!("server.ui_dir={}", folder.display())], &[]);
    let get = |path: &str, headers: &[(&str, &str)]| server.request("GET", path, headers);
    contract(|rows| {
        rows.row("GET / is the front end's index.html", || {
            let answer = get("/", &[]);
            assert_eq!((answer.status, answer.text().as_str(), is_html(&answer)), (200, INDEX, true));
        });
        for (path, media_type) in
            [("/assets/app.js", "javascript"), ("/assets/app.css", "text/css"), ("/logo.png", "image/png")]
        {
            rows.row(&format!("GET {path}: a file of the folder"), || {
                let answer = get(path, &[]);
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.body, std::fs::read(folder.join(&path[1..])).unwrap());
                assert!(
                    answer.header("content-type").is_some_and(|kind| kind.contains(media_type)),
                    "{:?}",
                    answer.headers
                );
                assert!(answer.header("cache-control").is_some(), "{:?}", answer.headers);
                assert!(answer.header("etag").is_some(), "{:?}", answer.headers);
            });
        }
        for path in ["/gallery", "/gallery/7", "/settings/models?tab=2"] {
            rows.row(&format!("GET {path}: falls back to index.html"), || {
                let answer = get(path, &[("Accept", "text/html")]);
                assert_eq!((answer.status, answer.text().as_str()), (200, INDEX));
            });
        }
        rows.row("ETag: 304 where it has not changed, 200 where it has", || {
            let answer = get("/assets/app.js", &[]);
            let tag = answer.header("etag").expect("an ETag").to_owned();
            let again = get("/assets/app.js", &[("If-None-Match", &tag)]);
            assert_eq!((again.status, again.body.len()), (304, 0));
            assert_eq!(get("/assets/app.js", &[("If-None-Match", "\"other\"")]).status, 200);
            assert!(get("/assets/app.css", &[]).header("etag") != Some(&tag), "two files of one ETag");
        });
        rows.row("index.html is asked for anew each time", || {
            let answer = get("/", &[]);
            let caching = answer.header("cache-control").unwrap_or_default();
            assert!(
                ["no-cache", "no-store", "max-age=0"].iter().any(|word| caching.contains(word)),
                "{caching:?}"
            );
        });
        for (range, content, told) in [
            ("bytes=13-15", "012", "bytes 13-15/25"),
            ("bytes=23-", "')", "bytes 23-24/25"),
            ("bytes=-2", "')", "bytes 23-24/25"),
        ] {
            rows.row(&format!("range {range}"), || {
                let answer = get("/assets/app.js", &[("Range", range)]);
                assert_eq!((answer.status, answer.text().as_str()), (206, content));
                assert_eq!(answer.header("content-range"), Some(told));
            });
        }
        rows.row("a range beyond the end is 416", || {
            assert_eq!(get("/assets/app.js", &[("Range", "bytes=100-")]).status, 416);
        });
        rows.row("HEAD has the headers and no body", || {
            let answer = server.request("HEAD", "/assets/app.js", &[]);
            assert_eq!((answer.status, answer.body.len()), (200, 0));
            assert_eq!(answer.header("content-length"), Some("25"));
        });
        rows.row("API paths win over files", || {
            assert!(get("/health", &[]).text().starts_with("{\"status\":\"ok\""));
            assert_eq!(get("/api/modes", &[]).status, 200);
            assert_eq!(get("/generate", &[]).status, 405);
        });
        for path in
            ["/api/nothing", "/v1/nothing", "/storage/nothing", "/sdapi/v1/nothing", "/v1/images/nothing"]
        {
            rows.row(&format!("GET {path} stays the API's 404"), || {
                let answer = get(path, &[]);
                assert_eq!((answer.status, is_html(&answer)), (404, false), "{}", answer.text());
            });
        }
        rows.row("POST to a path of the front end is no page", || {
            let status = server.request("POST", "/gallery", &[]).status;
            assert!([404, 405].contains(&status), "{status}");
        });
        for path in [
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/assets/../../secret.txt",
            "//etc/passwd",
        ] {
            rows.row(&format!("GET {path}: nothing outside the folder"), || {
                let answer = server
                    .raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
                assert!(
                    !answer.text().contains("secret") && !answer.text().contains("root:"),
                    "{}",
                    answer.text()
                );
            });
        }
        rows.row("Reverie's own page is at /ui/ then", || {
            let answer = get("/ui/", &[]);
            assert!(
                answer.status == 200 && answer.text().contains("<title>Reverie</title>"),
                "{}",
                answer.status
            );
        });
        rows.row("a file that changes is served as it is now", || {
            let before = get("/assets/app.css", &[]).header("etag").unwrap_or_default().to_owned();
            std::fs::write(folder.join("assets/app.css"), "body { color: red }").unwrap();
            let answer = get("/assets/app.css", &[("If-None-Match", &before)]);
            assert_eq!((answer.status, answer.text().as_str()), (200, "body { color: red }"));
        });
        rows.row("the socket is where it was", || {
            server.connect();
        });
    });
}

#[test]
fn without_one() {
    let server = Server::start(&[], &[]);
    contract(|rows| {
        rows.row("GET / is Reverie's own page", || {
            let answer = server.get("/");
            assert!(answer.status == 200 && is_html(&answer), "{}", answer.status);
            assert!(answer.text().contains("<title>Reverie</title>"));
        });
        rows.row("GET of any other path is the page, or 404 with detail", || {
            let answer = server.get("/nowhere");
            let page = answer.status == 200 && answer.text().contains("<title>Reverie</title>");
            assert!(
                page || (answer.status == 404 && answer.json()["detail"].is_string()),
                "{}",
                answer.text()
            );
        });
    });
}

#[test]
fn a_folder_that_is_missing() {
    contract(|rows| {
        rows.row(
            "a ui_dir that does not exist is said, and the API serves on or the start is refused",
            || {
                let started =
                    std::panic::catch_unwind(|| Server::start(&["server.ui_dir=/nonexistent/dist"], &[]));
                match started {
                    Ok(server) => {
                        assert_eq!(server.get("/health").status, 200);
                        let log = std::fs::read_to_string(server.dir.path().join("log")).unwrap();
                        assert!(log.contains("/nonexistent/dist"), "{log}");
                    }
                    Err(panic) => {
                        let text = panic.downcast_ref::<String>().map_or("", String::as_str);
                        assert!(text.contains("/nonexistent/dist"), "{text}");
                    }
                }
            },
        );
    });
}
