//! What clients ask of sessions. A session's job is found by the session's name; its figures and dreams are those that it
//! stored last, a few seconds ago at most.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_plugin_sdk::{Error, ErrorKind, Message, diffusion, jobs, scoring, storage};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    JOB,
    config::Config,
    params::{Guide, Params},
    session::Told,
    state::State,
    top::Dream,
};

const DEFAULT_SESSION: &str = "default";
const DEFAULT_LIMIT: f64 = 50.0;

/// How long a client waits for the end of a session, in milliseconds; below the limit of a message's call.
const STOP_MS: u32 = 8000;

/// Handles any of the plugin's messages.
pub fn handle(message: &Message) -> Result<(), Error> {
    let asked = Asked::read(message)?;
    let session = asked.session.as_str();
    let reply = match message.kind.as_str() {
        "dream:start" => start(&asked),
        "dream:stop" => stop(session),
        "dream:guide" => guide(&asked),
        "dream:pause" => tell(session, &Told::Pause).map(|_| json!({"type": "dream:paused"})),
        "dream:resume" => tell(session, &Told::Resume).map(|_| json!({"type": "dream:resumed"})),
        "dream:status" => status(session),
        "dream:top" => list(&asked, "dream:top:result", |state| state.top.best().collect()),
        "dream:recent" => list(&asked, "dream:recent:result", |state| state.top.recent().collect()),
        "dream:stats" => stats(session),
        "dream:subscribe" => follow(session, true),
        _ => follow(session, false),
    };
    let mut reply = reply.or_else(|error| refused(&message.kind, error))?;
    reply["session"] = session.into();
    message.reply(&reply)
}

/// That there is no such session is a reply with an `error`, as old clients expect it; anything else an `error` message.
fn refused(kind: &str, error: Error) -> Result<Value, Error> {
    let answer = match kind {
        "dream:guide" => "dream:guide:ack",
        "dream:pause" => "dream:paused",
        "dream:resume" => "dream:resumed",
        "dream:subscribe" => "dream:subscribe:ack",
        "dream:unsubscribe" => "dream:unsubscribe:ack",
        _ => return Err(error),
    };
    match error.kind {
        ErrorKind::NotFound => {
            Ok(json!({"type": answer, "error": error.message, "code": "not_found", "updated": {}}))
        }
        _ => Err(error),
    }
}

/// The same for a session that can't be started now.
fn conflict(error: impl Into<String>) -> Value {
    json!({"type": "dream:started", "error": error.into(), "code": "conflict"})
}

/// A message: the fields inside its `params` and beside it, which win.
struct Asked {
    session: String,
    fields: Map<String, Value>,
}

impl Asked {
    fn read(message: &Message) -> Result<Self, Error> {
        let mut fields: Map<String, Value> = message.parse()?;
        if let Some(Value::Object(params)) = fields.remove("params") {
            for (name, value) in params {
                fields.entry(name).or_insert(value);
            }
        }
        // A null is as good as nothing.
        fields.retain(|_, value| !value.is_null());
        let session = fields.get("session").and_then(Value::as_str).unwrap_or(DEFAULT_SESSION).to_owned();
        fields.insert("session".into(), session.clone().into());
        Ok(Self { session, fields })
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let fields = Value::Object(self.fields.clone());
        serde_json::from_value(fields).map_err(|e| Error::invalid_input(e.to_string()))
    }
}

fn start(asked: &Asked) -> Result<Value, Error> {
    let config = Config::read()?;
    let mut params: Params = asked.parse()?;
    // What the session would fail on later is told now.
    scoring::model()?;
    let modes = diffusion::modes();
    if modes.is_empty() {
        return Err(Error::unavailable("no text-to-image model is there to dream with"));
    }
    // The session stays with the mode that is the default one now.
    let mode = params.mode.get_or_insert_with(|| modes[0].clone());
    if !modes.contains(mode) {
        let known = modes.join(", ");
        return Err(Error::invalid_input(format!("mode: there is no '{mode}'; there are: {known}")));
    }
    diffusion::check(mode, &params.prompt)?;
    if jobs::find(JOB, &asked.session).is_some() {
        return Ok(conflict(format!("already dreaming: the session '{}' goes on", asked.session)));
    }
    let active = jobs::names(JOB);
    if active.len() >= config.max_sessions {
        let (count, names) = (active.len(), active.join(", "));
        return Ok(conflict(format!(
            "{count} sessions are dreaming, as many as may ({names}): stop one first"
        )));
    }
    // One that can't be read is not to be overwritten.
    State::load(&asked.session)?;
    let text = serde_json::to_string(&params).map_err(|e| Error::internal(e.to_string()))?;
    let job = match jobs::submit_named(JOB, &asked.session, &text) {
        Ok(job) => job,
        Err(error) if error.kind == ErrorKind::Unavailable => return Ok(conflict(error.message)),
        Err(error) => return Err(error),
    };
    Ok(json!({
        "type": "dream:started",
        "status": "started",
        "jobId": job,
        "base_prompt": params.prompt,
        "duration_hours": params.duration_hours,
        "top_k": params.top_k(&config),
    }))
}

/// The job that dreams a session.
fn job(session: &str) -> Result<String, Error> {
    jobs::find(JOB, session).ok_or_else(|| Error::not_found(format!("no session '{session}' is dreaming")))
}

fn stop(session: &str) -> Result<Value, Error> {
    let Some(job) = jobs::find(JOB, session) else {
        // As clients of the Python server expect it, whether one dreams or not.
        let mut reply = figures(session, None)?;
        reply["type"] = "dream:stopped".into();
        return Ok(with_totals(reply, "stopped"));
    };
    jobs::cancel(&job)?;
    let meta = jobs::wait(&job, STOP_MS)?;
    let status = if meta.is_some() { "stopped" } else { "stopping" };
    let figures = meta.and_then(|meta| serde_json::from_str(&meta).ok());
    let figures = figures.filter(|figures: &Map<String, Value>| !figures.is_empty());
    let mut reply = match figures {
        Some(figures) => Value::Object(figures),
        // It had not begun, or goes on until a step is done.
        None => figures_of(session, Some(&job))?.unwrap_or_else(|| json!({})),
    };
    reply["type"] = "dream:stopped".into();
    Ok(with_totals(reply, status))
}

/// The figures under the names that the Python server had for them, too.
fn with_totals(mut reply: Value, status: &str) -> Value {
    reply["status"] = status.into();
    reply["total_dreams"] = reply["candidates"].as_u64().unwrap_or(0).into();
    reply["candidates_kept"] = reply["kept"].as_u64().unwrap_or(0).into();
    reply
}

/// What the session stored last; of another job than `job` it is nothing.
fn figures_of(session: &str, job: Option<&str>) -> Result<Option<Value>, Error> {
    let config = Config::read()?;
    Ok(current(session, job)?.map(|state| state.figures(&config)))
}

/// The same, or why there is nothing: the session has not begun, or there is none.
fn figures(session: &str, job: Option<&str>) -> Result<Value, Error> {
    let nothing = if job.is_some() { "waiting" } else { "idle" };
    let config = Config::read()?;
    let figures = current(session, job)?.map(|state| state.figures(&config));
    Ok(figures.unwrap_or_else(|| json!({"status": nothing, "top_k": config.top_k})))
}

fn current(session: &str, job: Option<&str>) -> Result<Option<State>, Error> {
    Ok(State::load(session)?.filter(|state| job.is_none_or(|job| state.job == job)))
}

fn tell(session: &str, told: &Told) -> Result<String, Error> {
    let job = job(session)?;
    let text = serde_json::to_string(told).map_err(|e| Error::internal(e.to_string()))?;
    jobs::send(&job, &text)?;
    Ok(job)
}

fn guide(asked: &Asked) -> Result<Value, Error> {
    let guide: Guide = asked.parse()?;
    let given = serde_json::to_value(&guide).map_err(|e| Error::internal(e.to_string()))?;
    // As they were given: a float of 32 bits would come back with other digits.
    let updated: Map<String, Value> = asked
        .fields
        .iter()
        .filter(|(name, _)| given.get(name).is_some())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let job = job(&asked.session)?;
    if updated.is_empty() {
        return Ok(json!({"type": "dream:guide:ack", "updated": {}}));
    }
    if let Some(prompt) = &guide.prompt {
        let mode = current(&asked.session, Some(&job))?.map(|state| state.params.mode());
        diffusion::check(&mode.unwrap_or_default(), prompt)?;
    }
    if let Some(id) = guide.more_like.as_ref().filter(|like| **like != Value::Bool(false)) {
        let known = current(&asked.session, Some(&job))?;
        let known =
            known.is_some_and(|state| id.as_f64().is_some_and(|id| state.top.get(id as u64).is_some()));
        if !known {
            return Err(Error::invalid_input(format!("more_like: the session has no dream {id} (any more)")));
        }
    }
    tell(&asked.session, &Told::Guide(guide))?;
    Ok(json!({"type": "dream:guide:ack", "updated": updated}))
}

fn status(session: &str) -> Result<Value, Error> {
    let job = jobs::find(JOB, session);
    let mut reply = figures(session, job.as_deref())?;
    reply["type"] = "dream:status:result".into();
    reply["active"] = job.is_some().into();
    reply["jobId"] = json!(job);
    reply["sessions"] = json!(jobs::names(JOB));
    Ok(reply)
}

/// What `dream:top` and `dream:recent` take.
#[derive(Deserialize)]
struct Listed {
    limit: Option<f64>,
    min_score: Option<f32>,
    rendered_only: Option<bool>,
    images: Option<bool>,
    thumbnails: Option<bool>,
}

fn list(asked: &Asked, kind: &str, of: impl Fn(&State) -> Vec<&Dream>) -> Result<Value, Error> {
    let listed: Listed = asked.parse()?;
    let job = jobs::find(JOB, &asked.session);
    let state = current(&asked.session, job.as_deref())?;
    let wanted = |dream: &&Dream| {
        listed.min_score.is_none_or(|least| dream.score >= least)
            && (dream.key.is_some() || !listed.rendered_only.unwrap_or(false))
    };
    let dreams: Vec<Value> = state
        .iter()
        .flat_map(&of)
        .filter(wanted)
        .take(listed.limit.unwrap_or(DEFAULT_LIMIT) as usize)
        .map(|dream| {
            let mut described = dream.describe(listed.thumbnails.unwrap_or(false));
            if listed.images.unwrap_or(true) {
                described["image_data"] = json!(dream.key.as_deref().and_then(picture));
            }
            described
        })
        .collect();
    Ok(json!({"type": kind, "dreams": dreams}))
}

/// A rendered picture's file in base64; none where the operator has deleted it.
fn picture(key: &str) -> Option<String> {
    let content = storage::get(key).ok()?;
    Some(BASE64_STANDARD.encode(content.read(0, content.len())))
}

fn stats(session: &str) -> Result<Value, Error> {
    let job = jobs::find(JOB, session);
    let mut reply = figures(session, job.as_deref())?;
    if let Some(state) = current(session, job.as_deref())? {
        reply["guides"] = state.turns().into();
        let per_minute = state.counts.candidates as f64 * 6e4 / state.elapsed_ms.max(1.0);
        reply["candidates_per_minute"] = ((per_minute * 10.0).round() / 10.0).into();
        reply["outputs"] = json!(state.rendered);
    }
    reply["type"] = "dream:stats:result".into();
    Ok(reply)
}

fn follow(session: &str, follows: bool) -> Result<Value, Error> {
    let job = job(session)?;
    jobs::follow(&job, follows)?;
    let kind = if follows { "dream:subscribe:ack" } else { "dream:unsubscribe:ack" };
    Ok(json!({"type": kind, "jobId": job}))
}
