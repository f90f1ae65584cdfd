//! The CPU backend: `f32`, any CPU, with AVX-512 and AVX2 where the machine has them.
//!
//! [`CpuBackend`] checks shapes and picks layouts; the work is in the modules below it, from the register
//! block of the matrix multiplication (`gemm`) to the convolutions made of it (`winograd`, `direct`).

mod buffer;
#[allow(unsafe_code)]
mod direct;
mod elementwise;
mod epilogue;
#[allow(unsafe_code)]
mod gemm;
mod resize;
mod scratch;
mod shuffle;
#[allow(unsafe_code)]
mod simd;
mod tensor;
#[allow(unsafe_code)]
mod winograd;

use crate::backend::{Activation, Backend, Conv2dDesc, Filter, Shape, check_shape, check_slope};
use crate::error::{Error, Result};
use buffer::{LANES, Pool};
use direct::{Direct, Source};
use epilogue::{Output, Parameters};
use rayon::prelude::*;
use std::sync::Arc;
use tensor::Data;
use winograd::Winograd;

pub use simd::Level;
pub use tensor::CpuTensor;

/// Runs tensor operations on the CPU, with threads of its own.
///
/// Results are the same to the bit for every number of threads. They differ in rounding from one [`Level`]
/// to another.
pub struct CpuBackend {
    name: String,
    level: Level,
    pool: Arc<Pool>,
    /// `None` where the system gave no threads: the work is then done in rayon's global pool.
    threads: Option<rayon::ThreadPool>,
}

/// A convolution of the CPU backend.
pub struct CpuConv2d {
    desc: Conv2dDesc,
    parameters: Parameters,
    method: Method,
}

enum Method {
    Winograd(Winograd),
    Direct(Direct),
}

impl Default for CpuBackend {
    /// A thread for each core that the process may use.
    fn default() -> Self {
        Self::new(0)
    }
}

impl CpuBackend {
    /// A backend with `threads` threads (0: one for each core that the process may use) and the widest
    /// instructions that the machine has.
    pub fn new(threads: usize) -> Self {
        Self::build(threads, Level::detect())
    }

    /// A backend held to the instructions of `level`, for tests and comparisons; `None` where the machine
    /// lacks them.
    pub fn with_level(threads: usize, level: Level) -> Option<Self> {
        level.is_available().then(|| Self::build(threads, level))
    }

    fn build(threads: usize, level: Level) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores } else { threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("kernels-{i}"))
            .build();
        let name = format!("CPU ({level:?}, {threads} threads)");
        Self { name, level, pool: Arc::default(), threads: pool.ok() }
    }

    /// The instructions that are used.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Gives the memory of dropped tensors, which is kept for the next ones, back to the system.
    pub fn release_memory(&self) {
        self.pool.clear();
    }

    fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.threads {
            Some(threads) => threads.install(work),
            None => work(),
        }
    }

    fn run_conv(
        &self,
        x: &CpuTensor,
        conv: &CpuConv2d,
        residual: Option<(f32, &CpuTensor)>,
    ) -> Result<CpuTensor> {
        let shape = conv.desc.output_shape(x.shape)?;
        check_shape(shape)?;
        if let Some((_, residual)) = residual {
            same_shape("conv2d_residual", shape, residual.shape)?;
        }
        let [n, c, h, w] = shape;
        Ok(self.install(|| {
            let residual = residual.map(|(alpha, x)| (alpha, x.to_blocked(&self.pool)));
            let residual_planes = residual.as_ref().map(|(_, x)| x.blocks());
            let residual = residual.as_ref().zip(residual_planes.as_deref());
            let mut out = self.pool.take(n * c.next_multiple_of(LANES) * h * w);
            let output = Output::new(
                &conv.parameters,
                out.lanes_mut(),
                h * w,
                residual.map(|((alpha, _), planes)| (*alpha, planes)),
            );
            match &conv.method {
                Method::Direct(direct) if direct.planar() => {
                    direct.run(Source::Planar(x.to_planar(&self.pool).floats()), x.shape, shape, &output);
                }
                Method::Direct(direct) => {
                    direct.run(Source::Blocked(&x.to_blocked(&self.pool).blocks()), x.shape, shape, &output);
                }
                Method::Winograd(winograd) => {
                    winograd.run(&x.to_blocked(&self.pool).blocks(), x.shape, shape, &output);
                }
            }
            CpuTensor::blocked(out, shape)
        }))
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Conv2d = CpuConv2d;

    fn name(&self) -> &str {
        &self.name
    }

    fn tensor(&self, data: Vec<f32>, shape: Shape) -> Result<CpuTensor> {
        let expected = check_shape(shape)?;
        if data.len() != expected {
            return Err(Error::DataLength { shape, expected, actual: data.len() });
        }
        let mut buffer = self.pool.take(expected);
        buffer.floats_mut()[..expected].copy_from_slice(&data);
        Ok(CpuTensor::planar(buffer, shape))
    }

    fn to_vec(&self, x: &CpuTensor) -> Result<Vec<f32>> {
        Ok(self.install(|| x.to_vec()))
    }

    fn shape(&self, x: &CpuTensor) -> Shape {
        x.shape
    }

    fn prepare_conv2d(
        &self,
        desc: Conv2dDesc,
        weight: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Result<CpuConv2d> {
        desc.validate(weight, bias, &act)?;
        let method = if Winograd::suits(&desc) {
            Method::Winograd(Winograd::new(desc, weight, self.level))
        } else {
            Method::Direct(Direct::new(desc, weight, self.level))
        };
        Ok(CpuConv2d { desc, parameters: Parameters::new(desc.out_channels, bias, &act), method })
    }

    fn conv2d(&self, x: &CpuTensor, conv: &CpuConv2d) -> Result<CpuTensor> {
        self.run_conv(x, conv, None)
    }

    fn conv2d_residual(
        &self,
        x: &CpuTensor,
        conv: &CpuConv2d,
        alpha: f32,
        residual: &CpuTensor,
    ) -> Result<CpuTensor> {
        self.run_conv(x, conv, Some((alpha, residual)))
    }

    fn prelu(&self, x: &CpuTensor, slope: &[f32]) -> Result<CpuTensor> {
        check_slope("PReLU slope", x.shape[1], slope)?;
        Ok(self.install(|| elementwise::prelu(&self.pool, x, slope)))
    }

    fn pixel_shuffle(&self, x: &CpuTensor, factor: usize) -> Result<CpuTensor> {
        let shape = shuffle::output_shape(x.shape, factor)?;
        Ok(self.install(|| shuffle::pixel_shuffle(&self.pool, x, factor, shape, None)))
    }

    fn pixel_shuffle_add_nearest(&self, x: &CpuTensor, factor: usize, base: &CpuTensor) -> Result<CpuTensor> {
        let shape = shuffle::output_shape(x.shape, factor)?;
        let [n, c, ..] = shape;
        same_shape("pixel_shuffle_add_nearest", [n, c, x.shape[2], x.shape[3]], base.shape)?;
        Ok(self.install(|| shuffle::pixel_shuffle(&self.pool, x, factor, shape, Some(base))))
    }

    fn resize(&self, x: &CpuTensor, h: usize, w: usize, filter: Filter) -> Result<CpuTensor> {
        let shape = [x.shape[0], x.shape[1], h, w];
        check_shape(shape)?;
        Ok(self.install(|| resize::resize(&self.pool, x, shape, filter)))
    }

    fn concat(&self, xs: &[&CpuTensor]) -> Result<CpuTensor> {
        let first = xs.first().ok_or(Error::NothingToConcat)?;
        let [n, _, h, w] = first.shape;
        let mut channels = 0usize;
        for x in xs {
            same_shape("concat", [n, x.shape[1], h, w], x.shape)?;
            channels = channels.saturating_add(x.shape[1]);
        }
        let shape = [n, channels, h, w];
        check_shape(shape)?;
        Ok(self.install(|| self.join(xs, shape)))
    }

    fn scale_add(&self, x: &CpuTensor, alpha: f32, y: &CpuTensor) -> Result<CpuTensor> {
        same_shape("scale_add", x.shape, y.shape)?;
        Ok(self.install(|| elementwise::scale_add(&self.pool, x, alpha, y)))
    }
}

impl CpuBackend {
    /// Joins tensors whose shapes agree.
    fn join(&self, xs: &[&CpuTensor], shape: Shape) -> CpuTensor {
        // All but the last must fill their blocks for the planes to be passed on as they are.
        let whole = xs[..xs.len() - 1].iter().all(|x| x.shape[1].is_multiple_of(LANES));
        if whole && xs.iter().any(|x| matches!(x.data, Data::Blocked(_))) {
            let blocked: Vec<_> = xs.iter().map(|x| x.to_blocked(&self.pool)).collect();
            return CpuTensor::from_parts(&blocked, shape);
        }
        let [n, c, h, w] = shape;
        let area = h * w;
        let parts: Vec<_> = xs.iter().map(|x| (x.to_planar(&self.pool), x.shape[1] * area)).collect();
        let mut out = self.pool.take(n * c * area);
        out.floats_mut()[..n * c * area].par_chunks_mut(c * area).enumerate().for_each(|(image, out)| {
            let mut rest = out;
            for (part, len) in &parts {
                let (head, tail) = rest.split_at_mut(*len);
                head.copy_from_slice(&part.floats()[image * len..][..*len]);
                rest = tail;
            }
        });
        CpuTensor::planar(out, shape)
    }
}

fn same_shape(operation: &'static str, left: Shape, right: Shape) -> Result<()> {
    if left == right { Ok(()) } else { Err(Error::ShapeMismatch { operation, left, right }) }
}
