//! Outgoing HTTP, as `wasi:http` has it: requests to listed origins, answers within limits.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{
    Error as WasiError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
    io::TokioIo, p2::bindings::http::types::ErrorCode,
};

use super::super::{bindings::reverie::handler::types as wit, instance::CallState, memory::Part};
use crate::{
    error::{Error, ErrorKind},
    outbound::{Origin, Outbound},
};

/// Bytes of a request's or an answer's headers, about, and of one piece of a body.
const PIECE: usize = 32 << 10;

/// The same where there is no memory for that.
const SCARCE: usize = 2 << 10;

/// What a call needs to speak HTTP, made when it first does.
pub struct Http {
    context: WasiHttpCtx,
    hooks: Hooks,
    /// What all of WASI's resources of the call may hold of headers and bodies.
    _buffers: Option<Part>,
}

struct Hooks {
    outbound: Arc<Outbound>,
    granted: Result<(), Error>,
}

impl WasiHttpView for CallState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        if self.http.is_none() {
            self.http = Some(self.speak_http());
        }
        let http = self.http.as_mut().expect("made above");
        WasiHttpCtxView { hooks: &mut http.hooks, table: &mut self.wasi_table, ctx: &mut http.context }
    }
}

/// An answer, and what keeps its connection going.
type Answered = (Response<WasiBody>, Box<dyn Future<Output = Result<(), WasiError>> + Send>);

impl CallState {
    /// WASI has no errors for memory: what all of its resources can hold is taken at once, and where it is not there, no request is
    /// sent, and what is put together for one is small.
    fn speak_http(&mut self) -> Http {
        let buffers = self
            .granted("http")
            .and_then(|()| Ok(self.memory.take(self.wasi_table.max_capacity().saturating_mul(PIECE))?));
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(if buffers.is_ok() { PIECE } else { SCARCE });
        let (granted, buffers) = match buffers {
            Ok(buffers) => (Ok(()), Some(buffers)),
            Err(error) => (Err(error), None),
        };
        Http { context, hooks: Hooks { outbound: self.outbound(), granted }, _buffers: buffers }
    }
}

impl WasiHttpHooks for Hooks {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        if self.granted.is_ok() { PIECE } else { SCARCE }
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), WasiError>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answered, WasiError>> + Send> {
        let (outbound, granted) = (self.outbound.clone(), self.granted.clone());
        Box::new(async move {
            granted.map_err(described)?;
            send(&outbound, request, options.unwrap_or_default()).await
        })
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        ErrorCode::InternalError(Some(format!("unavailable: {error}")))
    }
}

/// An error of ours in WASI's terms, which have no room for a message but this one.
fn described(error: Error) -> WasiError {
    let wit::Error { kind, message } = error.into();
    let kind = match kind {
        wit::ErrorKind::InvalidInput => "invalid-input",
        wit::ErrorKind::NotFound => "not-found",
        wit::ErrorKind::Denied => "denied",
        wit::ErrorKind::TooLarge => "too-large",
        wit::ErrorKind::Cancelled => "cancelled",
        wit::ErrorKind::Unavailable => "unavailable",
        wit::ErrorKind::Internal => "internal",
    };
    WasiError::InternalError(Some(format!("{kind}: {message}")))
}

async fn send(
    outbound: &Outbound,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Answered, WasiError> {
    let limit = |asked: Option<Duration>| asked.unwrap_or(outbound.timeout).min(outbound.timeout);
    let target = Origin::of(request.uri()).map_err(|e| described(Error::invalid(e)))?;
    let (stream, permit) =
        outbound.connect(&target, limit(options.connect_timeout)).await.map_err(described)?;
    let mut http = http1::Builder::new();
    http.max_buf_size(PIECE);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await?;
    // Aborted when it is dropped, as by a guest that lost interest or a call that ended.
    let driven = wasmtime_wasi::runtime::spawn(connection);
    // Scheme and authority have done their service: on the wire only a proxy is told them.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| WasiError::HttpRequestUriInvalid)?;

    let answer = tokio::time::timeout(limit(options.first_byte_timeout), sender.send_request(request));
    let answer = answer.await.map_err(|_| WasiError::ConnectionReadTimeout)??;
    if answer.body().size_hint().lower() > outbound.max_body as u64 {
        return Err(too_large(outbound.max_body));
    }
    let patience = limit(options.between_bytes_timeout);
    let answer = answer.map(|incoming| {
        let timer = Box::pin(tokio::time::sleep(patience));
        Limited { incoming, left: outbound.max_body, limit: outbound.max_body, patience, timer }
            .boxed_unsync()
    });
    let driving = async move {
        let _permit = permit;
        driven.await.map_err(WasiError::from)
    };
    Ok((answer, Box::new(driving)))
}

fn too_large(limit: usize) -> WasiError {
    let error = format!("the answer's body is over the limit of {limit} bytes (http_max_body_bytes)");
    described(Error::new(ErrorKind::TooLarge, error))
}

/// An answer's body, held to its limits of length and of time between two pieces.
struct Limited {
    incoming: Incoming,
    left: usize,
    limit: usize,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Body for Limited {
    type Data = Bytes;
    type Error = WasiError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WasiError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(left) = this.left.checked_sub(length) else {
                    return Poll::Ready(Some(Err(too_large(this.limit))));
                };
                this.left = left;
                this.timer.as_mut().reset(Instant::now() + this.patience);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = Error::new(ErrorKind::Unavailable, format!("the answer broke off: {error}"));
                Poll::Ready(Some(Err(described(error))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.timer.as_mut().poll(context) {
                Poll::Ready(()) => {
                    let error = Error::new(ErrorKind::Unavailable, "no more of the answer in time");
                    Poll::Ready(Some(Err(described(error))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
