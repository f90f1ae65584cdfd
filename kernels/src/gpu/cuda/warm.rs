//! Compilation ahead of time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use super::Gpu;
use crate::gpu::Variant;

/// Threads that compile variants. Dropped, it has them stop and waits for the variants at hand.
pub struct Warming {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Warming {
    /// Has so many threads compile these variants in their order. One that fails is tried again by whoever launches it, and
    /// has the error then.
    pub(super) fn new(gpu: &Arc<Gpu>, variants: Vec<Variant>, threads: usize) -> Self {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let variants = Arc::new(variants);
        let spawn = |_| {
            let (gpu, stop, next, variants) = (gpu.clone(), stop.clone(), next.clone(), variants.clone());
            let work = move || {
                while !stop.load(Ordering::Relaxed)
                    && let Some(variant) = variants.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let _ = gpu.modules.get(&gpu, variant);
                }
            };
            // Without threads to have, it is compiled when it is launched.
            Builder::new().name("cuda-compile".into()).spawn(work).ok()
        };
        Self { stop: stop.clone(), threads: (0..threads).filter_map(spawn).collect() }
    }

    /// Waits until all are compiled.
    pub fn finish(mut self) {
        self.join();
    }

    fn join(&mut self) {
        // A panic of a thread has been printed; what it was at is compiled when it is launched.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}
