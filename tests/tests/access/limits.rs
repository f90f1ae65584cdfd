//! What a key may take: each limit is told with the key's name and the setting.

use reverie_tests::{Answer, picture};
use serde_json::{Value, json};

use crate::{connect, enlargement, get, keyed, send, upload};

fn refused(answer: &Answer, setting: &str) {
    assert_eq!(answer.status, 429, "{setting}: {}", answer.text());
    let told = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(told.contains(setting) && told.contains("'alice'"), "{told}");
    assert!(answer.header("retry-after").is_some(), "{setting}");
}

const BOB: (&str, &str) = ("bob", "scopes = [\"submit\"]");

#[test]
fn requests_a_minute() {
    let keys = [("alice", "scopes = [\"submit\"], requests_per_minute = 5"), BOB];
    let server = keyed(&[], &["echo"], &keys);
    let mut client = connect(&server, "alice");
    for _ in 0..4 {
        assert_eq!(get(&server, "alice", "/api/modes").status, 200);
    }
    refused(&get(&server, "alice", "/api/modes"), "requests_per_minute");
    // Messages are requests, too; a submitted job is refused as clients know it.
    let told = client.ask(json!({"type": "job:list"}));
    assert_eq!((&told["type"], &told["code"]), (&json!("error"), &json!("busy")), "{told}");
    let job = client.submit(json!({"jobType": "echo"}));
    assert_eq!(client.finish(&job)["code"], "busy");
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
    assert_eq!(get(&server, "bob", "/api/modes").status, 200);
}

#[test]
fn jobs_that_run_and_jobs_that_wait() {
    let keys = [("alice", "scopes = [\"submit\"], concurrency = 1, queue_share = 2"), BOB];
    let server = keyed(&["jobs.concurrency=4"], &["echo"], &keys);
    let sleep = json!({"jobType": "echo-sleep", "ms": 50, "steps": 1000});
    let mut client = connect(&server, "alice");
    let running = client.submit(sleep.clone());
    client.receive_where(|message| message["jobId"] == *running && message["status"] == "running");
    let waiting = [client.submit(sleep.clone()), client.submit(sleep.clone())];
    let over = client.submit(sleep.clone());
    let told = client.finish(&over);
    let text = told["error"].as_str().unwrap();
    assert!(
        text.starts_with("Queue full") && text.contains("queue_share") && told["code"] == "busy",
        "{told}"
    );
    refused(&send(&server, "alice", "POST", "/v1/jobs", &sleep), "queue_share");
    // Another's job overtakes them, as there is room for it.
    let of_bob = send(&server, "bob", "POST", "/v1/jobs?wait=30", &json!({"jobType": "echo"}));
    assert_eq!((of_bob.status, &of_bob.json()["status"]), (200, &json!("done")), "{}", of_bob.text());
    for job in &waiting {
        assert_eq!(client.ask(json!({"type": "job:get", "jobId": job}))["job"]["status"], "queued");
    }
    // Each starts when the one before it has ended.
    for (ends, starts) in [(&running, &waiting[0]), (&waiting[0], &waiting[1])] {
        client.send(json!({"type": "job:cancel", "jobId": ends}));
        client.receive_where(|message| message["jobId"] == **starts && message["status"] == "running");
    }
}

#[test]
fn pixels_of_a_day() {
    let keys = [("alice", "scopes = [\"submit\"], pixels_per_day = 1500"), BOB];
    let mut server = keyed(&[], &[], &keys);
    let made = |server: &reverie_tests::Server, key: &str| {
        let file_ref = upload(server, key, &picture(16, 16));
        send(server, key, "POST", "/v1/jobs?wait=60", &enlargement(&file_ref))
    };
    for _ in 0..2 {
        // 32 times 32 pixels each.
        let answer = made(&server, "alice");
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("done")), "{}", answer.text());
    }
    refused(&made(&server, "alice"), "pixels_per_day");
    assert_eq!(made(&server, "bob").status, 200);
    // A restart forgets nothing.
    server.crash_and_restart();
    refused(&made(&server, "alice"), "pixels_per_day");
}

#[test]
fn bytes_in_the_storage() {
    let keys = [("alice", "scopes = [\"submit\"], storage_mb = 1"), BOB];
    let server = keyed(&[], &[], &keys);
    let put = |key: &str, name: &str, bytes: usize| {
        let headers = [("Authorization", &*crate::bearer(key)), ("Content-Type", "application/octet-stream")];
        server.send("PUT", &format!("/storage/{name}"), &headers, &vec![7; bytes])
    };
    assert_eq!(put("alice", "a", 700_000).status, 200);
    refused(&put("alice", "b", 700_000), "storage_mb");
    assert_eq!(get(&server, "alice", "/storage/b").status, 404);
    assert_eq!(put("bob", "b", 700_000).status, 200);
    assert_eq!(put("alice", "c", 200_000).status, 200);
    // Outputs count as well: 320 KB as a PNG of noise.
    let noise = image::RgbImage::from_fn(330, 330, |x, y| {
        let hash = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761);
        image::Rgb([(hash >> 8) as u8, (hash >> 16) as u8, (hash >> 24) as u8])
    });
    let mut content = std::io::Cursor::new(Vec::new());
    noise.write_to(&mut content, image::ImageFormat::Png).unwrap();
    let file_ref = upload(&server, "alice", &content.into_inner());
    let job = send(&server, "alice", "POST", "/v1/jobs?wait=60", &enlargement(&file_ref)).json();
    assert_eq!(job["status"], "error", "{job}");
    assert!(job["error"].as_str().unwrap().contains("storage_mb"), "{job}");
    assert_eq!(send(&server, "alice", "PUT", "/storage/c", &Value::Null).status, 200);
}
