//! `GET /v1/ws`: the WebSocket.

use std::sync::Arc;

use serde::Deserialize;
use warp::{Filter, reply::Response};

use super::{
    Operation, Route,
    error::or_error,
    of,
    websocket::{self, Handshake},
    with,
};
use crate::{
    dispatch::{self, Inflight},
    error::{Error, ErrorKind},
    hub,
    plugins::Registry,
    status,
};

const MAX_CLIENT_ID: usize = 128;

#[derive(Deserialize)]
struct Query {
    /// Whose jobs these are, over reconnects. Whoever knows it can see them: make it unguessable.
    #[serde(rename = "clientId")]
    client_id: Option<String>,
}

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("v1" / "ws")
        .and(websocket::handshake())
        .and(warp::query::<Query>())
        .and(with(registry))
        .map(|ws: Handshake, query: Query, registry: Arc<Registry>| or_error(upgrade(ws, query, registry)))
        .boxed()
}

pub fn operations() -> Vec<Operation> {
    let ws = Operation::get("/v1/ws", "The WebSocket")
        .details(
            "One text frame is one JSON object with a `type` of the form `domain:action`; `id` comes back in the reply. The \
             fields of plugins' messages are those of the bodies of `/v1/messages/TYPE`, those of `job:submit` the body of \
             `POST /v1/jobs`.",
        )
        .query(
            "clientId",
            of::<String>(),
            "Whose jobs these are, over reconnects. Whoever knows it can see them: make it unguessable.",
        )
        .answers_empty(101, "The connection is a WebSocket from here on.");
    vec![ws.errors(&[ErrorKind::InvalidInput, ErrorKind::Unavailable])]
}

fn upgrade(ws: Handshake, query: Query, registry: Arc<Registry>) -> Result<Response, Error> {
    let hub = registry.services.hub.clone();
    hub.check_room()?;
    let client_id = query.client_id.filter(|id| !id.is_empty());
    if client_id
        .as_ref()
        .is_some_and(|id| id.len() > MAX_CLIENT_ID || !id.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err(Error::invalid(format!(
            "clientId: accepted are up to {MAX_CLIENT_ID} visible ASCII characters without spaces"
        )));
    }
    let limit = hub.config.max_message_bytes;
    Ok(ws.accept(limit, move |socket| async move {
        let inflight = Inflight::new(hub.config.max_inflight);
        let (greeting, health) = (registry.clone(), registry.health().await);
        let greet = move |client: &hub::Client| {
            let mut status = status::message(&greeting, &health);
            if let Some(status) = status.as_object_mut() {
                status.insert("clientId".into(), client.id.clone().into());
            }
            client.reply(status, None);
        };
        let receive = |client, text| dispatch::receive(&registry, &inflight, client, text);
        hub::serve(hub, socket, client_id, greet, receive, inflight.tidy()).await;
    }))
}
