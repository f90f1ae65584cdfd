//! The accept loop: connections come in, find a place or are refused, and are served.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tower_service::Service;

use crate::{
    Body, Figures, Limits, Tls,
    connection::Phase,
    descriptors,
    refusal::refuse,
    serve::{Context, serve},
    table::Table,
};

/// How long nothing is accepted after the system had no descriptor or memory for a connection.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Between two lines in the log about that.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// A listener that is bound, with what its connections may take.
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    table: Arc<Table>,
}

/// The connections of a server, to be looked at.
#[derive(Clone)]
pub struct Connections(Arc<Table>);

impl Connections {
    pub fn figures(&self) -> Figures {
        self.0.figures()
    }

    /// The most that were open at once since this was last called, and how many are now.
    pub fn most(&self) -> (usize, usize) {
        self.0.most()
    }
}

impl Server {
    /// Where the process may have fewer descriptors than `limits` has connections, there are fewer of these, with a line in
    /// the log.
    pub fn new(listener: TcpListener, mut limits: Limits, tls: Option<Tls>) -> Self {
        let wanted = limits.connections;
        limits.connections = descriptors::for_connections(wanted, limits.reserved_descriptors);
        if limits.connections < wanted {
            tracing::warn!(
                "at most {} connections instead of {wanted}: the process may have {} open files, of which {} are reserved",
                limits.connections,
                descriptors::allowed().unwrap_or_default(),
                limits.reserved_descriptors,
            );
        }
        Self { listener, tls, table: Table::new(limits) }
    }

    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn connections(&self) -> Connections {
        Connections(self.table.clone())
    }

    /// Serves until `stop` is ready. Then nothing is accepted any more, requests that have come are answered, and it returns
    /// when the last connection has ended; what has been upgraded is not waited for.
    pub async fn serve<S, B>(self, service: S, stop: impl Future<Output = ()>)
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (stopping, stopped) = watch::channel(false);
        let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
        let context = Context { table: self.table.clone(), tls: self.tls, service, stop: stopped };
        let accepting = accept(self.listener, context, alive);
        let ending = async {
            // The listener is closed with what accepts.
            tokio::select! {
                () = accepting => {}
                () = stop => {}
            }
            let _ = stopping.send(true);
            all_ended.recv().await;
        };
        tokio::select! {
            () = ending => {}
            () = sweep(self.table) => {}
        }
    }
}

/// Accepts for ever. Every connection has a clone of `alive`.
async fn accept<S, B>(listener: TcpListener, context: Context<S>, alive: mpsc::Sender<Infallible>)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut accepting = Accepting { table: context.table.clone(), said: None };
    let tls = context.tls.is_some();
    let phase = if tls { Phase::Handshake } else { Phase::Head };
    loop {
        let (stream, peer) = accepting.next(&listener).await;
        match context.table.admit(peer.ip(), phase) {
            Err(refused) => refuse(&context.table, stream, refused, tls),
            Ok(place) => {
                let (context, alive) = (context.clone(), alive.clone());
                tokio::spawn(async move {
                    serve(context, stream, peer, place).await;
                    drop(alive);
                });
            }
        }
    }
}

/// Looks for connections whose time is over, for ever.
async fn sweep(table: Arc<Table>) {
    let mut ticks = tokio::time::interval(table.limits.sweep());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        table.sweep();
    }
}

struct Accepting {
    table: Arc<Table>,
    /// When the log was last told that there are no descriptors.
    said: Option<Instant>,
}

impl Accepting {
    async fn next(&mut self, listener: &TcpListener) -> (TcpStream, SocketAddr) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Without it the second of two small messages waits for the peer's delayed ACK, 40 ms.
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                // The peer was gone before it was accepted.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::ConnectionRefused
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    if self.said.is_none_or(|at| at.elapsed() > SAID_EVERY) {
                        self.said = Some(Instant::now());
                        tracing::error!("connections can't be accepted for now: {error}");
                    }
                    self.table.make_room();
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
}
