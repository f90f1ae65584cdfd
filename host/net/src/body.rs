//! The bodies of requests and answers, which tell how far they are.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::connection::{Connection, Phase};

/// The body of a request. It fails with [`TooSlow`] when the peer does not send it in time.
pub struct Body {
    incoming: Incoming,
    connection: Arc<Connection>,
}

/// A body did not arrive in its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the body came too slowly")
    }
}

impl Error for TooSlow {}

/// Whether an error is [`TooSlow`], or comes from it.
pub fn is_too_slow(error: &(dyn Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if this.is::<TooSlow>() {
            return true;
        }
        error = this.source();
    }
    false
}

impl Body {
    pub(crate) fn new(incoming: Incoming, connection: Arc<Connection>) -> Self {
        Self { incoming, connection }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) else {
            return match self.connection.body_waits(context.waker()) {
                true => Poll::Pending,
                false => Poll::Ready(Some(Err(TooSlow.into()))),
            };
        };
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        self.connection.body_came(bytes);
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A request that is handled, up to the end of its answer.
pub struct Handled(Arc<Connection>);

impl Handled {
    pub fn begin(connection: &Arc<Connection>) -> Self {
        connection.enter(Phase::Request);
        Self(connection.clone())
    }

    /// From here on the connection belongs to another protocol.
    pub fn upgrade(&self) {
        self.0.enter(Phase::Upgraded);
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The body of an answer.
pub struct Answer<B> {
    body: B,
    handled: Option<Handled>,
}

impl<B> Answer<B> {
    pub fn new(body: B, handled: Handled) -> Self {
        Self { body, handled: Some(handled) }
    }
}

impl<B: http_body::Body + Unpin> http_body::Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.handled = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
