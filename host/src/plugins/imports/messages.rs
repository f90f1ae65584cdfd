//! The job at hand, other jobs of the plugin, and clients.

use std::time::Duration;

use reverie_access::tenant_of;
use reverie_memory::{Held, Use};
use serde_json::Value;
use uuid::Uuid;

use super::{
    super::{
        bindings::reverie::handler::{hub, job, jobs, log::Level, types},
        call::Completion,
        instance::{CallState, Origin},
        memory::Part,
    },
    room,
};
use crate::{
    error::{Error, ErrorKind},
    hub::{Client, Frame},
    jobs::{Output, Snapshot, Spec},
};

/// Characters of a job's name.
const MAX_NAME: usize = 64;

/// What stands between a tenant and its job's name.
const OF_TENANT: char = '\u{1f}';

/// Bytes of the detail of a job's progress, in all: clients are sent it with every step.
const MAX_DETAIL: usize = crate::jobs::MAX_DETAIL;

/// Bytes of the keys and the `meta` that a job completes with: they are kept as long as the job is.
const MAX_COMPLETION: usize = 4 << 20;

impl job::Host for CallState {
    fn progress(&mut self, fraction: f32, detail: String) -> wasmtime::Result<()> {
        if let Some(job) = self.job() {
            let read = match detail.len() {
                ..=MAX_DETAIL => self.object("detail", &detail).map(|(detail, _)| detail),
                bytes => Err(Error::invalid(format!("detail has {bytes} bytes; accepted are {MAX_DETAIL}"))),
            };
            let fits = read.map(|detail| self.services.jobs.progress(job.id, fraction, detail));
            let error = match fits {
                Ok(true) => return Ok(()),
                Ok(false) => format!("all fields of a job's detail together are over {MAX_DETAIL} bytes"),
                Err(error) => error.message,
            };
            self.log(Level::Warn, &format!("job.progress: {error}"));
        }
        Ok(())
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        self.knows_of_cancel |= self.job().is_some_and(|job| job.is_cancelled());
        Ok(self.knows_of_cancel)
    }

    async fn receive(&mut self, timeout_ms: u32) -> wasmtime::Result<Option<String>> {
        match self.job().cloned() {
            Some(job) => {
                let message = job.receive(Duration::from_millis(timeout_ms.into())).await;
                self.memory.check(message.as_ref().map_or(0, String::len))?;
                Ok(message)
            }
            None => Ok(None),
        }
    }

    fn waited_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.job().map_or(0, |job| job.waited().as_millis() as u64))
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
            return Ok(Err(Error::invalid("job.complete or job.requeue was called before").into()));
        }
        let bytes =
            outputs.iter().map(|output| output.key.len() + size_of::<Output>()).sum::<usize>() + meta.len();
        if bytes > MAX_COMPLETION {
            let error =
                format!("outputs and meta have {bytes} bytes; a job can complete with {MAX_COMPLETION}");
            return Ok(Err(Error::new(ErrorKind::TooLarge, error).into()));
        }
        Ok(self.object("meta", &meta).map_err(Into::into).map(|(meta, part)| {
            let outputs = outputs.into_iter().map(|output| Output::stored(output.key)).collect();
            self.completion = Some(Completion::Done { outputs, meta });
            self.completion_part = part;
        }))
    }

    fn interruption(&mut self) -> wasmtime::Result<Option<job::InterruptionReason>> {
        let Some(job) = self.job().filter(|job| job.spec.background) else { return Ok(None) };
        Ok(if self.services.jobs.is_stopping() {
            Some(job::InterruptionReason::Stopping)
        } else if self.services.superseded(job) {
            Some(job::InterruptionReason::Superseded)
        } else {
            None
        })
    }

    fn checkpoint(&mut self) -> wasmtime::Result<()> {
        if let Some(job) = self.job() {
            self.services.jobs.checkpoint(job.id);
        }
        Ok(())
    }

    fn requeue(&mut self) -> wasmtime::Result<Result<(), types::Error>> {
        if !self.job().is_some_and(|job| job.spec.background) {
            return Ok(Err(Error::invalid("job.requeue outside of a background job").into()));
        }
        if self.completion.is_some() {
            return Ok(Err(Error::invalid("job.complete or job.requeue was called before").into()));
        }
        self.completion = Some(Completion::Requeued);
        Ok(Ok(()))
    }

    fn event(&mut self, text: String, topic: Option<String>) -> wasmtime::Result<Result<(), types::Error>> {
        let Some(job) = self.job() else {
            return Ok(Err(Error::invalid("job.event outside of a job").into()));
        };
        Ok(self.message(&text).map(|(mut value, part)| {
            value["jobId"] = job.id.to_string().into();
            let frame = Frame::event(job.id, topic.as_deref(), value.to_string());
            let frame = waiting(frame, part, text.len());
            self.services.hub.job_event(job.id, job.spec.owner.as_deref(), frame, false);
        }))
    }
}

impl CallState {
    /// A queued or running job of a type that this plugin owns, and of the tenant that is served.
    fn own_job(&self, id: &str) -> Result<std::sync::Arc<crate::jobs::JobHandle>, Error> {
        let job = Uuid::parse_str(id).ok().and_then(|id| self.services.jobs.active(id));
        let own = |spec: &Spec| {
            self.serves(spec.owner.as_deref()) && self.services.owns_job_type(&self.plugin, &spec.job_type)
        };
        job.filter(|job| own(&job.spec)).ok_or_else(|| {
            Error::not_found(format!("no queued or running job '{id}' of plugin '{}'", self.plugin))
        })
    }

    /// Whether what belongs to `owner` is the business of whom this call serves.
    fn serves(&self, owner: Option<&str>) -> bool {
        self.tenant().is_none_or(|tenant| owner.and_then(tenant_of) == Some(tenant))
    }

    /// The name of a job as the host keeps it: each tenant has names of its own.
    fn name_of(&self, name: &str) -> String {
        self.tenant().map_or_else(|| name.to_owned(), |tenant| format!("{tenant}{OF_TENANT}{name}"))
    }
}

impl CallState {
    async fn submit_job(
        &mut self,
        job_type: String,
        name: Option<String>,
        params: String,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        let unfit = |name: &String| {
            name.is_empty() || name.chars().count() > MAX_NAME || name.contains(char::is_control)
        };
        if name.as_ref().is_some_and(unfit) {
            let error =
                format!("a job's name has 1 to {MAX_NAME} characters, none of them a control character");
            return Ok(Err(Error::invalid(error).into()));
        }
        let (params, _part) = match self.object("params", &params) {
            Ok(params) => params,
            Err(error) => return Ok(Err(error.into())),
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
        let background = self.services.is_background(&job_type);
        let name = name.map(|name| self.name_of(&name));
        let spec = Spec { job_type, params, owner, priority: 0, name, background, key: None };
        let submitted = self.services.submit(spec, |_| ()).await;
        Ok(submitted.map(|job| job.id.to_string()).map_err(Into::into))
    }

    /// The memory of a message to a job: while it is read, and while it waits.
    fn room_to_send(&self, message: &str) -> Result<(Part, Held), Error> {
        Ok((self.memory.take(room(message))?, self.services.memory.hold(Use::Jobs, message.len())?))
    }

    /// A job of a type that this plugin owns, active or not.
    fn own_record(&self, id: &str) -> Result<Snapshot, Error> {
        let job = Uuid::parse_str(id).ok().and_then(|id| self.services.jobs.get(id).ok());
        let own = |job: &Snapshot| {
            self.serves(job.owner.as_deref()) && self.services.owns_job_type(&self.plugin, &job.job_type)
        };
        job.filter(own).ok_or_else(|| Error::not_found(format!("no job '{id}' of plugin '{}'", self.plugin)))
    }
}

impl jobs::Host for CallState {
    async fn submit(
        &mut self,
        job_type: String,
        params: String,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        self.submit_job(job_type, None, params).await
    }

    async fn submit_named(
        &mut self,
        job_type: String,
        name: String,
        params: String,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        self.submit_job(job_type, Some(name), params).await
    }

    fn find(&mut self, job_type: String, name: String) -> wasmtime::Result<Option<String>> {
        let job = self.services.jobs.named(&job_type, &self.name_of(&name));
        Ok(job.filter(|_| self.services.owns_job_type(&self.plugin, &job_type)).map(|id| id.to_string()))
    }

    fn names(&mut self, job_type: String) -> wasmtime::Result<Vec<String>> {
        if !self.services.owns_job_type(&self.plugin, &job_type) {
            return Ok(Vec::new());
        }
        let names = self.services.jobs.names(&job_type).into_iter();
        Ok(match self.tenant() {
            None => names.filter(|name| !name.contains(OF_TENANT)).collect(),
            Some(tenant) => {
                let own = |name: String| {
                    let (of, name) = name.split_once(OF_TENANT)?;
                    (of == tenant).then(|| name.to_owned())
                };
                names.filter_map(own).collect()
            }
        })
    }

    async fn wait(
        &mut self,
        job_id: String,
        timeout_ms: u32,
    ) -> wasmtime::Result<Result<Option<String>, types::Error>> {
        let job = match self.own_record(&job_id) {
            Ok(job) => job,
            Err(error) => return Ok(Err(error.into())),
        };
        let limit = Duration::from_millis(timeout_ms.into());
        Ok(match tokio::time::timeout(limit, self.services.jobs.wait(job.id)).await {
            Ok(Ok(ended)) => {
                let meta = Value::Object(ended.meta).to_string();
                self.memory.check(meta.len()).map(|()| Some(meta)).map_err(|e| Error::from(e).into())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Ok(None),
        })
    }

    fn follow(&mut self, job_id: String, follows: bool) -> wasmtime::Result<Result<(), types::Error>> {
        let Origin::Message { client, .. } = &self.origin else {
            return Ok(Err(Error::invalid("jobs.follow outside of a message").into()));
        };
        Ok(self.own_job(&job_id).map_err(Into::into).map(|job| match follows {
            true => client.follow(job.id),
            false => client.unfollow(job.id),
        }))
    }

    async fn send(&mut self, job_id: String, message: String) -> wasmtime::Result<Result<(), types::Error>> {
        let job = match self.own_job(&job_id) {
            Ok(job) => job,
            Err(error) => return Ok(Err(error.into())),
        };
        // It is read where it may name uploads.
        let (_part, held) = match self.room_to_send(&message) {
            Ok(granted) => granted,
            Err(error) => return Ok(Err(error.into())),
        };
        let given = match job.spec.background {
            true => {
                let tenant = job.spec.owner.as_deref().and_then(tenant_of);
                self.services.uploads.given(&serde_json::from_str(&message).unwrap_or_default(), tenant)
            }
            false => Vec::new(),
        };
        Ok(self.services.jobs.post(job.id, held.with(message), given).await.map_err(Into::into))
    }

    async fn cancel(&mut self, job_id: String) -> wasmtime::Result<Result<(), types::Error>> {
        let cancelled = match self.own_job(&job_id) {
            Ok(job) => self.services.cancel(job.id).await,
            Err(error) => Err(error),
        };
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

/// A frame that takes memory of the call that sent it for as long as it waits; that of a small one is bounded by the queues.
fn waiting(frame: Frame, part: Option<Part>, bytes: usize) -> Frame {
    match part {
        Some(mut part) => {
            part.shrink(part.bytes().saturating_sub(bytes));
            frame.with(part.shared())
        }
        None => frame,
    }
}

impl CallState {
    /// A message to a client: a JSON object with a string `type`. Also the memory that a large one takes.
    fn message(&self, text: &str) -> Result<(Value, Option<Part>), types::Error> {
        let (object, part) = self.object("message", text)?;
        let value = Value::Object(object);
        match value.get("type").and_then(Value::as_str) {
            Some(_) => Ok((value, part)),
            None => Err(Error::invalid("message: the field 'type' must be a string").into()),
        }
    }
}

impl hub::Host for CallState {
    fn reply(&mut self, text: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(self.message(&text).and_then(|(value, part)| match &self.origin {
            Origin::Message { client, id } => {
                let mut value = value;
                if let Some(error) = value.get("error").and_then(Value::as_str)
                    && let Some(told) = self.services.hidden.without(error)
                {
                    value["error"] = told.into();
                }
                let frame = Client::answer(value, id.as_ref());
                client.outbox.push(waiting(frame, part, text.len()));
                Ok(())
            }
            Origin::Job(job) => {
                let frame = waiting(Frame::new(value.to_string()), part, text.len());
                match &job.spec.owner {
                    Some(owner) if self.services.hub.send(owner, frame) => Ok(()),
                    _ => Err(Error::not_found("the client of this job is not connected").into()),
                }
            }
            Origin::Loader => Err(Error::invalid("hub.reply outside of a call").into()),
        }))
    }

    fn send(&mut self, client: String, text: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(self.message(&text).and_then(|(value, part)| {
            self.granted("hub")?;
            if self.services.hub.send(&client, waiting(Frame::new(value.to_string()), part, text.len())) {
                return Ok(());
            }
            Err(Error::not_found(format!("client '{client}' is not connected")).into())
        }))
    }

    fn broadcast(&mut self, text: String) -> wasmtime::Result<Result<(), types::Error>> {
        Ok(self.message(&text).and_then(|(value, part)| {
            self.granted("hub")?;
            self.services.hub.broadcast(waiting(Frame::new(value.to_string()), part, text.len()));
            Ok(())
        }))
    }
}
