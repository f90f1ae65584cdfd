//! What the benchmark asks of a device beyond its operations, and of the process.

use reverie_kernels::{
    Backend, Result,
    cpu::CpuBackend,
    gpu::{
        GpuBackend, Launch,
        cuda::{Cuda, MemoryUse, Traced},
    },
};

use crate::timed::{Cost, Timed};

/// A backend whose work can be timed as a whole.
pub trait Machine: Backend {
    /// Waits until all is done that it was given.
    fn settle(&self) -> Result<()>;

    /// The device's memory, where that is not the process's.
    fn memory(&self) -> Option<MemoryUse>;

    /// What its operations have taken since the last time, a line for each kind; empty where that is not known.
    fn operations(&self) -> Vec<String>;

    /// The kernels that `work` launches, as rows of [`TRACED`]; none where there are none, and then nothing is done.
    fn trace(
        &self,
        work: &mut dyn FnMut() -> reverie_models::Result<()>,
    ) -> reverie_models::Result<Vec<String>>;
}

/// The columns of a trace.
pub const TRACED: &str = "entry\tvariant\tblocks\tthreads\tms";

impl Machine for Timed<CpuBackend> {
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Option<MemoryUse> {
        None
    }

    fn operations(&self) -> Vec<String> {
        let mut costs: Vec<_> = self.take().into_iter().collect();
        costs.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.time));
        let total: f64 = costs.iter().map(|(_, cost)| cost.time.as_secs_f64()).sum();
        let line = |(what, cost): (String, Cost)| {
            let seconds = cost.time.as_secs_f64();
            let rate = if cost.flops > 0.0 {
                format!("{:6.0} GFLOP/s", cost.flops / seconds / 1e9)
            } else {
                String::new()
            };
            let share = 100.0 * seconds / total;
            format!("{what:18} {:5} calls {seconds:8.3} s {share:5.1} % {rate}", cost.calls)
        };
        costs.into_iter().map(line).collect()
    }

    fn trace(
        &self,
        _: &mut dyn FnMut() -> reverie_models::Result<()>,
    ) -> reverie_models::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

impl Machine for GpuBackend<Cuda> {
    fn settle(&self) -> Result<()> {
        self.device().synchronise()
    }

    fn memory(&self) -> Option<MemoryUse> {
        Some(self.device().memory())
    }

    // An operation by itself is timed by `cargo bench -p reverie-kernels --bench gpu`.
    fn operations(&self) -> Vec<String> {
        Vec::new()
    }

    fn trace(
        &self,
        work: &mut dyn FnMut() -> reverie_models::Result<()>,
    ) -> reverie_models::Result<Vec<String>> {
        let mut done = Ok(());
        let traced = self.device().trace(|| {
            done = work();
            Ok(())
        })?;
        done?;
        let row = |launch: Traced| {
            let Launch { grid, block, .. } = launch.launch;
            let blocks = grid.iter().map(|side| u64::from(*side)).product::<u64>();
            format!("{}\t{}\t{blocks}\t{block}\t{:.5}", launch.entry, launch.variant, launch.milliseconds)
        };
        Ok(traced.into_iter().map(row).collect())
    }
}

/// Has the kernel take the highest memory use from now on.
pub fn reset_peak() {
    // Where that is not possible, the peak is that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// What the process has used of the processors; 0 where that can't be told.
pub fn cpu_seconds() -> f64 {
    /// Of Linux' accounting, on every architecture.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before the closing parenthesis may hold spaces; user and system time are the 12th and 13th field after.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// A line of `/proc/self/status` in megabytes; 0 where there is none.
pub fn memory_mb(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kb| kb / 1024)
}
