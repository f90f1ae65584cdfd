//! One connection, from its start to its end or to its upgrade.

use std::{convert::Infallible, future::poll_fn, net::SocketAddr, pin::pin, sync::Arc};

use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};
use tower_service::Service;

use crate::{
    Peer, Secure, Tls,
    body::{Answer, Body, Handled},
    connection::{Connection, Phase},
    io::Watched,
    table::{Place, Table},
};

/// The most that is kept of what was read or is to be written, beside a request's headers.
const BUFFER: usize = 256 * 1024;
/// As many as hyper keeps on the stack.
const HEADERS_WITHOUT_COST: usize = 100;

/// What a connection needs of its server.
#[derive(Clone)]
pub struct Context<S> {
    pub table: Arc<Table>,
    pub tls: Option<Tls>,
    pub service: S,
    pub stop: watch::Receiver<bool>,
}

/// Serves a connection until it ends, is ended, or is upgraded.
pub async fn serve<S, B>(context: Context<S>, stream: TcpStream, peer: SocketAddr, place: Place)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = place.connection.clone();
    let stream = Watched::new(stream, place);
    let Some(tls) = &context.tls else {
        return http(context, stream, peer, &connection).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = connection.ended() => return,
    };
    match accepted {
        Ok(stream) => {
            connection.enter(Phase::Head);
            Box::pin(http(context, stream, peer, &connection)).await;
        }
        Err(error) => {
            context.table.counters.handshakes_failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::debug!(%peer, "TLS handshake: {error}");
        }
    }
}

async fn http<S, B>(
    mut context: Context<S>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    connection: &Arc<Connection>,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (service, secure) = (context.service.clone(), context.tls.is_some());
    let service = service_fn(move |request: Request<Incoming>| {
        let handled = Handled::begin(connection);
        let mut request = request.map(|incoming| Body::new(incoming, connection.clone()));
        request.extensions_mut().insert(Peer(peer));
        if secure {
            request.extensions_mut().insert(Secure);
        }
        let mut service = service.clone();
        async move {
            poll_fn(|context| service.poll_ready(context)).await?;
            let response = service.call(request).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                handled.upgrade();
            }
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, handled)))
        }
    });
    let limits = &context.table.limits;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER.max(limits.head_bytes)).max_header_size(limits.head_bytes);
    if limits.headers != HEADERS_WITHOUT_COST {
        builder.max_headers(limits.headers);
    }
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut stopping = *context.stop.borrow_and_update();
    if stopping {
        served.as_mut().graceful_shutdown();
    }
    let mut ended = pin!(connection.ended());
    loop {
        tokio::select! {
            result = served.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, "connection: {error}");
                }
                return;
            }
            () = ended.as_mut() => return,
            _ = context.stop.changed(), if !stopping => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}
