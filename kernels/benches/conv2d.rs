//! Times the convolutions of the restoration networks, singly and as whole networks.
//!
//! `cargo bench -p reverie-kernels [-- THREADS]`. The figure for each is the best of several runs, as other
//! work on the machine only ever adds time. GFLOP/s count the arithmetic of a direct convolution, so that
//! Winograd's can exceed what the machine's multipliers do.

use reverie_kernels::cpu::{CpuBackend, CpuConv2d, CpuTensor, Level};
use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter, Result};
use std::time::{Duration, Instant};

/// Values in -1..1 from a linear congruential generator (Knuth, MMIX).
fn noise(len: usize, scale: f32) -> Vec<f32> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(next).collect()
}

/// A convolution of random weights that keeps the scale of its inputs, and the arithmetic of one pixel.
struct Layer {
    conv: CpuConv2d,
    flops: f64,
}

impl Layer {
    fn new(backend: &CpuBackend, desc: Conv2dDesc, act: Activation) -> Result<Self> {
        let depth = desc.in_channels * desc.kernel * desc.kernel;
        let weight = noise(desc.weight_len(), (6.0 / depth as f32).sqrt());
        let bias = vec![0.0; desc.out_channels];
        let conv = backend.prepare_conv2d(desc, &weight, Some(&bias), act)?;
        Ok(Self { conv, flops: 2.0 * (depth * desc.out_channels) as f64 })
    }
}

fn best(mut work: impl FnMut() -> Result<CpuTensor>) -> Result<Duration> {
    let mut best = Duration::MAX;
    let mut spent = Duration::ZERO;
    let mut runs = 0;
    while runs < 3 || (spent < Duration::from_secs(2) && runs < 200) {
        let start = Instant::now();
        std::hint::black_box(work()?);
        let time = start.elapsed();
        best = best.min(time);
        spent += time;
        runs += 1;
    }
    Ok(best)
}

fn report(what: &str, size: usize, time: Duration, flops: f64) {
    let (ms, rate) = (time.as_secs_f64() * 1e3, flops / time.as_secs_f64() / 1e9);
    println!("{what:<44} {size:>4}x{size:<4} {ms:>9.2} ms {rate:>8.0} GFLOP/s");
}

fn single(backend: &CpuBackend, desc: Conv2dDesc, size: usize) -> Result<()> {
    let layer = Layer::new(backend, desc, Activation::LeakyRelu(0.2))?;
    let x = backend.tensor(noise(desc.in_channels * size * size, 1.0), [1, desc.in_channels, size, size])?;
    // Through an identity, so that the input has the layout that it has inside of a network.
    let x = backend.prelu(&x, &[1.0])?;
    let time = best(|| backend.conv2d(&x, &layer.conv))?;
    let Conv2dDesc { in_channels, out_channels, kernel, stride, .. } = desc;
    let what = format!("conv {kernel}x{kernel}/{stride} {in_channels}->{out_channels}");
    report(&what, size, time, layer.flops * (size * size / stride / stride) as f64);
    Ok(())
}

/// SRVGGNetCompact with 16 layers of 64 channels and a factor of 4 (realesr-animevideov3).
fn compact(backend: &CpuBackend, size: usize) -> Result<()> {
    let prelu = || Activation::PRelu(vec![0.25; 64]);
    let mut layers = vec![Layer::new(backend, Conv2dDesc::same(3, 64, 3), prelu())?];
    for _ in 0..16 {
        layers.push(Layer::new(backend, Conv2dDesc::same(64, 64, 3), prelu())?);
    }
    layers.push(Layer::new(backend, Conv2dDesc::same(64, 48, 3), Activation::None)?);
    let image = noise(3 * size * size, 1.0);
    let time = best(|| {
        let base = backend.tensor(image.clone(), [1, 3, size, size])?;
        let mut x = base.clone();
        for layer in &layers {
            x = backend.conv2d(&x, &layer.conv)?;
        }
        backend.pixel_shuffle_add_nearest(&x, 4, &base)
    })?;
    let flops = layers.iter().map(|layer| layer.flops).sum::<f64>() * (size * size) as f64;
    report("SRVGGNetCompact 64x16, factor 4", size, time, flops);
    Ok(())
}

/// One of RRDBNet's 69 residual dense blocks (ESRGAN, RealESRGAN_x4plus).
fn dense_block(backend: &CpuBackend, size: usize) -> Result<()> {
    let mut layers = Vec::new();
    for i in 0..4 {
        layers.push(Layer::new(backend, Conv2dDesc::same(64 + 32 * i, 32, 3), Activation::LeakyRelu(0.2))?);
    }
    let last = Layer::new(backend, Conv2dDesc::same(192, 64, 3), Activation::None)?;
    let x = backend.tensor(noise(64 * size * size, 1.0), [1, 64, size, size])?;
    let x = backend.prelu(&x, &[1.0])?;
    let time = best(|| {
        let mut all = x.clone();
        for layer in &layers {
            all = backend.concat(&[&all, &backend.conv2d(&all, &layer.conv)?])?;
        }
        backend.conv2d_residual(&all, &last.conv, 0.2, &x)
    })?;
    let flops: f64 = layers.iter().map(|layer| layer.flops).sum();
    report("residual dense block of RRDBNet", size, time, (flops + last.flops) * (size * size) as f64);
    Ok(())
}

fn resize(backend: &CpuBackend, size: usize) -> Result<()> {
    let x = backend.tensor(noise(3 * size * size, 1.0), [1, 3, size, size])?;
    for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos3] {
        let time = best(|| backend.resize(&x, size * 4, size * 4, filter))?;
        println!("resize {filter:<37?} {size:>4}x{size:<4} {:>9.2} ms", time.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn main() -> Result<()> {
    let threads = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(0);
    for level in Level::available().collect::<Vec<_>>().into_iter().rev() {
        let Some(backend) = CpuBackend::with_level(threads, level) else { continue };
        println!("\n{}", backend.name());
        for size in [64, 256, 512] {
            compact(&backend, size)?;
        }
        if level != Level::detect() {
            continue;
        }
        for size in [64, 256] {
            dense_block(&backend, size)?;
        }
        single(&backend, Conv2dDesc::same(3, 64, 3), 256)?;
        for (inputs, outputs) in
            [(64, 64), (64, 48), (64, 32), (96, 32), (128, 32), (160, 32), (192, 64), (64, 3)]
        {
            single(&backend, Conv2dDesc::same(inputs, outputs, 3), 256)?;
        }
        single(&backend, Conv2dDesc::same(64, 64, 1), 256)?;
        single(&backend, Conv2dDesc { stride: 2, ..Conv2dDesc::same(64, 64, 3) }, 256)?;
        single(&backend, Conv2dDesc::same(640, 640, 3), 32)?;
        single(&backend, Conv2dDesc::same(1280, 1280, 3), 16)?;
        resize(&backend, 256)?;
    }
    Ok(())
}
