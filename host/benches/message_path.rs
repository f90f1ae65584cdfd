//! What a message costs on its way through a WASM handler, against the host's own `ping` in native code: the same server,
//! process, socket and JSON, in turns. Also the cost of one instance.
//!
//!     cargo bench -p reverie --bench message_path -- PLUGIN.wasm
//!
//! Without an argument it builds the template plugin, `hello`.

use std::{net::TcpStream, path::PathBuf, process::Command, time::Instant};

use reverie::{
    config::{self, Sources},
    server::Server,
};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

const ROUNDS: usize = 20;
const MESSAGES: usize = 500;
/// Under the host's limit of messages of one client that are handled at a time.
const PIPELINED: usize = 25;
const INSTANCES: usize = 5000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench());
    // The server's tasks never end by themselves.
    std::process::exit(0);
}

async fn bench() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new(env!("CARGO"))
        .current_dir(&root)
        .args(["build", "--profile", "guest", "--target", "wasm32-wasip2", "-p", "reverie-plugin-template"])
        .args(["--target-dir", "target/guests"])
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the template builds");
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).expect("a folder");
    std::fs::copy(root.join("target/guests/wasm32-wasip2/guest/hello.wasm"), plugins.join("hello.wasm"))
        .expect("built");

    let path = |name: &str| dir.path().join(name).display().to_string();
    let set = vec![
        "server.port=0".into(),
        format!("plugin_runtime.dir={}", path("plugins")),
        "plugin_runtime.cache_dir=".into(),
        format!("storage.location={}", path("storage")),
        "jobs.ledger=".into(),
    ];
    let config = config::load(&Sources { set, ..Sources::default() }).expect("a configuration");
    let server = Server::bind(config).await.expect("binds");
    let address = server.address();
    let registry = server.registry.clone();
    tokio::spawn(server.run(std::future::pending()));

    // The client has a thread and a socket of its own, as a client elsewhere has: nothing of it runs on the server's threads.
    let (mut native, mut wasm) = (Vec::new(), Vec::new());
    let (mut native_busy, mut wasm_busy) = (Vec::new(), Vec::new());
    tokio::task::block_in_place(|| {
        let stream = TcpStream::connect(address).expect("listens");
        stream.set_nodelay(true).expect("a socket");
        let (mut socket, _) = client(format!("ws://{address}/v1/ws"), stream).expect("upgrades");
        for round in 0..=ROUNDS {
            let ping = (r#"{"type":"ping","id":"1"}"#, "\"pong\"");
            let greet = (r#"{"type":"hello:greet","id":"1"}"#, "hello:greeting");
            let figures = [(ping, 1), (greet, 1), (ping, PIPELINED), (greet, PIPELINED)]
                .map(|((message, wanted), ahead)| exchange(&mut socket, message, wanted, ahead));
            if round > 0 {
                let into = [&mut native, &mut wasm, &mut native_busy, &mut wasm_busy];
                into.into_iter().zip(figures).for_each(|(all, figure)| all.push(figure));
            }
        }
    });
    let (native, wasm) = (median(native), median(wasm));
    let (native_busy, wasm_busy) = (median(native_busy), median(wasm_busy));
    println!("round trip, native ping       {native:8.1} µs");
    println!("round trip, WASM handler      {wasm:8.1} µs");
    println!("ratio WASM / native           {:8.2}", wasm / native);
    println!("a message of {PIPELINED} ahead, native {native_busy:8.1} µs");
    println!("a message of {PIPELINED} ahead, WASM   {wasm_busy:8.1} µs");
    println!("ratio WASM / native           {:8.2}", wasm_busy / native_busy);

    let (plugin, _) = registry.message("hello:greet").expect("loaded");
    let (engine, services) = (registry.engine.clone(), registry.services.clone());
    let measured = registry.engine.runtime().spawn(async move {
        let mut times = Vec::new();
        for _ in 0..INSTANCES {
            let began = Instant::now();
            plugin.instantiate(&engine, &services).await.expect("instantiates");
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        median(times)
    });
    println!("one instance, made and dropped{:8.1} µs", measured.await.expect("measured"));
}

/// Microseconds of one exchange, the mean over a batch, with up to `ahead` messages sent before their answers are read.
fn exchange(socket: &mut WebSocket<TcpStream>, message: &str, wanted: &str, ahead: usize) -> f64 {
    let began = Instant::now();
    for first in (0..MESSAGES).step_by(ahead) {
        let burst = ahead.min(MESSAGES - first);
        for _ in 0..burst {
            socket.write(Message::text(message)).expect("open");
        }
        socket.flush().expect("open");
        let mut answered = 0;
        while answered < burst {
            let answer = socket.read().expect("a message");
            let text = answer.to_text().expect("text");
            assert!(!text.contains("\"error\":\""), "{text}");
            answered += usize::from(text.contains(wanted));
        }
    }
    began.elapsed().as_secs_f64() * 1e6 / MESSAGES as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
