//! Times work by replaying a graph of several runs of it, as models replay theirs: what the host takes to launch is no part of it.

use reverie_kernels::{
    Result,
    gpu::{Device as _, cuda::Cuda},
};

use crate::correctness::Sizes;

/// The most runs in a graph: a short operation is some microseconds, next to which a replay is nothing.
const RUNS: f64 = 500.0;

/// How long it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Milliseconds of warming up, until the clocks have risen.
    warm_up_ms: f64,
    /// Milliseconds of a sample, if so many runs are enough: the resolution of an event is half a microsecond.
    sample_ms: f64,
    /// Whose median is taken.
    samples: usize,
}

impl Effort {
    pub fn of(sizes: Sizes) -> Self {
        match sizes {
            Sizes::Small => Self { warm_up_ms: 0.0, sample_ms: 0.0, samples: 3 },
            Sizes::Real => Self { warm_up_ms: 100.0, sample_ms: 4.0, samples: 15 },
        }
    }

    /// Milliseconds of a run of `work`.
    pub fn median_ms<T>(self, cuda: &Cuda, work: impl Fn() -> Result<T>) -> Result<f64> {
        // Compiles it, and takes memory.
        work()?;
        let once = f64::from(cuda.time(|| work().map(drop))?);
        let runs = (self.sample_ms / once.max(1e-4)).ceil().clamp(2.0, RUNS) as usize;
        let recorded = cuda.record(&mut || (0..runs).try_for_each(|_| work().map(drop)))?;
        let sample = || -> Result<f64> {
            let ms = cuda.time(|| match &recorded {
                Some(recorded) => recorded.replay(),
                None => (0..runs).try_for_each(|_| work().map(drop)),
            })?;
            Ok(f64::from(ms) / runs as f64)
        };
        let mut spent = 0.0;
        while spent < self.warm_up_ms {
            spent += (sample()? * runs as f64).max(0.01);
        }
        let mut samples = (0..self.samples).map(|_| sample()).collect::<Result<Vec<_>>>()?;
        samples.sort_by(f64::total_cmp);
        Ok(samples[samples.len() / 2])
    }
}
