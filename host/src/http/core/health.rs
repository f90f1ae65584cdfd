//! `GET /health`: whether the parts of the server answer.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use warp::{Filter, Reply, http::StatusCode, reply::Response};

use super::{Content, Operation, Route, of, with};
use crate::{health::Health, plugins::Registry};

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("health").and(warp::get()).and(with(registry)).then(health).boxed()
}

/// How the server is, and its connections.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HealthAnswer")]
struct Answer {
    #[serde(flatten)]
    health: Health,
    connections: Connections,
}

/// The network's connections, WebSockets among them.
#[derive(Default, Serialize, JsonSchema)]
struct Connections {
    open: usize,
    /// The most that there may be: `server.max_connections`, or fewer where the process may have fewer open files.
    limit: usize,
    /// Refused since the start, as there were as many as there may be in all or of one address.
    refused: u64,
}

async fn health(registry: Arc<Registry>) -> Response {
    let health = registry.health().await;
    let figures =
        registry.services.connections.get().map(reverie_net::Connections::figures).unwrap_or_default();
    let refused = figures.refused + figures.refused_of_address;
    let connections = Connections { open: figures.open, limit: figures.limit, refused };
    let status = if health.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&Answer { health, connections }), status).into_response()
}

pub fn operations() -> Vec<Operation> {
    let health = Operation::get("/health", "Whether the parts of the server answer").details(
        "The job store, the execution, the plugin runtime and the storage are asked at the same time; what does not answer \
         within a second is failing. What was found is told again for a moment, and a check that takes longer is not begun \
         a second time. A part that is busy is well.",
    );
    vec![health.open().answers_json::<Answer>("All do; `status` is `ok`.").answers(
        503,
        "At least one does not; `status` is `failing`.",
        Content::Json(of::<Answer>()),
    )]
}
