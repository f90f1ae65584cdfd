//! The time of each launch of some work.

use std::{cell::RefCell, sync::Arc};

use super::{
    Lane,
    stream::{Event, Stream},
};
use crate::{
    error::Result,
    gpu::{Launch, Variant},
};

/// A launch and how long it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    /// The file and its constants.
    pub variant: Variant,
    /// The name of the kernel.
    pub entry: &'static str,
    /// Its blocks and threads.
    pub launch: Launch,
    /// On the device, from an event before it to one behind it: that is a microsecond or two more than the kernel by itself, and
    /// still more where the device had to wait for the host.
    pub milliseconds: f32,
}

/// What a thread launches in a lane.
struct Trace {
    lane: Arc<Lane>,
    launches: Vec<(Variant, &'static str, Launch, [Event; 2])>,
}

thread_local! {
    static CURRENT: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// Brings back what was traced before, also where a panic passes by.
struct Before(Option<Trace>);

impl Drop for Before {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Has `work` launch, and waits for what this thread launched in this lane.
pub fn trace(lane: &Arc<Lane>, work: impl FnOnce() -> Result<()>) -> Result<Vec<Traced>> {
    let launches = {
        let _before = Before(CURRENT.replace(Some(Trace { lane: lane.clone(), launches: Vec::new() })));
        work()?;
        CURRENT.take().map(|trace| trace.launches).unwrap_or_default()
    };
    lane.stream.synchronise()?;
    let traced = launches.into_iter().map(|(variant, entry, launch, [start, end])| {
        Ok(Traced { variant, entry, launch, milliseconds: end.since(&start)? })
    });
    traced.collect()
}

/// Launches by `call` into the lane's stream, between two events where this thread traces.
pub fn around(
    lane: &Arc<Lane>,
    (variant, entry, launch): (&Variant, &'static str, Launch),
    call: impl FnOnce() -> Result<()>,
) -> Result<()> {
    CURRENT.with_borrow_mut(|current| {
        let Some(trace) = current.as_mut().filter(|trace| Arc::ptr_eq(&trace.lane, lane)) else {
            return call();
        };
        let mark = |stream: &Stream| {
            let event = Event::timed(stream.context.clone())?;
            event.record(stream)?;
            Ok(event)
        };
        let start = mark(&lane.stream)?;
        call()?;
        trace.launches.push((variant.clone(), entry, launch, [start, mark(&lane.stream)?]));
        Ok(())
    })
}
