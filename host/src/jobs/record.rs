//! One job: what was asked, and what can be seen of it.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::error::{Error, ErrorKind};

/// Fields of a job's progress that clients of the Python server read beside `progress`, too.
const TOLD_BESIDE: &[&str] = &["step", "total", "stage", "delta"];

/// Messages that may wait in the inbox of one job.
const INBOX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Queued,
    Running,
    Done,
    Error,
    // Ledgers of earlier versions spell it otherwise.
    #[serde(rename = "canceled", alias = "cancelled")]
    Cancelled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Error => "error",
            Self::Cancelled => "canceled",
        }
    }

    /// Queued or running.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }
}

/// What was asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    pub job_type: String,
    /// The `job:submit` message without `type`, `id`, `jobType` and `priority`.
    pub params: Map<String, Value>,
    /// The client it belongs to; none for HTTP requests.
    pub owner: Option<String>,
    pub priority: i64,
    /// No other active job of the type has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Runs while no other job does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
}

/// A stored output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Where it is served, from the server's root.
    pub url: String,
    /// Its key in the storage.
    pub key: String,
}

impl Output {
    pub fn stored(key: impl Into<String>) -> Self {
        let key = key.into();
        Self { url: format!("/storage/{key}"), key }
    }
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<String>,
    /// Of a background job: the last ones that it took since it stored its state.
    taken: VecDeque<String>,
}

/// What a running job and its worker share.
pub struct JobHandle {
    pub id: Uuid,
    pub spec: Spec,
    /// 1 the first time.
    pub attempt: u32,
    priority: AtomicI64,
    cancel: watch::Sender<bool>,
    finished: watch::Sender<bool>,
    inbox: Mutex<Inbox>,
    mail: Notify,
    /// Nanoseconds that its computations waited for the device.
    waited: AtomicU64,
    /// Which version of its plugin runs it.
    pub version: AtomicU64,
}

impl JobHandle {
    pub fn new(id: Uuid, spec: Spec, attempt: u32) -> Self {
        Self {
            id,
            priority: spec.priority.into(),
            spec,
            attempt,
            cancel: watch::Sender::new(false),
            finished: watch::Sender::new(false),
            inbox: Mutex::default(),
            mail: Notify::new(),
            waited: AtomicU64::new(0),
            version: AtomicU64::new(0),
        }
    }

    /// One of an earlier process, which was told this.
    pub(super) fn with_told(self, told: Vec<String>) -> Self {
        self.inbox.lock().unwrap().waiting = told.into();
        self
    }

    pub fn priority(&self) -> i64 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(super) fn set_priority(&self, priority: i64) {
        self.priority.store(priority, Ordering::Relaxed);
    }

    pub fn request_cancel(&self) {
        self.cancel.send_replace(true);
        self.mail.notify_one();
    }

    pub fn is_cancelled(&self) -> bool {
        *self.cancel.borrow()
    }

    /// Waits until the job is asked to stop.
    pub async fn cancelled(&self) {
        let _ = self.cancel.subscribe().wait_for(|cancelled| *cancelled).await;
    }

    pub(super) fn finished(&self) -> watch::Receiver<bool> {
        self.finished.subscribe()
    }

    pub(super) fn finish(&self) {
        self.finished.send_replace(true);
    }

    /// Puts a message into the inbox.
    ///
    /// # Errors
    /// `Busy` when it is full.
    pub fn post(&self, message: String) -> Result<(), Error> {
        let mut inbox = self.inbox.lock().unwrap();
        if inbox.waiting.len() >= INBOX {
            let job = self.id;
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the inbox of job {job} is full ({INBOX} messages)"),
            ));
        }
        inbox.waiting.push_back(message);
        self.mail.notify_one();
        Ok(())
    }

    /// What a background job has been told since it stored its state.
    pub(super) fn told(&self) -> Vec<String> {
        if !self.spec.background {
            return Vec::new();
        }
        let inbox = self.inbox.lock().unwrap();
        inbox.taken.iter().chain(&inbox.waiting).cloned().collect()
    }

    /// Takes note that the job stored what came of the messages it took; whether there were any.
    pub(super) fn settle(&self) -> bool {
        !std::mem::take(&mut self.inbox.lock().unwrap().taken).is_empty()
    }

    /// How long its computations have waited for the device.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    pub fn add_waited(&self, more: Duration) {
        self.waited.fetch_add(more.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Takes the next message of the inbox; none after `timeout` or when the job is asked to stop.
    pub async fn receive(&self, timeout: Duration) -> Option<String> {
        let take = || {
            let mut inbox = self.inbox.lock().unwrap();
            let message = inbox.waiting.pop_front()?;
            if self.spec.background {
                inbox.taken.push_back(message.clone());
                let excess = inbox.taken.len().saturating_sub(INBOX);
                inbox.taken.drain(..excess);
            }
            Some(message)
        };
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            if let Some(message) = take() {
                return Some(message);
            }
            if self.is_cancelled() {
                return None;
            }
            tokio::time::timeout_at(deadline, self.mail.notified()).await.ok()?;
        }
    }
}

/// A job as clients see it. Times are unix seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: Uuid,
    pub job_type: String,
    pub owner: Option<String>,
    pub status: Status,
    pub priority: i64,
    /// Jobs ahead in the queue, while queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    pub fraction: f32,
    #[serde(default)]
    pub detail: Map<String, Value>,
    #[serde(default)]
    pub outputs: Vec<Output>,
    #[serde(default)]
    pub meta: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The `code` of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    pub created: f64,
    pub started: Option<f64>,
    pub finished: Option<f64>,
    /// The last attempt whose work was stored, to be gone on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u32>,
}

impl Snapshot {
    /// A job that was never accepted.
    pub(super) fn refused(job_type: &str, owner: Option<&str>, error: &Error) -> Self {
        let now = now();
        Self {
            id: Uuid::new_v4(),
            job_type: job_type.to_owned(),
            owner: owner.map(str::to_owned),
            status: Status::Error,
            priority: 0,
            position: None,
            fraction: 0.0,
            detail: Map::new(),
            outputs: Vec::new(),
            meta: Map::new(),
            error: Some(error.message.clone()),
            code: Some(error.kind.code().into()),
            created: now,
            started: None,
            finished: Some(now),
            checkpoint: None,
        }
    }

    /// A job that has just been accepted.
    pub(super) fn queued(handle: &JobHandle) -> Self {
        Self {
            id: handle.id,
            job_type: handle.spec.job_type.clone(),
            owner: handle.spec.owner.clone(),
            status: Status::Queued,
            priority: handle.spec.priority,
            position: None,
            fraction: 0.0,
            detail: Map::new(),
            outputs: Vec::new(),
            meta: Map::new(),
            error: None,
            code: None,
            created: now(),
            started: None,
            finished: None,
            checkpoint: None,
        }
    }

    /// `job:progress`.
    pub fn progress_message(&self) -> Value {
        let mut message = json!({
            "type": "job:progress",
            "jobId": self.id,
            "jobType": self.job_type,
            "status": self.status,
            "progress": self.progress(),
        });
        let told = TOLD_BESIDE.iter().filter_map(|field| Some((field, self.detail.get(*field)?)));
        for (field, value) in told {
            message[*field] = value.clone();
        }
        message
    }

    /// `job:complete` or `job:error`; none while the job is active.
    pub fn final_message(&self) -> Option<Value> {
        match self.status {
            Status::Queued | Status::Running => None,
            Status::Done => Some(json!({
                "type": "job:complete",
                "jobId": self.id,
                "jobType": self.job_type,
                "outputs": self.outputs,
                "meta": self.meta,
            })),
            Status::Error | Status::Cancelled => {
                let mut message = json!({
                    "type": "job:error",
                    "jobId": self.id,
                    "jobType": self.job_type,
                    "status": self.status,
                    "error": self.error,
                    "code": self.code,
                });
                if let Some(field) = self.field() {
                    message["field"] = field.into();
                }
                Some(message)
            }
        }
    }

    /// What it ended with, unless it is done.
    pub fn failure(&self) -> Error {
        let kind = self.code.as_deref().map_or(ErrorKind::Internal, ErrorKind::from_code);
        Error::new(kind, self.error.clone().unwrap_or_else(|| "the job failed".into()))
    }

    /// The parameter that was wrong.
    pub(super) fn field(&self) -> Option<String> {
        self.failure().field().map(str::to_owned)
    }
}

/// Unix seconds.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}
