//! A queued or running job, as its worker and its plugin have it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use reverie_memory::{Held, Kept};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{
    Spec,
    error::{Error, ErrorKind},
};

/// Messages that may wait in the inbox of one job, and bytes of them all.
const INBOX: usize = 256;
const INBOX_BYTES: usize = 4 << 20;

#[derive(Default)]
struct Inbox {
    waiting: Messages,
    /// Of a background job: the last ones that it took since it stored its state.
    taken: Messages,
}

/// Messages with their memory: those that an earlier process was told hold none.
#[derive(Default)]
struct Messages {
    messages: VecDeque<(String, Option<Held>)>,
    bytes: usize,
}

impl Messages {
    /// Whether one of so many bytes fits beside the others.
    fn has_room(&self, bytes: usize) -> bool {
        self.messages.len() < INBOX && self.bytes + bytes <= INBOX_BYTES
    }

    fn push(&mut self, message: String, held: Option<Held>) {
        self.bytes += message.len();
        self.messages.push_back((message, held));
    }

    fn pop(&mut self) -> Option<(String, Option<Held>)> {
        let first = self.messages.pop_front()?;
        self.bytes -= first.0.len();
        Some(first)
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        self.messages.iter().map(|(message, _)| message)
    }
}

/// What a running job and its worker share.
pub struct JobHandle {
    pub id: Uuid,
    pub spec: Spec,
    /// 1 the first time.
    pub attempt: u32,
    priority: AtomicI64,
    cancel: watch::Sender<bool>,
    finished: watch::Sender<bool>,
    inbox: Mutex<Inbox>,
    mail: Notify,
    /// Nanoseconds that its computations waited for the device.
    waited: AtomicU64,
    /// Which version of its plugin runs it.
    pub version: AtomicU64,
}

impl JobHandle {
    pub fn new(id: Uuid, spec: Spec, attempt: u32) -> Self {
        Self {
            id,
            priority: spec.priority.into(),
            spec,
            attempt,
            cancel: watch::Sender::new(false),
            finished: watch::Sender::new(false),
            inbox: Mutex::default(),
            mail: Notify::new(),
            waited: AtomicU64::new(0),
            version: AtomicU64::new(0),
        }
    }

    /// One of an earlier process, which was told this.
    pub(crate) fn with_told(self, told: Vec<String>) -> Self {
        let mut inbox = self.inbox.lock();
        told.into_iter().for_each(|message| inbox.waiting.push(message, None));
        drop(inbox);
        self
    }

    pub fn priority(&self) -> i64 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(crate) fn set_priority(&self, priority: i64) {
        self.priority.store(priority, Ordering::Relaxed);
    }

    pub fn request_cancel(&self) {
        self.cancel.send_replace(true);
        self.mail.notify_one();
    }

    pub fn is_cancelled(&self) -> bool {
        *self.cancel.borrow()
    }

    /// Waits until the job is asked to stop.
    pub async fn cancelled(&self) {
        let _ = self.cancel.subscribe().wait_for(|cancelled| *cancelled).await;
    }

    pub(crate) fn finished(&self) -> watch::Receiver<bool> {
        self.finished.subscribe()
    }

    pub(crate) fn finish(&self) {
        self.finished.send_replace(true);
    }

    /// Puts a message into the inbox.
    ///
    /// # Errors
    /// `TooLarge` for one that never fits, `Busy` when the inbox is full.
    pub fn post(&self, message: Kept<String>) -> Result<(), Error> {
        let (message, held) = message.apart();
        let (job, bytes) = (self.id, message.len());
        if bytes > INBOX_BYTES {
            let error = format!("a message to job {job} has {bytes} bytes; its inbox takes {INBOX_BYTES}");
            return Err(Error::new(ErrorKind::TooLarge, error));
        }
        let mut inbox = self.inbox.lock();
        if !inbox.waiting.has_room(bytes) {
            let error = format!("the inbox of job {job} is full ({INBOX} messages, {INBOX_BYTES} bytes)");
            return Err(Error::new(ErrorKind::Busy, error));
        }
        inbox.waiting.push(message, Some(held));
        self.mail.notify_one();
        Ok(())
    }

    /// What a background job has been told since it stored its state.
    pub(crate) fn told(&self) -> Vec<String> {
        if !self.spec.background {
            return Vec::new();
        }
        let inbox = self.inbox.lock();
        inbox.taken.texts().chain(inbox.waiting.texts()).cloned().collect()
    }

    /// Takes note that the job stored what came of the messages it took; whether there were any.
    pub(crate) fn settle(&self) -> bool {
        !std::mem::take(&mut self.inbox.lock().taken).messages.is_empty()
    }

    /// How long its computations have waited for the device.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    pub fn add_waited(&self, more: Duration) {
        self.waited.fetch_add(more.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Takes the next message of the inbox; none after `timeout` or when the job is asked to stop.
    pub async fn receive(&self, timeout: Duration) -> Option<String> {
        let take = || {
            let mut inbox = self.inbox.lock();
            let (message, held) = inbox.waiting.pop()?;
            if self.spec.background {
                while !inbox.taken.has_room(message.len()) && inbox.taken.pop().is_some() {}
                inbox.taken.push(message.clone(), held);
            }
            Some(message)
        };
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            if let Some(message) = take() {
                return Some(message);
            }
            if self.is_cancelled() {
                return None;
            }
            tokio::time::timeout_at(deadline, self.mail.notified()).await.ok()?;
        }
    }
}
