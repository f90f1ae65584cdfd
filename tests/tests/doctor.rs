//! `reverie doctor`: what is wrong is found with what to do about it, and nothing is changed.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use reverie_tests::{Server, binary, comfy::Comfy, lora};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Settings of a quiet place: any port, no plugins to compile.
const QUIET: &[&str] = &["server.port=0", "plugin_runtime.builtin=false", "execution.backend=cpu"];

fn run(dir: &Path, arguments: &[&str], settings: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    command.current_dir(dir).arg("doctor").args(arguments).envs(environment.iter().copied());
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.output().expect("the binary was built")
}

/// The document of `--json` and the exit status.
fn document(dir: &Path, settings: &[&str], environment: &[(&str, &str)]) -> (Value, i32) {
    document_of(dir, &["--json"], settings, environment)
}

fn document_of(
    dir: &Path,
    arguments: &[&str],
    settings: &[&str],
    environment: &[(&str, &str)],
) -> (Value, i32) {
    let output = run(dir, arguments, settings, environment);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let document = serde_json::from_str(&text);
    let document: Value = document.unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(document["format"], 1);
    for finding in document["findings"].as_array().expect("a list") {
        assert_eq!(finding["remedy"].is_null(), finding["level"] == "ok", "{finding}");
    }
    (document, output.status.code().expect("no signal"))
}

fn findings<'a>(document: &'a Value, area: &str, level: &str) -> Vec<&'a str> {
    let all = document["findings"].as_array().expect("a list").iter();
    let found = all.filter(|finding| finding["area"] == area && finding["level"] == level);
    found.map(|finding| finding["found"].as_str().expect("a text")).collect()
}

#[track_caller]
fn assert_found(document: &Value, area: &str, level: &str, part: &str) {
    let found = findings(document, area, level);
    assert!(
        found.iter().any(|found| found.contains(part)),
        "no {level} of {area} with {part:?}: {document:#}"
    );
}

fn empty() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn all_is_well_where_nothing_is_wrong() {
    let (dir, comfy) = (empty(), Comfy::start("plain"));
    let servers = [
        format!("plugins.comfy.config.servers=[{:?}]", comfy.url),
        format!("plugins.comfy.origins=[{:?}]", comfy.url),
    ];
    let settings = ["server.port=0", "execution.backend=cpu", &servers[0], &servers[1]];
    let data = dir.path().join("reverie-data");
    for folder in ["checkpoints", "loras", "models"] {
        fs::create_dir_all(data.join(folder)).unwrap();
    }
    let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion/pipelines");
    for model in ["sd", "sdxl"] {
        std::os::unix::fs::symlink(pipelines.join(model), data.join("checkpoints").join(model)).unwrap();
    }
    fs::write(data.join("loras/ink.safetensors"), lora()).unwrap();
    fs::copy(weights(), data.join("models/mine.safetensors")).unwrap();
    let (document, status) = document(dir.path(), &settings, &[]);
    assert_eq!((status, &document["error"], &document["warning"]), (0, &json!(0), &json!(0)), "{document:#}");
    for (area, part) in [
        ("configuration", "the defaults hold"),
        ("device", "CPU"),
        ("gpu", "no GPU computes"),
        ("models", "mode 'sd' is the default"),
        ("models", "mode 'sd': Stable Diffusion 1, "),
        ("models", "mode 'sdxl': SDXL, "),
        ("models", "mode 'emoji': embedded"),
        ("models", "LoRAs: ink"),
        ("models", "super-resolution 'mine': RRDBNet"),
        ("models", "dual encoder: embedded"),
        ("models", "realesr-animevideov3"),
        ("plugins", "sr "),
        ("plugins", "comfy "),
        ("ledger", "made at the first start"),
        ("storage", "made at the first start"),
        ("ports", "free port"),
        ("comfy", "answers"),
    ] {
        assert_found(&document, area, "ok", part);
    }
    assert!(document["devices"]["cpu"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{document:#}");
    assert!(document["examination"].is_null());
    for made in ["ledger.db", "storage", "embedded", "plugins", "workflows"] {
        assert!(!data.join(made).exists(), "{made}");
    }
}

#[test]
fn everything_that_is_wrong_is_found_at_once() {
    let dir = empty();
    let at = |path: &str| dir.path().join("reverie-data").join(path);
    for folder in ["plugins", "checkpoints", "models", "loras"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = format!(
        "[server]\nport = {port}\nprot = 1\n[execution]\ntile = 7\nbackend = \"cuda:7\"\n[diffusion]\ndefault_mode = \"none\"\n\
         [modes.gone]\nmodel = \"gone.safetensors\"\n[storage]\nlocation = \"file/storage\"\n[scoring]\nmodel = \"gone\"\n\
         [plugin_runtime]\nbuiltin = false\n[plugins.nobody]\ncapabilities = [\"hub\"]\n\
         [plugins.comfy]\norigins = []\n"
    );
    fs::write(dir.path().join("reverie.toml"), file).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::write(at("plugins/bad.wasm"), "no component").unwrap();
    let weights = fs::read(weights()).unwrap();
    fs::write(at("checkpoints/cut.safetensors"), &weights[..weights.len() / 2]).unwrap();
    fs::write(at("checkpoints/pickle.ckpt"), "").unwrap();
    fs::write(at("checkpoints/notes.txt"), "").unwrap();
    fs::write(at("models/cut.safetensors"), &weights[..weights.len() / 2]).unwrap();
    fs::write(at("loras/cut.safetensors"), &weights[..9]).unwrap();
    let ledger = "{\"job\": 1}\n{\"job\": 2}\n";
    fs::write(at("ledger.db"), ledger).unwrap();

    let (document, status) = document(dir.path(), &[], &[("REVERIE_PORT", "1")]);
    assert_eq!(status, 1);
    for (area, level, part) in [
        ("configuration", "error", "server.prot: unknown field"),
        ("configuration", "error", "reverie.toml: execution.tile = 7: must be from 32 to 4096"),
        ("configuration", "warning", "REVERIE_PORT"),
        ("device", "error", "cuda:7"),
        ("models", "error", "default_mode = \"none\": mode: there is no 'none'; there are: cut, emoji,"),
        ("models", "error", "mode 'gone' can't be used"),
        ("models", "error", "mode 'cut' can't be used"),
        ("models", "error", "mode 'pickle.ckpt' can't be used"),
        ("models", "note", "notes.txt"),
        ("models", "error", "LoRA 'cut'"),
        ("models", "error", "super-resolution"),
        ("models", "error", "scoring.model"),
        ("plugins", "error", "bad.wasm is refused"),
        ("plugins", "warning", "[plugins.nobody]"),
        ("ledger", "error", "is no ledger"),
        ("storage", "error", "file/storage"),
        ("ports", "error", "another program"),
        ("comfy", "note", "may not reach http://127.0.0.1:8188"),
    ] {
        assert_found(&document, area, level, part);
    }
    assert_eq!(fs::read_to_string(at("ledger.db")).unwrap(), ledger);

    let text = run(dir.path(), &[], &[], &[]);
    let (out, progress) = (String::from_utf8_lossy(&text.stdout), String::from_utf8_lossy(&text.stderr));
    assert_eq!(text.status.code(), Some(1));
    assert!(out.contains("\nports\n  error    127.0.0.1:") && out.trim_end().ends_with("errors"), "{out}");
    assert!(progress.contains("looking at: models"), "{progress}");
}

/// A whole file of weights.
fn weights() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rrdbnet.safetensors")
}

#[test]
fn a_file_that_is_no_toml_and_options_that_are_none() {
    let dir = empty();
    fs::write(dir.path().join("reverie.toml"), "[server\n").unwrap();
    let (document, status) = document(dir.path(), QUIET, &[]);
    assert_eq!(status, 1);
    assert_found(&document, "configuration", "error", "line 1");
    assert_found(&document, "ports", "ok", "free port");
    let (missing, status) = document_of(dir.path(), &["--json", "--config", "gone.toml"], QUIET, &[]);
    assert_eq!(status, 1);
    assert_found(&missing, "configuration", "error", "gone.toml");
    assert_eq!(run(dir.path(), &["--quick", "--examine", "small"], &[], &[]).status.code(), Some(2));
}

#[test]
fn warnings_count_only_where_that_is_asked_for() {
    let dir = empty();
    let settings = [QUIET, &["server.host=0.0.0.0", "server.open=true"]].concat();
    let (document, status) = document(dir.path(), &settings, &[]);
    assert_eq!((status, &document["error"]), (0, &json!(0)), "{document:#}");
    assert_found(&document, "configuration", "warning", "anyone may do everything");
    assert_eq!(document_of(dir.path(), &["--json", "--strict"], &settings, &[]).1, 1);
}

#[test]
fn a_server_at_work_is_recognised_and_left_alone() {
    let server = Server::start(&["execution.backend=cpu", "plugin_runtime.builtin=false"], &["echo"]);
    let mut client = server.connect();
    let done = client.submit(json!({"jobType": "echo", "x": 1}));
    client.finish(&done);
    let ledger = server.dir.path().join("reverie-data/ledger.db");
    let before = fs::read(&ledger).unwrap();
    let (host, port) = server.address.rsplit_once(':').unwrap();
    let address = [format!("server.host={host}"), format!("server.port={port}")];
    let settings = [
        &[
            "execution.backend=cpu",
            "plugin_runtime.builtin=false",
            "plugins.echo.capabilities=[\"jobs\", \"hub\", \"http\"]",
        ],
        &[&*address[0], &*address[1]][..],
    ];
    let (document, status) = document(server.dir.path(), &settings.concat(), &[]);
    assert_eq!(status, 0, "{document:#}");
    assert_found(&document, "ports", "note", "in use by a Reverie server");
    assert_found(&document, "ledger", "ok", "1 finished and 0 unfinished jobs");
    assert_found(&document, "storage", "ok", "written, read and deleted");
    assert_found(&document, "plugins", "ok", "echo ");
    assert_found(&document, "plugins", "note", "echo is granted what it does not ask for: http");
    assert_eq!(fs::read(&ledger).unwrap(), before);
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
}

/// On the emulated driver.
#[cfg(target_os = "linux")]
#[test]
fn a_gpu_is_described_and_examined() {
    let dir = empty();
    let emulator = std::env::current_exe().unwrap().with_file_name("libreverie_cuda_emulator.so");
    assert!(emulator.exists(), "built with this test");
    let preload = [("LD_PRELOAD", emulator.to_str().unwrap())];
    let settings = ["server.port=0", "plugin_runtime.builtin=false", "execution.backend=cuda:0"];
    let arguments = ["--json", "--examine", "small"];
    let (document, status) = document_of(dir.path(), &arguments, &settings, &preload);
    assert_eq!(status, 0, "{document:#}");
    let devices = &document["devices"];
    assert_eq!(devices["backend"], "emulated GPU (CUDA device 0)");
    assert_eq!(devices["driver"]["cuda"], "12.9");
    let gpu = &devices["gpus"][0];
    assert_eq!((&gpu["compute_capability"], &gpu["pci_bus_id"]), (&json!("9.0"), &json!("0000:00:00.0")));
    assert_found(&document, "device", "ok", "GPU 0: emulated GPU, compute capability 9.0");
    assert_found(&document, "gpu", "ok", "kernels compile");
    assert_found(&document, "gpu", "ok", "checks are right");
    assert_found(&document, "gpu", "note", "--examine small");
    let examination = &document["examination"];
    let checks = examination["checks"].as_array().unwrap();
    for (operation, path) in [("attention", "mma"), ("attention", "wgmma"), ("recording", ""), ("memory", "")]
    {
        assert!(
            checks.iter().any(|c| c["operation"] == operation && c["path"] == path),
            "{operation} {path}"
        );
    }
    assert!(examination["modules"].as_array().is_some_and(|modules| !modules.is_empty()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_gpu_is_left_alone_when_that_is_asked_for() {
    let dir = empty();
    let emulator = std::env::current_exe().unwrap().with_file_name("libreverie_cuda_emulator.so");
    let preload = [("LD_PRELOAD", emulator.to_str().unwrap())];
    let settings = ["server.port=0", "plugin_runtime.builtin=false", "execution.vram_budget_mb=4096"];
    let (document, status) = document_of(dir.path(), &["--json", "--quick"], &settings, &preload);
    assert_eq!(status, 0, "{document:#}");
    assert_found(&document, "device", "ok", "\"auto\" computes on: emulated GPU");
    assert_found(&document, "device", "warning", "execution.vram_budget_mb = 4096 is more than GPU 0 has");
    assert_found(&document, "gpu", "note", "left out");
    assert!(document["examination"].is_null());
}
