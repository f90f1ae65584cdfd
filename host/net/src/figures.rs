//! What is told of the connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use crate::connection::Overdue;

/// The connections as they are, and what has happened to others since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// The most that there may be.
    pub limit: usize,
    pub open: usize,
    /// Of the open ones, those that wait for a further request.
    pub idle: usize,
    /// Of the open ones, those that speak another protocol by now: WebSockets.
    pub upgraded: usize,
    pub accepted: u64,
    /// Refused, as there were as many as there may be in all, or of one address.
    pub refused: u64,
    pub refused_of_address: u64,
    /// Closed while they waited for a request, to make room for others.
    pub evicted: u64,
    pub timed_out: TimedOut,
    /// TLS handshakes that failed by another reason than their time.
    pub handshakes_failed: u64,
}

/// Connections that were ended by their time, by what the server waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TimedOut {
    pub handshake: u64,
    pub head: u64,
    pub body: u64,
    pub write: u64,
    pub idle: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub refused_of_address: AtomicU64,
    pub evicted: AtomicU64,
    pub handshakes_failed: AtomicU64,
    handshake: AtomicU64,
    head: AtomicU64,
    body: AtomicU64,
    write: AtomicU64,
    idle: AtomicU64,
}

impl Counters {
    pub fn timed_out(&self, overdue: Overdue) {
        let counter = match overdue {
            Overdue::Handshake => &self.handshake,
            Overdue::Head => &self.head,
            Overdue::Body => &self.body,
            Overdue::Write => &self.write,
            Overdue::Idle => &self.idle,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Without what only the table knows.
    pub fn figures(&self) -> Figures {
        Figures {
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            refused_of_address: self.refused_of_address.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            handshakes_failed: self.handshakes_failed.load(Relaxed),
            timed_out: TimedOut {
                handshake: self.handshake.load(Relaxed),
                head: self.head.load(Relaxed),
                body: self.body.load(Relaxed),
                write: self.write.load(Relaxed),
                idle: self.idle.load(Relaxed),
            },
            ..Figures::default()
        }
    }
}
