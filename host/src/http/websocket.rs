//! The handshake of a WebSocket, and how much memory one may take.

use std::future::Future;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use warp::{
    Filter, Rejection, Reply,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    reply::Response,
};

use super::error::reject;
use crate::error::{Error, ErrorKind};

/// A connection that has become one.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Bytes that are read at once. Every connection keeps a buffer of as many, and most messages are shorter.
const READ_BUFFER: usize = 8192;
/// Bytes that may wait to be written: one message, as each is written out before the next, and what answers pings.
const WRITE_BUFFER: usize = 64 << 20;

/// A request for a WebSocket, whose headers are right.
pub struct Handshake {
    upgrade: OnUpgrade,
    accept: String,
}

/// Takes requests for a WebSocket.
pub fn handshake() -> impl Filter<Extract = (Handshake,), Error = Rejection> + Clone {
    warp::get().and(warp::header::headers_cloned()).and(warp::ext::optional::<OnUpgrade>()).and_then(
        |headers: HeaderMap, upgrade: Option<OnUpgrade>| async move { of(&headers, upgrade).map_err(reject) },
    )
}

fn of(headers: &HeaderMap, upgrade: Option<OnUpgrade>) -> Result<Handshake, Error> {
    let bad = |what: &str| Error::new(ErrorKind::BadRequest, format!("this is a WebSocket: {what}"));
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let upgrades =
        text(header::CONNECTION).split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    if !(upgrades && text(header::UPGRADE).eq_ignore_ascii_case("websocket")) {
        return Err(bad("the handshake's headers are missing"));
    }
    if text(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(bad("accepted is the header 'sec-websocket-version: 13'"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| bad("the header 'sec-websocket-key' is missing"))?;
    let upgrade = upgrade.ok_or_else(|| bad("this connection can't become one"))?;
    Ok(Handshake { upgrade, accept: derive_accept_key(key.as_bytes()) })
}

impl Handshake {
    /// Accepts it. `serve` is called with the connection, whose messages are `max_message_bytes` long at most.
    pub fn accept<F>(
        self,
        max_message_bytes: usize,
        serve: impl FnOnce(WebSocket) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        tokio::spawn(async move {
            match self.upgrade.await {
                Ok(upgraded) => {
                    let stream = TokioIo::new(upgraded);
                    serve(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await).await;
                }
                Err(error) => tracing::debug!("WebSocket: {error}"),
            }
        });
        let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept.parse().expect("base64"));
        answer
    }
}
