//! What a website can do through its visitors' browsers.

use std::process::Command;

use reverie_access::Token;
use reverie_tests::{Server, binary};
use serde_json::json;

const BROWSER: (&str, &str) =
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:52.0) Gecko/20100101 Firefox/52.0");

#[test]
fn a_page_of_another_site_cannot_drive_the_server() {
    let server = Server::start(&[], &["echo"]);
    let port = server.address.rsplit_once(':').unwrap().1;
    let job = json!({"jobType": "echo"}).to_string();
    let post = |headers: &[(&str, &str)]| server.send("POST", "/v1/jobs", headers, job.as_bytes());
    let json = ("Content-Type", "application/json");
    let (other_port, evil_port) = ("http://localhost:1", format!("http://evil.example:{port}"));
    for origin in ["https://evil.example", "null", other_port, &evil_port] {
        let answer = post(&[("Origin", origin), json, BROWSER]);
        assert_eq!(answer.status, 403, "{origin}");
        assert!(answer.text().contains("server.allowed_origins"), "{}", answer.text());
        assert!(answer.header("access-control-allow-origin").is_none(), "{origin}");
        assert_eq!(server.send("GET", "/api/modes", &[("Origin", origin)], b"").status, 403, "{origin}");
        let preflight = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        assert_eq!(server.request("OPTIONS", "/v1/jobs", &preflight).status, 403, "{origin}");
        assert_eq!(server.try_connect_with("/v1/ws", &[("origin", origin)]).err(), Some(403), "{origin}");
    }
    // Forms, whose pages old browsers do not tell.
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        assert_eq!(post(&[("Content-Type", kind), BROWSER]).status, 403, "{kind}");
        // A script is no page.
        assert_eq!(post(&[("Content-Type", kind), ("User-Agent", "curl/8.5.0")]).status, 202, "{kind}");
    }
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 202), ("none", 202)] {
        assert_eq!(post(&[("Sec-Fetch-Site", site), json, BROWSER]).status, status, "{site}");
    }
    // Its own pages, by whichever name of this machine.
    for origin in [format!("http://{}", server.address), format!("http://localhost:{port}")] {
        assert_eq!(post(&[("Origin", &origin), json, BROWSER]).status, 202, "{origin}");
        assert!(server.try_connect_with("/v1/ws", &[("origin", &origin)]).is_ok(), "{origin}");
    }
}

#[test]
fn a_name_that_was_turned_to_this_machine_is_refused() {
    let server = Server::start(&["server.hosts=[\"gpu.example\"]"], &["echo"]);
    let port = server.address.rsplit_once(':').unwrap().1;
    let evil = format!("evil.example:{port}");
    // The page and the server are one origin then, for the browser.
    let origin = format!("http://{evil}");
    for path in ["/", "/health", "/ui/", "/v1/plugins", "/openapi.json", "/storage/x"] {
        let answer = server.request("GET", path, &[("Host", &evil)]);
        assert_eq!((answer.status, answer.text().contains("server.hosts")), (403, true), "{path}");
    }
    let post = [("Host", &*evil), ("Origin", &origin), ("Content-Type", "application/json")];
    assert_eq!(server.send("POST", "/v1/jobs", &post, br#"{"jobType": "echo"}"#).status, 403);
    for headers in [&[("host", &*evil), ("origin", &origin)][..], &[("host", &evil)]] {
        assert_eq!(server.try_connect_with("/v1/ws", headers).err(), Some(403), "{headers:?}");
    }
    let localhost = format!("localhost:{port}");
    for host in ["gpu.example", &localhost, "[::1]", "192.168.7.7:80"] {
        assert_eq!(server.request("GET", "/health", &[("Host", host)]).status, 200, "{host}");
    }
}

#[test]
fn every_answer_says_what_browsers_may_do_with_it() {
    let server = Server::start(&[], &[]);
    for (path, status) in
        [("/", 200), ("/ui/", 200), ("/docs", 200), ("/health", 200), ("/v1/plugins", 200), ("/nowhere", 404)]
    {
        let answer = server.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(answer.header("referrer-policy").is_some(), "{path}");
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("frame-ancestors"), "{path}: {policy}");
    }
    let denied = server.request("GET", "/", &[("Origin", "https://evil.example")]);
    assert_eq!((denied.status, denied.header("x-content-type-options")), (403, Some("nosniff")));
    // The page's script is the one that its policy names.
    let page = server.get("/ui/");
    let text = page.text();
    let script = text.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
    let hash = Token::sha256(script);
    let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap()).collect();
    let named = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains(&format!("script-src 'sha256-{named}'")), "{policy}");
    assert!(!text.contains(" onclick=") && text.matches("<script").count() == 1);
}

#[test]
fn other_machines_are_served_with_keys_alone_unless_all_may() {
    let run = |settings: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command.current_dir(dir.path()).args(["serve", "--host", "0.0.0.0", "--port", "0"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.output().unwrap()
    };
    let refused = run(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("reverie key add") && said.contains("server.open = true"), "{said}");
    // Nothing was opened.
    for settings in
        [&["server.host=0.0.0.0", "server.open=true"][..], &["server.host=0.0.0.0", "server.auth_token=x"]]
    {
        let server = Server::start(settings, &[]);
        let port = server.address.rsplit_once(':').unwrap().1;
        let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        std::io::Write::write_all(
            &mut stream,
            b"GET /health HTTP/1.1\r\nHost: x.localhost\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn errors_name_no_folder_of_the_server() {
    let elsewhere = tempfile::tempdir().unwrap();
    let models = elsewhere.path().join("secret-place");
    std::fs::create_dir_all(&models).unwrap();
    std::fs::write(models.join("broken.safetensors"), b"no model at all").unwrap();
    let dir = models.display();
    let server = Server::start(
        &[&format!("diffusion.dir={dir}"), &format!("modes.x={{ model = \"{dir}/broken.safetensors\" }}")],
        &[],
    );
    let mut client = server.connect();
    let job = client.submit(json!({"params": {"prompt": "a cat", "mode": "x"}}));
    let failed = client.finish(&job);
    assert_eq!(failed["type"], "job:error", "{failed}");
    let told = [
        failed.to_string(),
        server.post_json("/generate", &json!({"prompt": "a cat", "mode": "x"})).text(),
        server.post_json("/api/models/load", &json!({"mode": "x"})).text(),
        client.ask(json!({"type": "job:get", "jobId": job})).to_string(),
    ];
    for text in told {
        assert!(text.contains("broken.safetensors"), "{text}");
        assert!(!text.contains("secret-place"), "{text}");
    }
}
