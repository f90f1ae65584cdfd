//! `GET /metrics`: Prometheus' text format.

use std::sync::Arc;

use warp::{Filter, Reply, http::header};

use super::{Content, Operation, Route, with};
use crate::plugins::Registry;

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("metrics")
        .and(warp::get())
        .and(with(registry))
        .map(|registry: Arc<Registry>| {
            let services = &registry.services;
            services.metrics.upload_bytes.set(services.uploads.figures().1 as i64);
            services.metrics.jobs_are(&services.jobs);
            services.metrics.memory_is(&services.memory);
            if let Some(connections) = services.connections.get() {
                services.metrics.connections.are(connections.figures());
            }
            if let Some(gpu) = services.diffusion.gpu() {
                services.metrics.gpu(services.diffusion.backend(), &gpu);
            }
            let text = services.metrics.render();
            warp::reply::with_header(text, header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
                .into_response()
        })
        .boxed()
}

pub fn operations() -> Vec<Operation> {
    let metrics = Operation::get("/metrics", "Figures in Prometheus' text format");
    vec![metrics.answers(200, "The figures.", Content::Media(&["text/plain"]))]
}
