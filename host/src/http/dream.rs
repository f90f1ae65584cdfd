//! `/dream/*`: the `dream:*` messages over HTTP.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};
use warp::Filter;

use super::{Route, ask::ask, body, error::or_error, with};
use crate::{
    error::{Error, ErrorKind},
    plugins::Registry,
};

/// What is asked with a query, and what is told with a body.
const ASKED: &[&str] = &["status", "top", "recent", "stats"];
const TOLD: &[&str] = &["start", "stop", "guide", "pause", "resume"];

pub fn routes(registry: &Arc<Registry>) -> Route {
    let get = warp::path!("dream" / String)
        .and(warp::get())
        .and(warp::query::<HashMap<String, String>>())
        .and(with(registry))
        .then(|action: String, query: HashMap<String, String>, registry: Arc<Registry>| async move {
            let fields = query.into_iter().filter(|(name, _)| name != "token");
            let fields = fields.map(|(name, text)| (name.clone(), value(&name, text))).collect();
            or_error(send(&registry, &action, ASKED, TOLD, fields).await)
        });
    let post = warp::path!("dream" / String)
        .and(warp::post())
        .and(body::bytes(body::PLAIN))
        .and(with(registry))
        .then(|action: String, body: Bytes, registry: Arc<Registry>| async move {
            let sent = async { send(&registry, &action, TOLD, ASKED, body::object(&body)?).await };
            or_error(sent.await)
        });
    get.or(post).unify().boxed()
}

async fn send(
    registry: &Arc<Registry>,
    action: &str,
    served: &[&str],
    by_another_method: &[&str],
    fields: Map<String, Value>,
) -> Result<impl warp::Reply + use<>, Error> {
    if by_another_method.contains(&action) {
        return Err(Error::new(ErrorKind::MethodNotAllowed, "this resource does not take that method"));
    }
    if !served.contains(&action) {
        return Err(Error::not_found("no such resource"));
    }
    let reply = ask(registry, &format!("dream:{action}"), fields).await?;
    Ok(warp::reply::json(&reply))
}

/// A query's text as JSON has it: numbers and booleans as such. A session is a text whatever it looks like.
fn value(name: &str, text: String) -> Value {
    match serde_json::from_str(&text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) if name != "session" => value,
        _ => Value::String(text),
    }
}
