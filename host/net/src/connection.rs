//! What a connection does at the moment, and until when it may.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::Limits;

/// What the server waits for, or does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The TLS handshake.
    Handshake,
    /// The headers of a request; on a new connection its first byte, too.
    Head,
    /// The first byte of a further request.
    Idle,
    /// A request has come: its handler works, its body arrives, or its answer goes out.
    Request,
    /// The connection belongs to another protocol, which has its own times.
    Upgraded,
}

/// What did not come in its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    Handshake,
    Head,
    Body,
    Write,
    Idle,
}

/// One connection, as those see it that look after all.
pub struct Connection {
    state: Mutex<State>,
    end: Notify,
}

struct State {
    phase: Phase,
    /// Since when.
    since: Instant,
    /// A write waits for the peer since then.
    blocked: Option<Instant>,
    body: Transfer,
}

/// The body of the request that is handled.
#[derive(Default)]
struct Transfer {
    /// Its reader waits for the peer since then, with the task to wake.
    waits: Option<(Instant, Waker)>,
    /// How long it has waited before, in all.
    waited: Duration,
    bytes: u64,
    /// It was too slow.
    late: bool,
}

impl Connection {
    pub fn new(phase: Phase) -> Self {
        let state = State { phase, since: Instant::now(), blocked: None, body: Transfer::default() };
        Self { state: Mutex::new(state), end: Notify::new() }
    }

    /// Ends it, wherever it is.
    pub fn end(&self) {
        self.end.notify_one();
    }

    /// Waits until it has to end. For one task.
    pub async fn ended(&self) {
        self.end.notified().await;
    }

    /// Begins a phase. Nothing follows on `Upgraded`.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.state.lock();
        if state.phase == Phase::Upgraded {
            return;
        }
        (state.phase, state.since) = (phase, Instant::now());
        if phase == Phase::Request {
            state.body = Transfer::default();
        }
    }

    pub fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Bytes have come.
    pub fn read(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Idle {
            (state.phase, state.since) = (Phase::Head, Instant::now());
        }
    }

    /// A write was tried: the peer took some of it, or did not.
    pub fn wrote(&self, progress: bool) {
        let mut state = self.state.lock();
        match progress {
            true => {
                state.blocked = None;
                // The end of an answer may be on its way long after its handler's end.
                if state.phase == Phase::Idle {
                    state.since = Instant::now();
                }
            }
            false => drop(state.blocked.get_or_insert_with(Instant::now)),
        }
    }

    /// The reader of the body has to wait. False when the time for it is over.
    pub fn body_waits(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        let body = &mut state.body;
        let since = body.waits.take().map_or_else(Instant::now, |(since, _)| since);
        body.waits = Some((since, waker.clone()));
        !body.late
    }

    /// A piece of the body has come.
    pub fn body_came(&self, bytes: usize) {
        let mut state = self.state.lock();
        let body = &mut state.body;
        body.bytes += bytes as u64;
        if let Some((since, _)) = body.waits.take() {
            body.waited += since.elapsed();
        }
    }

    /// Since when it waits for a request, if it does, and whether it has had one before. Such a connection may be closed to
    /// make room: nothing that was begun is lost.
    pub fn waits_for_request(&self) -> Option<(bool, Instant)> {
        let state = self.state.lock();
        match state.phase {
            _ if state.blocked.is_some() => None,
            Phase::Idle => Some((true, state.since)),
            Phase::Handshake | Phase::Head => Some((false, state.since)),
            Phase::Request | Phase::Upgraded => None,
        }
    }

    /// Ends what has had its time. Of a body that is too slow, its reader is told, who can still answer.
    pub fn sweep(&self, limits: &Limits, now: Instant) -> Option<Overdue> {
        let overdue = {
            let mut state = self.state.lock();
            let overdue = state.overdue(limits, now)?;
            if overdue == Overdue::Body {
                state.body.late = true;
                if let Some((_, waker)) = state.body.waits.take() {
                    waker.wake();
                }
                return Some(overdue);
            }
            overdue
        };
        self.end();
        Some(overdue)
    }
}

impl State {
    fn overdue(&self, limits: &Limits, now: Instant) -> Option<Overdue> {
        let over = |since: Instant, limit| now.saturating_duration_since(since) > limit;
        match self.phase {
            Phase::Upgraded => return None,
            Phase::Handshake if over(self.since, limits.handshake) => return Some(Overdue::Handshake),
            Phase::Head if over(self.since, limits.head) => return Some(Overdue::Head),
            _ => {}
        }
        if let Some(since) = self.blocked {
            return over(since, limits.write).then_some(Overdue::Write);
        }
        match self.phase {
            Phase::Idle if over(self.since, limits.idle) => Some(Overdue::Idle),
            Phase::Request if self.body.is_slow(limits, now) => Some(Overdue::Body),
            _ => None,
        }
    }
}

impl Transfer {
    fn is_slow(&self, limits: &Limits, now: Instant) -> bool {
        let Some((since, _)) = self.waits.as_ref().filter(|_| !self.late) else { return false };
        let waits = now.saturating_duration_since(*since);
        let waited = self.waited + waits;
        let least = limits.body_bytes_per_s as f64 * waited.as_secs_f64();
        waits > limits.body || waited > limits.body && (self.bytes as f64) < least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(seconds: f64) -> Instant {
        Instant::now() + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn each_phase_has_its_time() {
        let limits = Limits::default();
        for (phase, overdue, time) in [
            (Phase::Handshake, Overdue::Handshake, limits.handshake),
            (Phase::Head, Overdue::Head, limits.head),
            (Phase::Idle, Overdue::Idle, limits.idle),
        ] {
            let connection = Connection::new(phase);
            assert_eq!(connection.sweep(&limits, later(time.as_secs_f64() - 0.1)), None, "{phase:?}");
            assert_eq!(connection.sweep(&limits, later(time.as_secs_f64() + 0.1)), Some(overdue));
        }
        for phase in [Phase::Request, Phase::Upgraded] {
            assert_eq!(Connection::new(phase).sweep(&limits, later(1e6)), None, "{phase:?}");
        }
    }

    #[test]
    fn only_waiting_counts_for_a_body() {
        let limits = Limits { body: Duration::from_secs(30), body_bytes_per_s: 1000, ..Limits::default() };
        let connection = Connection::new(Phase::Request);
        connection.body_came(10);
        assert_eq!(connection.sweep(&limits, later(1e6)), None, "nobody waits for the body");
        assert!(connection.body_waits(Waker::noop()));
        assert_eq!(connection.sweep(&limits, later(29.0)), None);
        assert_eq!(connection.sweep(&limits, later(31.0)), Some(Overdue::Body));
        assert!(!connection.body_waits(Waker::noop()), "its reader is told");
        assert_eq!(connection.sweep(&limits, later(61.0)), None, "once");
        connection.enter(Phase::Request);
        assert!(connection.body_waits(Waker::noop()), "of a further request");
    }

    #[test]
    fn a_body_has_a_least_rate() {
        let limits = Limits { body: Duration::from_secs(30), body_bytes_per_s: 1000, ..Limits::default() };
        for (bytes, slow) in [(29_000, true), (60_000, false)] {
            let mut body = Transfer { waited: Duration::from_secs(29), bytes, ..Transfer::default() };
            body.waits = Some((Instant::now(), Waker::noop().clone()));
            assert_eq!(body.is_slow(&limits, later(2.0)), slow, "{bytes}");
        }
    }

    #[test]
    fn an_answer_on_its_way_is_not_idle() {
        let limits = Limits::default();
        let connection = Connection::new(Phase::Request);
        connection.wrote(false);
        connection.enter(Phase::Idle);
        assert_eq!(connection.waits_for_request(), None);
        assert_eq!(connection.sweep(&limits, later(29.0)), None);
        assert_eq!(connection.sweep(&limits, later(31.0)), Some(Overdue::Write));
        connection.wrote(true);
        assert_eq!(connection.sweep(&limits, later(31.0)), None);
        assert!(connection.waits_for_request().is_some_and(|(had, _)| had));
        connection.read();
        assert_eq!(connection.phase(), Phase::Head);
    }
}
