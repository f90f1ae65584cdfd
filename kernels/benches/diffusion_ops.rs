//! Times the operations of Stable Diffusion 1.5 at 512×512, singly.
//!
//! `cargo bench -p reverie-kernels --bench diffusion_ops [-- [--threads N] [--batch N] [--cpu]
//! [FILTER…]]`; a filter is part of a name. `--cpu` counts the CPU time of a thread, for machines that are busy
//! with something else. The figure for each is the best of several runs, as other work on the machine only ever
//! adds time. GFLOP/s count the plain arithmetic (of a direct convolution, of all features of a head), so that
//! Winograd's can exceed the peak. `tests/bench/diffusion/ops.py` times the same list with PyTorch; names
//! and figures are separated by tabs for it.

mod peak;

use reverie_kernels::cpu::{CpuBackend, CpuTensor};
use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter, Mask, Result, Shape, Unary};
use std::time::{Duration, Instant};

/// Rows, inputs and outputs: projections and feed-forward layers of each level; keys of a prompt; the prompt's
/// encoder; the time's embedding.
const LINEAR: [[usize; 3]; 17] = [
    [4096, 320, 320],
    [4096, 320, 2560],
    [4096, 1280, 320],
    [1024, 640, 640],
    [1024, 640, 5120],
    [1024, 2560, 640],
    [256, 1280, 1280],
    [256, 1280, 10240],
    [256, 5120, 1280],
    [64, 1280, 1280],
    [64, 1280, 10240],
    [64, 5120, 1280],
    [77, 768, 320],
    [77, 768, 1280],
    [77, 768, 3072],
    [1, 320, 1280],
    [1, 1280, 1280],
];

/// Queries, keys, heads and features of a head.
const ATTENTION: [[usize; 4]; 9] = [
    [4096, 4096, 8, 40],
    [1024, 1024, 8, 80],
    [256, 256, 8, 160],
    [64, 64, 8, 160],
    [4096, 77, 8, 40],
    [1024, 77, 8, 80],
    [256, 77, 8, 160],
    [77, 77, 12, 64],
    [4096, 4096, 1, 512],
];

/// Kernel, stride, channels in and out, side of the picture: the U-Net's, then the decoder's.
const CONV: [[usize; 5]; 32] = [
    [3, 1, 320, 320, 8],
    [3, 1, 4, 320, 64],
    [3, 1, 320, 320, 64],
    [3, 1, 640, 320, 64],
    [3, 1, 960, 320, 64],
    [3, 1, 320, 4, 64],
    [3, 1, 320, 640, 32],
    [3, 1, 640, 640, 32],
    [3, 1, 1920, 640, 32],
    [3, 1, 640, 640, 64],
    [3, 1, 640, 1280, 16],
    [3, 1, 1280, 1280, 16],
    [3, 1, 2560, 1280, 16],
    [3, 1, 1280, 1280, 32],
    [3, 1, 1280, 1280, 8],
    [3, 1, 2560, 1280, 8],
    [3, 2, 320, 320, 64],
    [3, 2, 640, 640, 32],
    [3, 2, 1280, 1280, 16],
    [1, 1, 320, 320, 64],
    [1, 1, 960, 320, 64],
    [1, 1, 640, 640, 32],
    [1, 1, 1920, 640, 32],
    [1, 1, 1280, 1280, 16],
    [1, 1, 2560, 1280, 8],
    [3, 1, 512, 512, 64],
    [3, 1, 512, 512, 128],
    [3, 1, 512, 256, 256],
    [3, 1, 256, 256, 256],
    [3, 1, 256, 128, 512],
    [3, 1, 128, 128, 512],
    [3, 1, 128, 3, 512],
];

/// Channels and side.
const PICTURES: [[usize; 2]; 6] = [[320, 64], [640, 32], [1280, 16], [512, 128], [256, 256], [128, 512]];

/// Values in -1..1 from a linear congruential generator (Knuth, MMIX).
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// What is measured, and how.
struct Bench {
    backend: CpuBackend,
    batch: usize,
    threads: usize,
    /// Whether CPU time is counted.
    cpu: bool,
    filters: Vec<String>,
}

/// The CPU time of all threads of the process so far, where the system (Linux) tells it.
fn cpu_time() -> Option<Duration> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = |thread: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Some(Duration::from_nanos(threads.flatten().filter_map(nanoseconds).sum()))
}

impl Bench {
    fn tensor(&self, shape: Shape) -> Result<CpuTensor> {
        self.backend.tensor(noise(shape.iter().product()), shape)
    }

    /// A picture as a convolution leaves it.
    fn picture(&self, channels: usize, side: usize) -> Result<CpuTensor> {
        self.backend.prelu(&self.tensor([self.batch, channels, side, side])?, &[1.0])
    }

    /// Prints name, milliseconds and GFLOP/s of what `prepare` makes, if it is wanted.
    fn measure<W: FnMut() -> Result<CpuTensor>>(
        &self,
        name: String,
        flops: f64,
        prepare: impl FnOnce() -> Result<W>,
    ) -> Result<()> {
        if !self.filters.is_empty() && !self.filters.iter().any(|filter| name.contains(filter.as_str())) {
            return Ok(());
        }
        let mut work = prepare()?;
        let (mut best, mut spent, mut runs) = (Duration::MAX, Duration::ZERO, 0);
        while runs < 3 || (spent < Duration::from_millis(400) && runs < 200) {
            let time = self.time(&mut work)?;
            (best, spent, runs) = (best.min(time), spent + time, runs + 1);
        }
        let rate = flops * self.batch as f64 / best.as_secs_f64() / 1e9;
        println!("{name:<40}\t{:>9.3}\t{rate:>8.1}", best.as_secs_f64() * 1e3);
        Ok(())
    }

    fn time(&self, work: &mut impl FnMut() -> Result<CpuTensor>) -> Result<Duration> {
        let (start, cpu) = (Instant::now(), cpu_time());
        std::hint::black_box(work()?);
        let spent = cpu.zip(cpu_time()).map(|(start, end)| (end - start) / self.threads as u32);
        Ok(spent.filter(|_| self.cpu).unwrap_or_else(|| start.elapsed()))
    }

    fn linear(&self, [rows, inputs, outputs]: [usize; 3]) -> Result<()> {
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        self.measure(format!("linear {rows} {inputs}->{outputs}"), flops, || {
            let x = self.tensor([self.batch, 1, rows, inputs])?;
            let (weight, bias) = (noise(inputs * outputs), noise(outputs));
            let layer = self.backend.prepare_linear(inputs, outputs, &weight, Some(&bias))?;
            Ok(move || self.backend.linear(&x, &layer))
        })
    }

    fn attention(&self, [queries, keys, heads, width]: [usize; 4]) -> Result<()> {
        let flops = 4.0 * (queries * keys * heads * width) as f64;
        self.measure(format!("attention {queries}x{keys} {heads}x{width}"), flops, || {
            let q = self.tensor([self.batch, 1, queries, heads * width])?;
            let k = self.tensor([self.batch, 1, keys, heads * width])?;
            Ok(move || self.backend.attention(&q, &k, &k, heads, Mask::None))
        })
    }

    fn conv(&self, [kernel, stride, in_channels, out_channels, side]: [usize; 5]) -> Result<()> {
        let desc = Conv2dDesc { kernel, stride, in_channels, out_channels, padding: kernel / 2 };
        let flops = 2.0 * (desc.weight_len() * (side / stride) * (side / stride)) as f64;
        let name = format!("conv {kernel}x{kernel}/{stride} {in_channels}->{out_channels} {side}");
        self.measure(name, flops, || {
            let bias = noise(out_channels);
            let weight = noise(desc.weight_len());
            let layer = self.backend.prepare_conv2d(desc, &weight, Some(&bias), Activation::None)?;
            let x = self.picture(in_channels, side)?;
            Ok(move || self.backend.conv2d(&x, &layer))
        })
    }

    fn picture_operations(&self, [channels, side]: [usize; 2]) -> Result<()> {
        let parameters = |value| self.backend.tensor(vec![value; channels], [1, 1, 1, channels]);
        self.measure(format!("group_norm_silu {channels} {side}"), 0.0, || {
            let (x, weight, bias) = (self.picture(channels, side)?, parameters(1.5)?, parameters(0.5)?);
            Ok(move || self.backend.group_norm(&x, 32, &weight, &bias, 1e-5, Unary::Silu))
        })?;
        self.measure(format!("add {channels} {side}"), 0.0, || {
            let x = self.picture(channels, side)?;
            Ok(move || self.backend.add(&x, &x))
        })?;
        self.measure(format!("upsample {channels} {}", side / 2), 0.0, || {
            let x = self.picture(channels, side / 2)?;
            Ok(move || self.backend.resize(&x, side, side, Filter::Nearest))
        })
    }

    fn token_operations(&self, [channels, side]: [usize; 2]) -> Result<()> {
        let (b, tokens) = (&self.backend, side * side);
        self.measure(format!("to_tokens {channels} {side}"), 0.0, || {
            let x = self.picture(channels, side)?;
            Ok(move || b.to_tokens(&x))
        })?;
        self.measure(format!("from_tokens {channels} {side}"), 0.0, || {
            let x = self.tensor([self.batch, 1, tokens, channels])?;
            Ok(move || b.from_tokens(&x, side, side))
        })?;
        self.measure(format!("layer_norm {tokens} {channels}"), 0.0, || {
            let x = self.tensor([self.batch, 1, tokens, channels])?;
            let weight = self.tensor([1, 1, 1, channels])?;
            Ok(move || b.layer_norm(&x, &weight, &weight, 1e-5))
        })?;
        self.measure(format!("geglu {tokens} {}", channels * 8), 0.0, || {
            let x = self.tensor([self.batch, 1, tokens, channels * 8])?;
            Ok(move || b.geglu(&x))
        })
    }

    fn all(&self) -> Result<()> {
        LINEAR.into_iter().try_for_each(|sizes| self.linear(sizes))?;
        ATTENTION.into_iter().try_for_each(|sizes| self.attention(sizes))?;
        CONV.into_iter().try_for_each(|sizes| self.conv(sizes))?;
        PICTURES.into_iter().try_for_each(|sizes| self.picture_operations(sizes))?;
        PICTURES[..3].iter().try_for_each(|sizes| self.token_operations(*sizes))
    }
}

fn main() -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut threads, mut batches, mut cpu, mut filters) = (cores, vec![1, 2], false, Vec::new());
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|arg| arg.parse().ok()).unwrap_or(1);
        match arg.as_str() {
            "--threads" => threads = number(),
            "--cpu" => cpu = true,
            "--batch" => batches = vec![number()],
            _ => filters.push(arg),
        }
    }
    for batch in batches {
        let backend = CpuBackend::new(threads);
        let peak = peak::gflops(threads).map_or("unknown".to_owned(), |peak| format!("{peak:.0} GFLOP/s"));
        println!("# {}, batch {batch}, peak {peak}; ms, GFLOP/s", backend.name());
        Bench { backend, batch, threads, cpu, filters: filters.clone() }.all()?;
    }
    Ok(())
}
