//! A job as `job:get`, `job:list` and `/v1/jobs/ID` show it.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{Output, Snapshot, Status};

/// A job. Times are unix seconds.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Job")]
pub struct Described {
    job_id: Uuid,
    job_type: String,
    status: Status,
    /// Higher runs first.
    priority: i64,
    progress: Progress,
    /// Which attempt this is, from the second on: the server ended while it ran, and it was started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    created: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<f64>,
    /// What it made, once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<Output>>,
    /// What its plugin tells of the outputs, once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Map<String, Value>>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The `code` of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// The parameter that was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// How far a job is; with fields of its plugin.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Progress {
    /// 0 to 1.
    fraction: f64,
    /// Jobs ahead in the queue, while queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(flatten)]
    detail: Map<String, Value>,
}

impl Snapshot {
    /// The job as clients see it.
    pub fn describe(&self) -> Described {
        let done = self.status == Status::Done;
        let failed = matches!(self.status, Status::Error | Status::Cancelled);
        Described {
            job_id: self.id,
            job_type: self.job_type.clone(),
            status: self.status,
            priority: self.priority,
            progress: self.progress(),
            attempt: Some(self.attempt).filter(|attempt| *attempt > 1),
            created: self.created,
            started: self.started,
            finished: self.finished,
            outputs: done.then(|| self.outputs.clone()),
            meta: done.then(|| self.meta.clone()),
            error: self.error.clone().filter(|_| failed),
            code: self.code.clone().filter(|_| failed),
            field: failed.then(|| self.field()).flatten(),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        let mut detail = self.detail.clone();
        detail.retain(|field, _| field != "fraction" && (field != "position" || self.position.is_none()));
        // f32 to JSON by way of its shortest decimal form, so that 0.1 reads 0.1.
        let fraction = self.fraction.to_string().parse().unwrap_or(0.0);
        Progress { fraction, position: self.position, detail }
    }
}
