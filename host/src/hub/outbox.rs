//! What waits to be sent to one client: bounded, and newer progress takes the place of older.

use std::{
    any::Any,
    collections::VecDeque,
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    task::{Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use reverie_memory::Held;
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
    /// Dropped with the last of the frame.
    _with: Option<Arc<dyn Any + Send + Sync>>,
}

/// What it holds.
#[derive(Debug, Clone)]
pub enum Content {
    Text(Arc<str>),
    Binary(Bytes),
}

/// Bytes that a frame takes beside its content, about: here, and where the WebSocket's library has it.
const FRAME: usize = 128;

impl Frame {
    /// Bytes that it takes in a queue. Where it waits in several, each counts it.
    fn bytes(&self) -> usize {
        FRAME
            + match &self.content {
                Content::Text(text) => text.len(),
                Content::Binary(content) => content.len(),
            }
    }

    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self { content: Content::Text(text.into()), key: None, _with: None }
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
        Self { content: Content::Binary(content.into()), key: Some(Key::Preview(job)), _with: None }
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

    /// The same, and something that is kept for as long as it waits, such as the memory that it takes of who sent it.
    pub fn with(self, kept: impl Any + Send + Sync) -> Self {
        Self { _with: Some(Arc::new(kept)), ..self }
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
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// What may wait for one client.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub frames: usize,
    pub bytes: usize,
    /// Bytes that may wait whatever memory is free: who asks for little is answered, however much others have taken.
    pub always: usize,
}

struct State {
    frames: VecDeque<Frame>,
    /// Memory for those that wait, and for the one that is being sent.
    held: Held,
    sending: usize,
    closed: Option<(u16, String)>,
    /// The one who waits in `next`.
    writer: Option<Waker>,
    /// The writer looks by itself soon: it need not be woken.
    held_back: bool,
}

impl State {
    /// Bytes of the frames that wait.
    fn waiting(&self) -> usize {
        self.held.bytes() - self.sending
    }

    /// Whether all that waits is less than half of what may.
    fn has_room(&self, limits: &Limits) -> bool {
        self.frames.len() < limits.frames / 2 && self.waiting() < limits.bytes / 2
    }

    fn pop(&mut self) -> Option<Frame> {
        self.sent();
        let frame = self.frames.pop_front()?;
        self.sending = frame.bytes();
        Some(frame)
    }

    /// The frame that was taken last is on its way.
    fn sent(&mut self) {
        self.held.shrink(std::mem::take(&mut self.sending));
    }

    fn wake(&mut self) {
        if let Some(writer) = self.writer.take_if(|_| !self.held_back) {
            writer.wake();
        }
    }
}

impl Outbox {
    /// One whose frames are held by `held`.
    pub fn new(limits: Limits, held: Held, metrics: Arc<Metrics>) -> Self {
        let state =
            State { frames: VecDeque::new(), held, sending: 0, closed: None, writer: None, held_back: false };
        Self { state: Mutex::new(state), drained: Notify::new(), limits, metrics }
    }

    /// Queues a frame. When the queue is full of frames that nothing supersedes, the client is closed instead: it must not
    /// go on with a gap that it can't see. One that a later one would supersede is left out where there is no memory for it.
    pub fn push(&self, frame: Frame) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return;
        }
        let older = frame.key.and_then(|key| state.frames.iter().position(|f| f.key == Some(key)));
        let before = older.map_or(0, |at| state.frames[at].bytes());
        let waiting = state.waiting() - before + frame.bytes();
        // Alone, a frame may be of any size that there is memory for.
        let full = older.is_none() && state.frames.len() >= self.limits.frames
            || waiting > self.limits.bytes && !state.frames.is_empty();
        if full {
            drop(state);
            return self.give_up("client too slow: its outbound queue is full");
        }
        let held = state.held.bytes() - before + frame.bytes();
        if held <= self.limits.always {
            state.held.resize_anyway(held);
        } else if let Err(refused) = state.held.resize(held) {
            drop(state);
            match frame.key {
                Some(_) => self.metrics.ws_superseded.inc(),
                None => self.give_up(&refused.to_string()),
            }
            return;
        }
        if let Some(at) = older {
            state.frames[at] = frame;
            self.metrics.ws_superseded.inc();
        } else {
            state.frames.push_back(frame);
            state.wake();
        }
    }

    fn give_up(&self, reason: &str) {
        self.metrics.ws_slow_closed.inc();
        self.close(close_code::TRY_AGAIN_LATER, reason);
    }

    /// Ends the connection; what still waits is dropped, except on an orderly end of the server.
    pub fn close(&self, code: u16, reason: &str) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.closed = Some((code, reason.to_owned()));
            if code != close_code::GOING_AWAY {
                state.frames.clear();
                let waiting = state.waiting();
                state.held.shrink(waiting);
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
            if let Some(frame) = state.pop() {
                if state.has_room(&self.limits) {
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
        let mut state = self.state.lock();
        let frame = state.pop();
        state.sent();
        frame
    }

    /// Runs `work` without waking the writer, whose task calls this and polls `next` itself before it gives way.
    pub fn hold<T>(&self, work: impl FnOnce() -> T) -> T {
        self.state.lock().held_back = true;
        let done = work();
        self.state.lock().held_back = false;
        done
    }

    /// Waits until the queue is less than half full: a client that does not read is not read from either, so that it can't
    /// fill its queue with replies.
    pub async fn ready(&self) {
        loop {
            {
                let state = self.state.lock();
                if state.has_room(&self.limits) || state.closed.is_some() {
                    return;
                }
            }
            self.drained.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reverie_memory::{Budget, Use};

    use super::*;

    fn outbox(frames: usize) -> Outbox {
        within(Limits { frames, bytes: 1 << 20, always: 0 }, &Budget::unlimited())
    }

    fn within(limits: Limits, budget: &Arc<Budget>) -> Outbox {
        Outbox::new(limits, budget.nothing(Use::Frames), Arc::new(Metrics::new()))
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

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes() {
        let (budget, job) = (Budget::new(1 << 20), Uuid::new_v4());
        let text = |length: usize| "x".repeat(length);
        let outbox = within(Limits { frames: 100, bytes: 10_000, always: 0 }, &budget);
        // Alone a frame may be larger; nothing else fits beside it.
        outbox.push(Frame::progress(job, text(20_000)));
        assert_eq!(budget.used(), 20_000 + FRAME);
        outbox.push(Frame::progress(job, text(5000)));
        assert_eq!(budget.used(), 5000 + FRAME);
        outbox.push(Frame::new(text(4000)));
        // What is being sent counts until the next is asked for, against the budget alone.
        assert!(matches!(outbox.next().await, Next::Send(_)));
        assert_eq!(budget.used(), 9000 + 2 * FRAME);
        outbox.push(Frame::new(text(5000)));
        assert!(matches!(outbox.next().await, Next::Send(_)));
        assert_eq!(budget.used(), 9000 + 2 * FRAME);
        outbox.push(Frame::new(text(6000)));
        assert!(matches!(outbox.next().await, Next::Close(close_code::TRY_AGAIN_LATER, _)));
        drop(outbox);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn without_memory_what_is_superseded_anyway_is_left_out() {
        let (budget, job) = (Budget::new(10_000), Uuid::new_v4());
        let most = Limits { frames: 100, bytes: 100_000, always: 1000 };
        let (first, second) = (within(most, &budget), within(most, &budget));
        first.push(Frame::new("x".repeat(7000)));
        second.push(Frame::progress(job, "x".repeat(5000)));
        assert!(second.try_next().is_none());
        // Little is taken in any case.
        let all = budget.hold_anyway(Use::Pictures, 10_000);
        second.push(Frame::new("x".repeat(500)));
        assert!(second.try_next().is_some());
        drop(all);
        second.push(Frame::new("x".repeat(5000)));
        let Next::Close(close_code::TRY_AGAIN_LATER, reason) = second.next().await else { panic!("goes on") };
        assert!(reason.contains("server.memory_mb"), "{reason}");
        assert!(matches!(first.next().await, Next::Send(_)));
    }

    /// What somebody does to an outbox.
    #[derive(Debug, Clone)]
    enum Step {
        Push(Option<u8>, usize),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = prop_oneof![0..200usize, 0..3000usize];
        let push = (proptest::option::of(0..3u8), length).prop_map(|(key, length)| Step::Push(key, length));
        prop_oneof![2 => push, 1 => Just(Step::Take)]
    }

    proptest! {
        /// Beside a plain model: frames come in order, none without a key is missed unless the client is closed, each key's
        /// newest comes, and nothing is over its limits.
        #[test]
        fn what_is_pushed_comes_or_the_client_goes(steps in proptest::collection::vec(step(), 1..60)) {
            let (limits, budget) = (Limits { frames: 8, bytes: 6000, always: 0 }, Budget::new(5000));
            let outbox = within(limits, &budget);
            let jobs = [1, 2, 3].map(Uuid::from_u128);
            // Key and text, as they are to come.
            let mut expected: VecDeque<(Option<u8>, String)> = VecDeque::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(key, length) => {
                        let text = format!("{n} {}", "x".repeat(length));
                        let frame = match key {
                            Some(key) => Frame::progress(jobs[usize::from(key)], &*text),
                            None => Frame::new(&*text),
                        };
                        let held = budget.used();
                        outbox.push(frame);
                        if outbox.state.lock().closed.is_some() {
                            break;
                        }
                        match expected.iter_mut().find(|(other, _)| key.is_some() && *other == key) {
                            // It may be left out where there is no memory for it: then the older one stays.
                            Some(older) if budget.used() != held || older.1.len() == text.len() => older.1 = text,
                            Some(_) => {}
                            None if budget.used() != held => expected.push_back((key, text)),
                            None => prop_assert!(key.is_some(), "a frame without a key was left out"),
                        }
                    }
                    Step::Take => {
                        let taken = outbox.state.lock().pop();
                        let text = taken.map(|frame| match frame.content {
                            Content::Text(text) => text.to_string(),
                            Content::Binary(_) => unreachable!(),
                        });
                        prop_assert_eq!(text, expected.pop_front().map(|(_, text)| text));
                    }
                }
                let state = outbox.state.lock();
                let waiting: usize = state.frames.iter().map(Frame::bytes).sum();
                prop_assert_eq!(state.waiting(), waiting);
                prop_assert!(state.frames.len() <= limits.frames);
                prop_assert!(waiting <= limits.bytes || state.frames.len() == 1);
                prop_assert_eq!(budget.used(), waiting + state.sending);
            }
            drop(outbox);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
