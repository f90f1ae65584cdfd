//! `GET /health`: the process answers.

use schemars::JsonSchema;
use serde::Serialize;
use warp::{Filter, Reply};

use super::{Operation, Route};

#[derive(Serialize, JsonSchema)]
struct Health {
    /// Always `ok`.
    status: &'static str,
}

pub fn routes() -> Route {
    warp::path!("health")
        .and(warp::get())
        .map(|| warp::reply::json(&Health { status: "ok" }).into_response())
        .boxed()
}

pub fn operations() -> Vec<Operation> {
    let health = Operation::get("/health", "Whether the process answers");
    vec![health.open().answers_json::<Health>("It does.")]
}
