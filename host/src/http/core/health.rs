//! `GET /health`: the process answers.

use serde_json::json;
use warp::{Filter, Reply};

use super::Route;

pub fn routes() -> Route {
    warp::path!("health")
        .and(warp::get())
        .map(|| warp::reply::json(&json!({"status": "ok"})).into_response())
        .boxed()
}
