//! `/dreams/*`: the Python server's dreams, with its shapes. `/dream/*`: the `dream:*` messages as they are.

use std::{collections::HashMap, sync::Arc};

use reverie_access::Caller;
use reverie_memory::Kept;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use warp::{Filter, reply::Response};

use super::{
    Content, Layer, Manifest, Operation, Route, access, body, core::messages::ask, error::or_error, with,
};
use crate::{
    error::{Error, ErrorKind},
    plugins::Registry,
};

/// What is asked with a query, and what is told with a body; those of the Python server first.
const ASKED: &[&str] = &["status", "top", "recent", "stats"];
const TOLD: &[&str] = &["start", "stop", "guide", "pause", "resume"];
const OF_PYTHON: &[&str] = &["status", "top", "recent", "stats", "start", "stop"];

/// How many dreams a session may keep.
const TOP_K: std::ops::RangeInclusive<u64> = 10..=1000;

/// Dreams that a list has at most, and unless a query says.
const MAX_LIMIT: u64 = 1000;
const LIMIT: u64 = 50;

pub fn layer() -> Layer {
    Layer {
        name: "Dreams",
        description: "Sessions that search for pictures in the background: `/dreams` in the shapes of the Python server, \
                      `/dream` as the messages of the plugin have them.",
        operations,
        errors: None,
        routes,
    }
}

fn routes(registry: &Arc<Registry>) -> Route {
    let python = warp::path("dreams").map(|| true).or(warp::path("dream").map(|| false)).unify();
    let action = python.and(warp::path::param::<String>()).and(warp::path::end());
    let get = action
        .and(warp::get())
        .and(warp::query::<HashMap<String, String>>())
        .and(access::caller(registry))
        .and(with(registry))
        .then(
            |python: bool,
             action: String,
             query: HashMap<String, String>,
             caller: Caller,
             registry: Arc<Registry>| async move {
                let fields = query.into_iter().filter(|(name, _)| name != "token");
                let fields = fields.map(|(name, text)| (name, Value::String(text))).collect();
                let asking = (&registry, &caller);
                or_error(answer(asking, python, &action, (ASKED, TOLD), fields).await)
            },
        );
    let post = action
        .and(warp::post())
        .and(warp::query::<HashMap<String, String>>())
        .and(access::caller(registry))
        .and(body::json(body::PLAIN, registry))
        .and(with(registry))
        .then(
            |python: bool,
             action: String,
             query: HashMap<String, String>,
             caller: Caller,
             body: Kept<Vec<u8>>,
             registry: Arc<Registry>| async move {
                let sent = async {
                    let mut fields = body::object(&body)?;
                    for (name, text) in query.into_iter().filter(|(name, _)| name != "token") {
                        fields.entry(name).or_insert(Value::String(text));
                    }
                    answer((&registry, &caller), python, &action, (TOLD, ASKED), fields).await
                };
                or_error(sent.await)
            },
        );
    get.or(post).unify().boxed()
}

fn operations() -> Vec<Operation> {
    let asked = |path: &str, action: &str| {
        // Whose figures are those of `stats` in the Python server's shape, too.
        let message = if path == "/dreams" && action == "stats" { "status" } else { action };
        Operation::get(format!("{path}/{action}"), summary(action))
            .query_of(Manifest::Message(format!("dream:{message}")))
            .errors_of_plugin()
    };
    let told = |path: &str, action: &str| {
        Operation::post(format!("{path}/{action}"), summary(action))
            .takes(Content::OfPlugin(Manifest::Message(format!("dream:{action}"))))
            .errors_of_plugin()
    };
    let of_python = OF_PYTHON.iter().map(|action| match *action {
        "top" | "recent" => asked("/dreams", action).answers_json::<Vec<Dream>>("The dreams."),
        "status" | "stats" => asked("/dreams", action).answers_json::<Figures>("As of now."),
        _ => told("/dreams", action).answers_json::<Map<String, Value>>("What came of it."),
    });
    let plain = |operation: Operation| operation.answers_json::<Map<String, Value>>("The message's reply.");
    let asked = ASKED.iter().map(|action| plain(asked("/dream", action)));
    let told = TOLD.iter().map(|action| plain(told("/dream", action)));
    of_python.chain(asked).chain(told).collect()
}

fn summary(action: &str) -> &'static str {
    match action {
        "status" => "Whether one dreams, and how far it is",
        "stats" => "The same with rates",
        "top" => "The best dreams, best first",
        "recent" => "The dreams that were kept last, newest first",
        "start" => "Start to dream",
        "stop" => "Stop to dream",
        "guide" => "Change what is dreamt of",
        "pause" => "Let a session wait",
        _ => "Let a session go on",
    }
}

/// Where is asked, and who asks.
type Asking<'a> = (&'a Arc<Registry>, &'a Caller);

async fn answer(
    asking: Asking<'_>,
    python: bool,
    action: &str,
    (served, by_another_method): (&[&str], &[&str]),
    fields: Map<String, Value>,
) -> Result<Response, Error> {
    let known = !python || OF_PYTHON.contains(&action);
    if known && by_another_method.contains(&action) {
        return Err(Error::new(ErrorKind::MethodNotAllowed, "this resource does not take that method"));
    }
    if !known || !served.contains(&action) {
        return Err(Error::not_found("no such resource"));
    }
    let answer =
        if python { of_python(asking, action, fields).await? } else { plain(asking, action, fields).await? };
    Ok(warp::Reply::into_response(warp::reply::json(&answer)))
}

/// The message's reply without its type.
async fn plain(
    (registry, caller): Asking<'_>,
    action: &str,
    fields: Map<String, Value>,
) -> Result<Value, Error> {
    let mut reply = ask(registry, caller.clone(), &format!("dream:{action}"), fields).await?;
    reply.remove("type");
    Ok(reply.into())
}

/// The same in the Python server's shape.
async fn of_python(asking: Asking<'_>, action: &str, mut fields: Map<String, Value>) -> Result<Value, Error> {
    match action {
        "start" => {
            if let Some(top_k) = number(&fields, "top_k")?.filter(|top_k| !TOP_K.contains(top_k)) {
                let (least, most) = (TOP_K.start(), TOP_K.end());
                return Err(Error::invalid(format!("top_k: accepted are {least} to {most}, got {top_k}")));
            }
            plain(asking, action, fields).await.map_err(|error| match error.kind {
                // One dreams already.
                ErrorKind::Conflict => Error::new(ErrorKind::BadRequest, error.message),
                _ => error,
            })
        }
        "stop" => plain(asking, action, fields).await,
        "status" | "stats" => {
            let figures = plain(asking, "status", fields).await?;
            Ok(json!(status(&figures, action == "stats")))
        }
        _ => {
            let limit = number(&fields, "limit")?.unwrap_or(LIMIT);
            if limit > MAX_LIMIT {
                return Err(Error::invalid(format!("limit: accepted are 0 to {MAX_LIMIT}, got {limit}")));
            }
            fields.insert("limit".into(), limit.into());
            let mut reply = plain(asking, action, fields).await?;
            let dreams: Result<Vec<Dream>, _> = serde_json::from_value(reply["dreams"].take());
            let dreams = dreams.map_err(|error| Error::internal(format!("the plugin's dreams: {error}")))?;
            Ok(json!(dreams))
        }
    }
}

fn number(fields: &Map<String, Value>, field: &str) -> Result<Option<u64>, Error> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => body::integer(value)
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("{field}: must be a whole number, got {value}"))),
    }
}

/// A picture that was found; with further fields of the plugin.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Dream {
    seed: u64,
    prompt: String,
    score: f64,
    /// When it was kept, in unix seconds.
    timestamp: f64,
    /// Whether its picture was made in full.
    rendered: bool,
    /// That picture's file in base64.
    #[serde(default)]
    image_data: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What the Python server told of its dreaming.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Dreaming")]
struct Figures {
    is_dreaming: bool,
    dream_count: u64,
    dreams_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dreams_per_hour: Option<f64>,
    /// How many are kept.
    candidates: u64,
    /// How many are kept at most.
    top_k: Option<u64>,
    elapsed_seconds: f64,
    session: Option<String>,
    base_prompt: Option<String>,
}

fn status(figures: &Value, with_rate: bool) -> Figures {
    let number = |field: &str| figures[field].as_f64().unwrap_or(0.0);
    let text = |field: &str| figures[field].as_str().map(str::to_owned);
    let (dreams, elapsed) = (number("candidates"), number("elapsed_s"));
    let per_second = if elapsed > 0.0 { dreams / elapsed } else { 0.0 };
    Figures {
        is_dreaming: figures["active"] == true,
        dream_count: dreams as u64,
        dreams_per_second: per_second,
        dreams_per_hour: with_rate.then_some(per_second * 3600.0),
        candidates: number("kept") as u64,
        top_k: figures["top_k"].as_u64(),
        elapsed_seconds: elapsed,
        session: text("session"),
        base_prompt: text("base_prompt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_the_python_servers() {
        let figures = json!({"active": true, "candidates": 30, "kept": 4, "elapsed_s": 60.0, "top_k": 100});
        let stats = json!(status(&figures, true));
        assert_eq!(
            (&stats["is_dreaming"], &stats["dream_count"], &stats["candidates"]),
            (&json!(true), &json!(30), &json!(4))
        );
        assert_eq!((&stats["dreams_per_second"], &stats["dreams_per_hour"]), (&json!(0.5), &json!(1800.0)));
        let none = json!(status(&json!({"active": false, "status": "idle"}), false));
        assert_eq!((&none["is_dreaming"], &none["dreams_per_second"]), (&json!(false), &json!(0.0)));
    }
}
