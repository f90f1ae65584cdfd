//! `GET /health`: whether the parts of the server answer.

use std::sync::Arc;

use warp::{Filter, Reply, http::StatusCode, reply::Response};

use super::{Content, Operation, Route, of, with};
use crate::{health::Health, plugins::Registry};

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("health").and(warp::get()).and(with(registry)).then(health).boxed()
}

async fn health(registry: Arc<Registry>) -> Response {
    let health = registry.health().await;
    let status = if health.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&health), status).into_response()
}

pub fn operations() -> Vec<Operation> {
    let health = Operation::get("/health", "Whether the parts of the server answer").details(
        "The job store, the execution, the plugin runtime and the storage are asked at the same time; what does not answer \
         within a second is failing. What was found is told again for a moment, and a check that takes longer is not begun \
         a second time. A part that is busy is well.",
    );
    vec![health.open().answers_json::<Health>("All do; `status` is `ok`.").answers(
        503,
        "At least one does not; `status` is `failing`.",
        Content::Json(of::<Health>()),
    )]
}
