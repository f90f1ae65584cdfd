//! `GET /v1/ws`: the WebSocket.

use std::{net::IpAddr, sync::Arc};

use reverie_access::Caller;
use serde::Deserialize;
use warp::{Filter, reply::Response};

use super::{
    Operation, Route, access,
    error::or_error,
    of,
    websocket::{self, Handshake},
    with,
};
use crate::{
    dispatch::{self, Inflight},
    error::{Error, ErrorKind},
    hub::{self, Peer},
    plugins::Registry,
    status,
};

#[derive(Deserialize)]
struct Query {
    /// Whose jobs these are, over reconnects. Whoever knows it can see them where there are no keys: make it unguessable.
    #[serde(rename = "clientId")]
    client_id: Option<String>,
}

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("v1" / "ws")
        .and(websocket::handshake())
        .and(warp::query::<Query>())
        .and(access::caller(registry))
        .and(access::address())
        .and(with(registry))
        .map(
            |ws: Handshake,
             query: Query,
             caller: Caller,
             address: Option<IpAddr>,
             registry: Arc<Registry>| {
                let peer = Peer::new(caller, address, query.client_id);
                or_error(peer.and_then(|peer| upgrade(ws, peer, registry)))
            },
        )
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
            "Whose jobs these are, over reconnects. Where there are no keys, whoever knows it can see them: one that can be \
             guessed is not taken, and a random one stands in its place.",
        )
        .answers_empty(101, "The connection is a WebSocket from here on.");
    vec![ws.errors(&[ErrorKind::InvalidInput, ErrorKind::Unavailable])]
}

fn upgrade(ws: Handshake, peer: Peer, registry: Arc<Registry>) -> Result<Response, Error> {
    let hub = registry.services.hub.clone();
    hub.check_room()?;
    let limit = hub.config.max_message_bytes;
    Ok(ws.accept(limit, move |socket| async move {
        let inflight = Inflight::new(hub.config.max_inflight);
        let (greeting, health) = (registry.clone(), registry.health().await);
        let greet = move |client: &hub::Client| {
            let mut status = status::message(&greeting, &health);
            if let Some(status) = status.as_object_mut() {
                status.insert("clientId".into(), client.peer.name.clone().into());
            }
            client.reply(status, None);
            // Since it was let in.
            if !greeting.services.access.is_current(&client.peer.caller) {
                greeting.services.hub.close_revoked(&greeting.services.access);
            }
        };
        let receive = |client, text| dispatch::receive(&registry, &inflight, client, text);
        hub::serve(hub, socket, peer, greet, receive, inflight.tidy()).await;
    }))
}
