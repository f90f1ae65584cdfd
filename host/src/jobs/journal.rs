//! The ledger on disk: one JSON line for each change, the last line of a job counts. Its own thread writes, and syncs what
//! was accepted together in one go.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread::JoinHandle,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{JobHandle, Snapshot, Spec};
use crate::config;

/// Lines for each kept job after which the file is written anew.
const LINES_PER_JOB: usize = 8;
const MIN_LINES: usize = 4096;

/// One line of the file. `spec` stands in a job's first line and after a rewrite.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<Spec>,
    job: Snapshot,
    attempt: u32,
    /// What the job was told and has not yet stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    told: Vec<String>,
}

/// A job read back.
pub struct Replayed {
    pub spec: Spec,
    pub snapshot: Snapshot,
    pub attempt: u32,
    pub told: Vec<String>,
}

/// Answers when a line is on disk.
type Written = oneshot::Sender<Result<(), String>>;

enum Command {
    Append { line: String, written: Option<Written> },
    Rewrite(Vec<String>),
    Flush(oneshot::Sender<()>),
}

/// The writer. With an empty path nothing is written and everything succeeds.
pub struct Journal {
    commands: Option<mpsc::UnboundedSender<Command>>,
    lines: AtomicUsize,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the file and reads what is in it, oldest job first. A last line cut short by a crash is left out.
    ///
    /// # Errors
    /// A message that names the file, and the line when one can't be read.
    pub fn open(config: &config::Jobs) -> Result<(Self, Vec<Replayed>), String> {
        let path = &config.ledger;
        if path.as_os_str().is_empty() {
            return Ok((Self { commands: None, lines: 0.into(), thread: None }, Vec::new()));
        }
        let at = |e: std::io::Error| format!("jobs.ledger '{}': {e}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(at)?;
        }
        // It is replaced when it is written anew, as a device or a folder must not be.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(format!("jobs.ledger '{}': it is there, and no file", path.display()));
        }
        let Replay { jobs: replayed, lines, .. } = replay(path)?;
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(at)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let path = path.clone();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || write(file, &path, receiver))
            .map_err(at)?;
        Ok((Self { commands: Some(commands), lines: lines.into(), thread: Some(thread) }, replayed))
    }

    /// Writes and syncs an accepted job.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn accept(&self, handle: &JobHandle) -> Result<(), String> {
        self.append(line(handle, &Snapshot::queued(handle), true)).await
    }

    /// Writes and syncs what a job was told. It has its place among the other lines when this returns, and is on disk when what
    /// it returns is done.
    ///
    /// # Errors
    /// Those of [`Journal::accept`].
    pub fn tell(
        &self,
        handle: &JobHandle,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        self.append(line(handle, snapshot, false))
    }

    fn append(&self, line: String) -> impl Future<Output = Result<(), String>> + use<> {
        let sent = self.commands.as_ref().map(|commands| {
            let (written, answer) = oneshot::channel();
            self.lines.fetch_add(1, Ordering::Relaxed);
            commands.send(Command::Append { line, written: Some(written) }).map(|()| answer)
        });
        async {
            let gone = || "the ledger's thread has ended".to_owned();
            match sent {
                Some(sent) => sent.map_err(|_| gone())?.await.map_err(|_| gone())?,
                None => Ok(()),
            }
        }
    }

    /// Writes a change, without waiting for it.
    pub fn note(&self, handle: &JobHandle, snapshot: &Snapshot) {
        if let Some(commands) = &self.commands {
            self.lines.fetch_add(1, Ordering::Relaxed);
            let _ = commands.send(Command::Append { line: line(handle, snapshot, false), written: None });
        }
    }

    pub fn wants_rewrite(&self, jobs: usize) -> bool {
        self.lines.load(Ordering::Relaxed) > MIN_LINES.max(jobs * LINES_PER_JOB)
    }

    /// Replaces the file by these lines. They must hold every job whose line was accepted before.
    pub fn rewrite(&self, lines: Vec<String>) {
        if let Some(commands) = &self.commands {
            self.lines.store(lines.len(), Ordering::Relaxed);
            let _ = commands.send(Command::Rewrite(lines));
        }
    }

    /// Waits until everything is on disk.
    pub async fn flush(&self) {
        if let Some(commands) = &self.commands {
            let (done, answer) = oneshot::channel();
            if commands.send(Command::Flush(done)).is_ok() {
                let _ = answer.await;
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A job's record as one line: `whole`, or what can change of it.
pub fn line(handle: &JobHandle, snapshot: &Snapshot, whole: bool) -> String {
    let spec = whole.then(|| handle.spec.clone());
    let job = Snapshot { position: None, ..snapshot.clone() };
    let told = if snapshot.status.is_active() { handle.told() } else { Vec::new() };
    serde_json::to_string(&Line { spec, job, attempt: handle.attempt, told }).expect("plain data")
}

fn write(mut file: File, path: &Path, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut batch = Vec::new();
    while commands.blocking_recv_many(&mut batch, 256) > 0 {
        let mut text = String::new();
        let mut waiting = Vec::new();
        for command in batch.drain(..) {
            match command {
                Command::Append { line, written } => {
                    text.push_str(&line);
                    text.push('\n');
                    waiting.extend(written);
                }
                Command::Rewrite(lines) => {
                    // What was to be appended before is part of the new text already.
                    text.clear();
                    match rewrite(path, &lines) {
                        Ok(new) => file = new,
                        Err(error) => {
                            tracing::error!(%error, path = %path.display(), "ledger: cannot rewrite")
                        }
                    }
                }
                Command::Flush(done) => {
                    let _ = append(&mut file, &mut text, true);
                    let _ = done.send(());
                }
            }
        }
        let result = append(&mut file, &mut text, !waiting.is_empty()).map_err(|e| e.to_string());
        if let Err(error) = &result {
            tracing::error!(error, path = %path.display(), "ledger: cannot write");
        }
        for written in waiting {
            let _ = written.send(result.clone());
        }
    }
}

fn append(file: &mut File, text: &mut String, sync: bool) -> std::io::Result<()> {
    file.write_all(text.as_bytes())?;
    text.clear();
    if sync { file.sync_data() } else { Ok(()) }
}

fn rewrite(path: &Path, lines: &[String]) -> std::io::Result<File> {
    let new: PathBuf = path.with_extension("new");
    let mut file = File::create(&new)?;
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    OpenOptions::new().append(true).open(path)
}

/// What a ledger holds.
#[derive(Default)]
struct Replay {
    /// Oldest first.
    jobs: Vec<Replayed>,
    lines: usize,
    /// Whether the last line was cut short, and left out.
    torn: bool,
}

fn replay(path: &Path) -> Result<Replay, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Replay::default()),
        Err(error) => return Err(format!("jobs.ledger '{}': {error}", path.display())),
    };
    let mut order: Vec<Uuid> = Vec::new();
    let mut jobs: HashMap<Uuid, Replayed> = HashMap::new();
    let lines = text.lines().count();
    let mut torn = false;
    for (i, line) in text.lines().enumerate() {
        let Line { spec, job, attempt, told } = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(_) if i + 1 == lines && !text.ends_with('\n') => {
                torn = true;
                break;
            }
            Err(error) => {
                return Err(format!(
                    "jobs.ledger '{}' line {}: {error}; move the file away to start with an empty ledger",
                    path.display(),
                    i + 1
                ));
            }
        };
        match (jobs.get_mut(&job.id), spec) {
            (Some(known), _) => (known.snapshot, known.attempt, known.told) = (job, attempt, told),
            (None, Some(spec)) => {
                order.push(job.id);
                jobs.insert(job.id, Replayed { spec, snapshot: job, attempt, told });
            }
            // A change of a job that a rewrite has dropped.
            (None, None) => {}
        }
    }
    Ok(Replay { jobs: order.iter().filter_map(|id| jobs.remove(id)).collect(), lines, torn })
}

/// What a look at the ledger finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// Queued, or running when it was written last.
    pub active: usize,
    pub finished: usize,
    pub lines: usize,
    /// Whether the last line was cut short: by a crash, or as a server writes it at this moment.
    pub torn: bool,
}

/// Reads the ledger and changes nothing, also while a server writes it.
///
/// # Errors
/// A message that names the file, and the line when one can't be read.
pub fn inspect(path: &Path) -> Result<Inspected, String> {
    let Replay { jobs, lines, torn } = replay(path)?;
    let active = jobs.iter().filter(|job| job.snapshot.status.is_active()).count();
    Ok(Inspected { active, finished: jobs.len() - active, lines, torn })
}
