//! What waits to be sent to one client: bounded, and newer progress takes the place of older.

use std::{
    collections::VecDeque,
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    task::{Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::close_code;
use crate::metrics::Metrics;

/// What a frame supersedes: an older one with the same key that still waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Progress(Uuid),
    Preview(Uuid),
    /// Of a job, with a hash of its topic.
    Event(Uuid, u64),
    Status,
}

/// One message.
#[derive(Debug, Clone)]
pub struct Frame {
    pub content: Content,
    key: Option<Key>,
}

/// What it holds.
#[derive(Debug, Clone)]
pub enum Content {
    Text(Arc<str>),
    Binary(Bytes),
}

impl Frame {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self { content: Content::Text(text.into()), key: None }
    }

    /// Progress of a job, which a later frame of the same job may replace while it waits.
    pub fn progress(job: Uuid, text: impl Into<Arc<str>>) -> Self {
        Self { key: Some(Key::Progress(job)), ..Self::new(text) }
    }

    /// A picture of a job's last step, which that of a later one may replace while it waits.
    pub fn preview(job: Uuid, text: impl Into<Arc<str>>) -> Self {
        Self { key: Some(Key::Preview(job)), ..Self::new(text) }
    }

    /// The same as a binary message.
    pub fn binary_preview(job: Uuid, content: Vec<u8>) -> Self {
        Self { content: Content::Binary(content.into()), key: Some(Key::Preview(job)) }
    }

    /// An event of a job. Where it has a topic, a later one of the same topic may replace it while it waits.
    pub fn event(job: Uuid, topic: Option<&str>, text: impl Into<Arc<str>>) -> Self {
        let key = topic.map(|topic| {
            let mut hasher = DefaultHasher::new();
            topic.hash(&mut hasher);
            Key::Event(job, hasher.finish())
        });
        Self { key, ..Self::new(text) }
    }

    /// The server's status, which a later one may replace while it waits.
    pub fn status(text: impl Into<Arc<str>>) -> Self {
        Self { key: Some(Key::Status), ..Self::new(text) }
    }
}

/// What the writer of a connection does next.
#[derive(Debug)]
pub enum Next {
    Send(Frame),
    Close(u16, String),
}

/// A bounded queue that never blocks who fills it.
pub struct Outbox {
    state: Mutex<State>,
    drained: Notify,
    capacity: usize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    closed: Option<(u16, String)>,
    /// The one who waits in `next`.
    writer: Option<Waker>,
    /// The writer looks by itself soon: it need not be woken.
    held: bool,
}

impl State {
    fn wake(&mut self) {
        if let Some(writer) = self.writer.take_if(|_| !self.held) {
            writer.wake();
        }
    }
}

impl Outbox {
    pub fn new(capacity: usize, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), drained: Notify::new(), capacity, metrics }
    }

    /// Queues a frame. When the queue is full of frames that nothing supersedes, the client is closed instead: it must not
    /// go on with a gap that it can't see.
    pub fn push(&self, frame: Frame) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return;
        }
        let older = frame.key.and_then(|key| state.frames.iter_mut().find(|f| f.key == Some(key)));
        if let Some(older) = older {
            *older = frame;
            self.metrics.ws_superseded.inc();
        } else if state.frames.len() < self.capacity {
            state.frames.push_back(frame);
            state.wake();
        } else {
            drop(state);
            self.metrics.ws_slow_closed.inc();
            self.close(close_code::TRY_AGAIN_LATER, "client too slow: its outbound queue is full");
        }
    }

    /// Ends the connection; what still waits is dropped, except on an orderly end of the server.
    pub fn close(&self, code: u16, reason: &str) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.closed = Some((code, reason.to_owned()));
            if code != close_code::GOING_AWAY {
                state.frames.clear();
            }
            state.wake();
            drop(state);
            self.drained.notify_one();
        }
    }

    /// What to do next; waits until there is something. For one task: a second one would take the place of the first.
    pub async fn next(&self) -> Next {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if let Some(frame) = state.frames.pop_front() {
                if state.frames.len() < self.capacity / 2 {
                    self.drained.notify_one();
                }
                return Poll::Ready(Next::Send(frame));
            }
            if let Some((code, reason)) = &state.closed {
                return Poll::Ready(Next::Close(*code, reason.clone()));
            }
            state.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// What waits first, if anything does.
    pub fn try_next(&self) -> Option<Frame> {
        self.state.lock().frames.pop_front()
    }

    /// Runs `work` without waking the writer, whose task calls this and polls `next` itself before it gives way.
    pub fn hold<T>(&self, work: impl FnOnce() -> T) -> T {
        self.state.lock().held = true;
        let done = work();
        self.state.lock().held = false;
        done
    }

    /// Waits until the queue is less than half full: a client that does not read is not read from either, so that it can't
    /// fill its queue with replies.
    pub async fn ready(&self) {
        loop {
            {
                let state = self.state.lock();
                if state.frames.len() < self.capacity / 2 || state.closed.is_some() {
                    return;
                }
            }
            self.drained.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(capacity: usize) -> Outbox {
        Outbox::new(capacity, Arc::new(Metrics::new()))
    }

    async fn texts(outbox: &Outbox) -> Vec<String> {
        outbox.close(close_code::GOING_AWAY, "end");
        let mut texts = Vec::new();
        while let Next::Send(frame) = outbox.next().await {
            match frame.content {
                Content::Text(text) => texts.push(text.to_string()),
                Content::Binary(content) => texts.push(format!("{content:?}")),
            }
        }
        texts
    }

    #[tokio::test]
    async fn newer_progress_takes_the_place_of_older() {
        let (outbox, a, b) = (outbox(8), Uuid::new_v4(), Uuid::new_v4());
        for frame in [
            Frame::progress(a, "a1"),
            Frame::new("ack"),
            Frame::progress(b, "b1"),
            Frame::progress(a, "a2"),
            Frame::progress(b, "b2"),
        ] {
            outbox.push(frame);
        }
        assert_eq!(texts(&outbox).await, ["a2", "ack", "b2"]);
    }

    #[tokio::test]
    async fn a_full_queue_closes_the_client_and_nobody_waits() {
        let (outbox, job) = (outbox(8), Uuid::new_v4());
        for i in 0..7 {
            outbox.push(Frame::new(i.to_string()));
        }
        for i in 0..1000 {
            outbox.push(Frame::progress(job, i.to_string()));
        }
        assert!(outbox.state.lock().closed.is_none());
        outbox.push(Frame::new("one too many"));
        assert!(matches!(outbox.next().await, Next::Close(close_code::TRY_AGAIN_LATER, _)));
    }
}
