//! What was asked, and what can be seen of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    JobHandle,
    error::{Error, ErrorKind},
};

/// Fields of a job's progress that clients of the Python server read beside `progress`, too.
const TOLD_BESIDE: &[&str] = &["step", "total", "stage", "delta"];

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
    /// The owner's own word for the job: submitted again with it, it is the same job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
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
    /// How often it was started; 1 before that, too.
    #[serde(default = "first")]
    pub attempt: u32,
    /// In ledgers of earlier versions: the last attempt whose work was stored.
    #[serde(default, skip_serializing)]
    pub(crate) checkpoint: Option<u32>,
}

fn first() -> u32 {
    1
}

impl Snapshot {
    /// A job that was never accepted.
    pub(crate) fn refused(job_type: &str, owner: Option<&str>, error: &Error, now: f64) -> Self {
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
            attempt: 1,
            checkpoint: None,
        }
    }

    /// A job that has just been accepted.
    pub(crate) fn queued(handle: &JobHandle, now: f64) -> Self {
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
            created: now,
            started: None,
            finished: None,
            attempt: 1,
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
    pub(crate) fn field(&self) -> Option<String> {
        self.failure().field().map(str::to_owned)
    }
}
