//! The job at hand, other jobs of the plugin, and clients.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::{
    super::{
        bindings::reverie::handler::{hub, job, jobs, types},
        instance::{CallState, Origin},
    },
    object,
};
use crate::{
    error::{Error, ErrorKind},
    hub::Frame,
    jobs::{Output, Spec},
};

impl job::Host for CallState {
    fn progress(&mut self, fraction: f32, detail: String) -> wasmtime::Result<()> {
        if let Some(job) = self.job() {
            match object("detail", &detail) {
                Ok(detail) => self.services.jobs.progress(job.id, fraction, detail),
                Err(error) => tracing::warn!(plugin = &*self.plugin, error = error.message, "job.progress"),
            }
        }
        Ok(())
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.job().is_some_and(|job| job.is_cancelled()))
    }

    async fn receive(&mut self, timeout_ms: u32) -> wasmtime::Result<Option<String>> {
        match self.job().cloned() {
            Some(job) => Ok(job.receive(Duration::from_millis(timeout_ms.into())).await),
            None => Ok(None),
        }
    }

    fn complete(
        &mut self,
        outputs: Vec<job::Output>,
        meta: String,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        if self.job().is_none() {
            return Ok(Err(Error::invalid("job.complete outside of a job").into()));
        }
        if self.completion.is_some() {
            return Ok(Err(Error::invalid("job.complete was called before").into()));
        }
        let outputs = outputs.into_iter().map(|output| Output::stored(output.key)).collect();
        Ok(object("meta", &meta).map(|meta| self.completion = Some((outputs, meta))))
    }
}

impl CallState {
    /// A queued or running job of a type that this plugin owns.
    fn own_job(&self, id: &str) -> Result<std::sync::Arc<crate::jobs::JobHandle>, Error> {
        let job = Uuid::parse_str(id).ok().and_then(|id| self.services.jobs.active(id));
        job.filter(|job| self.services.owns_job_type(&self.plugin, &job.spec.job_type)).ok_or_else(|| {
            Error::not_found(format!("no queued or running job '{id}' of plugin '{}'", self.plugin))
        })
    }
}

impl jobs::Host for CallState {
    async fn submit(
        &mut self,
        job_type: String,
        params: String,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        let params = match object("params", &params) {
            Ok(params) => params,
            Err(error) => return Ok(Err(error)),
        };
        if !self.services.owns_job_type(&self.plugin, &job_type) {
            let error = format!("job type '{job_type}' is not one of plugin '{}'", self.plugin);
            return Ok(Err(Error::new(ErrorKind::Denied, error).into()));
        }
        let owner = match &self.origin {
            Origin::Message { client, .. } => Some(client.id.clone()),
            Origin::Job(job) => job.spec.owner.clone(),
            Origin::Loader => None,
        };
        let spec = Spec { job_type, params, owner, priority: 0 };
        let submitted = self.services.jobs.submit(spec, |_| ()).await;
        Ok(submitted.map(|id| id.to_string()).map_err(Into::into))
    }

    fn send(&mut self, job_id: String, message: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(self.own_job(&job_id).and_then(|job| job.post(message)).map_err(Into::into))
    }

    fn cancel(&mut self, job_id: String) -> wasmtime::Result<Result<(), types::Error>> {
        let cancelled = self.own_job(&job_id).and_then(|job| self.services.jobs.cancel(job.id));
        Ok(cancelled.map(drop).map_err(Into::into))
    }

    fn active(&mut self) -> wasmtime::Result<Vec<String>> {
        let jobs = self.services.jobs.list(None).into_iter();
        Ok(jobs
            .filter(|j| j.status.is_active() && self.services.owns_job_type(&self.plugin, &j.job_type))
            .map(|j| j.id.to_string())
            .collect())
    }
}

/// A message to a client: a JSON object with a string `type`.
fn message(text: &str) -> Result<Value, types::Error> {
    let value = Value::Object(object("message", text)?);
    match value.get("type").and_then(Value::as_str) {
        Some(_) => Ok(value),
        None => Err(Error::invalid("message: the field 'type' must be a string").into()),
    }
}

impl hub::Host for CallState {
    fn reply(&mut self, text: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(message(&text).and_then(|value| match &self.origin {
            Origin::Message { client, id } => {
                client.reply(value, id.as_deref());
                Ok(())
            }
            Origin::Job(job) => match &job.spec.owner {
                Some(owner) if self.services.hub.send(owner, &value.to_string()) => Ok(()),
                _ => Err(Error::not_found("the client of this job is not connected").into()),
            },
            Origin::Loader => Err(Error::invalid("hub.reply outside of a call").into()),
        }))
    }

    fn send(&mut self, client: String, text: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(message(&text).and_then(|value| {
            self.granted("hub")?;
            if self.services.hub.send(&client, &value.to_string()) {
                return Ok(());
            }
            Err(Error::not_found(format!("client '{client}' is not connected")).into())
        }))
    }

    fn broadcast(&mut self, text: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(message(&text).and_then(|value| {
            self.granted("hub")?;
            self.services.hub.broadcast(Frame::new(value.to_string()));
            Ok(())
        }))
    }
}
