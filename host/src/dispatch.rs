//! From a message to who handles it: the host for `ping`, `job:*` and `system:*`, a plugin for everything else.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use reverie_access::{Caller, Need};
use reverie_memory::{Held, Use};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    audit,
    error::{Error, ErrorKind},
    http,
    hub::Client,
    jobs::{self, Snapshot, Spec, Submitted},
    json,
    plugins::{Message, Registry},
    status,
};

/// Fields of `job:submit` that are not the job's parameters.
const ENVELOPE: &[&str] = &["type", "id", "jobType", "priority", "key"];

/// Jobs in one `job:list:result`.
const MAX_LISTED: usize = 1000;

/// A message up to this size is read without asking for memory: what little it takes comes and goes.
const SMALL: usize = 4096;

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
                chore = self.chores.lock().pop_front();
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
pub async fn receive(registry: &Arc<Registry>, inflight: &Inflight, client: Arc<Client>, mut text: String) {
    registry.services.metrics.ws_received.inc();
    let fail =
        |message: &str, id: Option<&Value>| client.reply(json!({"type": "error", "error": message}), id);
    // For as long as it is worked on: its text, and what is read from it.
    let held = match text.len() {
        0..=SMALL => None,
        _ => match registry.services.memory.hold(Use::Bodies, text.len() + json::weight(text.as_bytes())) {
            Ok(held) => Some(held),
            // Its id is not known.
            Err(refused) => return client.reply(error_message(registry, &refused.into()), None),
        },
    };
    let object: Object = match json::parse(text.as_bytes()) {
        Ok((Value::Object(object), false)) => object,
        Ok((Value::Object(object), true)) => {
            // A plugin gets what can be read.
            text = Value::Object(object.clone()).to_string();
            object
        }
        Ok(_) => return fail("A message must be a JSON object with a string 'type'", None),
        Err(_) => return fail("Invalid JSON", None),
    };
    // Any JSON value: it comes back as it came.
    let id = object.get("id").cloned();
    let id = id.as_ref();
    let Some(kind) = object.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return fail("A message must be a JSON object with a string 'type'", id);
    };
    let checked = allowed(registry, &client, &kind);
    if let Err(error) = &checked
        && kind != "job:submit"
    {
        return match kind.as_str() {
            // Clients wait for these acknowledgements, whatever is found.
            "job:cancel" | "job:priority" | "job:delete" => {
                client.reply(acknowledged(&format!("{kind}:ack"), &object, Err(error.clone())), id);
            }
            _ => client.reply(error_message(registry, error), id),
        };
    }
    let answered = match kind.as_str() {
        "ping" => Ok(Some(json!({"type": "pong"}))),
        "pong" => Ok(None),
        "job:submit" => {
            return submit(registry, inflight, client, object, id.cloned(), (held, checked)).await;
        }
        "job:cancel" | "job:priority" | "job:delete" => {
            return change(registry, inflight, client, kind, object, id.cloned()).await;
        }
        "job:get" => get(registry, &client, &object).map(Some),
        "job:list" => list(registry, &client, &object).map(Some),
        "job:subscribe" => subscribe(registry, &client, &object, true).map(Some),
        "job:unsubscribe" => subscribe(registry, &client, &object, false).map(Some),
        "system:status" => Ok(Some(status::message(registry, &registry.health().await))),
        _ => return to_plugin(registry, inflight, client, &kind, object, (text, held), id.cloned()).await,
    };
    match answered {
        Ok(Some(reply)) => client.reply(reply, id),
        Ok(None) => {}
        Err(error) => client.reply(error_message(registry, &error), id),
    }
}

/// Whether a client may send a message of this type now.
fn allowed(registry: &Registry, client: &Client, kind: &str) -> Result<(), Error> {
    let caller = &client.peer.caller;
    if caller.key().is_none() {
        return Ok(());
    }
    let need = match kind {
        "ping" | "pong" => return Ok(()),
        "job:get" | "job:list" | "job:subscribe" | "job:unsubscribe" | "system:status" => Need::Read,
        "job:submit" | "job:cancel" | "job:priority" | "job:delete" => Need::Any,
        _ => Need::Type(kind.to_owned()),
    };
    if !caller.may(&need) {
        let error = http::lacks(caller, &need);
        audit::refused(caller.name(), client.peer.address, kind, "", &error.message);
        return Err(error);
    }
    registry.services.access.admit(caller).map_err(|refusal| http::error_of(&refusal))
}

/// `error`, as replies and as an answer to a message that a plugin failed on.
fn error_message(registry: &Registry, error: &Error) -> Value {
    let error = registry.services.hidden.from_error(error.clone());
    let mut message = json!({"type": "error", "error": error.message, "code": error.kind.code()});
    if let Some(field) = error.field() {
        message["field"] = field.into();
    }
    message
}

async fn to_plugin(
    registry: &Arc<Registry>,
    inflight: &Inflight,
    client: Arc<Client>,
    kind: &str,
    mut object: Object,
    (mut text, held): (String, Option<Held>),
    id: Option<Value>,
) {
    let Some((plugin, entry)) = registry.message(kind) else {
        let Error { message, .. } = Error::not_found(format!("Unknown type: {kind}"));
        return client.reply(json!({"type": "error", "error": message}), id.as_ref());
    };
    match entry.schema.check(&mut object) {
        Ok(false) => {}
        // Something in it is no text any more.
        Ok(true) => text = Value::Object(object).to_string(),
        Err(error) => return client.reply(error_message(registry, &Error::invalid(error)), id.as_ref()),
    }
    let permit = inflight.permits.clone().acquire_owned().await.expect("never closed");
    let spelt = id.as_ref().map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
    let message = Message { kind: kind.to_owned(), id: spelt, client: client.id.clone(), body: text };
    let (engine, services) = (registry.engine.clone(), registry.services.clone());
    let (replying, called, failing) = (client.clone(), plugin.clone(), registry.clone());
    let mut call = Box::pin(async move {
        let _taken = (permit, held);
        let (result, spent) = called.handle_message(engine, services, client, id.clone(), message).await;
        if let Err(error) = result {
            replying.reply(error_message(&failing, &error), id.as_ref());
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
        Poll::Ready(spent) => inflight.chores.lock().push_back(Box::pin(tidy(spent))),
        Poll::Pending => drop(registry.engine.runtime().spawn(async move { tidy(call.await).await })),
    }
}

async fn submit(
    registry: &Arc<Registry>,
    inflight: &Inflight,
    client: Arc<Client>,
    object: Object,
    id: Option<Value>,
    (held, allowed): (Option<Held>, Result<(), Error>),
) {
    let job_type = match job_type(registry, &object) {
        Ok(job_type) => job_type,
        Err(error) => {
            // It has an id like any other job, and can be asked for.
            let named = object.get("jobType").and_then(Value::as_str).unwrap_or_default();
            let job = registry.services.jobs.refuse(named, Some(&client.id), &error);
            client.reply(json!({"type": "job:ack", "jobId": job.id}), id.as_ref());
            let mut message = error_message(registry, &error);
            message["jobId"] = json!(job.id);
            message["jobTypes"] = registry.job_types().into();
            return client.reply(message, id.as_ref());
        }
    };
    let spec = match allowed.and_then(|()| spec(registry, &client, &job_type, object)) {
        Ok(spec) => spec,
        Err(error) => return refuse(registry, &client, &job_type, &error, id.as_ref()),
    };
    let permit = inflight.permits.clone().acquire_owned().await.expect("never closed");
    let registry = registry.clone();
    // A task of its own: a job that is being accepted is accepted, whatever becomes of the connection.
    tokio::spawn(async move {
        let _taken = (permit, held);
        let (acked, asked) = (client.clone(), id.clone());
        let ack = move |job: Uuid| acked.reply(json!({"type": "job:ack", "jobId": job}), asked.as_ref());
        match registry.services.submit(spec, ack).await {
            Ok(Submitted { id: job, again: false }) => {
                audit::done(
                    &client.peer.caller,
                    client.peer.address,
                    "job:submit",
                    &format!("{job_type} {job}"),
                );
            }
            // Its events may have gone to a connection that is no more.
            Ok(Submitted { id: job, again: true }) => {
                client.follow(job);
                let ended = registry.services.jobs.get(job).ok().and_then(|job| job.final_message());
                if let Some(message) = ended {
                    client.unfollow(job);
                    client.reply(message, id.as_ref());
                }
            }
            Err(error) => refuse(&registry, &client, &job_type, &error, id.as_ref()),
        }
    });
}

/// Clients wait for the acknowledgement of whatever they submit, and learn from events of that job what is wrong with it.
fn refuse(registry: &Registry, client: &Client, job_type: &str, error: &Error, id: Option<&Value>) {
    let error = registry.services.hidden.from_error(error.clone());
    let job = registry.services.jobs.refuse(job_type, Some(&client.id), &error);
    client.reply(json!({"type": "job:ack", "jobId": job.id}), id);
    if let Some(message) = job.final_message() {
        client.reply(message, id);
    }
}

/// The type that a `job:submit` names, or that `jobs.default_type` stands for.
///
/// # Errors
/// `InvalidInput` where no plugin runs it.
pub fn job_type(registry: &Registry, object: &Object) -> Result<String, Error> {
    let job_type = match object.get("jobType") {
        None | Some(Value::Null) => registry.services.config.jobs.default_type.clone(),
        Some(Value::String(job_type)) => job_type.clone(),
        Some(other) => other.to_string(),
    };
    match registry.job(&job_type) {
        Some(_) => Ok(job_type),
        None => Err(Error::invalid(format!("Unknown jobType: {job_type}"))),
    }
}

fn spec(registry: &Registry, client: &Client, job_type: &str, object: Object) -> Result<Spec, Error> {
    let (caller, need) = (&client.peer.caller, Need::Type(job_type.to_owned()));
    if !caller.may(&need) {
        return Err(http::lacks(caller, &need));
    }
    let mut spec = unchecked_spec(registry, job_type, object)?;
    spec.owner = Some(client.id.clone());
    check_spec(registry, &mut spec)?;
    Ok(spec)
}

/// The job that the fields of a `job:submit` describe, before its parameters are checked.
///
/// # Errors
/// `InvalidInput` for a bad priority.
pub fn unchecked_spec(registry: &Registry, job_type: &str, mut object: Object) -> Result<Spec, Error> {
    let priority = match object.get("priority") {
        None | Some(Value::Null) => 0,
        Some(priority) => priority_of(priority)?,
    };
    let key = match object.get("key") {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) => Some(key.clone()),
        Some(_) => return Err(Error::invalid("key: must be a string")),
    };
    object.retain(|field, _| !ENVELOPE.contains(&field.as_str()));
    let background = registry.services.is_background(job_type);
    let job_type = job_type.to_owned();
    Ok(Spec { job_type, params: object, owner: None, priority, name: None, background, key })
}

/// Checks a job against the plugin that would run it; the same for WebSocket and HTTP.
///
/// # Errors
/// `InvalidInput` for an unknown job type or parameters that do not fit its schema.
pub fn check_spec(registry: &Registry, spec: &mut Spec) -> Result<(), Error> {
    let Some((_, entry)) = registry.job(&spec.job_type) else {
        return Err(Error::invalid(format!("Unknown jobType: {}", spec.job_type)));
    };
    jobs::check_priority(spec.priority)?;
    if let Some(key) = &spec.key {
        jobs::check_key(key)?;
        if spec.owner.is_none() {
            return Err(Error::invalid("key: belongs to a client, so that clientId has to be given with it"));
        }
    }
    entry.schema.check(&mut spec.params).map_err(Error::invalid).map(drop)
}

fn priority_of(value: &Value) -> Result<i64, Error> {
    let (low, high) = (jobs::PRIORITIES.start(), jobs::PRIORITIES.end());
    let wrong = || Error::invalid(format!("priority: accepted are integers from {low} to {high}"));
    let spelt = || value.as_str().and_then(|text| text.trim().parse().ok());
    let priority = value.as_i64().or_else(spelt).ok_or_else(wrong)?;
    jobs::check_priority(priority)?;
    Ok(priority)
}

fn job_id(object: &Object) -> Result<Uuid, Error> {
    let given = object.get("jobId").and_then(Value::as_str);
    let given = given.ok_or_else(|| Error::invalid("jobId: must be the string that job:ack gave"))?;
    Uuid::parse_str(given).map_err(|_| Error::not_found(format!("no job '{given}'")))
}

/// What changes a job is stored before it is acknowledged, and acknowledged whatever is found: clients wait for it.
async fn change(
    registry: &Arc<Registry>,
    inflight: &Inflight,
    client: Arc<Client>,
    kind: String,
    object: Object,
    id: Option<Value>,
) {
    let permit = inflight.permits.clone().acquire_owned().await.expect("never closed");
    let registry = registry.clone();
    let change = async move {
        let _permit = permit;
        let caller = &client.peer.caller;
        if let Some(job) = object.get("jobId").and_then(Value::as_str) {
            audit::done(caller, client.peer.address, &kind, job);
        }
        let ack = match kind.as_str() {
            "job:cancel" => acknowledged("job:cancel:ack", &object, cancel(&registry, caller, &object).await),
            "job:delete" => acknowledged("job:delete:ack", &object, delete(&registry, caller, &object).await),
            _ => acknowledged("job:priority:ack", &object, priority(&registry, caller, &object).await),
        };
        client.reply(ack, id.as_ref());
    };
    // Most need not wait for the store: what is asked next then finds them done.
    let mut change = Box::pin(change);
    if futures_util::poll!(&mut change).is_pending() {
        tokio::spawn(change);
    }
}

async fn cancel(registry: &Registry, caller: &Caller, object: &Object) -> Result<Value, Error> {
    cancelled(registry, caller, job_id(object)?).await.map(|ack| json!(ack))
}

async fn delete(registry: &Registry, caller: &Caller, object: &Object) -> Result<Value, Error> {
    deleted(registry, caller, job_id(object)?).await.map(|ack| json!(ack))
}

/// A job that the caller may see; another one is as good as none.
///
/// # Errors
/// `NotFound`.
pub fn found(registry: &Registry, caller: &Caller, id: Uuid) -> Result<Snapshot, Error> {
    let job = registry.services.jobs.get(id)?;
    if caller.sees(job.owner.as_deref()) { Ok(job) } else { Err(jobs::unknown(id)) }
}

fn acknowledged(kind: &str, object: &Object, found: Result<Value, Error>) -> Value {
    let mut ack = found.unwrap_or_else(|error| {
        let status = (error.kind == ErrorKind::NotFound).then_some("unknown");
        json!({"jobId": object.get("jobId"), "status": status, "error": error.message, "code": error.kind.code()})
    });
    ack["type"] = kind.into();
    ack
}

/// What came of asking a job to stop.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cancelled {
    job_id: Uuid,
    status: jobs::Status,
    /// The same in words.
    message: &'static str,
}

/// What came of deleting a job.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    job_id: Uuid,
    /// Always `deleted`.
    status: &'static str,
}

/// Deletes a job that has ended, with its outputs; the same for WebSocket and HTTP.
///
/// # Errors
/// `NotFound`, `Conflict` for one that has not ended.
pub async fn deleted(registry: &Registry, caller: &Caller, id: Uuid) -> Result<Deleted, Error> {
    found(registry, caller, id)?;
    registry.services.stored(registry.services.jobs.delete(id)).await??;
    Ok(Deleted { job_id: id, status: "deleted" })
}

/// Asks a job to stop; the same for WebSocket and HTTP.
///
/// # Errors
/// `NotFound`.
pub async fn cancelled(registry: &Registry, caller: &Caller, id: Uuid) -> Result<Cancelled, Error> {
    found(registry, caller, id)?;
    let status = registry.services.cancel(id).await?;
    let message = match status {
        jobs::Status::Running => "stopping",
        jobs::Status::Cancelled => "canceled",
        _ => "had ended before",
    };
    Ok(Cancelled { job_id: id, status, message })
}

async fn priority(registry: &Registry, caller: &Caller, object: &Object) -> Result<Value, Error> {
    let id = job_id(object)?;
    found(registry, caller, id)?;
    let priority = priority_of(object.get("priority").unwrap_or(&Value::Null))?;
    let services = &registry.services;
    let changed = services.stored(services.jobs.set_priority(id, priority)).await??;
    let Snapshot { status, position, priority, .. } = changed;
    Ok(with_position(json!({"jobId": id, "priority": priority, "status": status}), position))
}

fn with_position(mut message: Value, position: Option<usize>) -> Value {
    if let (Some(position), Some(object)) = (position, message.as_object_mut()) {
        object.insert("position".into(), position.into());
    }
    message
}

fn get(registry: &Registry, client: &Client, object: &Object) -> Result<Value, Error> {
    let id = job_id(object)?;
    found(registry, &client.peer.caller, id)?;
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

/// The newest jobs of the client, or of its key's owner; all that it may see where everyone hears of all jobs, and where an operator
/// asks for `all`. With `before`, those before the job that it names.
fn list(registry: &Registry, client: &Client, object: &Object) -> Result<Value, Error> {
    let caller = &client.peer.caller;
    let all = object.get("all").and_then(Value::as_bool).unwrap_or(false);
    if all && caller.is_keyed() && !caller.is_operator() {
        return Err(http::lacks(caller, &Need::Admin));
    }
    let everyones = registry.services.config.hub.broadcast_job_events
        || all && caller.is_keyed()
        || caller.tenant().is_some();
    if let (false, Some(why)) = (everyones, &client.peer.unlisted) {
        return Err(Error::new(ErrorKind::Denied, why.clone()));
    }
    let given = |field: &str| object.get(field).filter(|value| !value.is_null());
    let limit = match given("limit") {
        None => MAX_LISTED,
        Some(limit) => {
            let limit = limit.as_u64().filter(|limit| (1..=MAX_LISTED as u64).contains(limit));
            let wrong = || Error::invalid(format!("limit: accepted are integers from 1 to {MAX_LISTED}"));
            limit.ok_or_else(wrong)? as usize
        }
    };
    let before = match given("before") {
        None => None,
        Some(Value::String(before)) => {
            let unknown = |_| Error::not_found(format!("no job '{before}'"));
            Some(Uuid::parse_str(before).map_err(unknown)?)
        }
        Some(_) => return Err(Error::invalid("before: must be the jobId of a job")),
    };
    let described = |job: &Snapshot| {
        let mut described = json!(job.describe());
        described["own"] = (job.owner.as_deref() == Some(client.id.as_str())).into();
        described
    };
    if let Some(before) = before {
        found(registry, caller, before)?;
    }
    let listed = |owner: Option<&str>| match everyones {
        true => caller.sees(owner),
        false => owner == Some(client.id.as_str()),
    };
    let (jobs, more) = registry.services.jobs.page(listed, before, limit)?;
    let jobs: Vec<Value> = jobs.iter().map(described).collect();
    Ok(json!({"type": "job:list:result", "jobs": jobs, "more": more}))
}

fn subscribe(registry: &Registry, client: &Client, object: &Object, follow: bool) -> Result<Value, Error> {
    let id = job_id(object)?;
    if !follow {
        client.unfollow(id);
        return Ok(json!({"type": "job:unsubscribe:ack", "jobId": id}));
    }
    found(registry, &client.peer.caller, id)?;
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
        _ => Err(snapshot.failure()),
    }
}
