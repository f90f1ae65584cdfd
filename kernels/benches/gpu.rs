//! Times the GPU backend at the shapes of Stable Diffusion 1.5 (512×512), SDXL (1024×1024) and Real-ESRGAN.
//!
//! `cargo bench -p reverie-kernels --bench gpu [-- [--device N] [--wgmma] [FILTER…]]`; a filter is part of a name, and
//! `--wgmma` has attention by these instructions. The figure for each
//! is the median of several samples by CUDA events, each of so many runs that it takes some milliseconds. Rates count the
//! plain arithmetic; for upsampling, the bytes of the pictures before and after, next to a copy within the device that moves
//! as many. `tests/bench/gpu/run.sh` times the same list with PyTorch; columns are separated by tabs for it.

use reverie_kernels::gpu::{Device, GpuBackend, GpuTensor, cuda::Cuda};
use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter, Mask, Result, Shape};

type Tensor = GpuTensor<Cuda>;

/// Batch, queries, keys, heads and features of a head: SD 1.5's levels, its prompt, the decoder; SDXL's two levels, its prompt.
const ATTENTION: [[usize; 5]; 9] = [
    [2, 4096, 4096, 8, 40],
    [2, 1024, 1024, 8, 80],
    [2, 256, 256, 8, 160],
    [2, 4096, 77, 8, 40],
    [1, 4096, 4096, 1, 512],
    [2, 4096, 4096, 10, 64],
    [2, 1024, 1024, 20, 64],
    [2, 4096, 77, 10, 64],
    [2, 1024, 77, 20, 64],
];

/// Rows, inputs and outputs: projections and feed-forward layers of SD 1.5 for a batch of 2, then of SDXL.
const LINEAR: [[usize; 3]; 12] = [
    [8192, 320, 320],
    [8192, 320, 2560],
    [8192, 1280, 320],
    [2048, 640, 5120],
    [2048, 2560, 640],
    [512, 1280, 10240],
    [512, 5120, 1280],
    [154, 768, 1280],
    [8192, 640, 5120],
    [8192, 2560, 640],
    [2048, 1280, 10240],
    [2048, 5120, 1280],
];

/// Batch, kernel, stride, channels in and out, side: the U-Net of SD 1.5, SDXL's, the decoder, Real-ESRGAN.
const CONV: [[usize; 6]; 16] = [
    [2, 3, 1, 4, 320, 64],
    [2, 3, 1, 320, 320, 64],
    [2, 3, 1, 960, 320, 64],
    [2, 3, 1, 640, 640, 32],
    [2, 3, 1, 1280, 1280, 16],
    [2, 3, 1, 2560, 1280, 8],
    [2, 3, 2, 320, 320, 64],
    [2, 1, 1, 960, 320, 64],
    [2, 3, 1, 320, 320, 128],
    [2, 3, 1, 640, 640, 64],
    [2, 3, 1, 1280, 1280, 32],
    [1, 3, 1, 512, 512, 128],
    [1, 3, 1, 256, 256, 256],
    [1, 3, 1, 128, 128, 512],
    [1, 3, 1, 128, 3, 512],
    [1, 3, 1, 64, 64, 256],
];

/// Batch, channels, side before, factor.
const UPSAMPLE: [[usize; 4]; 5] =
    [[2, 1280, 16, 2], [2, 640, 32, 2], [1, 512, 128, 2], [1, 256, 256, 2], [1, 3, 512, 4]];

const FILTERS: [(&str, Filter); 4] = [
    ("nearest", Filter::Nearest),
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos3),
];

/// Samples whose median is taken.
const SAMPLES: usize = 25;

/// What a sample takes at least, in milliseconds: the resolution of an event is half a microsecond, and the gap that it leaves
/// between kernels some microseconds.
const SAMPLE_MS: f32 = 4.0;

/// Warming up, until the clocks have risen.
const WARM_UP_MS: f32 = 200.0;

/// Values in -1..1 from a linear congruential generator (Knuth, MMIX).
fn noise(len: usize, scale: f32) -> Vec<f32> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(next).collect()
}

struct Bench {
    cuda: Cuda,
    gpu: GpuBackend<Cuda>,
    filters: Vec<String>,
}

impl Bench {
    fn tensor(&self, shape: Shape) -> Result<Tensor> {
        self.gpu.tensor(noise(shape.iter().product(), 1.0), shape)
    }

    /// Milliseconds of a run.
    fn median<T>(&self, work: impl Fn() -> Result<T>) -> Result<f32> {
        let runs = |count: usize| self.cuda.time(|| (0..count).try_for_each(|_| work().map(drop)));
        // Compiles it, and takes memory.
        runs(1)?;
        let (mut count, mut spent) = (1, 0.0);
        let mut time = f32::MAX;
        while spent < WARM_UP_MS {
            let sample = runs(count)?;
            time = sample / count as f32;
            spent += sample.max(0.01);
            count = (SAMPLE_MS / time.max(1e-4)).ceil().clamp(1.0, 10_000.0) as usize;
        }
        let mut samples = vec![time; SAMPLES];
        for sample in &mut samples {
            *sample = runs(count)? / count as f32;
        }
        samples.sort_by(f32::total_cmp);
        Ok(samples[SAMPLES / 2])
    }

    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// Prints name, milliseconds and TFLOP/s of what `prepare` makes, if it is wanted.
    fn measure<T, W: Fn() -> Result<T>>(
        &self,
        name: &str,
        operations: usize,
        prepare: impl FnOnce() -> Result<W>,
    ) -> Result<()> {
        if self.wants(name) {
            let time = self.median(prepare()?)?;
            println!("{name:<36}\t{time:>9.4}\t{:>7.1} TFLOP/s", operations as f64 / f64::from(time) / 1e9);
        }
        Ok(())
    }

    fn attention(&self, [batch, queries, keys, heads, width]: [usize; 5]) -> Result<()> {
        let name = format!("attention {batch} {queries}x{keys} {heads}x{width}");
        self.measure(&name, 4 * batch * queries * keys * heads * width, || {
            let q = self.tensor([batch, 1, queries, heads * width])?;
            let [k, v] = [
                self.tensor([batch, 1, keys, heads * width])?,
                self.tensor([batch, 1, keys, heads * width])?,
            ];
            Ok(move || self.gpu.attention(&q, &k, &v, heads, Mask::None))
        })
    }

    fn linear(&self, [rows, inputs, outputs]: [usize; 3]) -> Result<()> {
        self.measure(&format!("linear {rows} {inputs}->{outputs}"), 2 * rows * inputs * outputs, || {
            let weight = noise(inputs * outputs, (inputs as f32).powf(-0.5));
            let layer = self.gpu.prepare_linear(inputs, outputs, &weight, Some(&noise(outputs, 1.0)))?;
            let x = self.tensor([1, 1, rows, inputs])?;
            Ok(move || self.gpu.linear(&x, &layer))
        })
    }

    fn conv(&self, [batch, kernel, stride, in_channels, out_channels, side]: [usize; 6]) -> Result<()> {
        let desc = Conv2dDesc { kernel, stride, in_channels, out_channels, padding: kernel / 2 };
        let name = format!("conv {batch} {kernel}x{kernel}/{stride} {in_channels}->{out_channels} {side}");
        let pixels = batch * side.div_ceil(stride) * side.div_ceil(stride);
        self.measure(&name, 2 * desc.weight_len() * pixels, || {
            let depth = (in_channels * kernel * kernel) as f32;
            let weight = noise(desc.weight_len(), depth.powf(-0.5));
            let conv =
                self.gpu.prepare_conv2d(desc, &weight, Some(&noise(out_channels, 1.0)), Activation::None)?;
            let x = self.tensor([batch, in_channels, side, side])?;
            Ok(move || self.gpu.conv2d(&x, &conv))
        })
    }

    /// Also prints how much of a copy's rate it reaches.
    fn upsample(&self, [batch, channels, side, factor]: [usize; 4]) -> Result<()> {
        let values = batch * channels * side * side * (1 + factor * factor);
        // A copy reads and writes each byte: of as many bytes as there are values of two bytes, it moves the same.
        let [from, to] = [self.cuda.allocate(values)?, self.cuda.allocate(values)?];
        let rate = |time: f32| 2.0 * values as f64 / f64::from(time) / 1e6;
        let mut copy = None;
        for (filter_name, filter) in FILTERS {
            let name = format!("upsample {batch} {channels} {side} {factor} {filter_name}");
            if !self.wants(&name) {
                continue;
            }
            let copy = match copy {
                Some(copy) => copy,
                None => *copy.insert(self.median(|| self.cuda.copy(&from, &to, values))?),
            };
            let x = self.tensor([batch, channels, side, side])?;
            let time = self.median(|| self.gpu.resize(&x, side * factor, side * factor, filter))?;
            let share = 100.0 * copy / time;
            println!("{name:<36}\t{time:>9.4}\t{:>7.1} GB/s, {share:.0} % of a copy", rate(time));
        }
        Ok(())
    }

    fn all(&self) -> Result<()> {
        ATTENTION.into_iter().try_for_each(|sizes| self.attention(sizes))?;
        LINEAR.into_iter().try_for_each(|sizes| self.linear(sizes))?;
        CONV.into_iter().try_for_each(|sizes| self.conv(sizes))?;
        UPSAMPLE.into_iter().try_for_each(|sizes| self.upsample(sizes))
    }
}

fn main() -> Result<()> {
    let (mut device, mut wgmma, mut filters) = (0, false, Vec::new());
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--device" => device = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(0),
            "--wgmma" => wgmma = true,
            _ => filters.push(arg),
        }
    }
    let cuda = match Cuda::new(device, None, wgmma) {
        Ok(cuda) => cuda,
        Err(error) => {
            println!("# skipped: {error}");
            return Ok(());
        }
    };
    println!("# {}; ms, rate", cuda.name());
    Bench { gpu: GpuBackend::new(cuda.clone()), cuda, filters }.all()
}
