//! What the server itself serves. It knows plugins by their manifests alone: any job and message type of any plugin is
//! reachable through `jobs` and `messages`.

mod events;
mod health;
pub mod jobs;
pub mod messages;
mod metrics;
mod page;
mod plugins;
mod storage;
pub mod uploads;
mod ws;

use std::sync::Arc;

use warp::Filter;

use super::{Route, body, error, with};
use crate::plugins::Registry;

/// What needs no token.
pub fn open(registry: &Arc<Registry>) -> Route {
    let ui_dir = &registry.services.config.server.ui_dir;
    health::routes().or(page::routes(ui_dir)).unify().boxed()
}

pub fn routes(registry: &Arc<Registry>) -> Route {
    ws::routes(registry)
        .or(jobs::routes(registry))
        .unify()
        .or(messages::routes(registry))
        .unify()
        .or(uploads::routes(registry))
        .unify()
        .or(storage::routes(registry))
        .unify()
        .or(plugins::routes(registry))
        .unify()
        .or(metrics::routes(registry))
        .unify()
        .boxed()
}
