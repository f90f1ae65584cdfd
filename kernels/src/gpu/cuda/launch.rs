//! Launches of kernels.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::sys;

use super::{CudaBuffer, Lane, graph, tensor_map, trace};
use crate::{
    error::Result,
    gpu::{Arg, Launch, Variant},
};

/// The most parameters that a kernel may have.
const PARAMETERS: usize = 32;

/// Launches an entry of a variant in the lane, or into what this thread records there.
///
/// # Safety
/// As of [`Device::launch`](crate::gpu::Device::launch).
pub unsafe fn launch(
    lane: &Arc<Lane>,
    variant: &Variant,
    entry: &'static str,
    launch: Launch,
    args: &[Arg<'_, CudaBuffer>],
) -> Result<()> {
    let gpu = &*lane.gpu;
    let context = &gpu.context;
    context.enter()?;
    let module = gpu.modules.get(gpu, variant)?;
    let function = module.function(entry).filter(|function| function.takes(args));
    let function = function.filter(|_| args.len() <= PARAMETERS).ok_or_else(|| {
        context.error(format!("{entry} of {variant} does not take {} such parameters", args.len()))
    })?;
    function.reserve(launch.shared, gpu)?;

    let mut buffers = Vec::with_capacity(PARAMETERS);
    let mut maps = Vec::new();
    // The driver reads as many bytes as the parameter has, from the first: hosts of NVIDIA's GPUs are little-endian.
    let mut values = [0u64; PARAMETERS];
    for (arg, value) in args.iter().zip(&mut values) {
        match arg {
            Arg::Buffer(buffer) => {
                lane.check(buffer, 0)?;
                buffers.push(*buffer);
                *value = buffer.address();
            }
            Arg::Null => {}
            Arg::U32(number) => *value = u64::from(*number),
            Arg::F32(number) => *value = u64::from(number.to_bits()),
            Arg::Map(map) => {
                lane.check(map.buffer, 0)?;
                buffers.push(map.buffer);
                maps.push(tensor_map::encode(map, map.buffer.address(), context)?);
            }
        }
    }
    // From here on neither list changes: what points to it stays right.
    let mut pointers = [std::ptr::null_mut::<c_void>(); PARAMETERS];
    let mut rest = maps.iter_mut();
    for ((arg, value), pointer) in args.iter().zip(&mut values).zip(&mut pointers) {
        let map = if matches!(arg, Arg::Map(_)) { rest.next() } else { None };
        *pointer = match map {
            Some(map) => std::ptr::from_mut(map).cast(),
            None => std::ptr::from_mut(value).cast(),
        };
    }

    let Launch { grid: [x, y, z], block, shared } = launch;
    graph::with(lane, |capture| {
        let records = capture.is_some();
        let stream = graph::target(capture, lane, &buffers)?.raw();
        let (pointers, extra) = (pointers.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the function is loaded and has just these parameters, which the driver copies. Buffers that are dropped go
        // to nothing but what comes later. For what the kernel does with them the caller answers.
        let call = || unsafe {
            sys::cuLaunchKernel(function.raw(), x, y, z, block, 1, 1, shared, stream, pointers, extra)
        };
        let call = || gpu.with_room(|| format!("launching {entry} of {variant} as {launch:?}"), call);
        if records { call() } else { trace::around(lane, (variant, entry, launch), call) }
    })
}
