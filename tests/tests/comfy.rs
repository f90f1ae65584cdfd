//! ComfyUI workflows through the real server, against recordings of a real ComfyUI and servers that break.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use reverie_tests::{
    Client, Server,
    comfy::{Comfy, Fault},
    picture,
};
use serde_json::{Value, json};

/// What the recordings ran.
fn graph() -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Picture"}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": 24,
            "height": 16, "crop": "disabled"}, "_meta": {"title": "Size"}},
        "3": {"class_type": "ReverieProbe", "inputs":
            {"image": ["2", 0], "seed": 1, "steps": 3, "step_ms": 40, "method": "invert"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "reverie"}},
    })
}

/// Reverie beside these servers, with the workflow `invert` in its folder.
fn reverie(servers: &[&Comfy], settings: &[&str]) -> Server {
    let urls: Vec<&str> = servers.iter().map(|comfy| comfy.url.as_str()).collect();
    let urls = json!(urls);
    let mut all = vec![
        format!("plugins.comfy.config.servers={urls}"),
        format!("plugins.comfy.origins={urls}"),
        "plugins.comfy.config.stale_s=3".to_owned(),
        "plugins.comfy.config.reconnect_s=1".to_owned(),
    ];
    all.extend(settings.iter().map(|setting| (*setting).to_owned()));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let server = Server::start(&all, &[]);
    put(&server, "invert.json", &graph().to_string());
    server
}

fn folder(server: &Server) -> PathBuf {
    let folder = server.dir.path().join("reverie-data/workflows");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn put(server: &Server, file: &str, content: &str) {
    std::fs::write(folder(server).join(file), content).expect("written");
}

fn submit(client: &mut Client, more: Value) -> String {
    let mut message = json!({"jobType": "comfy", "workflowId": "invert"});
    message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    client.submit(message)
}

/// Runs a job and returns all its messages up to its end.
fn run(client: &mut Client, more: Value) -> Vec<Value> {
    let job = submit(client, more);
    follow(client, &job)
}

fn follow(client: &mut Client, job: &str) -> Vec<Value> {
    let mut messages = Vec::new();
    loop {
        let message = client.receive_where(|message| message["jobId"] == job);
        let ended = message["type"] == "job:complete" || message["type"] == "job:error";
        messages.push(message);
        if ended {
            return messages;
        }
    }
}

fn completed(messages: &[Value]) -> &Value {
    let end = messages.last().expect("an end");
    assert_eq!(end["type"], "job:complete", "{end}");
    end
}

fn failed(messages: &[Value]) -> String {
    let end = messages.last().expect("an end");
    assert_eq!(end["type"], "job:error", "{end}");
    end["error"].as_str().expect("a text").to_owned()
}

#[test]
fn a_workflow_runs_with_a_picture_progress_and_previews() {
    let comfy = Comfy::start("plain");
    let server = reverie(&[&comfy], &[]);
    let mut client = server.connect();
    let upload = server.upload(&picture(12, 8));
    // Slow enough that progress is not replaced before it is sent.
    comfy.pace(Duration::from_millis(30));
    let params = json!({"width": 24, "seed": 77});
    let messages = run(&mut client, json!({"inputImage": upload, "params": params, "previews": true}));

    let end = completed(&messages);
    assert_eq!(end["outputs"].as_array().unwrap().len(), 1);
    let url = end["outputs"][0]["url"].as_str().unwrap();
    assert!(url.ends_with(".png"), "{url}");
    let stored = image::load_from_memory(&server.get(url).body).expect("a picture");
    assert_eq!((stored.width(), stored.height()), (24, 16));
    assert_eq!(end["meta"]["seed"], 77);
    assert_eq!(end["meta"]["backend"], "comfyui");
    assert_eq!(end["meta"]["outputs"][0]["node"], "4");

    // What reached ComfyUI: the upload under the name that the graph then has, and the parameters.
    let sent = &comfy.asked("POST /prompt")[0]["prompt"];
    assert!(sent["1"]["inputs"]["image"].as_str().unwrap().starts_with("reverie-"), "{sent}");
    assert_eq!(sent["3"]["inputs"]["seed"], 77);

    let progress: Vec<&Value> =
        messages.iter().filter(|m| m["type"] == "job:progress").map(|m| &m["progress"]).collect();
    let fractions: Vec<f64> = progress.iter().filter_map(|p| p["fraction"].as_f64()).collect();
    assert!(fractions.windows(2).all(|pair| pair[0] <= pair[1]), "{fractions:?}");
    let step = progress.iter().find(|p| p["step"] == 2).expect("a second step");
    assert_eq!((&step["nodes_total"], &step["current_node"]), (&json!(4), &json!("3")));
    assert!((step["node_fraction"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-6);
    let preview = messages.iter().find(|m| m["type"] == "job:preview").expect("a preview");
    assert_eq!((&preview["width"], &preview["format"]), (&json!(16), &json!("jpeg")));
}

#[test]
fn results_that_are_cached_several_or_only_shown() {
    let comfy = Comfy::start("cached");
    let server = reverie(&[&comfy], &[]);
    let mut client = server.connect();
    let messages = run(&mut client, json!({}));
    assert!(completed(&messages)["meta"]["nodes_cached"].as_u64().unwrap() >= 3);

    comfy.play("two_images");
    assert_eq!(completed(&run(&mut client, json!({})))["outputs"].as_array().unwrap().len(), 2);

    comfy.play("preview_image");
    assert_eq!(completed(&run(&mut client, json!({})))["outputs"].as_array().unwrap().len(), 1);
}

#[test]
fn what_comfyui_finds_wrong_names_node_and_field() {
    let comfy = Comfy::start("node_error");
    let server = reverie(&[&comfy], &[]);
    let mut client = server.connect();
    let error = failed(&run(&mut client, json!({})));
    assert!(
        error.starts_with("node 1 (LoadImage, 'Picture') failed on ComfyUI: UnidentifiedImageError"),
        "{error}"
    );

    comfy.play("interrupted");
    comfy.fault(Fault::Silence(10));
    let error = failed(&run(&mut client, json!({})));
    assert!(error.contains("gave no sign of the job for 3 s (plugins.comfy.config.stale_s)"), "{error}");
    assert_eq!(comfy.asked("POST /interrupt").len(), 1);

    // By /object_info, before anything is sent.
    let sent = comfy.asked("POST /prompt").len();
    let error = failed(&run(&mut client, json!({"params": {"width": 20000}})));
    let expected =
        "node 2 (ImageScale, 'Size'), field 'width': 20000 is out of range: accepted is 0 to 16384";
    assert!(error.contains(expected), "{error}");
    assert_eq!(comfy.asked("POST /prompt").len(), sent);

    // By ComfyUI itself, where that check is off.
    drop(server);
    let server = reverie(&[&comfy], &["plugins.comfy.config.validate=false"]);
    comfy.play("refused");
    let error = failed(&run(&mut server.connect(), json!({})));
    assert!(
        error.contains("node 2 (ImageScale, 'Size'), field 'width': Value 20000 bigger than max"),
        "{error}"
    );
}

#[test]
fn workflows_are_listed_as_they_are_now() {
    let comfy = Comfy::start("plain");
    let server = reverie(&[&comfy], &[]);
    put(&server, "editor.json", r#"{"nodes": [], "links": [], "version": 0.4}"#);
    let list = || server.get("/v1/comfy/workflows").json();
    let first = list();
    assert_eq!(first["workflows"].as_array().unwrap().len(), 1, "{first}");
    let invert = &first["workflows"][0];
    assert_eq!(
        (&invert["id"], &invert["checked"], &invert["problems"]),
        (&json!("invert"), &json!(comfy.url), &json!([]))
    );
    assert_eq!(invert["schema"]["properties"]["width"]["maximum"], 16384.0);
    assert_eq!(invert["inputImage"], "image");
    assert!(first["refused"][0]["error"].as_str().unwrap().contains("Save (API Format)"), "{first}");

    // A sidecar takes effect at once, and so does a workflow that fits the server no longer.
    put(
        &server,
        "invert.inputs.toml",
        "title = 'Inverts'\ninputs.big = {to = ['2.width', '2.height'], minimum = 8, maximum = 64}",
    );
    let mut broken = graph();
    broken["3"]["class_type"] = "NoSuchNode".into();
    put(&server, "broken.json", &broken.to_string());
    std::fs::remove_file(folder(&server).join("editor.json")).unwrap();
    let second = list();
    assert_eq!(second["refused"], json!([]));
    assert!(
        second["workflows"][0]["problems"][0].as_str().unwrap().contains("no node class 'NoSuchNode'"),
        "{second}"
    );
    assert_eq!(second["workflows"][1]["title"], "Inverts");
    assert_eq!(second["workflows"][1]["schema"]["properties"]["big"]["minimum"], 8.0);

    let mut client = server.connect();
    let error = failed(&run(&mut client, json!({"params": {"big": 65}})));
    assert!(error.contains("params.big: 65 is out of range: accepted is 8 to 64"), "{error}");
    let error = failed(&run(&mut client, json!({"workflowId": "nothing"})));
    assert!(error.contains("no workflow 'nothing'; there are: broken, invert"), "{error}");
}

#[test]
fn cancelling_ends_this_job_alone() {
    let comfy = Comfy::start("interrupted");
    let server = reverie(&[&comfy], &[]);
    let mut client = server.connect();
    comfy.busy("somebody-elses");
    // While it waits.
    comfy.fault(Fault::Wait);
    let job = submit(&mut client, json!({}));
    client.receive_where(|m| m["jobId"] == *job && m["progress"]["queue_position"] == 1);
    assert_eq!(client.ask(json!({"type": "job:cancel", "jobId": job}))["type"], "job:cancel:ack");
    assert_eq!(client.finish(&job)["status"], "canceled");
    assert_eq!(comfy.asked("POST /queue"), [json!({"delete": [job]})]);
    assert_eq!(comfy.asked("POST /interrupt").len(), 0);
    // While it runs.
    comfy.pace(Duration::from_millis(100));
    let job = submit(&mut client, json!({}));
    client.receive_where(|m| m["jobId"] == *job && m["progress"]["current_node"] == "3");
    client.ask(json!({"type": "job:cancel", "jobId": job}));
    assert_eq!(client.finish(&job)["status"], "canceled");
    assert_eq!(comfy.asked("POST /interrupt"), [json!({"prompt_id": job})]);
}

#[test]
fn a_server_that_breaks_off_is_asked_what_became_of_the_job() {
    let comfy = Comfy::start("plain");
    let server = reverie(&[&comfy], &[]);
    let mut client = server.connect();
    for fault in [Fault::Close(8), Fault::Restart(8), Fault::Lost] {
        comfy.fault(fault);
        let before = comfy.asked("POST /prompt").len();
        completed(&run(&mut client, json!({})));
        let again = usize::from(matches!(fault, Fault::Restart(_)));
        assert_eq!(comfy.asked("POST /prompt").len() - before, 1 + again, "{fault:?}");
    }
}

#[test]
fn a_server_that_dies_has_its_job_moved() {
    let (first, second) = (Comfy::start("plain"), Comfy::start("plain"));
    let server = reverie(&[&first, &second], &[]);
    let mut client = server.connect();
    second.busy("somebody-elses");
    // The least loaded one gets it, and dies with it.
    first.fault(Fault::Die(8));
    let messages = run(&mut client, json!({}));
    assert_eq!(completed(&messages)["meta"]["server"], second.url);
    assert_eq!((first.asked("POST /prompt").len(), second.asked("POST /prompt").len()), (1, 1));
    let health = client.ask(json!({"type": "comfy:servers"}));
    assert_eq!(
        (&health["servers"][0]["ok"], &health["servers"][1]["ok"]),
        (&json!(false), &json!(true)),
        "{health}"
    );
    // With all of them gone it fails, and says of each why.
    second.dead(true);
    let error = failed(&run(&mut client, json!({})));
    assert!(error.contains("no ComfyUI server can run the job") && error.contains(&second.url), "{error}");
}

#[test]
fn a_dead_server_without_another_one_fails_the_job_in_time() {
    let comfy = Comfy::start("plain");
    let server = reverie(&[&comfy], &[]);
    comfy.fault(Fault::Die(8));
    let begun = Instant::now();
    let error = failed(&run(&mut server.connect(), json!({})));
    assert!(error.contains("no sign of the job for"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_job_takes_no_longer_than_its_limit() {
    let comfy = Comfy::start("plain");
    let server = reverie(&[&comfy], &["plugins.comfy.config.limit_s=2"]);
    comfy.fault(Fault::Wait);
    let error = failed(&run(&mut server.connect(), json!({})));
    assert!(error.contains("longer than 2 s (plugins.comfy.config.limit_s)"), "{error}");
    assert_eq!(comfy.asked("POST /queue").len(), 1);
}

#[test]
fn a_crash_of_reverie_goes_on_with_what_comfyui_did_meanwhile() {
    let comfy = Comfy::start("plain");
    let mut server = reverie(&[&comfy], &[]);
    comfy.pace(Duration::from_millis(150));
    let mut client = server.connect();
    let job = submit(&mut client, json!({}));
    client.receive_where(|m| m["jobId"] == *job && m["progress"]["current_node"] == "3");
    server.crash_and_restart();
    let path = format!("/v1/comfy/jobs/{job}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.get(&path).json()["status"] != "done" {
        assert!(Instant::now() < deadline, "{}", server.get(&path).text());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(comfy.asked("POST /prompt").len(), 1);
}

#[test]
fn the_same_over_http() {
    let comfy = Comfy::start("plain");
    let server = reverie(&[&comfy], &[]);
    let fields = [("workflowId", "invert"), ("params", r#"{"seed": 5}"#)];
    let answer = server.post("/v1/comfy/jobs", Some(&picture(12, 8)), &fields);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let job = answer.json()["jobId"].as_str().expect("an id").to_owned();
    let path = format!("/v1/comfy/jobs/{job}");
    let deadline = Instant::now() + Duration::from_secs(60);
    let done = loop {
        let told = server.get(&path).json();
        if told["status"] == "done" {
            break told;
        }
        assert!(Instant::now() < deadline && told["status"] != "error", "{told}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((done["outputs"].as_array().unwrap().len(), &done["meta"]["seed"]), (1, &json!(5)));
    let refused =
        server.post("/v1/comfy/jobs", None, &[("workflowId", "invert"), ("params", r#"{"width": "wide"}"#)]);
    assert!(
        refused.status == 400 && refused.text().contains("params.width: must be a whole number"),
        "{}",
        refused.text()
    );
    assert_eq!(server.get("/v1/comfy/servers").json()["servers"][0]["version"], "0.3.64");
}

#[test]
fn an_origin_that_was_not_granted_is_named() {
    let comfy = Comfy::start("plain");
    let server = reverie(&[&comfy], &["plugins.comfy.origins=[]"]);
    let error = failed(&run(&mut server.connect(), json!({})));
    assert!(error.contains("origins"), "{error}");
    assert_eq!(comfy.asked("GET").len(), 0);
}
