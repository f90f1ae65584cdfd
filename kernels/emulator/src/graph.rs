//! Recordings of streams.

use std::ffi::c_ulonglong;

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUresult, CUstream, CUstreamCaptureMode};

use crate::{
    OVERHEAD,
    context::{current, give},
    refuse,
    state::Work,
};

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: CUstream, _mode: CUstreamCaptureMode) -> CUresult {
    current(|driver| {
        let stream = driver.stream(stream.addr() as u64)?;
        if stream.capture.is_some() {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        }
        stream.capture = Some(Ok(Vec::new()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) -> CUresult {
    current(|driver| {
        let capture = driver.stream(stream.addr() as u64)?.capture.take();
        let tape = capture.ok_or(CUresult::CUDA_ERROR_ILLEGAL_STATE)??;
        let handle = driver.handle();
        driver.graphs.insert(handle, tape.into());
        // SAFETY: the caller's pointer.
        unsafe { give(graph, std::ptr::without_provenance_mut(handle as usize)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    _flags: c_ulonglong,
) -> CUresult {
    current(|driver| {
        let tape = driver.graphs.get(&(graph.addr() as u64)).cloned();
        let tape = tape.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        driver.take(OVERHEAD)?;
        let handle = driver.handle();
        driver.executables.insert(handle, tape);
        // SAFETY: the caller's pointer.
        unsafe { give(executable, std::ptr::without_provenance_mut(handle as usize)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    current(|driver| {
        let known = driver.graphs.remove(&(graph.addr() as u64));
        known.map(drop).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    current(|driver| {
        let tape = driver.executables.remove(&(executable.addr() as u64));
        let tape = tape.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        if driver.is_launched(&tape) {
            refuse("a graph is destroyed that is still to run");
        }
        driver.taken -= OVERHEAD;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    current(|driver| {
        let tape = driver.executables.get(&(executable.addr() as u64)).cloned();
        let tape = tape.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        driver.put(stream.addr() as u64, Work::Graph(tape))
    })
}
