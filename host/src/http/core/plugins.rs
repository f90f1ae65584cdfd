//! `GET /v1/plugins`: every plugin with its version, types, schemas, source and last error.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use warp::{Filter, Reply};

use super::{Operation, Route, with};
use crate::plugins::{Registry, Reported};

#[derive(Serialize, JsonSchema)]
struct Plugins {
    plugins: Vec<Reported>,
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/v1/plugins", "Every plugin, serving or not").answers_json::<Plugins>("The plugins."),
    ]
}

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("v1" / "plugins")
        .and(warp::get())
        .and(with(registry))
        .then(|registry: Arc<Registry>| async move {
            let plugins = registry.reports().await.iter().map(|report| report.describe()).collect();
            warp::reply::json(&Plugins { plugins }).into_response()
        })
        .boxed()
}
