//! Work that is recorded once as a CUDA graph and then run again with one call of the driver.
//!
//! While a thread records, whatever it asks of its device goes into a stream of its own in the driver's capture mode, and
//! nothing runs; other threads go on as ever. A graph holds addresses, and so keeps what is behind them:
//!
//! * buffers that it uses and that were there before (inputs, weights): it shares them,
//! * buffers that were allocated in between: their memory is its own ([`Private`]). Within the graph it is used again as soon
//!   as a buffer is dropped, since the graph's work runs in the order in which it was recorded; but it goes back to the pool
//!   only with the graph, since each replay writes it again,
//! * pinned copies of what was uploaded in between, which each replay uploads again.
//!
//! Replays go into the stream of the lane that recorded, so that they are in order with everything else there.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use cudarc::driver::sys;
use parking_lot::Mutex;

use super::{
    CudaBuffer, Lane,
    allocator::size_class,
    buffer::{Block, Held, Home},
    staging::Pinned,
    stream::Stream,
};
use crate::{error::Result, gpu::Recording};

/// The memory of a graph. It goes back to the lane when the graph and all of its buffers are gone; what the graph launched last
/// comes before whatever uses the blocks next. (Fields are dropped in this order: the lane last.)
pub struct Private {
    /// By size.
    free: Mutex<BTreeMap<usize, Vec<Block>>>,
    lane: Arc<Lane>,
}

impl Private {
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// A block of at least so many bytes: one that the graph is done with, or a new one.
    pub fn allocate(&self, bytes: usize) -> Result<Option<Block>> {
        let mut free = self.free.lock();
        let found = size_class(bytes).and_then(|size| free.get_mut(&size)).and_then(Vec::pop);
        match found {
            Some(block) => Ok(Some(block)),
            None => self.lane.share.allocate(bytes),
        }
    }

    /// The block is free for what is recorded from here on.
    pub fn free(&self, block: Block) {
        let mut free = self.free.lock();
        free.entry(block.bytes()).or_default().push(block);
    }
}

/// What a thread is recording.
pub struct Capture {
    stream: Stream,
    keeps: Keeps,
}

/// What a graph needs for as long as it exists.
struct Keeps {
    buffers: Vec<Arc<Held>>,
    pinned: Vec<Pinned>,
    private: Arc<Private>,
}

thread_local! {
    static CURRENT: RefCell<Option<Capture>> = const { RefCell::new(None) };
}

/// Calls `f` with what this thread is recording in this lane.
pub fn with<R>(lane: &Arc<Lane>, f: impl FnOnce(Option<&mut Capture>) -> R) -> R {
    CURRENT.with_borrow_mut(|current| {
        f(current.as_mut().filter(|capture| Arc::ptr_eq(capture.keeps.private.lane(), lane)))
    })
}

/// The memory for what this thread is recording in this lane.
pub fn private(lane: &Arc<Lane>) -> Option<Arc<Private>> {
    with(lane, |capture| capture.map(|capture| capture.keeps.private.clone()))
}

/// The stream for work on these buffers. What other lanes do with them comes first: now, or for what is recorded at each
/// replay.
pub fn target<'a>(
    capture: Option<&'a mut Capture>,
    lane: &'a Arc<Lane>,
    buffers: &[&CudaBuffer],
) -> Result<&'a Stream> {
    let Some(capture) = capture else {
        lane.join(buffers.iter().map(|buffer| &buffer.0))?;
        return Ok(&lane.stream);
    };
    buffers.iter().for_each(|buffer| capture.keep(buffer));
    Ok(&capture.stream)
}

impl Capture {
    /// Keeps a buffer that the graph uses. Its own memory it keeps anyway, and uses again when the buffer is dropped.
    fn keep(&mut self, buffer: &CudaBuffer) {
        let own = matches!(&buffer.0.home, Home::Graph(private) if Arc::ptr_eq(private, &self.keeps.private));
        if !own {
            self.keeps.buffers.push(buffer.0.clone());
        }
    }

    /// Uploads so many bytes, which fit, at each replay, as `write` gives them now.
    pub fn upload(
        &mut self,
        bytes: usize,
        write: &mut dyn FnMut(usize, &mut [u8]),
        to: &CudaBuffer,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.keep(to);
        let mut pinned = Pinned::new(self.stream.context.clone(), bytes)?;
        // SAFETY: the buffer is as large. The graph keeps both it and the pinned memory.
        unsafe { pinned.upload(0..bytes, |part| write(0, part), to.address(), &self.stream) }?;
        self.keeps.pinned.push(pinned);
        Ok(())
    }
}

/// A graph before it is made executable.
struct Recorded(sys::CUgraph);

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: it came from the end of a capture. Executable graphs do not need it any more.
        let _ = unsafe { sys::cuGraphDestroy(self.0) };
    }
}

/// Ends the capture of this thread; none where there is none any more.
fn end() -> Option<(Result<Recorded>, Keeps)> {
    let Capture { stream, keeps } = CURRENT.take()?;
    let finish = || {
        stream.context.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the stream captures since `record`; the pointer is to a local.
        let code = unsafe { sys::cuStreamEndCapture(stream.raw(), &mut raw) };
        stream.context.check(code, "the end of a recording")?;
        Ok(Recorded(raw))
    };
    Some((finish(), keeps))
}

/// Ends the capture of this thread where a panic passes by.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        drop(end());
    }
}

/// Records what `work` asks for; none, without calling it, where this thread is recording already.
pub fn record(lane: &Arc<Lane>, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Graph>> {
    if CURRENT.with_borrow(Option::is_some) {
        return Ok(None);
    }
    let context = &lane.stream.context;
    let stream = Stream::new(context.clone())?;
    // Relaxed: allocations from the driver are allowed in between, and no other thread is concerned.
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: the stream exists, and nothing is in it.
    context.check(unsafe { sys::cuStreamBeginCapture_v2(stream.raw(), mode) }, "a recording")?;
    let private = Arc::new(Private { lane: lane.clone(), free: Mutex::default() });
    let keeps = Keeps { buffers: Vec::new(), pinned: Vec::new(), private };
    CURRENT.set(Some(Capture { stream, keeps }));
    let ended = Ended;
    let done = work();
    let recorded = end();
    drop(ended);
    let Some((recorded, mut keeps)) = recorded else { return Ok(None) };
    done?;
    // Each once, though it was used many times.
    keeps.buffers.sort_by_key(Arc::as_ptr);
    keeps.buffers.dedup_by(|a, b| Arc::ptr_eq(a, b));
    let recorded = recorded?;
    context.enter()?;
    let mut raw = std::ptr::null_mut();
    // SAFETY: the graph is complete; the pointer is to a local.
    let instantiate = || unsafe { sys::cuGraphInstantiateWithFlags(&mut raw, recorded.0, 0) };
    lane.gpu.with_room(|| "a recording".into(), instantiate)?;
    Ok(Some(Graph { raw, keeps }))
}

/// Work that can be run again.
pub struct Graph {
    raw: sys::CUgraphExec,
    keeps: Keeps,
}

// SAFETY: the handle may be used from any thread, though not by two at the same time: so it is not `Sync`.
unsafe impl Send for Graph {}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        let lane = self.keeps.private.lane();
        let stream = &lane.stream;
        stream.context.enter()?;
        if CURRENT.with_borrow(Option::is_some) {
            return Err(stream
                .context
                .error("a replay within a recording, which it would not be part of".into()));
        }
        lane.join(&self.keeps.buffers)?;
        // SAFETY: the graph exists, and with it all that it uses. No other thread uses the handle: it is not `Sync`.
        lane.gpu.with_room(|| "a replay".into(), || unsafe { sys::cuGraphLaunch(self.raw, stream.raw()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Replays may still be reading the pinned memory. Where this fails, the device is lost.
        if self.keeps.private.lane().stream.synchronise().is_ok() {
            // SAFETY: made in `record`, and no replay runs any more.
            let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
        }
    }
}
