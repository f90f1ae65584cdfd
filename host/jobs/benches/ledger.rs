//! What the ledger costs: time from a submission to its acknowledgement, and jobs per second, against the file of JSON lines
//! that versions before 0.2 wrote. Both are a [`Store`] of the same queue, take turns on the same disk, and do the same work:
//!
//! ```text
//! cargo bench -p reverie-jobs --bench ledger            REVERIE_BENCH_SECONDS=2 (of each turn)  REVERIE_BENCH_DIR=DIR
//! ```

#[path = "ledger/lines.rs"]
mod lines;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use lines::Lines;
use reverie_jobs::{
    Config, Jobs, Machine, Outcome, Spec,
    store::{self, Loaded, Sqlite, Store},
};
use reverie_memory::Budget;
use serde_json::{Map, json};

/// Turns of each store, of which the median counts.
const TURNS: usize = 5;

/// What a turn is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As versions before 0.2: that a job has ended is neither waited for nor synced.
    Lines,
    /// The same, synced: what today's promise would cost there.
    LinesSynced,
    Sqlite,
}

/// What a turn measured.
#[derive(Clone, Copy)]
struct Figures {
    /// Jobs per second, from submission to the end that is told.
    rate: f64,
    /// Milliseconds from submission to acknowledgement.
    p50: f64,
    p99: f64,
}

fn main() {
    // `cargo test --benches` runs it too, with another argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let seconds = std::env::var("REVERIE_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let lasts = Duration::from_secs_f64(seconds.unwrap_or(2.0));
    let folder = std::env::var_os("REVERIE_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let folder = folder.join(format!("ledger-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    println!("{}", machine(&folder));
    println!("{:>7}  {:<22} {:>9} {:>10} {:>10}", "clients", "store", "jobs/s", "ack p50 ms", "ack p99 ms");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for clients in [1, 8, 64] {
        let kinds = [Kind::Lines, Kind::LinesSynced, Kind::Sqlite];
        let mut measured = kinds.map(|_| Vec::new());
        for turn in 0..TURNS {
            for offset in 0..kinds.len() {
                let which = (turn + offset) % kinds.len();
                let name = folder.join(format!("{clients}-{turn}-{which}"));
                measured[which].push(runtime.block_on(measure(kinds[which], &name, clients, lasts)));
            }
        }
        let [lines, synced, sqlite] = measured.map(median);
        for (name, figures) in
            [("JSON lines", lines), ("JSON lines, ends synced", synced), ("SQLite", sqlite)]
        {
            let Figures { rate, p50, p99 } = figures;
            println!("{clients:>7}  {name:<22} {rate:>9.0} {p50:>10.3} {p99:>10.3}");
        }
        let against = |other: Figures| {
            let Figures { rate, p50, p99 } = sqlite;
            format!(
                "jobs/s x{:.2}, p50 x{:.2}, p99 x{:.2}",
                rate / other.rate,
                p50 / other.p50,
                p99 / other.p99
            )
        };
        println!(
            "{clients:>7}  SQLite against JSON lines: {}; with ends synced: {}",
            against(lines),
            against(synced)
        );
    }
    let _ = fs::remove_dir_all(&folder);
}

/// Clients that submit a job, wait for its end, and submit the next one.
async fn measure(kind: Kind, folder: &Path, clients: usize, lasts: Duration) -> Figures {
    fs::create_dir_all(folder).expect("a folder");
    let (store, loaded): (Box<dyn Store>, Loaded) = match kind {
        Kind::Sqlite => {
            let opened = Sqlite::open(&folder.join("ledger.db"), Arc::new(store::Machine));
            let (store, loaded) = opened.expect("a new file");
            (Box::new(store), loaded)
        }
        lines => {
            let sync_ends = lines == Kind::LinesSynced;
            (Box::new(Lines::create(&folder.join("ledger.jsonl"), sync_ends)), Loaded::default())
        }
    };
    let jobs = Jobs::open(
        config(),
        store,
        loaded,
        Arc::new(Machine::default()),
        &HashSet::new(),
        Budget::unlimited(),
    );
    let workers: Vec<_> = (0..8).map(|_| tokio::spawn(work(jobs.clone()))).collect();
    let sweeper = tokio::spawn(jobs.clone().sweep(|_| async { Ok(()) }));
    let began = Instant::now();
    let submitting: Vec<_> =
        (0..clients).map(|client| tokio::spawn(submit(jobs.clone(), client, began + lasts))).collect();
    let mut waited = Vec::new();
    for client in submitting {
        waited.extend(client.await.expect("a client"));
    }
    let took = began.elapsed().as_secs_f64();
    for task in workers.into_iter().chain([sweeper]) {
        task.abort();
    }
    jobs.close().await;
    drop(jobs);
    waited.sort_unstable();
    let at = |share: f64| waited[((waited.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    Figures { rate: waited.len() as f64 / took, p50: at(0.5), p99: at(0.99) }
}

async fn submit(jobs: Arc<Jobs>, client: usize, until: Instant) -> Vec<Duration> {
    let mut waited = Vec::new();
    while Instant::now() < until {
        let prompt = format!("a lighthouse on a cliff at dusk, number {}", waited.len());
        let params = json!({"prompt": prompt, "seed": 7, "size": "512x512", "num_inference_steps": 4});
        let spec = Spec {
            job_type: "echo".into(),
            params: params.as_object().expect("an object").clone(),
            owner: Some(format!("client{client}")),
            priority: 0,
            name: None,
            background: false,
            key: None,
        };
        let began = Instant::now();
        let submitted = jobs.submit(spec, Vec::new(), |_| ()).await.expect("accepted");
        waited.push(began.elapsed());
        jobs.wait(submitted.id).await.expect("known");
    }
    waited
}

async fn work(jobs: Arc<Jobs>) {
    loop {
        let job = jobs.take(false, &|_, _| true).await;
        let meta = Map::from_iter([("params".to_owned(), json!(job.spec.params))]);
        jobs.finish(job.id, Outcome::Done { outputs: Vec::new(), meta }).await;
    }
}

/// As `host/reverie.toml` has it.
fn config() -> Config {
    Config {
        default_type: "echo".into(),
        queue_limit: 64,
        max_params_bytes: 1 << 16,
        max_params_values: 1000,
        concurrency: 8,
        background_limit: 16,
        background_concurrency: 4,
        max_attempts: 2,
        max_interruptions: 5,
        keep_finished: 1000,
        keep_finished_total: 20000,
        keep_finished_hours: 24.0,
        keep_records_mb: 0,
        keep_outputs_mb: 0,
        ledger: PathBuf::new(),
    }
}

/// By jobs per second.
fn median(mut turns: Vec<Figures>) -> Figures {
    turns.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    turns[turns.len() / 2]
}

/// When and where this is measured, and what a sync takes there.
fn machine(folder: &Path) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        output.map_or_else(|| "?".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let mut file = File::create(folder.join("sync")).expect("a file");
    let mut syncs: Vec<Duration> = (0..200)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[0; 512]).and_then(|()| file.sync_data()).expect("synced");
            began.elapsed()
        })
        .collect();
    syncs.sort_unstable();
    format!(
        "{}, {}, {cpu}, {cores} cores, load {load}; 512 bytes and a sync: {:.3} ms (median of {})",
        said("date", &["-u", "+%F %H:%M UTC"]),
        said("uname", &["-srm"]),
        syncs[syncs.len() / 2].as_secs_f64() * 1e3,
        syncs.len(),
        cpu = cpu.trim_start_matches(['\t', ':', ' ']),
    )
}
