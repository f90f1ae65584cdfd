//! What the server itself serves. It knows plugins by their manifests alone: any job and message type of any plugin is
//! reachable through `jobs` and `messages`.

mod docs;
mod events;
mod health;
pub mod jobs;
pub mod messages;
mod metrics;
mod openapi;
mod page;
mod plugins;
mod session;
mod storage;
pub mod uploads;
mod ws;

use std::sync::Arc;

use warp::Filter;

use super::{
    Route, access, body, conditional, describe,
    describe::{Content, File, Manifest, Operation, Place, Section, of},
    error, multipart, needs, websocket, with,
};
use crate::plugins::Registry;

/// What needs no token.
pub fn open(registry: &Arc<Registry>) -> Route {
    let ui_dir = &registry.services.config.server.ui_dir;
    let session = session::open(registry);
    health::routes(registry)
        .or(session)
        .unify()
        .or(docs::routes())
        .unify()
        .or(page::routes(ui_dir))
        .unify()
        .boxed()
}

/// `foreign`: what is described beside it.
pub fn routes(registry: &Arc<Registry>, foreign: fn() -> Vec<Section>) -> Route {
    ws::routes(registry)
        .or(session::guarded(registry))
        .unify()
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
        .or(openapi::routes(registry, foreign))
        .unify()
        .boxed()
}

/// What is described of it.
fn sections(registry: &Registry) -> Vec<Section> {
    let section =
        |name, description, operations| Section { name, description, operations, errors: error::DESCRIBED };
    let server = [health::operations(), plugins::operations(), metrics::operations(), openapi::operations()];
    let pages = [page::operations(), docs::operations()];
    vec![
        section("Jobs", "Jobs of any type of any plugin.", jobs::operations()),
        section("Messages", "Messages to the plugins that are loaded.", messages::operations(registry)),
        section("WebSocket", "Jobs, messages and their events over one connection.", ws::operations()),
        section("Uploads", "Files for jobs to work on.", uploads::operations()),
        section("Storage", "What jobs have made, and what clients keep.", storage::operations()),
        section("Keys", "Keys, sessions and signed addresses.", session::operations()),
        section("Server", "How the server is.", server.into_iter().flatten().collect()),
        section("Pages", "For people.", pages.into_iter().flatten().collect()),
    ]
}
