//! The wire protocol, row by row, as a client sees it.

use std::time::Duration;

use reverie_tests::{Message, Server, picture};
use serde_json::{Value, json};

#[test]
fn messages_are_answered_with_their_id() {
    let server = Server::start(&[], &["echo"]);
    let mut client = server.connect();
    for field in ["ts", "mode", "storage", "ws_clients", "queue", "plugins", "clientId"] {
        assert!(client.greeting.get(field).is_some(), "{field}: {}", client.greeting);
    }
    assert_eq!(client.greeting["storage"]["ok"], true);
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
    assert_eq!(
        client.ask(json!({"type": "echo:ping"})),
        json!({"type": "echo:pong", "version": "1.0.0", "id": "asked"})
    );
    let unknown = client.ask(json!({"type": "dream:nonsense"}));
    assert_eq!(unknown["error"], "Unknown type: dream:nonsense");
    client.send_text("{nope");
    assert_eq!(client.receive(), json!({"type": "error", "error": "Invalid JSON"}));
    for odd in ["[1]", "3", "{}", r#"{"type": 5}"#, "\"x\"", "null"] {
        client.send_text(odd);
        assert!(client.receive()["error"].as_str().unwrap().contains("string 'type'"), "{odd}");
    }
    client.socket.send(Message::binary(vec![1u8, 2])).unwrap();
    assert!(client.receive()["error"].as_str().unwrap().contains("Binary"));
    // Those that there are come with it.
    let job = client.submit(json!({"jobType": "nope"}));
    let unknown = client.receive_where(|m| m["type"] == "error" && m["jobId"] == *job);
    assert!(unknown["jobTypes"].as_array().unwrap().contains(&json!("echo-sleep")), "{unknown}");
    client.socket.send(Message::Ping(vec![7u8].into())).unwrap();
    loop {
        if let Message::Pong(content) = client.socket.read().unwrap() {
            assert_eq!(&content[..], [7]);
            break;
        }
    }
}

#[test]
fn a_picture_comes_back_larger() {
    let server = Server::start(&[], &[]);
    let mut client = server.connect();
    let file_ref = server.upload(&picture(40, 30));
    client.send(json!({"type": "job:submit", "id": "a", "jobType": "sr", "fileRef": file_ref}));
    let ack = client.receive();
    assert_eq!((&ack["type"], &ack["id"]), (&json!("job:ack"), &json!("a")));
    let job = ack["jobId"].as_str().unwrap().to_owned();
    let mut fractions = Vec::new();
    let complete = loop {
        let message = client.receive();
        assert_eq!(message["jobId"], job.as_str(), "{message}");
        match message["type"].as_str().unwrap() {
            "job:progress" => fractions.push(message["progress"]["fraction"].as_f64().unwrap()),
            _ => break message,
        }
    };
    assert!(fractions.is_sorted() && *fractions.last().unwrap() == 1.0, "{fractions:?}");
    assert_eq!(complete["type"], "job:complete", "{complete}");
    assert_eq!((&complete["meta"]["width"], &complete["meta"]["height"]), (&json!(160), &json!(120)));
    let output = &complete["outputs"][0];
    assert_eq!(output["url"], format!("/storage/{}", output["key"].as_str().unwrap()));
    let stored = server.get(output["url"].as_str().unwrap());
    assert_eq!(stored.header("cache-control"), Some("no-store"));
    assert_eq!(stored.header("x-storage-key"), output["key"].as_str());
    let made = image::load_from_memory(&stored.body).unwrap();
    assert_eq!((made.width(), made.height()), (160, 120));

    // The additions, top-level and in `params`.
    let job = client.submit(json!({"jobType": "sr", "fileRef": file_ref, "scale": 3, "params": {"out_format": "jpeg", "model": "lanczos3"}}));
    let complete = client.finish(&job);
    assert_eq!(complete["meta"]["width"], 120, "{complete}");
    assert!(complete["outputs"][0]["key"].as_str().unwrap().ends_with(".jpg"));
}

#[test]
fn bad_input_says_what_is_accepted() {
    let server = Server::start(&["uploads.max_file_bytes=20000", "images.max_input_pixels=10000"], &[]);
    let mut client = server.connect();
    let file_ref = server.upload(&picture(8, 8));
    for (params, expected) in [
        (json!({"fileRef": file_ref, "magnitude": 7}), "magnitude"),
        (json!({"fileRef": file_ref, "magnitude": "x"}), "magnitude"),
        (json!({"magnitude": 1}), "fileRef"),
        (json!({"fileRef": 5}), "fileRef"),
        (json!({"fileRef": file_ref, "priority": 1000}), "-100 to 100"),
    ] {
        let mut message = params.clone();
        message["jobType"] = json!("sr");
        let job = client.submit(message);
        let end = client.finish(&job);
        assert!(end["error"].as_str().unwrap().contains(expected), "{params}: {end}");
        // What Reverie's own clients read beside the text.
        assert_eq!(end["code"], "invalid_input", "{params}: {end}");
    }
    let text = server.upload(b"this is no picture");
    let bomb = server.upload(&picture(200, 100));
    for (file_ref, model, expected) in [
        (
            "fileRef:6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "bicubic",
            "fileRef '6ba7b810-9dad-11d1-80b4-00c04fd430c8' not found or expired",
        ),
        (text.as_str(), "bicubic", "not a picture"),
        (bomb.as_str(), "bicubic", "over the limit of 10000 pixels"),
        (file_ref.as_str(), "nope", "realesr-animevideov3"),
    ] {
        let job = client.submit(json!({"jobType": "sr", "fileRef": file_ref, "params": {"model": model}}));
        let failed = client.finish(&job);
        assert!(
            failed["type"] == "job:error" && failed["error"].as_str().unwrap().contains(expected),
            "{failed}"
        );
    }
    for (answer, status, expected) in [
        (server.post("/v1/upload", Some(b""), &[]), 400, "empty"),
        (server.post("/v1/upload", None, &[]), 400, "'file' is missing"),
        (server.post("/v1/upload", Some(&vec![0; 30000]), &[]), 413, "20000 bytes"),
        (server.get("/nowhere"), 404, "no such"),
        (server.get("/v1/upload"), 405, "method"),
        (server.get("/storage/nothing.png"), 404, "nothing is stored"),
        (server.get("/storage/..%2f..%2fetc"), 404, "not valid"),
        (server.get("/storage/state/health/x"), 404, "nothing is stored"),
        (server.put("/storage/state/sr/x", b"x"), 404, "nothing is stored"),
        (server.post("/superres", Some(&picture(4, 4)), &[("magnitude", "9")]), 400, "magnitude"),
        (server.post("/superres", Some(&picture(4, 4)), &[("magnitude", "x")]), 400, "magnitude"),
        (server.post("/superres", Some(b"no picture"), &[]), 400, "not a picture"),
    ] {
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.json()["error"].as_str().unwrap().contains(expected), "{}", answer.text());
        assert!(answer.json()["code"].is_string());
    }
}

#[test]
fn http_serves_the_same() {
    let server = Server::start(&[], &[]);
    for path in ["/superres", "/v1/superres"] {
        let made = server.post(path, Some(&picture(10, 8)), &[("magnitude", "1")]);
        assert_eq!((made.status, made.header("x-superres")), (200, Some("2")), "{}", made.text());
    }
    assert_eq!(server.put("/storage/mine/a.txt", b"hello").status, 200);
    assert_eq!(server.get("/storage/mine/a.txt").text(), "hello");
    assert_eq!(server.get("/storage/health").json()["ok"], true);
    let plugins = server.get("/v1/plugins").json();
    let sr = plugins["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == "sr").unwrap();
    assert_eq!(sr["state"], "active");
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("reverie_jobs_finished_total{state=\"done\",type=\"sr\"} 2"), "{metrics}");
}

#[test]
fn a_token_guards_everything_but_the_page() {
    let server = Server::start(&["server.auth_token=secret"], &[]);
    assert_eq!((server.get("/health").status, server.get("/").status), (200, 200));
    assert_eq!(server.get("/v1/plugins").status, 401);
    assert_eq!(server.get("/v1/plugins?token=wrong!").status, 401);
    assert_eq!(server.get("/v1/plugins?token=secret").status, 200);
    assert_eq!(server.try_connect("/v1/ws").err(), Some(401));
    server.connect_to("/v1/ws?token=secret");
}

#[test]
fn pages_of_other_origins_call_as_the_operator_allows() {
    let page = ("Origin", "https://page.example");
    let preflight = |server: &Server, origin: &str, method: &str| {
        let asked = [
            ("Origin", origin),
            ("Access-Control-Request-Method", method),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ];
        server.request("OPTIONS", "/v1/comfy/jobs/x", &asked)
    };
    let server = Server::start(&["server.allowed_origins=[\"*\"]"], &[]);
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let allowed = preflight(&server, page.1, method);
        assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some(page.1)));
        assert!(allowed.header("access-control-allow-methods").unwrap().contains(method), "{method}");
    }
    let methods = preflight(&server, page.1, "TRACE");
    assert!(!methods.header("access-control-allow-methods").unwrap().contains("TRACE"));
    // Every header that the reference names can be read.
    let answer = server.request("GET", "/health", &[page]);
    let exposed: Vec<&str> =
        answer.header("access-control-expose-headers").unwrap().split(',').map(str::trim).collect();
    let reference = include_str!("../../host/PROTOCOL.md");
    let named = reference.split('`').filter(|code| code.starts_with("X-") || *code == "Retry-After");
    // `X-SR-*` stands for those that are named elsewhere.
    let named: Vec<String> = named.filter(|name| !name.ends_with('*')).map(str::to_lowercase).collect();
    assert!(
        named.len() > 6 && named.iter().all(|name| exposed.contains(&name.as_str())),
        "{named:?} {exposed:?}"
    );

    // Where some are allowed, the server's own pages are too, and nobody else.
    let server = Server::start(&["server.allowed_origins=[\"https://page.example\"]"], &[]);
    let own = format!("http://{}", server.address);
    for (origin, status) in [(page.1, 404), (&own, 404), ("https://other.example", 403)] {
        let answer = server.request("DELETE", "/v1/comfy/jobs/x", &[("Origin", origin)]);
        assert_eq!(answer.status, status, "{origin}: {}", answer.text());
        assert!(answer.json()["error"].is_string());
        assert_eq!(
            answer.header("access-control-allow-origin").is_some(),
            status != 403,
            "{origin}: {:?}",
            answer.headers
        );
    }
    assert_eq!(preflight(&server, page.1, "DELETE").status, 200);
    assert_eq!(preflight(&server, "https://other.example", "DELETE").status, 403);
}

#[test]
fn jobs_are_queued_reordered_cancelled_and_refused() {
    let server = Server::start(&["jobs.concurrency=1", "jobs.queue_limit=3"], &["echo"]);
    let mut client = server.connect();
    let sleep = json!({"jobType": "echo-sleep", "ms": 50, "steps": 1000});
    let running = client.submit(sleep.clone());
    client.receive_where(|m| m["jobId"] == running.as_str() && m["status"] == "running");
    let waiting: Vec<String> = (0..3).map(|_| client.submit(json!({"jobType": "echo"}))).collect();
    let full = client.submit(json!({"jobType": "echo"}));
    assert_eq!(client.finish(&full)["code"], "busy");
    let over_http = server.post("/superres", Some(&picture(4, 4)), &[]);
    assert_eq!((over_http.status, over_http.header("retry-after").is_some()), (429, true));

    let ack = client.ask(json!({"type": "job:priority", "jobId": waiting[2], "priority": 5}));
    assert_eq!((&ack["type"], &ack["position"]), (&json!("job:priority:ack"), &json!(0)), "{ack}");
    let got = client.ask(json!({"type": "job:get", "jobId": waiting[0]}));
    assert_eq!(got["job"]["progress"]["position"], 1, "{got}");

    let ack = client.ask(json!({"type": "job:cancel", "jobId": waiting[1]}));
    assert_eq!((&ack["type"], &ack["status"]), (&json!("job:cancel:ack"), &json!("canceled")));
    client.send(json!({"type": "job:cancel", "jobId": running}));
    let mut ended = Vec::new();
    while ended.len() < 4 {
        let message = client.receive();
        if message["type"] == "job:complete"
            || (message["type"] == "job:error" && message["status"] == "canceled")
        {
            ended.push(message["jobId"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(ended.iter().collect::<Vec<_>>(), [&waiting[1], &running, &waiting[2], &waiting[0]]);
}

#[test]
fn a_running_network_stops_within_a_tile() {
    let server = Server::start(&["execution.tile=32"], &[]);
    let mut client = server.connect();
    let file_ref = server.upload(&picture(1500, 1500));
    let job = client.submit(json!({"jobType": "sr", "fileRef": file_ref, "magnitude": 1}));
    let running = client.receive_where(|m| m["jobId"] == job.as_str() && m["progress"]["tile"].is_u64());
    client.send(json!({"type": "job:cancel", "jobId": job}));
    let ended = client.finish(&job);
    assert_eq!(ended["status"], "canceled", "{ended}");
    let got = client.ask(json!({"type": "job:get", "jobId": job}));
    let tiles = &got["job"]["progress"];
    assert!(tiles["tile"].as_u64() < tiles["tiles"].as_u64(), "{running} {got}");
}

#[test]
fn a_client_that_reconnects_picks_its_results_up() {
    let server = Server::start(&[], &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let job = client.submit(json!({"jobType": "echo-sleep", "ms": 300, "steps": 2}));
    drop(client);
    let mut other = server.connect();
    assert_eq!(other.ask(json!({"type": "job:list"}))["jobs"], json!([]));
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let list = client.ask(json!({"type": "job:list"}));
    let first = &list["jobs"][0];
    assert_eq!((&first["jobId"], &first["own"]), (&json!(job), &json!(true)), "{list}");
    // The owner hears of it on the new connection; the other one once it subscribes.
    let subscribed = other.ask(json!({"type": "job:subscribe", "jobId": job}));
    assert_eq!(subscribed["type"], "job:subscribe:ack");
    assert_eq!(client.finish(&job)["type"], "job:complete");
    assert_eq!(other.finish(&job)["type"], "job:complete");
    let got = other.ask(json!({"type": "job:get", "jobId": job}));
    assert_eq!((&got["job"]["status"], &got["job"]["meta"]["version"]), (&json!("done"), &json!("1.0.0")));
}

#[test]
fn events_go_to_the_submitter_or_as_before_to_all() {
    for (setting, heard) in
        [("hub.broadcast_job_events=false", false), ("hub.broadcast_job_events=true", true)]
    {
        let server = Server::start(&[setting], &["echo"]);
        let (mut one, mut other) = (server.connect(), server.connect());
        let job = one.submit(json!({"jobType": "echo"}));
        one.finish(&job);
        other.send(json!({"type": "ping"}));
        let first: Value = other.receive_where(|m| m["type"] != "system:status");
        assert_eq!(first["type"] == "job:progress", heard, "{setting}: {first}");
        let list = other.ask(json!({"type": "job:list"}));
        assert_eq!(list["jobs"][0]["own"], if heard { json!(false) } else { Value::Null }, "{list}");
    }
}

#[test]
fn a_slow_client_is_dropped_and_nobody_else_notices() {
    let server = Server::start(&["hub.slow_client_grace_s=0.5", "hub.outbound_queue=64"], &["echo"]);
    let mut slow = server.connect();
    let mut fast = server.connect();
    // Fills the slow client's socket and queue while it reads nothing: each broadcast goes to both.
    let padding = "x".repeat(900_000);
    for _ in 0..60 {
        let message = json!({"type": "ping", "id": padding});
        if slow.socket.send(Message::text(message.to_string())).is_err() {
            break;
        }
        assert_eq!(fast.ask(json!({"type": "echo:ping"}))["type"], "echo:pong");
        if server.get("/metrics").text().contains("reverie_ws_slow_closed_total 1") {
            break;
        }
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !server.get("/metrics").text().contains("reverie_ws_slow_closed_total 1") {
        assert!(std::time::Instant::now() < deadline, "the slow client was not dropped");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(matches!(slow.closed(), Some(1013) | None));
    assert_eq!(fast.ask(json!({"type": "ping"}))["type"], "pong");
}

#[test]
fn idle_and_oversized_clients_get_a_close_code() {
    let server =
        Server::start(&["hub.idle_timeout_s=1", "hub.ping_interval_s=60", "hub.max_message_bytes=1000"], &[]);
    let mut big = server.connect();
    big.send_text(&"x".repeat(5000));
    assert_eq!(big.closed(), Some(1009));
    assert_eq!(server.connect().closed(), Some(1001));
}

#[test]
fn status_comes_by_itself() {
    let server = Server::start(&["hub.status_interval_s=0.2"], &[]);
    let mut client = server.connect();
    for _ in 0..3 {
        let status = client.receive();
        assert_eq!((&status["type"], &status["ws_clients"]), (&json!("system:status"), &json!(1)));
    }
}
