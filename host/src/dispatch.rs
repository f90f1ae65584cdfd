//! From a message to who handles it: the host for `ping`, `job:*` and `system:*`, a plugin for everything else.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, ready},
};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    error::{Error, ErrorKind},
    hub::Client,
    jobs::{self, Snapshot, Spec},
    plugins::{Message, Registry},
    status,
};

/// Fields of `job:submit` that are not the job's parameters.
const ENVELOPE: &[&str] = &["type", "id", "jobType", "priority"];

/// What one connection has under way in plugins.
pub struct Inflight {
    permits: Arc<Semaphore>,
    /// What calls left to be done after their replies.
    chores: Mutex<VecDeque<BoxFuture<'static, ()>>>,
}

impl Inflight {
    /// For at most `limit` calls at once.
    pub fn new(limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit)), chores: Mutex::default() }
    }

    /// Does what calls have left, for ever. Polled last in the connection's own task, which the calls run in too: so nothing
    /// need wake it.
    pub async fn tidy(&self) {
        let mut chore: Option<BoxFuture<'static, ()>> = None;
        poll_fn(|context| {
            loop {
                if let Some(running) = &mut chore {
                    ready!(running.as_mut().poll(context));
                }
                chore = self.chores.lock().unwrap().pop_front();
                if chore.is_none() {
                    return Poll::<()>::Pending;
                }
            }
        })
        .await;
    }
}

type Object = Map<String, Value>;

/// Handles one text message. Every reply carries the message's `id`.
pub async fn receive(registry: &Arc<Registry>, inflight: &Inflight, client: Arc<Client>, text: String) {
    registry.services.metrics.ws_received.inc();
    let fail = |message: &str, id: Option<&str>| client.reply(json!({"type": "error", "error": message}), id);
    let object: Object = match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return fail("A message must be a JSON object with a string 'type'", None),
        Err(_) => return fail("Invalid JSON", None),
    };
    // Any string; a number is taken too, as some clients count.
    let id = object.get("id").and_then(|id| match id {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    });
    let id = id.as_deref();
    let Some(kind) = object.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return fail("A message must be a JSON object with a string 'type'", id);
    };
    let answered = match kind.as_str() {
        "ping" => Ok(Some(json!({"type": "pong"}))),
        "pong" => Ok(None),
        "job:submit" => return submit(registry, inflight, client, object, id.map(str::to_owned)).await,
        "job:cancel" => cancel(registry, &object).map(Some),
        "job:priority" => priority(registry, &object).map(Some),
        "job:get" => get(registry, &client, &object).map(Some),
        "job:list" => Ok(Some(list(registry, &client))),
        "job:subscribe" => subscribe(registry, &client, &object, true).map(Some),
        "job:unsubscribe" => subscribe(registry, &client, &object, false).map(Some),
        "system:status" => Ok(Some(status::message(registry))),
        _ => return to_plugin(registry, inflight, client, &kind, object, text, id.map(str::to_owned)).await,
    };
    match answered {
        Ok(Some(reply)) => client.reply(reply, id),
        Ok(None) => {}
        Err(error) => client.reply(error_message(&error), id),
    }
}

/// `error`, as replies and as an answer to a message that a plugin failed on.
fn error_message(error: &Error) -> Value {
    json!({"type": "error", "error": error.message, "code": error.kind.code()})
}

async fn to_plugin(
    registry: &Arc<Registry>,
    inflight: &Inflight,
    client: Arc<Client>,
    kind: &str,
    object: Object,
    text: String,
    id: Option<String>,
) {
    let Some((plugin, entry)) = registry.message(kind) else {
        let error = format!("Unknown type: {kind}");
        return client.reply(json!({"type": "error", "error": error}), id.as_deref());
    };
    if let Err(error) = entry.schema.check(&Value::Object(object)) {
        return client.reply(error_message(&Error::invalid(error)), id.as_deref());
    }
    let permit = inflight.permits.clone().acquire_owned().await.expect("never closed");
    let message = Message { kind: kind.to_owned(), id: id.clone(), client: client.id.clone(), body: text };
    let (engine, services) = (registry.engine.clone(), registry.services.clone());
    let (replying, called) = (client.clone(), plugin.clone());
    let mut call = Box::pin(async move {
        let _permit = permit;
        let (result, spent) = called.handle_message(engine, services, client, message).await;
        if let Err(error) = result {
            replying.reply(error_message(&error), id.as_deref());
        }
        spent
    });
    let (engine, services) = (registry.engine.clone(), registry.services.clone());
    let tidy = move |spent| async move {
        drop(spent);
        plugin.warm_up(&engine, &services).await;
    };
    // Most handlers end within one epoch tick: those run here, without a change of threads. One that does not, or that
    // waits, gives way at its first tick and goes on among the plugin threads.
    match futures_util::poll!(&mut call) {
        Poll::Ready(spent) => inflight.chores.lock().unwrap().push_back(Box::pin(tidy(spent))),
        Poll::Pending => drop(registry.engine.runtime().spawn(async move { tidy(call.await).await })),
    }
}

async fn submit(
    registry: &Arc<Registry>,
    inflight: &Inflight,
    client: Arc<Client>,
    object: Object,
    id: Option<String>,
) {
    let spec = match spec(registry, &client, object) {
        Ok(spec) => spec,
        Err(error) => return client.reply(error_message(&error), id.as_deref()),
    };
    let permit = inflight.permits.clone().acquire_owned().await.expect("never closed");
    let registry = registry.clone();
    // A task of its own: a job that is being accepted is accepted, whatever becomes of the connection.
    tokio::spawn(async move {
        let _permit = permit;
        let ack = |job: Uuid| client.reply(json!({"type": "job:ack", "jobId": job}), id.as_deref());
        if let Err(error) = registry.services.jobs.submit(spec, ack).await {
            let refused = json!({"type": "job:error", "jobId": null, "error": error.message, "code": error.kind.code()});
            client.reply(refused, id.as_deref());
        }
    });
}

fn spec(registry: &Registry, client: &Client, mut object: Object) -> Result<Spec, Error> {
    let job_type = match object.get("jobType") {
        None | Some(Value::Null) => "generate".to_owned(),
        Some(Value::String(job_type)) => job_type.clone(),
        Some(_) => return Err(Error::invalid("jobType: must be a string")),
    };
    let priority = match object.get("priority") {
        None | Some(Value::Null) => 0,
        Some(priority) => priority_of(priority)?,
    };
    object.retain(|field, _| !ENVELOPE.contains(&field.as_str()));
    let background = registry.services.is_background(&job_type);
    let owner = Some(client.id.clone());
    let spec = Spec { job_type, params: object, owner, priority, name: None, background };
    check_spec(registry, &spec)?;
    Ok(spec)
}

/// Checks a job against the plugin that would run it; the same for WebSocket and HTTP.
///
/// # Errors
/// `InvalidInput` for an unknown job type or parameters that do not fit its schema.
pub fn check_spec(registry: &Registry, spec: &Spec) -> Result<(), Error> {
    let Some((_, entry)) = registry.job(&spec.job_type) else {
        let known = registry.job_types();
        let known = if known.is_empty() { "none: no plugin is loaded".into() } else { known.join(", ") };
        return Err(Error::invalid(format!("Unknown jobType: {} (there are: {known})", spec.job_type)));
    };
    jobs::check_priority(spec.priority)?;
    entry.schema.check(&Value::Object(spec.params.clone())).map_err(Error::invalid)
}

fn priority_of(value: &Value) -> Result<i64, Error> {
    let (low, high) = (jobs::PRIORITIES.start(), jobs::PRIORITIES.end());
    let wrong = || Error::invalid(format!("priority: accepted are integers from {low} to {high}"));
    let priority = value.as_i64().ok_or_else(wrong)?;
    jobs::check_priority(priority)?;
    Ok(priority)
}

fn job_id(object: &Object) -> Result<Uuid, Error> {
    let given = object.get("jobId").and_then(Value::as_str);
    let given = given.ok_or_else(|| Error::invalid("jobId: must be the string that job:ack gave"))?;
    Uuid::parse_str(given).map_err(|_| Error::not_found(format!("no job '{given}'")))
}

fn cancel(registry: &Registry, object: &Object) -> Result<Value, Error> {
    let mut ack = cancelled(registry, job_id(object)?)?;
    ack["type"] = "job:cancel:ack".into();
    Ok(ack)
}

/// Asks a job to stop; the same for WebSocket and HTTP.
///
/// # Errors
/// `NotFound`.
pub fn cancelled(registry: &Registry, id: Uuid) -> Result<Value, Error> {
    let status = registry.services.jobs.cancel(id)?;
    let message = match status {
        jobs::Status::Running => "stopping",
        jobs::Status::Cancelled => "cancelled",
        _ => "had ended before",
    };
    Ok(json!({"jobId": id, "status": status, "message": message}))
}

fn priority(registry: &Registry, object: &Object) -> Result<Value, Error> {
    let id = job_id(object)?;
    let priority = priority_of(object.get("priority").unwrap_or(&Value::Null))?;
    let Snapshot { status, position, priority, .. } = registry.services.jobs.set_priority(id, priority)?;
    let ack = json!({"type": "job:priority:ack", "jobId": id, "priority": priority, "status": status});
    Ok(with_position(ack, position))
}

fn with_position(mut message: Value, position: Option<usize>) -> Value {
    if let (Some(position), Some(object)) = (position, message.as_object_mut()) {
        object.insert("position".into(), position.into());
    }
    message
}

fn get(registry: &Registry, client: &Client, object: &Object) -> Result<Value, Error> {
    let id = job_id(object)?;
    // Followed before it is read: between the two nothing can be missed.
    if object.get("subscribe").and_then(Value::as_bool).unwrap_or(false) {
        client.follow(id);
    }
    let snapshot = registry.services.jobs.get(id).inspect_err(|_| client.unfollow(id))?;
    if !snapshot.status.is_active() {
        client.unfollow(id);
    }
    Ok(json!({"type": "job:get:result", "job": snapshot.describe()}))
}

fn list(registry: &Registry, client: &Client) -> Value {
    let everyones = registry.services.config.hub.broadcast_job_events;
    let owner = if everyones { None } else { Some(client.id.as_str()) };
    let described = |job: &Snapshot| {
        let mut described = job.describe();
        described["own"] = (job.owner.as_deref() == Some(client.id.as_str())).into();
        described
    };
    let jobs: Vec<Value> = registry.services.jobs.list(owner).iter().map(described).collect();
    json!({"type": "job:list:result", "jobs": jobs})
}

fn subscribe(registry: &Registry, client: &Client, object: &Object, follow: bool) -> Result<Value, Error> {
    let id = job_id(object)?;
    if !follow {
        client.unfollow(id);
        return Ok(json!({"type": "job:unsubscribe:ack", "jobId": id}));
    }
    client.follow(id);
    let snapshot = registry.services.jobs.get(id).inspect_err(|_| client.unfollow(id))?;
    if !snapshot.status.is_active() {
        client.unfollow(id);
    }
    Ok(json!({"type": "job:subscribe:ack", "jobId": id, "job": snapshot.describe()}))
}

/// The answer of a job that HTTP waits for.
///
/// # Errors
/// The job's error.
pub fn finished(snapshot: &Snapshot) -> Result<(), Error> {
    match snapshot.status {
        jobs::Status::Done => Ok(()),
        _ => {
            let kind = snapshot.code.as_deref().map_or(ErrorKind::Internal, ErrorKind::from_code);
            Err(Error::new(kind, snapshot.error.clone().unwrap_or_else(|| "the job failed".into())))
        }
    }
}
