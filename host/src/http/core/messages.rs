//! `POST /v1/messages/TYPE`: a plugin's message over HTTP, sent as a WebSocket client would, and answered with the first reply.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reverie_access::{Caller, Need};
use reverie_memory::Kept;
use serde_json::{Map, Value};
use warp::Filter;

use super::{Content, Manifest, Operation, Route, access, body, error::or_error, with};
use crate::{
    error::{Error, ErrorKind},
    hub,
    plugins::{Message, Registry},
};

/// What is escaped of a type in a path.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b':').remove(b'-').remove(b'_').remove(b'.');

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("v1" / "messages" / String)
        .and(warp::post())
        .and(access::caller(registry))
        .and(body::json(body::PLAIN, registry))
        .and(with(registry))
        .then(|kind: String, caller: Caller, body: Kept<Vec<u8>>, registry: Arc<Registry>| async move {
            let kind = percent_decode_str(&kind).decode_utf8_lossy();
            let need = Need::Type(kind.to_string());
            let asked = async {
                if !caller.may(&need) {
                    return Err(access::lacks(&caller, &need));
                }
                ask(&registry, caller.clone(), &kind, body::object(&body)?).await
            };
            or_error(asked.await.map(|reply| warp::reply::json(&reply)))
        })
        .boxed()
}

/// One for each message type of the plugins that are loaded.
pub fn operations(registry: &Registry) -> Vec<Operation> {
    let plugins = registry.plugins();
    let entries = plugins.iter().flat_map(|plugin| plugin.messages.values());
    entries
        .map(|entry| {
            let kind = utf8_percent_encode(&entry.name, ESCAPED);
            Operation::post(format!("/v1/messages/{kind}"), entry.description.clone())
                .takes(Content::OfPlugin(Manifest::Message(entry.name.clone())))
                .answers_json::<Map<String, Value>>("The plugin's first reply.")
                .errors_of_plugin()
        })
        .collect()
}

/// Sends a caller's message of type `kind` with these fields to the plugin that serves it. Returns its first reply.
///
/// # Errors
/// `NotFound` when no plugin serves the type, `InvalidInput` for fields that do not fit, the plugin's error, and a reply's
/// `error` by its `code`.
pub async fn ask(
    registry: &Arc<Registry>,
    caller: Caller,
    kind: &str,
    mut fields: Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    let Some((plugin, entry)) = registry.message(kind) else {
        return Err(Error::not_found(format!("no plugin serves '{kind}'")));
    };
    fields.insert("type".into(), kind.into());
    let id = fields.get("id").cloned();
    entry.schema.check(&mut fields).map_err(Error::invalid)?;
    let client = registry.services.hub.caller(hub::Peer::unnamed(caller, None));
    let body = Value::Object(fields).to_string();
    let message = Message { kind: kind.to_owned(), id: None, client: client.id.clone(), body };
    let (engine, services) = (registry.engine.clone(), registry.services.clone());
    let call = plugin.handle_message(engine, services, client.clone(), id, message);
    let (result, _spent) = registry
        .engine
        .runtime()
        .spawn(call)
        .await
        .map_err(|_| Error::internal("the plugin failed (a fault of the server)"))?;
    result?;
    let reply = std::iter::from_fn(|| client.outbox.try_next()).find_map(|frame| match frame.content {
        hub::Content::Text(text) => serde_json::from_str::<Map<String, Value>>(&text).ok(),
        hub::Content::Binary(_) => None,
    });
    let reply = reply.ok_or_else(|| Error::internal(format!("'{kind}' was not answered")))?;
    if let Some(error) = reply.get("error").and_then(Value::as_str) {
        let kind =
            reply.get("code").and_then(Value::as_str).map_or(ErrorKind::Internal, ErrorKind::from_code);
        return Err(Error::new(kind, error));
    }
    Ok(reply)
}
