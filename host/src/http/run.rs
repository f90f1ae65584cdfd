//! Jobs that an HTTP request waits for. They take the same way as those over WebSocket.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    dispatch,
    error::Error,
    jobs::{Jobs, Snapshot, Spec},
    plugins::Registry,
};

/// A job that is done, and the content of its first output.
pub struct Done {
    pub job: Snapshot,
    /// The storage key of the output.
    pub key: String,
    pub content: Bytes,
}

/// A job that was accepted and is waited for. Dropped before its end, as when the caller hangs up, it cancels the job.
pub struct Waiting {
    registry: Arc<Registry>,
    id: Uuid,
    ended: bool,
}

/// Submits a job; `owner` is under whose name it can be listed.
///
/// # Errors
/// `InvalidInput` for an unknown type or bad parameters, `Busy` when the queue is full.
pub async fn submit(
    registry: &Arc<Registry>,
    job_type: &str,
    params: Map<String, Value>,
    owner: Option<&str>,
) -> Result<Waiting, Error> {
    let spec = Spec {
        job_type: job_type.into(),
        params,
        owner: owner.map(str::to_owned),
        priority: 0,
        name: None,
        background: registry.services.is_background(job_type),
    };
    dispatch::check_spec(registry, &spec)?;
    let id = registry.services.jobs.submit(spec, |_| ()).await?;
    Ok(Waiting { registry: registry.clone(), id, ended: false })
}

impl Waiting {
    /// Waits for its end.
    ///
    /// # Errors
    /// The job's error.
    pub async fn done(mut self) -> Result<Done, Error> {
        let services = self.registry.services.clone();
        let job = services.jobs.wait(self.id).await?;
        self.ended = true;
        dispatch::finished(&job)?;
        let output = job.outputs.first().ok_or_else(|| Error::internal("the job has no output"))?;
        let (key, content) = (output.key.clone(), services.storage.get(&output.key).await?);
        Ok(Done { job, key, content })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.ended {
            let jobs: &Jobs = &self.registry.services.jobs;
            let _ = jobs.cancel(self.id);
        }
    }
}
