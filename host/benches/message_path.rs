//! What a message costs on its way through a WASM handler, against the host's own `ping` in native code: the same server,
//! process, socket and JSON, in turns. Also the cost of one instance.
//!
//! The server has the first core to itself and the client the last, as clients elsewhere have processors of their own; then
//! both share the first. Left to the system, which of the two is measured would differ from run to run.
//!
//!     cargo bench -p reverie --bench message_path -- PLUGIN.wasm
//!
//! Without an argument it builds the template plugin, `hello`.

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::Instant,
};

use core_affinity::CoreId;
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
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let (Some(&server), Some(&client)) = (cores.first(), cores.last()) else {
        panic!("this system does not tell its cores")
    };
    // Threads made from here on inherit it.
    assert!(core_affinity::set_for_current(server));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(server, client));
    // The server's tasks never end by themselves.
    std::process::exit(0);
}

async fn bench(server_core: CoreId, client_core: CoreId) {
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

    for core in [client_core, server_core] {
        let own = core != server_core;
        println!("{}", if own { "client on a core of its own" } else { "client on the server's core" });
        let client = std::thread::spawn(move || {
            assert!(core_affinity::set_for_current(core));
            exchange_all(address)
        });
        tokio::task::block_in_place(|| client.join()).expect("the client ends well");
    }

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
    println!("one instance, made and dropped: {:.1} µs", measured.await.expect("measured"));
}

/// A client with a thread and a socket of its own, and what it measures.
fn exchange_all(address: SocketAddr) {
    let stream = TcpStream::connect(address).expect("listens");
    stream.set_nodelay(true).expect("a socket");
    let (mut socket, _) = client(format!("ws://{address}/v1/ws"), stream).expect("upgrades");
    let ping = (r#"{"type":"ping","id":"1"}"#, "\"pong\"");
    let greet = (r#"{"type":"hello:greet","id":"1"}"#, "hello:greeting");
    for ahead in [1, PIPELINED] {
        let (mut native, mut wasm) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let [one, other] =
                [ping, greet].map(|(message, wanted)| exchange(&mut socket, message, wanted, ahead));
            // The first round warms up.
            if round > 0 {
                native.push(one);
                wasm.push(other);
            }
        }
        let (native, wasm) = (median(native), median(wasm));
        let what = if ahead == 1 { "round trip".into() } else { format!("one of {ahead} under way") };
        println!("  {what}: native {native:.1} µs, WASM {wasm:.1} µs, ratio {:.2}", wasm / native);
    }
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
