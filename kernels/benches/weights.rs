//! How fast weights get from a file's bytes to where a device copies them from: `cargo bench -p reverie-kernels --bench weights`.
//!
//! The layers are those that make most of SD1.5's UNet. Behind the backend is no device but memory of 4 MiB, which is written again and
//! again, as pinned memory is.

use std::time::Instant;

use parking_lot::Mutex;
use reverie_kernels::{
    Activation, Backend, Conv2dDesc, Format, Result, Weight,
    gpu::{Arg, Device, GpuBackend, Launch, Variant},
};

/// Bytes that are on their way at a time.
const HALF: usize = 4 << 20;

/// Takes what is written, and no more.
struct Sink(Mutex<Vec<u8>>);

impl Device for Sink {
    type Buffer = ();

    fn name(&self) -> &str {
        "sink"
    }

    fn multiprocessors(&self) -> usize {
        1
    }

    fn lane(&self) -> Result<Self> {
        Ok(Self(Mutex::new(vec![0; HALF])))
    }

    fn allocate(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn upload(&self, (): &(), bytes: &[u8]) -> Result<()> {
        self.write(&(), bytes.len(), &mut |first, to| to.copy_from_slice(&bytes[first..first + to.len()]))
    }

    fn write(&self, (): &(), bytes: usize, write: &mut dyn FnMut(usize, &mut [u8])) -> Result<()> {
        let mut half = self.0.lock();
        for first in (0..bytes).step_by(HALF) {
            write(first, &mut half[..HALF.min(bytes - first)]);
        }
        Ok(())
    }

    fn download(&self, (): &(), _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn launch(&self, _: &Variant, _: &'static str, _: Launch, _: &[Arg<'_, ()>]) -> Result<()> {
        Ok(())
    }
}

/// Outputs, inputs, side of the kernel, and how many there are of them.
const LAYERS: [([usize; 3], usize); 8] = [
    ([1280, 1280, 3], 9),
    ([1280, 2560, 3], 5),
    ([640, 640, 3], 6),
    ([320, 320, 3], 9),
    ([1280, 1280, 1], 60),
    ([10240, 1280, 1], 6),
    ([1280, 5120, 1], 6),
    ([640, 640, 1], 60),
];

fn main() -> Result<()> {
    let gpu = GpuBackend::new(Sink(Mutex::new(vec![0; HALF])));
    let values: usize =
        LAYERS.iter().map(|([outputs, inputs, side], count)| outputs * inputs * side * side * count).sum();
    println!("{} million values", values / 1_000_000);
    for format in [Format::F16, Format::Bf16, Format::F32] {
        let times = (0..5).map(|_| {
            let mut seconds = 0.0;
            for ([outputs, inputs, side], count) in LAYERS {
                // Values from -1 to 1 or so in each format: no NaN.
                let bytes: Vec<u8> = (0..outputs * inputs * side * side * format.bytes())
                    .map(|i| {
                        if i % format.bytes() == format.bytes() - 1 {
                            0x30 | (i % 251) as u8 & 0x87
                        } else {
                            (i % 253) as u8
                        }
                    })
                    .collect();
                let start = Instant::now();
                for _ in 0..count {
                    prepare(&gpu, format, &bytes, [outputs, inputs, side])?;
                }
                seconds += start.elapsed().as_secs_f64();
            }
            Ok(seconds)
        });
        let best = times.collect::<Result<Vec<_>>>()?.into_iter().fold(f64::INFINITY, f64::min);
        println!("{format:?}: {best:.2} s, {:.2} GB/s of fp16", 2.0 * values as f64 / best / 1e9);
    }
    Ok(())
}

fn prepare(
    gpu: &GpuBackend<Sink>,
    format: Format,
    bytes: &[u8],
    [outputs, inputs, side]: [usize; 3],
) -> Result<()> {
    let weight = Weight::Stored(format, bytes);
    match side {
        1 => gpu.prepare_linear(inputs, outputs, weight, None).map(drop),
        _ => gpu
            .prepare_conv2d(Conv2dDesc::same(inputs, outputs, side), weight, None, Activation::None)
            .map(drop),
    }
}
