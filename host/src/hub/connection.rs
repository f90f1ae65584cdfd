//! One connection: a reader that hands messages to the dispatcher and a writer that empties the outbox.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{
    Client, Hub, Listener, Peer, close_code,
    outbox::{Content, Frame, Next},
};
use crate::config::seconds;

/// How long a close frame may wait for a client that does not read before the socket is dropped.
const CLOSE_LINGER: Duration = Duration::from_secs(5);

/// Runs a connection to its end. `greet` is called once, then `receive` for every text message, in order; while it
/// waits, nothing more is read from this client. `tidy` is polled when nothing is left to read or to send.
pub async fn serve<S, F, Fut>(
    hub: Arc<Hub>,
    socket: WebSocketStream<S>,
    peer: Peer,
    greet: impl FnOnce(&Client),
    receive: F,
    tidy: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Arc<Client>, String) -> Fut,
    Fut: Future<Output = ()>,
{
    let client = hub.connect(peer);
    // Dropped by a panic too, as of a plugin's call that runs in this task.
    let connected = Listener { hub: hub.clone(), client: client.clone() };
    tracing::debug!(client = client.id, "connected");
    greet(&client);
    let (sink, mut stream) = socket.split();
    let (pong_due, pings) = mpsc::channel(1);
    let mut writer = pin!(write(hub.clone(), client.clone(), sink, pings));
    let idle = seconds(hub.config.idle_timeout_s);

    let read = async {
        loop {
            client.outbox.ready().await;
            let message = match timeout(idle, stream.next()).await {
                Err(_) => {
                    client.outbox.close(close_code::GOING_AWAY, "idle: no frame and no pong in time");
                    return;
                }
                Ok(None) => return,
                Ok(Some(Err(error))) => {
                    // The one protocol error that a well-meant client can make gets its close code.
                    if matches!(error, Error::Capacity(CapacityError::MessageTooLong { .. })) {
                        let limit = hub.config.max_message_bytes;
                        client.outbox.close(close_code::TOO_BIG, &format!("message over {limit} bytes"));
                    }
                    return;
                }
                Ok(Some(Ok(message))) => message,
            };
            match message {
                Message::Close(_) => return,
                // tungstenite has queued the pong, and a flush by the writer sends it. No more is read before the one before it
                // is sent: a flood of pings does not fill the memory of who reads no answer.
                Message::Ping(_) => drop(pong_due.send(()).await),
                Message::Text(text) => {
                    let mut receiving = pin!(receive(client.clone(), text.as_str().to_owned()));
                    poll_fn(|context| client.outbox.hold(|| receiving.as_mut().poll(context))).await;
                }
                Message::Binary(_) => {
                    let error =
                        "Binary messages are not accepted: send JSON as text, and files to POST /v1/upload";
                    client.reply(serde_json::json!({"type": "error", "error": error}), None);
                }
                Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    };
    // One task for both: an answer that was made while its message was read goes out in the same poll, where waking a task
    // of its own would cost more than most handlers do.
    tokio::select! {
        biased;
        () = read => {
            // Lets the writer send the close frame that answers the client's, or that says why.
            client.outbox.close(close_code::GOING_AWAY, "");
            let _ = timeout(CLOSE_LINGER, &mut writer).await;
        }
        _ = &mut writer => {}
        () = tidy => {}
    }
    drop(connected);
    tracing::debug!(client = client.id, "disconnected");
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    hub: Arc<Hub>,
    client: Arc<Client>,
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut pings: mpsc::Receiver<()>,
) {
    let grace = seconds(hub.config.slow_client_grace_s);
    let mut ping = tokio::time::interval(seconds(hub.config.ping_interval_s));
    ping.tick().await;
    loop {
        let message = tokio::select! {
            next = client.outbox.next() => match next {
                Next::Send(Frame { content: Content::Text(text), .. }) => Message::text(&*text),
                Next::Send(Frame { content: Content::Binary(content), .. }) => Message::binary(content),
                Next::Close(code, reason) => return close(&mut sink, code, reason).await,
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
            Some(()) = pings.recv() => {
                let _ = timeout(grace, sink.flush()).await;
                continue;
            }
        };
        match timeout(grace, sink.send(message)).await {
            Ok(Ok(())) => hub.metrics.ws_sent.inc(),
            Ok(Err(_)) => return,
            Err(_) => {
                hub.metrics.ws_slow_closed.inc();
                tracing::info!(client = client.id, "dropped: it does not read");
                let reason = "client too slow: it does not read".to_owned();
                return close(&mut sink, close_code::TRY_AGAIN_LATER, reason).await;
            }
        }
    }
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    code: u16,
    reason: String,
) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
    let message = Message::Close((!frame.reason.is_empty()).then_some(frame));
    let _ = timeout(CLOSE_LINGER, async {
        let _ = sink.send(message).await;
        let _ = sink.close().await;
    })
    .await;
}
