//! Clients that ask for all the memory there is, each in a way of its own: the process stays within its budget and some, others are
//! served meanwhile, and what was held comes back.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use image::{DynamicImage, ExtendedColorType, ImageEncoder as _, codecs::png};
use reverie_tests::picture;
use serde_json::json;

use crate::{
    drill::{Drill, becomes},
    line::Line,
    process::{self, Process},
};

/// The budget, and how much the process may have in all: itself, what threads and the allocator keep, and what the budget does not
/// count, such as the buffers of sockets.
const BUDGET_MB: u64 = 128;
const MOST_MB: u64 = 480;

/// How long somebody else may wait for an answer meanwhile.
const SOON: Duration = Duration::from_secs(10);

type Attack = fn(&Process);

const ATTACKS: &[(&str, Attack)] = &[
    ("bodies that arrive at once", bodies),
    ("a body of many small values", values),
    ("jobs asked with small values", parameters),
    ("many jobs asked with long texts", texts),
    ("uploads", uploads),
    ("pictures that unpack to much", pictures),
    ("pictures that are to be enlarged to much", enlarged),
    ("clients that ask and do not read", deaf),
    ("texts kept under keys", kept),
];

#[test]
fn memory() {
    let mut drill = Drill::begin("memory", 0);
    let folder = tempfile::tempdir().expect("a folder");
    let budget = format!("server.memory_mb={BUDGET_MB}");
    let settings = [&*budget, "jobs.queue_limit=200", "uploads.ttl_s=2", "uploads.sweep_s=0.2"];
    let mut server = Process::prepare(folder.path(), &settings);
    server.start();
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    // What a first job and a first picture leave behind for good.
    let uploaded = process::upload(&server.address, &picture(64, 64)).expect("uploaded");
    let job = line.submit(json!({"jobType": "sr", "fileRef": uploaded})).expect("sent").expect("accepted");
    line.ended(&job, SOON).expect("an answer");
    let before = resident_mb(&server, "VmRSS");
    let mut worst = 0;
    for (name, attack) in ATTACKS {
        forget_peak(&server);
        let (slowest, attacked) = (Duration::ZERO, AtomicBool::new(false));
        let slowest = std::thread::scope(|scope| {
            let (server, attacked) = (&server, &attacked);
            scope.spawn(move || {
                attack(server);
                attacked.store(true, Ordering::Relaxed);
            });
            let mut slowest = slowest;
            while !attacked.load(Ordering::Relaxed) {
                let asked = Instant::now();
                line.ask(json!({"type": "ping"})).expect("an answer");
                slowest = slowest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        let peak = resident_mb(&server, "VmHWM");
        worst = worst.max(peak);
        drill.say(format_args!("{name}: {peak} MB at most; others waited {} ms", slowest.as_millis()));
        drill.check(server.runs(), || format!("{name}: the server ended"));
        drill.check(peak <= MOST_MB, || format!("{name}: {peak} MB, {MOST_MB} at most"));
        drill.check(slowest <= SOON, || format!("{name}: others waited {slowest:?}"));
        // It works on, and gives back what it held.
        let held = || held_mb(&server).unwrap_or(u64::MAX);
        let given_back = becomes(Duration::from_secs(30), || held() <= BUDGET_MB / 16);
        drill.check(given_back, || format!("{name}: {} MB are still held", held()));
        let works = line.submit(json!({"jobType": "echo", "after": name}));
        drill.check(matches!(works, Ok(Ok(_))), || format!("{name}: afterwards {works:?}"));
    }
    let after = resident_mb(&server, "VmRSS");
    drill
        .end(format_args!("{before} MB before, {worst} MB at most, {after} MB after, budget {BUDGET_MB} MB"));
}

/// A figure of `/proc/PID/status` that is in kB, in MB.
fn resident_mb(server: &Process, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(figure)).expect("Linux tells it");
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<u64>().expect("a number") >> 10
}

fn forget_peak(server: &Process) {
    std::fs::write(format!("/proc/{}/clear_refs", server.id()), "5").expect("its own process");
}

/// What is held of the budget, by the server's own account; but for jobs, which are kept for a minute when they have ended.
fn held_mb(server: &Process) -> Option<u64> {
    let (_, figures) = server.get("/metrics")?;
    let figures = String::from_utf8(figures).ok()?;
    let held =
        figures.lines().filter(|line| line.starts_with("reverie_memory_bytes") && !line.contains("\"jobs\""));
    let bytes: f64 = held.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    Some(bytes as u64 >> 20)
}

/// So many at once.
fn at_once(count: usize, attack: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for n in 0..count {
            let attack = &attack;
            scope.spawn(move || attack(n));
        }
    });
}

/// Sends a head and a body, and reads what is answered; errors are what an attacker expects.
fn send(server: &Process, path: &str, kind: &str, body: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(&server.address) else { return String::new() };
    let _ = stream.set_read_timeout(Some(SOON));
    let _ = stream.set_write_timeout(Some(SOON));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        server.address,
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.take(1 << 16).read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn bodies(server: &Process) {
    let body = json!({"prompt": "x", "init_images": ["A".repeat(60 << 20)]}).to_string();
    at_once(8, |_| {
        send(server, "/sdapi/v1/img2img", "application/json", body.as_bytes());
    });
}

fn values(server: &Process) {
    let many = format!("{{\"prompt\": \"x\", \"override_settings\": [{}0]}}", "{\"a\":0},".repeat(4 << 20));
    at_once(4, |_| {
        send(server, "/sdapi/v1/txt2img", "application/json", many.as_bytes());
    });
}

fn parameters(server: &Process) {
    let many = format!("{{\"jobType\": \"echo\", \"list\": [{}0]}}", "{\"a\":0},".repeat(100_000));
    at_once(60, |_| {
        send(server, "/v1/jobs", "application/json", many.as_bytes());
    });
}

fn texts(server: &Process) {
    let text = json!({"type": "job:submit", "jobType": "echo", "text": "x".repeat(250_000)});
    at_once(8, |n| {
        let Some(mut line) = Line::connect(&server.address, &format!("texts-{n}")) else { return };
        for _ in 0..60 {
            if line.send(&text).is_err() {
                return;
            }
        }
        let _ = line.ask(json!({"type": "ping"}));
    });
}

fn uploads(server: &Process) {
    let content = vec![7; 30 << 20];
    at_once(8, |_| {
        process::upload(&server.address, &content);
    });
}

fn pictures(server: &Process) {
    // 16 bits, four channels: 200 MB from some hundred kB.
    let (width, height) = (5000, 5000);
    let mut bomb = Vec::new();
    let pixels = vec![0; width * height * 8];
    let encoder =
        png::PngEncoder::new_with_quality(&mut bomb, png::CompressionType::Best, png::FilterType::NoFilter);
    encoder.write_image(&pixels, width as u32, height as u32, ExtendedColorType::Rgba16).expect("to memory");
    drop(pixels);
    at_once(6, |n| enlarge(server, &format!("bombs-{n}"), &bomb));
    let mask = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &bomb);
    let body = json!({"prompt": "x", "init_images": [mask], "mask": mask, "inpainting_mask_invert": 1});
    at_once(4, |_| {
        send(server, "/sdapi/v1/img2img", "application/json", body.to_string().as_bytes());
    });
}

fn enlarged(server: &Process) {
    // 4000x4000 to 16000x16000.
    let mut content = std::io::Cursor::new(Vec::new());
    DynamicImage::new_rgb8(4000, 4000).write_to(&mut content, image::ImageFormat::Png).expect("to memory");
    at_once(3, |n| enlarge(server, &format!("large-{n}"), content.get_ref()));
}

fn enlarge(server: &Process, client: &str, content: &[u8]) {
    let Some(uploaded) = process::upload(&server.address, content) else { return };
    let Some(mut line) = Line::connect(&server.address, client) else { return };
    if let Ok(Ok(job)) = line.submit(json!({"jobType": "sr", "fileRef": uploaded})) {
        let ended = line.ended(&job, Duration::from_secs(1));
        if ended.is_ok_and(|ended| ended["job"]["finished"].is_null()) {
            let _ = line.ask(json!({"type": "job:cancel", "jobId": job}));
            let _ = line.ended(&job, SOON);
        }
    }
}

fn deaf(server: &Process) {
    let asks = "x".repeat(900_000);
    at_once(40, |n| {
        let Some(mut line) = Line::connect(&server.address, &format!("deaf-{n}")) else { return };
        for _ in 0..30 {
            // Comes back in the error.
            if line.send(&json!({"type": "nothing", "id": asks})).is_err() {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    });
}

fn kept(server: &Process) {
    let text = json!({"payload": "x".repeat(1 << 20)}).to_string();
    at_once(4, |n| {
        for m in 0..50 {
            let url = format!("http://{}/storage/kept-{n}-{m}", server.address);
            let put = ureq::put(url).header("Content-Type", "application/json").send(text.as_bytes());
            if !matches!(put, Ok(ref answer) if answer.status() == 200) {
                break;
            }
        }
    });
}
