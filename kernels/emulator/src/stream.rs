//! Streams and events.

use std::ffi::c_uint;

use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};

use crate::{
    context::{current, give},
    state::{Event, Stream, Work},
};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, _flags: c_uint) -> CUresult {
    current(|driver| {
        let handle = driver.handle();
        driver.streams.insert(handle, Stream::default());
        // SAFETY: the caller's pointer.
        unsafe { give(stream, std::ptr::without_provenance_mut(handle as usize)) }
    })
}

/// What is in it still runs: here, at once.
#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    current(|driver| {
        let handle = stream.addr() as u64;
        driver.stream(handle)?;
        driver.finish(handle)?;
        driver.streams.remove(&handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    current(|driver| {
        let handle = stream.addr() as u64;
        if let Some(capture) = &mut driver.stream(handle)?.capture {
            *capture = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        driver.finish(handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: CUstream, event: CUevent, _flags: c_uint) -> CUresult {
    current(|driver| {
        let (stream, event) = (stream.addr() as u64, event.addr() as u64);
        let Some(mark) = driver.event(event)?.mark else { return Ok(()) };
        if driver.stream(stream)?.capture.is_some() {
            // What the event stands for is not part of what is recorded.
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        }
        driver.put(stream, Work::Wait { mark })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut CUevent, flags: c_uint) -> CUresult {
    current(|driver| {
        let handle = driver.handle();
        let timed = flags & CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 == 0;
        driver.events.insert(handle, Event { timed, ..Event::default() });
        // SAFETY: the caller's pointer.
        unsafe { give(event, std::ptr::without_provenance_mut(handle as usize)) }
    })
}

/// Streams that wait for what it stands for still do.
#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    current(|driver| {
        let known = driver.events.remove(&(event.addr() as u64));
        known.map(drop).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    current(|driver| {
        let (event, stream) = (event.addr() as u64, stream.addr() as u64);
        driver.event(event)?;
        if driver.stream(stream)?.capture.is_some() {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        let mark = driver.mark(stream);
        let recorded = driver.event(event)?;
        (recorded.mark, recorded.reached) = (Some(mark), None);
        driver.put(stream, Work::Record { event, mark })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    current(|driver| match driver.event(event.addr() as u64)?.mark {
        Some(mark) => driver.reach(mark),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent) -> CUresult {
    current(|driver| {
        let mut reached = |event: CUevent| {
            let event = driver.event(event.addr() as u64)?;
            match event.reached {
                _ if !event.timed || event.mark.is_none() => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
                None => Err(CUresult::CUDA_ERROR_NOT_READY),
                Some(reached) => Ok(reached),
            }
        };
        let elapsed = reached(end)?.duration_since(reached(start)?);
        // SAFETY: the caller's pointer.
        unsafe { give(milliseconds, elapsed.as_secs_f32() * 1e3) }
    })
}
