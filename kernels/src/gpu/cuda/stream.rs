//! Queues of work, and points in them.

use std::{mem::MaybeUninit, sync::Arc};

use cudarc::driver::sys;

use super::driver::Context;
use crate::error::Result;

/// A queue of work that runs in order.
pub struct Stream {
    pub context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: the handle may be used from any thread with the context current.
unsafe impl Send for Stream {}
// SAFETY: several threads may put work into a stream and wait for it; the driver locks it.
unsafe impl Sync for Stream {}

impl Stream {
    /// One that does not wait for the default stream.
    pub fn new(context: Arc<Context>) -> Result<Self> {
        context.enter()?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current; the pointer is to a local.
        context.check(unsafe { sys::cuStreamCreate(&mut raw, flags) }, "a stream")?;
        Ok(Self { context, raw })
    }

    /// The handle, for as long as `self` lives.
    pub fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Has what is put into it from now on run after all that is in `earlier`, of the same context, so far.
    pub fn follow(&self, earlier: &Stream) -> Result<()> {
        let mark = Event::mark(self.context.clone())?;
        mark.record(earlier)?;
        // SAFETY: both exist, in the same context. The driver keeps what it needs of the event.
        let code = unsafe { sys::cuStreamWaitEvent(self.raw, mark.raw, 0) };
        self.context.check(code, "waiting for another stream")
    }

    /// Waits until all that is in it has run.
    pub fn synchronise(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the stream exists.
        self.context.check(unsafe { sys::cuStreamSynchronize(self.raw) }, "waiting for what was launched")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `new`. The driver lets what is in it finish.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A point in a stream.
pub struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: the handle may be used from any thread with the context current.
unsafe impl Send for Event {}
// SAFETY: several threads may record an event and wait for it; the driver locks it.
unsafe impl Sync for Event {}

impl Event {
    /// One that was not recorded yet, to wait for. Of all kinds this one costs streams the least.
    pub fn mark(context: Arc<Context>) -> Result<Self> {
        Self::new(context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// One that was not recorded yet, to tell the time between two.
    pub fn timed(context: Arc<Context>) -> Result<Self> {
        Self::new(context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn new(context: Arc<Context>, flags: sys::CUevent_flags) -> Result<Self> {
        context.enter()?;
        // Who waits for it sleeps.
        let flags = flags as u32 | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        let mut raw = MaybeUninit::uninit();
        // SAFETY: the context is current; the pointer is to a local.
        context.check(unsafe { sys::cuEventCreate(raw.as_mut_ptr(), flags) }, "an event")?;
        // SAFETY: written, as the call succeeded.
        Ok(Self { context, raw: unsafe { raw.assume_init() } })
    }

    /// Puts it after all that is in the stream so far.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.context.enter()?;
        // SAFETY: both exist, in the same context.
        self.context.check(unsafe { sys::cuEventRecord(self.raw, stream.raw) }, "an event")
    }

    /// Waits for what came before it; returns at once where it was never recorded.
    pub fn wait(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the event exists.
        self.context.check(unsafe { sys::cuEventSynchronize(self.raw) }, "waiting for what was launched")
    }

    /// Milliseconds from `earlier`; both are timed, were recorded and waited for.
    pub fn since(&self, earlier: &Event) -> Result<f32> {
        self.context.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: both exist; the pointer is to a local.
        let code = unsafe { sys::cuEventElapsedTime(&mut milliseconds, earlier.raw, self.raw) };
        self.context.check(code, "the time between events")?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `new`.
            let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}
