//! Dreams through the real server, with tiny models of random weights: what is measured is how a session behaves.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reverie_tests::{Client, Server, lora, plugin};
use serde_json::{Value, json};

const PROMPT: &str = "a photo of a cat";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion")
}

/// A server that can dream.
fn server(settings: &[&str]) -> Server {
    let scorer = format!("scoring.model={}", fixtures().join("clip_model").display());
    let common = [
        scorer.as_str(),
        "plugins.dream.config.save_interval_s=0.2",
        "plugins.dream.config.similarity_scale=2.5",
        "plugins.dream.config.candidate_min_side=64",
    ];
    Server::with_models(&[&common, settings].concat(), &["lcm"])
}

/// Starts the default session: everything is kept, unless `params` says otherwise.
fn start(client: &mut Client, params: Value) -> Value {
    let mut all = json!({"prompt": PROMPT, "similarity_threshold": 0, "render_interval": 0});
    all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
    let started = client.ask(json!({"type": "dream:start", "params": all}));
    assert!(started["type"] == "dream:started" && started["error"].is_null(), "{started}");
    started
}

fn candidate(client: &mut Client) -> Value {
    client.receive_where(|m| m["type"] == "dream:candidate")
}

fn ask(client: &mut Client, kind: &str) -> Value {
    client.ask(json!({"type": kind}))
}

/// The figures, once they are as wanted.
fn figures_when(client: &mut Client, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = ask(client, "dream:status");
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not come to it: {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn count(status: &Value, field: &str) -> u64 {
    status[field].as_u64().unwrap_or(0)
}

fn scores(list: &Value) -> Vec<f64> {
    list["dreams"].as_array().unwrap().iter().map(|dream| dream["score"].as_f64().unwrap()).collect()
}

#[test]
fn a_session_dreams_is_asked_and_stops() {
    let server = server(&[]);
    let mut client = server.connect();
    let started = start(&mut client, json!({"render_interval": 3, "temperature": 0.8, "thumbnails": true}));
    for (field, value) in
        [("base_prompt", json!(PROMPT)), ("duration_hours", json!(1.0)), ("top_k", json!(100))]
    {
        assert_eq!(started[field], value, "{started}");
    }
    let again = client.ask(json!({"type": "dream:start", "params": {"prompt": "x"}}));
    assert!(again["error"].as_str().unwrap().contains("already dreaming"), "{again}");

    let seen = candidate(&mut client);
    let dream = &seen["dream"];
    assert_eq!(
        (&seen["kept"], &seen["session"], &seen["jobId"]),
        (&json!(true), &json!("default"), &started["jobId"])
    );
    assert!(dream["thumbnail"].as_str().unwrap().starts_with("data:image/jpeg;base64,"), "{seen}");
    assert!(dream["prompt"].as_str().unwrap().starts_with(PROMPT) && dream["seed"].is_u64(), "{seen}");
    let best = client.receive_where(|m| m["type"] == "dream:best");
    assert!(best["dream"]["score"].as_f64() > Some(0.0), "{best}");
    let rendered = client.receive_where(|m| m["type"] == "dream:rendered");
    let png = server.get(rendered["url"].as_str().unwrap()).body;
    let (full, small) = (image::load_from_memory(&png).unwrap(), dream);
    assert_eq!(full.width(), 64, "the model's own size: {small}");
    assert!(String::from_utf8_lossy(&png[..400]).contains(PROMPT));

    figures_when(&mut client, |status| count(status, "kept") > 8);
    let top = ask(&mut client, "dream:top");
    let all = scores(&top);
    assert!(all.len() > 8 && all.is_sorted_by(|a, b| a >= b), "{all:?}");
    assert!(top["dreams"][0]["thumbnail"].is_null());
    let some = client.ask(json!({"type": "dream:top", "limit": 3, "min_score": all[4], "thumbnails": true}));
    assert!(scores(&some).len() == 3 && some["dreams"][0]["thumbnail"].is_string(), "{some}");
    let high = client.ask(json!({"type": "dream:top", "min_score": 1.1}));
    assert!(high["dreams"].as_array().unwrap().is_empty());
    let recent = ask(&mut client, "dream:recent");
    let ids: Vec<u64> =
        recent["dreams"].as_array().unwrap().iter().map(|d| d["id"].as_u64().unwrap()).collect();
    assert!(ids.len() > 8 && ids.is_sorted_by(|a, b| a > b), "{ids:?}");

    let guided =
        client.ask(json!({"type": "dream:guide", "params": {"prompt": "a red house", "temperature": null}}));
    assert_eq!(
        (&guided["type"], &guided["updated"]),
        (&json!("dream:guide:ack"), &json!({"prompt": "a red house"}))
    );
    let changed = client.receive_where(|m| {
        m["type"] == "dream:candidate" && m["dream"]["prompt"].as_str().unwrap().starts_with("a red house")
    });
    assert_eq!(changed["session"], "default");
    client.ask(json!({"type": "dream:guide", "more_like": ids[0], "strategy": "evolve"}));
    figures_when(&mut client, |status| status["focused"] == true && status["strategy"] == "evolve");
    let stats = ask(&mut client, "dream:stats");
    assert!(
        stats["guides"][0]["cosine_before"].is_f64() && stats["candidates_per_minute"].is_f64(),
        "{stats}"
    );

    let stopped = ask(&mut client, "dream:stop");
    assert_eq!(
        (&stopped["type"], &stopped["status"]),
        (&json!("dream:stopped"), &json!("stopped")),
        "{stopped}"
    );
    assert!(count(&stopped, "kept") > 8 && count(&stopped, "rendered") > 0, "{stopped}");
    let ended = client.finish(started["jobId"].as_str().unwrap());
    assert!(ended["type"] == "job:complete" && ended["outputs"][0]["url"].is_string(), "{ended}");
    assert!(!scores(&ask(&mut client, "dream:top")).is_empty(), "what was found stays");
}

#[test]
fn each_strategy_dreams_and_the_time_ends() {
    let server = server(&["plugins.dream.config.max_sessions=4"]);
    let mut client = server.connect();
    let hours = 2.0 / 3600.0;
    for strategy in ["random", "linear_walk", "grid", "evolve"] {
        let started =
            start(&mut client, json!({"session": strategy, "strategy": strategy, "duration_hours": hours}));
        assert_eq!(started["session"], strategy);
    }
    for _ in 0..4 {
        let ended = client.receive_where(|m| m["type"] == "job:complete");
        let meta = &ended["meta"];
        assert!(meta["status"] == "finished" && count(meta, "candidates") > 3, "{meta}");
        assert!((2.0..4.0).contains(&meta["elapsed_s"].as_f64().unwrap()), "{meta}");
    }
    let walk = client.ask(json!({"type": "dream:recent", "session": "linear_walk"}));
    let blended =
        walk["dreams"].as_array().unwrap().iter().filter(|d| d["blends"][0]["amount"].is_f64()).count();
    assert!(blended > 0, "{walk}");
}

#[test]
fn the_threshold_decides_what_is_kept() {
    let server = server(&["plugins.dream.config.similarity_scale=1"]);
    let mut client = server.connect();
    start(&mut client, json!({"temperature": 1}));
    let mut similarities: Vec<f64> =
        (0..15).map(|_| candidate(&mut client)["dream"]["similarity"].as_f64().unwrap()).collect();
    similarities.sort_by(f64::total_cmp);
    let threshold = similarities[10];
    assert!(similarities[0] < threshold, "the candidates differ: {similarities:?}");
    client.ask(json!({"type": "dream:guide", "similarity_threshold": threshold}));
    figures_when(&mut client, |status| {
        (status["similarity_threshold"].as_f64().unwrap() - threshold).abs() < 1e-5
    });
    // Those sent before the change was taken in.
    let before = figures_when(&mut client, |status| count(status, "below_threshold") > 0);
    let from = count(&before, "candidates");
    let (mut kept, mut below) = (0, 0);
    while kept == 0 || below == 0 {
        let seen = candidate(&mut client);
        if count(&seen, "candidate") <= from {
            continue;
        }
        let similarity = seen["dream"]["similarity"].as_f64().unwrap();
        match seen["outcome"].as_str().unwrap() {
            "below_threshold" => {
                assert!(similarity < threshold + 1e-6, "{seen}");
                below += 1;
            }
            _ => {
                assert!(similarity >= threshold - 1e-6, "{seen}");
                kept += 1;
            }
        }
    }
}

#[test]
fn what_looks_alike_is_kept_once() {
    let server = server(&["plugins.dream.config.duplicate_distance=64"]);
    let mut client = server.connect();
    start(&mut client, json!({}));
    let status = figures_when(&mut client, |status| count(status, "duplicates") > 3);
    assert_eq!(scores(&ask(&mut client, "dream:top")).len(), 1, "{status}");
}

#[test]
fn sessions_have_names_a_limit_and_rest() {
    let server = server(&["plugins.dream.config.max_sessions=2"]);
    let mut client = server.connect();
    for session in ["one", "two"] {
        start(&mut client, json!({"session": session}));
    }
    let third = client.ask(json!({"type": "dream:start", "params": {"prompt": "x", "session": "three"}}));
    assert!(third["error"].as_str().unwrap().contains("2 sessions are dreaming"), "{third}");
    let status = client.ask(json!({"type": "dream:status", "session": "two"}));
    assert_eq!(status["sessions"], json!(["one", "two"]));
    let paused = client.ask(json!({"type": "dream:pause", "session": "one"}));
    assert_eq!((&paused["type"], &paused["session"]), (&json!("dream:paused"), &json!("one")));
    let figures = |client: &mut Client| client.ask(json!({"type": "dream:status", "session": "one"}));
    let deadline = Instant::now() + Duration::from_secs(30);
    let resting = loop {
        let status = figures(&mut client);
        if status["status"] == "paused" {
            break status;
        }
        assert!(Instant::now() < deadline, "{status}");
    };
    std::thread::sleep(Duration::from_millis(1500));
    let later = figures(&mut client);
    assert_eq!((&later["candidates"], &later["elapsed_s"]), (&resting["candidates"], &resting["elapsed_s"]));
    let events = |m: &Value| m["type"] == "dream:candidate" && m["session"] == "one";
    client.ask(json!({"type": "dream:resume", "session": "one"}));
    client.receive_where(|m| events(m) && count(m, "candidate") > count(&resting, "candidates"));

    // Another client hears of it once it subscribes.
    let mut other = server.connect();
    let subscribed = other.ask(json!({"type": "dream:subscribe", "session": "one"}));
    assert_eq!(subscribed["type"], "dream:subscribe:ack");
    other.receive_where(events);

    // The same over HTTP.
    assert_eq!(server.post_json("/dream/start", &json!({"prompt": "x", "session": "two"})).status, 409);
    let stopped = server.post_json("/dream/stop", &json!({"session": "two"}));
    assert_eq!((stopped.status, &stopped.json()["status"]), (200, &json!("stopped")), "{}", stopped.text());
    let started =
        server.post_json("/dream/start", &json!({"prompt": "y", "session": "3", "similarity_threshold": 0}));
    assert_eq!((started.status, &started.json()["base_prompt"]), (200, &json!("y")));
    assert_eq!(server.get("/dream/status?session=3").json()["active"], true);
    let kept = || count(&server.get("/dream/status?session=one").json(), "kept");
    while kept() < 3 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let top = server.get("/dream/top?session=one&limit=2&thumbnails=true");
    assert_eq!(top.json()["dreams"].as_array().unwrap().len(), 2, "{}", top.text());
    assert_eq!(server.get("/dream/recent?session=one&limit=1").json()["dreams"].as_array().unwrap().len(), 1);
    assert!(count(&server.get("/dream/stats?session=one").json(), "candidates") > 0);
    assert_eq!((server.get("/dream/start").status, server.get("/dream/nothing").status), (405, 404));
    assert_eq!(server.post_json("/dream/start", &json!({"session": "../x"})).status, 422);
}

#[test]
fn each_bad_field_is_named_with_what_is_accepted() {
    let server = server(&[]);
    let mut client = server.connect();
    for (kind, params, expected) in [
        ("dream:start", json!({"prompt": 5}), "prompt"),
        ("dream:start", json!({"prompt": "x", "duration_hours": 0}), "over 0"),
        ("dream:start", json!({"prompt": "x", "temperature": 1.5}), "0 to 1"),
        ("dream:start", json!({"prompt": "x", "similarity_threshold": "high"}), "0 to 1"),
        ("dream:start", json!({"prompt": "x", "render_interval": -1}), "every how many"),
        ("dream:start", json!({"prompt": "x", "strategy": "guess"}), "linear_walk"),
        ("dream:start", json!({"prompt": "x", "session": "../x"}), "letters, digits"),
        ("dream:start", json!({"prompt": "x", "mode": "nope"}), "there are: lcm"),
        ("dream:guide", json!({"temperature": 1.5}), "0 to 1"),
        ("dream:top", json!({"limit": -1}), "0 to 1000"),
    ] {
        let answer = client.ask(json!({"type": kind, "params": params}));
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(answer["type"] == "error" && error.contains(expected), "{params}: {error}");
    }
    let unknown = client.ask(json!({"type": "dream:guide", "params": {"temperature": 0.1}}));
    assert!(unknown["error"].as_str().unwrap().contains("no session 'default'"), "{unknown}");
    let nothing = client.ask(json!({"type": "dream:guide", "params": {"prompt": null}}));
    assert_eq!((&nothing["type"], &nothing["updated"]), (&json!("dream:guide:ack"), &json!({})));
    let direct = client.submit(json!({"jobType": "dream", "prompt": "x", "session": "default"}));
    assert!(client.finish(&direct)["error"].as_str().unwrap().contains("dream:start"));
}

#[test]
fn without_a_dual_encoder_it_says_what_to_do() {
    let server = Server::with_models(&["diffusion.embedded=false"], &["lcm"]);
    let answer = server.connect().ask(json!({"type": "dream:start", "params": {"prompt": PROMPT}}));
    assert!(answer["error"].as_str().is_some_and(|e| e.contains("[scoring] model")), "{answer}");
}

#[test]
fn a_session_survives_crashes_more_often_than_attempts() {
    let mut server = server(&["jobs.max_attempts=2"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let started = start(&mut client, json!({"strategy": "linear_walk"}));
    let mut before = figures_when(&mut client, |status| count(status, "kept") > 5);
    for _ in 0..4 {
        server.crash_and_restart();
        client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
        let resumed =
            figures_when(&mut client, |status| count(status, "candidates") > count(&before, "candidates"));
        assert_eq!((&resumed["jobId"], &resumed["active"]), (&started["jobId"], &json!(true)), "{resumed}");
        assert!(resumed["elapsed_s"].as_f64() >= before["elapsed_s"].as_f64(), "{before} {resumed}");
        before = resumed;
    }
    // The owner still hears of it.
    candidate(&mut client);
    assert_eq!(ask(&mut client, "dream:stop")["status"], "stopped");
}

#[test]
fn what_a_session_was_told_survives_a_crash() {
    let mut server = server(&["plugins.dream.config.save_interval_s=3600"]);
    let mut client = server.connect();
    start(&mut client, json!({}));
    candidate(&mut client);
    for (told, field, value) in [
        (json!({"type": "dream:guide", "prompt": "a dog"}), "base_prompt", "a dog"),
        (json!({"type": "dream:guide", "strategy": "grid"}), "strategy", "grid"),
        (json!({"type": "dream:pause"}), "status", "paused"),
    ] {
        let answer = client.ask(told);
        assert!(answer["error"].is_null(), "{answer}");
        server.crash_and_restart();
        client = server.connect();
        figures_when(&mut client, |status| status[field] == value);
    }
    let status = ask(&mut client, "dream:status");
    assert!(status["base_prompt"] == "a dog" && status["strategy"] == "grid", "{status}");
}

#[test]
fn a_dream_with_a_lora_is_made_again_by_its_prompt() {
    let server = server(&[]);
    let loras = server.dir.path().join("reverie-data/loras");
    std::fs::create_dir_all(&loras).unwrap();
    std::fs::write(loras.join("shift.safetensors"), lora()).unwrap();
    let mut client = server.connect();
    let prompt = format!("{PROMPT}<lora:shift:1>");
    start(&mut client, json!({"prompt": prompt, "temperature": 0, "render_interval": 1}));
    let rendered = client.receive_where(|m| m["type"] == "dream:rendered");
    ask(&mut client, "dream:stop");
    let top = ask(&mut client, "dream:top");
    let dream = top["dreams"].as_array().unwrap().iter().find(|dream| dream["id"] == rendered["id"]).unwrap();
    assert!(dream["prompt"] == prompt && dream["blends"] == json!([]), "{dream}");
    let pixels = |content: &[u8]| image::load_from_memory(content).unwrap().to_rgb8();
    let made = |prompt: &Value| {
        let made = server.post_json("/generate", &json!({"prompt": prompt, "seed": dream["seed"]}));
        assert_eq!(made.status, 200, "{}", made.text());
        pixels(&made.body)
    };
    let kept = pixels(&server.get(rendered["url"].as_str().unwrap()).body);
    assert!(kept == made(&dream["prompt"]) && kept != made(&json!(PROMPT)));
}

#[test]
fn a_prompt_that_can_not_be_read_changes_nothing() {
    let server = server(&[]);
    let mut client = server.connect();
    let deep = format!("{}cat", "(".repeat(101));
    let refused = |answer: Value, part: &str| {
        assert!(answer["type"] == "error" && answer["code"] == "invalid_input", "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(part), "{answer}");
    };
    for (prompt, part) in [(deep.as_str(), "brackets"), ("a cat <lora:none:1>", "there is no 'none'")] {
        refused(client.ask(json!({"type": "dream:start", "prompt": prompt})), part);
    }
    refused(client.ask(json!({"type": "dream:start", "prompt": "x".repeat(4001)})), "longer than 4000");
    start(&mut client, json!({}));
    candidate(&mut client);
    refused(client.ask(json!({"type": "dream:guide", "prompt": deep})), "brackets");
    let guided = client.ask(json!({"type": "dream:guide", "temperature": 0.9}));
    assert_eq!(guided["updated"], json!({"temperature": 0.9}), "{guided}");
    let status = figures_when(&mut client, |status| count(status, "candidates") > 3);
    assert!(status["base_prompt"] == PROMPT && status["status"] == "dreaming", "{status}");
}

#[test]
fn an_orderly_end_keeps_the_session() {
    let mut server = server(&["server.shutdown_grace_s=20"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let started = start(&mut client, json!({}));
    let before = figures_when(&mut client, |status| count(status, "kept") > 3);
    let began = Instant::now();
    assert!(server.terminate());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let ledger = reverie::jobs::inspect(&server.dir.path().join("reverie-data/ledger.db")).unwrap();
    assert_eq!((ledger.active, ledger.finished), (1, 0));
    server.crash_and_restart();
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let resumed =
        figures_when(&mut client, |status| count(status, "candidates") > count(&before, "candidates"));
    assert_eq!(resumed["jobId"], started["jobId"]);
}

#[test]
fn a_new_version_of_the_plugin_goes_on_in_mid_dream() {
    let server = server(&[]);
    let mut client = server.connect();
    let started = start(&mut client, json!({}));
    let before = figures_when(&mut client, |status| count(status, "kept") > 3);
    std::fs::copy(plugin("dream"), server.plugin_path("dream")).unwrap();
    client
        .receive_where(|m| m["type"] == "system:plugin" && m["plugin"] == "dream" && m["action"] == "loaded");
    let job = started["jobId"].as_str().unwrap();
    // It moves after the candidate at hand.
    let began = Instant::now();
    loop {
        let log = std::fs::read_to_string(server.dir.path().join("log")).unwrap();
        if log.contains("a newer version goes on") && log.contains("job queued again") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let before =
        figures_when(&mut client, |status| count(status, "candidates") > count(&before, "candidates"));
    let moved =
        figures_when(&mut client, |status| count(status, "candidates") > count(&before, "candidates") + 3);
    assert_eq!((&moved["jobId"], &moved["active"]), (&started["jobId"], &json!(true)));
    // A bad one changes nothing.
    std::fs::write(server.plugin_path("dream"), b"nonsense").unwrap();
    client.receive_where(|m| m["type"] == "system:plugin" && m["action"] == "refused");
    figures_when(&mut client, |status| count(status, "candidates") > count(&moved, "candidates") + 3);
    let job = client.ask(json!({"type": "job:get", "jobId": job}));
    assert_eq!(job["job"]["status"], "running", "{job}");
}

#[test]
fn a_state_that_is_not_understood_is_left_alone() {
    let server = server(&[]);
    let mut client = server.connect();
    let folder = server.dir.path().join("reverie-data/storage/state/dream");
    std::fs::create_dir_all(&folder).unwrap();
    for (session, text, expected) in
        [("newer", "{\"version\": 99}", "has version 99"), ("broken", "{\"version", "can't be read")]
    {
        let file = folder.join(format!("session-{session}.json"));
        std::fs::write(&file, text).unwrap();
        let answer =
            client.ask(json!({"type": "dream:start", "params": {"prompt": "x", "session": session}}));
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(expected) && error.contains(&format!("session-{session}.json")), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn whoever_waits_is_delayed_by_one_step_at_most() {
    let server = server(&[]);
    let (mut client, mut dreamer) = (server.connect(), server.connect());
    // Milliseconds from asking to having, and of those until the first step has begun.
    let mut made = |seed: u64| {
        std::thread::sleep(Duration::from_millis(60));
        let began = Instant::now();
        let params = json!({"prompt": PROMPT, "size": "128x128", "steps": 6, "seed": seed});
        let job = client.submit(json!({"params": params}));
        let complete = client.finish(&job);
        let whole = began.elapsed().as_secs_f64() * 1e3;
        let timings = &complete["meta"]["timings_ms"];
        let own: f64 = ["denoise", "decode"].iter().map(|part| timings[part].as_f64().unwrap()).sum();
        (whole, whole - own)
    };
    made(0);
    start(&mut dreamer, json!({}));
    candidate(&mut dreamer);
    let (mut alone, mut dreaming) = (Vec::new(), Vec::new());
    for round in 0..5 {
        dreamer.ask(json!({"type": "dream:pause"}));
        figures_when(&mut dreamer, |status| status["status"] == "paused");
        alone.extend((0..5).map(|i| made(10 * round + i)));
        dreamer.ask(json!({"type": "dream:resume"}));
        figures_when(&mut dreamer, |status| status["status"] == "dreaming");
        dreaming.extend((0..5).map(|i| made(10 * round + i)));
    }
    let candidates = count(&figures_when(&mut dreamer, |_| true), "candidates");
    let sorted = |times: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
        let mut times: Vec<f64> = times.iter().map(part).collect();
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], times[times.len() - 1])
    };
    let (whole, start) = (|t: &(f64, f64)| t.0, |t: &(f64, f64)| t.1);
    let (alone_whole, dreaming_whole) = (sorted(&alone, whole), sorted(&dreaming, whole));
    let (alone_start, dreaming_start) = (sorted(&alone, start), sorted(&dreaming, start));
    println!(
        "ms, median and largest: alone {alone_whole:.1?}, before the first step {alone_start:.1?}; under a dream \
         {dreaming_whole:.1?}, {dreaming_start:.1?}; {candidates} candidates"
    );
    // The parts of a candidate take some milliseconds each here; the rest is room for a busy machine.
    assert!(dreaming_start.0 - alone_start.0 < 40.0, "delayed");
    assert!(dreaming_whole.0 - alone_whole.0 < 60.0, "delayed");

    // While somebody waits for a long job, nothing is dreamt.
    let mut other = server.connect();
    let long = other.submit(json!({"params": {"prompt": PROMPT, "size": "256x256", "steps": 50}}));
    let step = |m: &Value| m["jobId"] == long.as_str() && m["progress"]["step"].as_u64() > Some(1);
    other.receive_where(step);
    let (began, first) = (Instant::now(), figures_when(&mut dreamer, |_| true));
    let before = count(&first, "candidates");
    std::thread::sleep(Duration::from_millis(700));
    let during = figures_when(&mut dreamer, |_| true);
    let job = other.ask(json!({"type": "job:get", "jobId": long}));
    if job["job"]["status"] == "running" {
        // What was scored but not stored yet when the job came may show itself.
        assert!(count(&during, "candidates") <= before + 1, "{before} {during}");
    }
    other.finish(&long);
    let waited = began.elapsed().as_secs_f64();
    // And the time of waiting is not the session's: of its own it had a moment until it stored itself again.
    let last = figures_when(&mut dreamer, |status| count(status, "candidates") > before + 1);
    let whole = began.elapsed().as_secs_f64();
    let counted = last["elapsed_s"].as_f64().unwrap() - first["elapsed_s"].as_f64().unwrap();
    println!("{waited:.2} s of waiting, {whole:.2} s in all, of which {counted:.2} s count");
    assert!(counted < whole - 0.5 * waited, "{waited} {whole} {counted}");
}

/// With the models inside the binary: random weights follow no prompt.
#[test]
fn a_guided_session_moves() {
    let server = Server::with_models(&["plugins.dream.config.save_interval_s=0.2"], &[]);
    let mut client = server.connect();
    start(&mut client, json!({"prompt": "a red apple", "temperature": 0.2}));
    figures_when(&mut client, |status| count(status, "candidates") >= 24);
    client.ask(json!({"type": "dream:guide", "params": {"prompt": "a blue car on a white background"}}));
    let deadline = Instant::now() + Duration::from_secs(120);
    let turn = loop {
        let turn = ask(&mut client, "dream:stats")["guides"][0].clone();
        if count(&turn, "candidates_after") >= 24 {
            break turn;
        }
        assert!(Instant::now() < deadline, "{turn}");
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("{turn}");
    let cosine = |when: &str| turn[when].as_f64().unwrap();
    assert!(cosine("cosine_after") > cosine("cosine_before") + 0.2, "{turn}");
}
