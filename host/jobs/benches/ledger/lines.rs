//! The ledger of versions before 0.2, so far as it is measured: one JSON line for each change, by a thread of its own, which
//! syncs what was accepted together in one go. It never wrote the file anew in so short a time, and does not here.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use bytes::Bytes;
use reverie_jobs::{
    Content, Health, Record, Snapshot, Spec,
    store::{Answer, Change, Durability, Everything, Store},
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a Spec>,
    job: &'a Snapshot,
    attempt: u32,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    told: &'a [String],
}

type Written = oneshot::Sender<Result<(), String>>;

enum Command {
    Append { line: String, written: Option<Written> },
    Flush(oneshot::Sender<()>),
}

pub struct Lines {
    commands: mpsc::UnboundedSender<Command>,
    /// Whether what is to be synced is, besides what is accepted: it never was.
    sync_ends: bool,
}

impl Lines {
    pub fn create(path: &Path, sync_ends: bool) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).expect("a file");
        let (commands, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || write(file, receiver));
        Self { commands, sync_ends }
    }

    fn append(&self, record: &Record, whole: bool) -> oneshot::Receiver<Result<(), String>> {
        let (written, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Append { line: line(record, whole), written: Some(written) });
        answer
    }
}

fn line(record: &Record, whole: bool) -> String {
    let Record { spec, job, told, .. } = record;
    let line = Line { spec: whole.then_some(spec), job, attempt: job.attempt, told };
    serde_json::to_string(&line).expect("plain data")
}

impl Store for Lines {
    fn accept(&self, record: Record, _contents: Vec<Content>) -> Answer<Result<(), String>> {
        let answer = self.append(&record, true);
        Box::pin(async { answer.await.expect("the thread answers") })
    }

    fn write(&self, change: Change, durability: Durability) -> Answer<()> {
        let Change::Job(record) = change else { return Box::pin(async {}) };
        if self.sync_ends && durability == Durability::Synced {
            let answer = self.append(&record, false);
            return Box::pin(async { drop(answer.await) });
        }
        let _ = self.commands.send(Command::Append { line: line(&record, false), written: None });
        Box::pin(async {})
    }

    fn content(&self, _sha256: &str) -> Answer<Result<Bytes, String>> {
        Box::pin(async { Err("it kept none".into()) })
    }

    fn settled(&self) -> Answer<()> {
        let (done, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Flush(done));
        Box::pin(async { drop(answer.await) })
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn recover_with(&self, _everything: Everything) {}
}

fn write(mut file: File, mut commands: mpsc::UnboundedReceiver<Command>) {
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
                Command::Flush(done) => {
                    let _ = append(&mut file, &mut text, true);
                    let _ = done.send(());
                }
            }
        }
        let result = append(&mut file, &mut text, !waiting.is_empty()).map_err(|error| error.to_string());
        for written in waiting {
            let _ = written.send(result.clone());
        }
    }
}

fn append(file: &mut File, text: &mut String, sync: bool) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    text.clear();
    if sync { file.sync_data() } else { Ok(()) }
}
