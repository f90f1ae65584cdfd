//! A socket that tells what it does.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{connection::Phase, table::Place};

/// Below TLS, so that what counts is what the network takes. It holds the connection's place among all.
pub struct Watched {
    stream: TcpStream,
    place: Place,
    upgraded: AtomicBool,
}

impl Watched {
    pub fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream, place, upgraded: AtomicBool::new(false) }
    }

    /// Whether there is nothing to tell any more.
    fn is_upgraded(&self) -> bool {
        self.upgraded.load(Relaxed) || {
            let upgraded = self.place.connection.phase() == Phase::Upgraded;
            self.upgraded.store(upgraded, Relaxed);
            upgraded
        }
    }

    fn tell(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if !self.upgraded.load(Relaxed) {
            match written {
                Poll::Ready(Ok(_)) => self.place.connection.wrote(true),
                Poll::Pending if !self.is_upgraded() => self.place.connection.wrote(false),
                _ => {}
            }
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && !self.is_upgraded() {
            self.place.connection.read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, content);
        self.tell(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        content: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, content);
        self.tell(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
