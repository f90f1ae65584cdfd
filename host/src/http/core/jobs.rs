//! `/v1/jobs`: jobs of any type over HTTP. They take the same way as those over WebSocket.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use reverie_access::{Caller, Need, check_client_id, check_unguessable};
use reverie_memory::Kept;
use serde_json::{Map, Value};
use uuid::Uuid;
use warp::{
    Filter, Reply,
    http::{StatusCode, header},
    reply::Response,
};

use super::{Content, Manifest, Operation, Place, Route, access, body, error::or_error, events, of, with};
use crate::{
    config, dispatch,
    error::{Error, ErrorKind},
    jobs::{Described, Snapshot, Spec},
    plugins::Registry,
};

type Query = HashMap<String, String>;

pub fn routes(registry: &Arc<Registry>) -> Route {
    let all = warp::path!("v1" / "jobs");
    let one = warp::path!("v1" / "jobs" / String);
    let create = all
        .and(warp::post())
        .and(warp::query::<Query>())
        .and(warp::header::optional::<String>("prefer"))
        .and(warp::header::optional::<String>("idempotency-key"))
        .and(access::caller(registry))
        .and(body::json(body::PLAIN, registry))
        .and(with(registry))
        .then(
            |query: Query,
             prefer: Option<String>,
             key: Option<String>,
             caller: Caller,
             body: Kept<Vec<u8>>,
             registry: Arc<Registry>| async move {
                or_error(create(&query, prefer.as_deref(), key, &caller, &body, &registry).await)
            },
        );
    let asked = access::caller(registry).and(with(registry));
    let get =
        one.and(warp::get()).and(asked.clone()).map(|id: String, caller: Caller, registry: Arc<Registry>| {
            or_error(find(&registry, &caller, &id).map(|job| warp::reply::json(&job.describe())))
        });
    let cancel = one.and(warp::delete()).and(asked.clone()).then(
        |id: String, caller: Caller, registry: Arc<Registry>| async move {
            let cancelled = match find(&registry, &caller, &id) {
                Ok(job) => dispatch::cancelled(&registry, &caller, job.id).await,
                Err(error) => Err(error),
            };
            or_error(cancelled.map(|ack| warp::reply::json(&ack)))
        },
    );
    let record = warp::path!("v1" / "jobs" / String / "record");
    let delete = record.and(warp::delete()).and(asked.clone()).then(
        |id: String, caller: Caller, registry: Arc<Registry>| async move {
            or_error(delete(&registry, &caller, &id).await.map(|ack| warp::reply::json(&ack)))
        },
    );
    let events = warp::path!("v1" / "jobs" / String / "events").and(warp::get()).and(asked).map(
        |id: String, caller: Caller, registry: Arc<Registry>| {
            let found = find(&registry, &caller, &id);
            or_error(found.and_then(|job| events::of(&registry, caller, job.id)))
        },
    );
    create.or(get).unify().or(cancel).unify().or(delete).unify().or(events).unify().boxed()
}

pub fn operations() -> Vec<Operation> {
    let id = |operation: Operation| operation.path("id", of::<Uuid>(), "The job's `jobId`.");
    vec![
        Operation::post("/v1/jobs", "Submit a job")
            .details(
                "Any job type of any plugin that is loaded. The parameters stand beside `jobType`. Texts that say a number or a \
                 boolean are taken where the schema wants those.",
            )
            .query("wait", of::<f64>(), "Seconds to wait for the job's end, at most `server.max_wait_s`.")
            .query(
                "clientId",
                of::<String>(),
                "The client of the WebSocket that the job belongs to; one that can't be guessed, unless there are keys.",
            )
            .parameter(
                Place::Header,
                "Prefer",
                of::<String>(),
                "`wait` or `wait=SECONDS` (RFC 7240): the same as the query's `wait`.",
            )
            .parameter(
                Place::Header,
                "Idempotency-Key",
                of::<String>(),
                "1 to 128 characters, with `clientId`; also as `key` in the body: submitted again with it, it is the same job.",
            )
            .takes(Content::OfPlugin(Manifest::AnyJob))
            .answers(200, "The job, which has ended.", Content::Json(of::<Described>()))
            .answers(202, "The job, which has been accepted.", Content::Json(of::<Described>()))
            .with(&[("Location", "Where the job is found.")])
            .errors(&[
                ErrorKind::InvalidInput,
                ErrorKind::Conflict,
                ErrorKind::Busy,
                ErrorKind::Unavailable,
            ]),
        id(Operation::get("/v1/jobs/{id}", "A job as it is now"))
            .answers_json::<Described>("The job.")
            .errors(&[ErrorKind::NotFound]),
        id(Operation::delete("/v1/jobs/{id}", "Cancel a job"))
            .answers_json::<dispatch::Cancelled>("What came of it, also for a job that had ended.")
            .errors(&[ErrorKind::NotFound]),
        id(Operation::delete("/v1/jobs/{id}/record", "Delete a job that has ended, with its outputs"))
            .answers_json::<dispatch::Deleted>("It is deleted.")
            .errors(&[ErrorKind::NotFound, ErrorKind::Conflict]),
        id(Operation::get("/v1/jobs/{id}/events", "Follow a job"))
            .details(
                "Server-sent events until the job's end: each event's name is its message's `type` (`job:progress`, \
                 `job:complete`, `job:error`, and those of its plugin), its data the message.",
            )
            .answers(200, "The events.", Content::Media(&["text/event-stream"]))
            .errors(&[ErrorKind::NotFound, ErrorKind::Unavailable]),
    ]
}

/// Answers with the job, 202; where the caller wants to wait, when it has ended, 200, or when that is over.
async fn create(
    query: &Query,
    prefer: Option<&str>,
    key: Option<String>,
    caller: &Caller,
    body: &[u8],
    registry: &Arc<Registry>,
) -> Result<Response, Error> {
    let wait = wait_time(query, prefer, &registry.services.config.server)?;
    let mut object = body::object(body)?;
    // Of no meaning here, as the answer is this request's.
    object.remove("id");
    let job_type = dispatch::job_type(registry, &object).map_err(|error| {
        let known = registry.job_types().join(", ");
        Error::new(error.kind, format!("jobType: {} (there are: {known})", error.message))
    })?;
    let need = Need::Type(job_type.clone());
    if !caller.may(&need) {
        return Err(access::lacks(caller, &need));
    }
    let mut spec = dispatch::unchecked_spec(registry, &job_type, object)?;
    let client = query.get("clientId").filter(|id| !id.is_empty());
    if let Some(client) = client {
        check_client_id(client).map_err(Error::invalid)?;
        if !caller.is_keyed() {
            check_unguessable(client).map_err(Error::invalid)?;
        }
    }
    spec.owner = caller.owner(client.map(String::as_str));
    spec.key = key.or(spec.key);
    dispatch::check_spec(registry, &mut spec)?;
    let jobs = &registry.services.jobs;
    let id = registry.services.submit(spec, |_| ()).await?.id;
    if let Some(wait) = wait {
        // It goes on when the time is over, and when the caller hangs up.
        let _ = tokio::time::timeout(wait, jobs.wait(id)).await;
    }
    let job = jobs.get(id)?;
    let status = if job.status.is_active() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let answer = warp::reply::with_status(warp::reply::json(&job.describe()), status);
    Ok(warp::reply::with_header(answer, header::LOCATION, format!("/v1/jobs/{id}")).into_response())
}

/// `?wait=SECONDS`, or `Prefer: wait` or `wait=SECONDS` (RFC 7240).
fn wait_time(
    query: &Query,
    prefer: Option<&str>,
    server: &config::Server,
) -> Result<Option<Duration>, Error> {
    let longest = server.max_wait_s;
    let seconds = |text: &str| {
        let seconds = text.trim().parse::<f64>().ok().filter(|s| (0.0..=longest).contains(s));
        seconds.map(Duration::from_secs_f64).ok_or_else(|| {
            Error::invalid(format!(
                "wait: '{text}' is not a number of seconds from 0 to {longest} (server.max_wait_s)"
            ))
        })
    };
    if let Some(text) = query.get("wait") {
        return seconds(text).map(Some);
    }
    let preferences = prefer.unwrap_or_default().split([',', ';']).map(str::trim);
    let waits = preferences.filter_map(|word| word.strip_prefix("wait"));
    for rest in waits {
        match rest.trim_start().strip_prefix('=') {
            Some(text) => return seconds(text.trim().trim_matches('"')).map(Some),
            None if rest.is_empty() => return Ok(Some(Duration::from_secs_f64(longest))),
            None => {}
        }
    }
    Ok(None)
}

async fn delete(registry: &Registry, caller: &Caller, id: &str) -> Result<dispatch::Deleted, Error> {
    let job = find(registry, caller, id)?;
    dispatch::deleted(registry, caller, job.id).await
}

fn find(registry: &Registry, caller: &Caller, id: &str) -> Result<Snapshot, Error> {
    let id = Uuid::parse_str(id).map_err(|_| Error::not_found(format!("no job '{id}'")))?;
    dispatch::found(registry, caller, id)
}

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

/// Submits a job of a foreign API; `owner` is whose it is, as [`Caller::owner`] has it.
///
/// # Errors
/// `InvalidInput` for an unknown type or bad parameters, `Busy` when the queue is full.
pub async fn submit(
    registry: &Arc<Registry>,
    job_type: &str,
    params: Map<String, Value>,
    owner: Option<String>,
) -> Result<Waiting, Error> {
    let mut spec = Spec {
        job_type: job_type.into(),
        params,
        owner,
        priority: 0,
        name: None,
        background: registry.services.is_background(job_type),
        key: None,
    };
    dispatch::check_spec(registry, &mut spec)?;
    let id = registry.services.submit(spec, |_| ()).await?.id;
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

    /// Lets it go on without anybody who waits, and returns its id.
    pub fn detach(mut self) -> Uuid {
        self.ended = true;
        self.id
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.ended {
            let (services, id) = (self.registry.services.clone(), self.id);
            tokio::spawn(async move { services.cancel(id).await });
        }
    }
}
