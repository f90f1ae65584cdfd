//! WebSocket connections to other servers. Each has a task of its own, which answers pings and takes in messages while the guest
//! does something else.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes, error::CapacityError, http::Uri, protocol::WebSocketConfig,
    },
};
use wasmtime::component::Resource;

use super::{
    super::{
        bindings::reverie::handler::{types, websocket},
        instance::CallState,
        memory::{Exhausted, Memory, Part},
    },
    metered::{self, Meter, Metered},
};
use crate::{
    error::{Error, ErrorKind},
    outbound::{Origin, Outbound, Scheme},
};

const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Without any frame for so long, not even an answer to a ping, the other side is taken for dead.
const SILENCE: Duration = Duration::from_secs(45);

/// What closing politely may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a message counts besides its length: an endless series of empty ones is bounded too.
const OVERHEAD: usize = 64;

/// Bytes that the library reads at once, and those that a connection takes whatever it carries, TLS included.
const READ_BUFFER: usize = 16 << 10;
const BUFFERS: usize = 128 << 10;

/// The guest's side of a connection. Dropped, as when the call ends, its task closes the connection.
pub struct Connection {
    incoming: mpsc::UnboundedReceiver<Result<Received, Error>>,
    outgoing: mpsc::Sender<Outgoing>,
    /// Why there is nothing more to be received.
    ended: Option<Error>,
    patience: Duration,
}

/// A message with the room in the queue and the memory that it takes.
struct Received {
    frame: websocket::Frame,
    _room: OwnedSemaphorePermit,
    _part: Part,
}

struct Outgoing {
    message: Message,
    _part: Part,
    sent: oneshot::Sender<Result<(), Error>>,
}

type Socket = WebSocketStream<Metered>;

impl websocket::Host for CallState {}

impl websocket::HostConnection for CallState {
    async fn connect(
        &mut self,
        url: String,
        timeout_ms: u32,
    ) -> wasmtime::Result<Result<Resource<Connection>, types::Error>> {
        if let Err(error) = self.granted("websocket") {
            return Ok(Err(error.into()));
        }
        let outbound = self.outbound();
        let limit = Duration::from_millis(timeout_ms.into());
        let connected = match self.memory.take(BUFFERS) {
            Ok(buffers) => connect(&outbound, &url, limit, &self.memory).await.map(|made| (made, buffers)),
            Err(exhausted) => Err(exhausted.into()),
        };
        let kept = connected.and_then(|(made, buffers)| Ok(self.resources.push(made, buffers)?));
        Ok(kept.map_err(Into::into))
    }

    async fn send_text(
        &mut self,
        connection: Resource<Connection>,
        text: String,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        self.send(&connection, Message::text(text)).await
    }

    async fn send_binary(
        &mut self,
        connection: Resource<Connection>,
        content: Vec<u8>,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        self.send(&connection, Message::binary(content)).await
    }

    async fn receive(
        &mut self,
        connection: Resource<Connection>,
        timeout_ms: u32,
    ) -> wasmtime::Result<Result<Option<websocket::Frame>, types::Error>> {
        // One that knows that it was cancelled may still have something to hear, such as that its work was stopped.
        let job = self.job().filter(|_| !self.knows_of_cancel).cloned();
        let cancelled = async {
            match &job {
                Some(job) => job.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let connection = self.resources.get_mut(&connection)?;
        let received = tokio::select! {
            biased;
            received = connection.receive(Duration::from_millis(timeout_ms.into())) => Some(received),
            () = cancelled => None,
        };
        self.knows_of_cancel |= received.is_none();
        Ok(received.unwrap_or(Ok(None)).map_err(Into::into))
    }

    fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.resources.delete(connection)
    }
}

impl CallState {
    async fn send(
        &mut self,
        connection: &Resource<Connection>,
        message: Message,
    ) -> wasmtime::Result<Result<(), types::Error>> {
        // The message, and the library's copy of it.
        let part = match self.memory.take(2 * message.len()) {
            Ok(part) => part,
            Err(exhausted) => return Ok(Err(Error::from(exhausted).into())),
        };
        let sent = self.resources.get_mut(connection)?.send(message, part).await;
        Ok(sent.map_err(Into::into))
    }
}

async fn connect(
    outbound: &Outbound,
    url: &str,
    limit: Duration,
    memory: &Memory,
) -> Result<Connection, Error> {
    let parsed: Uri = url.parse().map_err(|e| {
        Error::invalid(format!("'{url}' is not a URL ({e}): accepted is ws://HOST[:PORT]/PATH"))
    })?;
    let target = Origin::of(&parsed).map_err(Error::invalid)?;
    if !matches!(target.scheme, Scheme::Ws | Scheme::Wss) {
        return Err(Error::invalid(format!("'{url}' is no URL of WebSocket: accepted are ws:// and wss://")));
    }
    let began = Instant::now();
    let limit = limit.min(outbound.timeout);
    let (stream, permit) = outbound.connect(&target, limit).await?;
    let (stream, meter) = Metered::new(stream, memory.nothing());
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(outbound.max_message))
        .max_frame_size(Some(outbound.max_message));
    let opened = timeout(
        limit.saturating_sub(began.elapsed()),
        client_async_with_config(parsed, stream, Some(config)),
    );
    let (socket, _) = opened
        .await
        .map_err(|_| unavailable(format!("{target}: no WebSocket within {} ms", limit.as_millis())))?
        .map_err(|error| match error {
            WsError::Http(answer) => {
                unavailable(format!("{target} answered {} instead of opening a WebSocket", answer.status()))
            }
            error => unavailable(format!("{target}: {error}")),
        })?;
    let (arrivals, incoming) = mpsc::unbounded_channel();
    let (outgoing, orders) = mpsc::channel(1);
    // Two of the largest messages: one that is taken while the next arrives.
    let room = (2 * (outbound.max_message + OVERHEAD)).min(Semaphore::MAX_PERMITS);
    let line = Line {
        socket,
        target,
        arrivals,
        orders,
        memory: memory.clone(),
        meter,
        room: Arc::new(Semaphore::new(room)),
        patience: outbound.timeout,
    };
    tokio::spawn(async move {
        line.run().await;
        drop(permit);
    });
    Ok(Connection { incoming, outgoing, ended: None, patience: outbound.timeout })
}

impl Connection {
    async fn send(&mut self, message: Message, part: Part) -> Result<(), Error> {
        let (sent, done) = oneshot::channel();
        let closed = || unavailable("the WebSocket is closed".into());
        let sending = async {
            self.outgoing.send(Outgoing { message, _part: part, sent }).await.map_err(|_| closed())?;
            done.await.map_err(|_| closed())?
        };
        let late =
            |_| unavailable(format!("the message was not taken within {} ms", self.patience.as_millis()));
        timeout(self.patience, sending).await.map_err(late)?
    }

    async fn receive(&mut self, limit: Duration) -> Result<Option<websocket::Frame>, Error> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        // What is there already is taken even with a limit of nothing.
        let received = match self.incoming.try_recv() {
            Ok(received) => Some(received),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => match timeout(limit, self.incoming.recv()).await {
                Ok(received) => received,
                Err(_) => return Ok(None),
            },
        };
        match received {
            Some(Ok(received)) => Ok(Some(received.frame)),
            Some(Err(error)) => Err(self.ended.insert(error).clone()),
            None => Err(self.ended.insert(unavailable("the WebSocket is closed".into())).clone()),
        }
    }
}

/// The network's side of a connection.
struct Line {
    socket: Socket,
    target: Origin,
    arrivals: mpsc::UnboundedSender<Result<Received, Error>>,
    orders: mpsc::Receiver<Outgoing>,
    memory: Memory,
    meter: Meter,
    /// Bytes that may wait for the guest. Where there is none, nothing more is read: the other side has to wait.
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Line {
    async fn run(mut self) {
        let ended = self.carry().await;
        if let Some(error) = ended {
            let _ = self.arrivals.send(Err(error));
        }
        let _ = timeout(FAREWELL, self.socket.close(None)).await;
    }

    /// Carries messages both ways. Returns why it ended, or none when the guest has dropped the connection.
    async fn carry(&mut self) -> Option<Error> {
        let mut pings = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut waiting: Option<(websocket::Frame, Part)> = None;
        loop {
            let size = waiting.as_ref().map_or(0, |(frame, _)| size(frame));
            tokio::select! {
                order = self.orders.recv() => {
                    let Outgoing { message, _part, sent } = order?;
                    let done = timeout(self.patience, self.socket.send(message)).await;
                    let failure = match done {
                        Ok(Ok(())) => None,
                        Ok(Err(error)) => Some(self.failure(&error)),
                        Err(_) => Some(unavailable(format!("{} does not take messages any more", self.target))),
                    };
                    let _ = sent.send(failure.clone().map_or(Ok(()), Err));
                    if failure.is_some() {
                        return failure;
                    }
                }
                room = self.room.clone().acquire_many_owned(size), if waiting.is_some() => {
                    let (frame, _part) = waiting.take()?;
                    let _room = room.expect("never closed");
                    self.arrivals.send(Ok(Received { frame, _room, _part })).ok()?;
                    heard = Instant::now();
                }
                message = self.socket.next(), if waiting.is_none() => {
                    heard = Instant::now();
                    let frame = match message {
                        Some(Ok(Message::Text(text))) => websocket::Frame::Text(text.to_string()),
                        Some(Ok(Message::Binary(content))) => websocket::Frame::Binary(content.into()),
                        // Pings are answered below this.
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                        Some(Ok(Message::Close(frame))) => {
                            let cause = frame.map_or_else(String::new, |frame| described(frame.code.into(), &frame.reason));
                            return Some(unavailable(format!("{} closed the WebSocket{cause}", self.target)));
                        }
                        Some(Err(error)) => return Some(self.failure(&error)),
                        None => return Some(unavailable(format!("{} closed the WebSocket", self.target))),
                    };
                    match self.taken(&frame) {
                        Ok(part) => waiting = Some((frame, part)),
                        Err(exhausted) => return Some(exhausted.into()),
                    }
                }
                _ = pings.tick(), if waiting.is_none() => {
                    if heard.elapsed() > SILENCE {
                        let silence = SILENCE.as_secs();
                        return Some(unavailable(format!("{} gave no sign for {silence} s", self.target)));
                    }
                    if let Err(error) = self.socket.send(Message::Ping(Default::default())).await {
                        return Some(self.failure(&error));
                    }
                }
            }
        }
    }

    /// The memory of a message that was taken from what was read.
    fn taken(&self, frame: &websocket::Frame) -> Result<Part, Exhausted> {
        let bytes = size(frame) as usize;
        self.meter.taken(bytes - OVERHEAD, READ_BUFFER);
        self.memory.take(bytes)
    }

    fn failure(&self, error: &WsError) -> Error {
        match error {
            WsError::Io(io) if let Some(exhausted) = metered::exhausted(io) => exhausted.into(),
            WsError::Capacity(CapacityError::MessageTooLong { max_size, .. }) => Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{} sent a message over the limit of {max_size} bytes (websocket_max_message_bytes)",
                    self.target
                ),
            ),
            error => unavailable(format!("{}: the WebSocket broke off: {error}", self.target)),
        }
    }
}

/// What a message takes of the queue.
fn size(frame: &websocket::Frame) -> u32 {
    let length = match frame {
        websocket::Frame::Text(text) => text.len(),
        websocket::Frame::Binary(content) => content.len(),
    };
    u32::try_from(length + OVERHEAD).unwrap_or(u32::MAX)
}

fn described(code: u16, reason: &Utf8Bytes) -> String {
    match reason.is_empty() {
        true => format!(" (code {code})"),
        false => format!(" (code {code}: {reason})"),
    }
}

fn unavailable(message: String) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}
