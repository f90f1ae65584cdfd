//! A connection whose bytes take memory of a call from when they are read until the message that they make is taken out.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::memory::{Exhausted, Part};
use crate::outbound::Duplex;

/// A connection of which what was read, and not taken out yet, is counted.
pub struct Metered {
    stream: Box<dyn Duplex>,
    read: Arc<Mutex<Part>>,
}

/// The count of it.
pub struct Meter(Arc<Mutex<Part>>);

impl Metered {
    pub fn new(stream: Box<dyn Duplex>, part: Part) -> (Self, Meter) {
        let read = Arc::new(Mutex::new(part));
        (Self { stream, read: read.clone() }, Meter(read))
    }
}

impl Meter {
    /// A message of so many bytes was taken out. What else there is was read together with its end, at most `at_once` bytes: the
    /// rest were the frames' headers.
    pub fn taken(&self, bytes: usize, at_once: usize) {
        let mut read = self.0.lock();
        read.shrink(bytes);
        let headers = read.bytes().saturating_sub(at_once);
        read.shrink(headers);
    }
}

/// Why a connection broke off, where that is because there was no memory for what came.
pub fn exhausted(error: &io::Error) -> Option<Exhausted> {
    error.get_ref()?.downcast_ref().cloned()
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(context, buffer))?;
        let grown = self.read.lock().grow(buffer.filled().len() - before);
        Poll::Ready(grown.map_err(io::Error::other))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, content)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
