//! The operations that are timed, and at which shapes.

use reverie_kernels::{
    Activation, Backend as _, Conv2dDesc, Filter, Mask, Result, Shape,
    gpu::{GpuBackend, GpuTensor, cuda::Cuda},
};

use crate::correctness::Sizes;

type Gpu = GpuBackend<Cuda>;
type Tensor = GpuTensor<Cuda>;

/// A run of a case.
pub type Run = Box<dyn Fn(&Gpu) -> Result<Tensor>>;

/// What an operation does, by which its rate counts.
pub enum Work {
    /// Multiplications and additions of the plain arithmetic.
    Operations(usize),
    /// Read and written.
    Bytes(usize),
}

/// An operation at a shape.
#[derive(Debug, Clone, Copy)]
pub enum Case {
    Attention { batch: usize, queries: usize, keys: usize, heads: usize, width: usize },
    Linear { rows: usize, inputs: usize, outputs: usize },
    Conv { batch: usize, desc: Conv2dDesc, side: usize },
    Upsample { batch: usize, channels: usize, side: usize, factor: usize, filter: (&'static str, Filter) },
}

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
const SMALL_ATTENTION: [[usize; 5]; 2] = [[1, 130, 150, 1, 64], [1, 33, 20, 2, 40]];

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
const SMALL_LINEAR: [[usize; 3]; 1] = [[70, 40, 48]];

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
const SMALL_CONV: [[usize; 6]; 1] = [[1, 3, 1, 8, 16, 9]];

/// Batch, channels, side before, factor.
const UPSAMPLE: [[usize; 4]; 5] =
    [[2, 1280, 16, 2], [2, 640, 32, 2], [1, 512, 128, 2], [1, 256, 256, 2], [1, 3, 512, 4]];
const SMALL_UPSAMPLE: [[usize; 4]; 1] = [[1, 3, 8, 2]];

const FILTERS: [(&str, Filter); 4] = [
    ("nearest", Filter::Nearest),
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos3),
];

/// All cases of these sizes.
pub fn all(sizes: Sizes) -> Vec<Case> {
    let (attention, linear, conv, upsample) = match sizes {
        Sizes::Small => (&SMALL_ATTENTION[..], &SMALL_LINEAR[..], &SMALL_CONV[..], &SMALL_UPSAMPLE[..]),
        Sizes::Real => (&ATTENTION[..], &LINEAR[..], &CONV[..], &UPSAMPLE[..]),
    };
    let attention = attention.iter().map(|&[batch, queries, keys, heads, width]| Case::Attention {
        batch,
        queries,
        keys,
        heads,
        width,
    });
    let linear = linear.iter().map(|&[rows, inputs, outputs]| Case::Linear { rows, inputs, outputs });
    let conv = conv.iter().map(|&[batch, kernel, stride, in_channels, out_channels, side]| {
        let desc = Conv2dDesc { kernel, stride, in_channels, out_channels, padding: kernel / 2 };
        Case::Conv { batch, desc, side }
    });
    let upsample = upsample.iter().flat_map(|&[batch, channels, side, factor]| {
        FILTERS.map(|filter| Case::Upsample { batch, channels, side, factor, filter })
    });
    attention.chain(linear).chain(conv).chain(upsample).collect()
}

/// Values in -`scale`..`scale` from a linear congruential generator (Knuth, MMIX).
fn noise(len: usize, scale: f32) -> Vec<f32> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(next).collect()
}

fn tensor(gpu: &Gpu, shape: Shape) -> Result<Tensor> {
    gpu.tensor(noise(shape.iter().product(), 1.0), shape)
}

impl Case {
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Attention { .. } => "attention",
            Self::Linear { .. } => "linear",
            Self::Conv { .. } => "conv",
            Self::Upsample { .. } => "upsample",
        }
    }

    /// Its shapes and options, as `tests/gpu/torch_peer.py` reads them.
    pub fn name(&self) -> String {
        match self {
            Self::Attention { batch, queries, keys, heads, width } => {
                format!("{batch} {queries}x{keys} {heads}x{width}")
            }
            Self::Linear { rows, inputs, outputs } => format!("{rows} {inputs}->{outputs}"),
            Self::Conv { batch, desc, side } => {
                let Conv2dDesc { kernel, stride, in_channels, out_channels, .. } = desc;
                format!("{batch} {kernel}x{kernel}/{stride} {in_channels}->{out_channels} {side}")
            }
            Self::Upsample { batch, channels, side, factor, filter: (filter, _) } => {
                format!("{batch} {channels} {side} {factor} {filter}")
            }
        }
    }

    pub fn work(&self) -> Work {
        match self {
            Self::Attention { batch, queries, keys, heads, width } => {
                Work::Operations(4 * batch * queries * keys * heads * width)
            }
            Self::Linear { rows, inputs, outputs } => Work::Operations(2 * rows * inputs * outputs),
            Self::Conv { batch, desc, side } => {
                let out = side.div_ceil(desc.stride);
                Work::Operations(2 * desc.weight_len() * batch * out * out)
            }
            Self::Upsample { batch, channels, side, factor, .. } => {
                Work::Bytes(2 * batch * channels * side * side * (1 + factor * factor))
            }
        }
    }

    /// Uploads what it needs.
    pub fn prepare(&self, gpu: &Gpu) -> Result<Run> {
        Ok(match *self {
            Self::Attention { batch, queries, keys, heads, width } => {
                let q = tensor(gpu, [batch, 1, queries, heads * width])?;
                let [k, v] = [(); 2].map(|()| tensor(gpu, [batch, 1, keys, heads * width]));
                let (k, v) = (k?, v?);
                Box::new(move |gpu| gpu.attention(&q, &k, &v, heads, Mask::None))
            }
            Self::Linear { rows, inputs, outputs } => {
                let weight = noise(inputs * outputs, (inputs as f32).powf(-0.5));
                let layer = gpu.prepare_linear(inputs, outputs, &weight, Some(&noise(outputs, 1.0)))?;
                let x = tensor(gpu, [1, 1, rows, inputs])?;
                Box::new(move |gpu| gpu.linear(&x, &layer))
            }
            Self::Conv { batch, desc, side } => {
                let depth = (desc.in_channels * desc.kernel * desc.kernel) as f32;
                let weight = noise(desc.weight_len(), depth.powf(-0.5));
                let bias = noise(desc.out_channels, 1.0);
                let conv = gpu.prepare_conv2d(desc, &weight, Some(&bias), Activation::None)?;
                let x = tensor(gpu, [batch, desc.in_channels, side, side])?;
                Box::new(move |gpu| gpu.conv2d(&x, &conv))
            }
            Self::Upsample { batch, channels, side, factor, filter: (_, filter) } => {
                let x = tensor(gpu, [batch, channels, side, side])?;
                Box::new(move |gpu| gpu.resize(&x, side * factor, side * factor, filter))
            }
        })
    }
}
