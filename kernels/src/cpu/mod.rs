//! The CPU backend: `f32`, any CPU, with AVX-512 and AVX2 where the machine has them.
//!
//! [`CpuBackend`] checks shapes and picks layouts; the work is in the modules below it, from the register
//! block of the matrix multiplication (`gemm`) to the convolutions made of it (`winograd`, `deep`, `direct`).

#[allow(unsafe_code)]
mod attention;
mod buffer;
mod combine;
mod conv;
#[allow(unsafe_code)]
mod deep;
#[allow(unsafe_code)]
mod direct;
#[allow(unsafe_code)]
mod elementwise;
mod embedding;
mod epilogue;
#[allow(unsafe_code)]
mod gemm;
#[allow(unsafe_code)]
mod group_norm;
#[allow(unsafe_code)]
mod linear;
mod memory;
#[allow(unsafe_code)]
mod packed;
mod pixels;
mod resize;
#[allow(unsafe_code)]
mod rows;
mod scratch;
mod shuffle;
#[allow(unsafe_code)]
mod simd;
mod tensor;
mod timesteps;
mod tokens;
#[allow(unsafe_code)]
mod winograd;

use crate::backend::{
    Activation, Backend, Conv2dDesc, Filter, Mask, PixelRange, Rows, Shape, Timesteps, Unary, Work,
    check_len, check_shape, check_slope,
};
use crate::checks::{self, same_shape};
use crate::error::{Error, Result};
use crate::weight::Weight;
use buffer::{LANES, Pool};
use rayon::prelude::*;
use std::sync::Arc;
use tensor::Data;

pub use conv::CpuConv2d;
pub use embedding::CpuEmbedding;
pub use linear::CpuLinear;
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
        Ok(self.install(|| conv.run(&self.pool, x, residual, shape)))
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Conv2d = CpuConv2d;
    type Linear = CpuLinear;
    type Embedding = CpuEmbedding;
    type Repeated = ();

    fn name(&self) -> &str {
        &self.name
    }

    fn free_memory(&self) -> Option<u64> {
        memory::free()
    }

    fn repeated(&self) {}

    fn repeat(&self, (): &(), inputs: &[&CpuTensor], work: Work<'_, CpuTensor>) -> Result<Vec<CpuTensor>> {
        work(&inputs.iter().map(|x| (*x).clone()).collect::<Vec<_>>())
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

    fn prepare_conv2d<'a>(
        &self,
        desc: Conv2dDesc,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Result<CpuConv2d> {
        let weight = weight.into();
        desc.validate(weight, bias, &act)?;
        Ok(self.install(|| CpuConv2d::new(desc, weight, bias, &act, self.level)))
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
        let shape = checks::pixel_shuffle(x.shape, factor)?;
        Ok(self.install(|| shuffle::pixel_shuffle(&self.pool, x, factor, shape, None)))
    }

    fn pixel_shuffle_add_nearest(&self, x: &CpuTensor, factor: usize, base: &CpuTensor) -> Result<CpuTensor> {
        let shape = checks::pixel_shuffle(x.shape, factor)?;
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
        let shape = checks::concat(&shapes(xs))?;
        Ok(self.install(|| self.join(xs, shape)))
    }

    fn scale_add(&self, x: &CpuTensor, alpha: f32, y: &CpuTensor) -> Result<CpuTensor> {
        same_shape("scale_add", x.shape, y.shape)?;
        Ok(self.install(|| elementwise::scale_add(&self.pool, x, alpha, y)))
    }

    fn combine(&self, terms: &[(f32, &CpuTensor)]) -> Result<CpuTensor> {
        checks::combine(terms.iter().map(|(_, x)| x.shape))?;
        Ok(self.install(|| combine::combine(&self.pool, terms)))
    }

    fn clamp(&self, x: &CpuTensor, limit: f32) -> Result<CpuTensor> {
        Ok(self.install(|| combine::clamp(&self.pool, x, limit)))
    }

    fn blend(&self, x: &CpuTensor, y: &CpuTensor, mask: &CpuTensor) -> Result<CpuTensor> {
        checks::blend(x.shape, y.shape, mask.shape)?;
        Ok(self.install(|| combine::blend(&self.pool, x, y, mask)))
    }

    fn prepare_linear<'a>(
        &self,
        inputs: usize,
        outputs: usize,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
    ) -> Result<CpuLinear> {
        let weight = weight.into();
        check_len("linear weight", check_shape([1, 1, outputs, inputs])?, weight.len())?;
        if let Some(bias) = bias {
            check_len("linear bias", outputs, bias.len())?;
        }
        Ok(self.install(|| CpuLinear::new(inputs, outputs, weight, bias, self.level)))
    }

    fn linear(&self, x: &CpuTensor, linear: &CpuLinear) -> Result<CpuTensor> {
        let shape = checks::linear("linear", x.shape, linear.inputs, linear.outputs)?;
        Ok(self.install(|| linear.run(&self.pool, x, None, shape)))
    }

    fn linear_residual(&self, x: &CpuTensor, linear: &CpuLinear, residual: &CpuTensor) -> Result<CpuTensor> {
        let shape = checks::linear("linear_residual", x.shape, linear.inputs, linear.outputs)?;
        same_shape("linear_residual", shape, residual.shape)?;
        Ok(self.install(|| linear.run(&self.pool, x, Some(residual), shape)))
    }

    fn attention(
        &self,
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
        heads: usize,
        mask: Mask,
    ) -> Result<CpuTensor> {
        checks::attention(q.shape, k.shape, v.shape, heads)?;
        Ok(self.install(|| attention::attention(&self.pool, [q, k, v], heads, mask, self.level)))
    }

    fn group_norm(
        &self,
        x: &CpuTensor,
        groups: usize,
        weight: &CpuTensor,
        bias: &CpuTensor,
        eps: f32,
        act: Unary,
    ) -> Result<CpuTensor> {
        checks::group_norm(x.shape, groups, weight.shape, bias.shape)?;
        Ok(self
            .install(|| group_norm::group_norm(&self.pool, x, groups, [weight, bias], eps, act, self.level)))
    }

    fn layer_norm(&self, x: &CpuTensor, weight: &CpuTensor, bias: &CpuTensor, eps: f32) -> Result<CpuTensor> {
        checks::layer_norm(x.shape, weight.shape, bias.shape)?;
        Ok(self.install(|| rows::layer_norm(&self.pool, x, [weight, bias], eps, self.level)))
    }

    fn unary(&self, x: &CpuTensor, f: Unary) -> Result<CpuTensor> {
        Ok(self.install(|| elementwise::unary(&self.pool, x, f, self.level)))
    }

    fn geglu(&self, x: &CpuTensor) -> Result<CpuTensor> {
        let shape = checks::geglu(x.shape)?;
        Ok(self.install(|| rows::geglu(&self.pool, x, shape, self.level)))
    }

    fn add_channels(&self, x: &CpuTensor, bias: &CpuTensor) -> Result<CpuTensor> {
        same_shape("add_channels", [x.shape[0], 1, 1, x.shape[1]], bias.shape)?;
        Ok(self.install(|| elementwise::add_channels(&self.pool, x, bias)))
    }

    fn to_tokens(&self, x: &CpuTensor) -> Result<CpuTensor> {
        Ok(self.install(|| tokens::to_tokens(&self.pool, x)))
    }

    fn from_tokens(&self, x: &CpuTensor, h: usize, w: usize) -> Result<CpuTensor> {
        let shape = checks::from_tokens(x.shape, h, w)?;
        Ok(self.install(|| tokens::from_tokens(&self.pool, x, shape)))
    }

    fn pad(&self, x: &CpuTensor, right: usize, bottom: usize) -> Result<CpuTensor> {
        let shape = checks::pad(x.shape, right, bottom)?;
        Ok(self.install(|| tokens::pad(&self.pool, x, shape)))
    }

    fn stack(&self, xs: &[&CpuTensor]) -> Result<CpuTensor> {
        let shape = checks::stack(&shapes(xs))?;
        Ok(self.install(|| tokens::stack(&self.pool, xs, shape)))
    }

    fn images(&self, x: &CpuTensor, first: usize, count: usize) -> Result<CpuTensor> {
        let shape = checks::images(x.shape, first, count)?;
        Ok(self.install(|| tokens::images(&self.pool, x, first, shape)))
    }

    fn timestep_embedding(&self, values: &[f32], batch: usize, timesteps: Timesteps) -> Result<CpuTensor> {
        let shape = checks::timestep_embedding(values.len(), batch, timesteps.num_channels)?;
        self.tensor(timesteps::embed(values, timesteps), shape)
    }

    fn prepare_embedding(&self, count: usize, features: usize, rows: Rows) -> Result<CpuEmbedding> {
        check_shape([1, 1, count, features])?;
        Ok(CpuEmbedding { count, features, rows })
    }

    fn embedding(
        &self,
        sequences: &[&[u32]],
        table: &CpuEmbedding,
        positions: &CpuTensor,
    ) -> Result<CpuTensor> {
        let shape = checks::embedding(sequences, table.count, table.features, positions.shape)?;
        self.install(|| table.look_up(&self.pool, sequences, positions, shape))
    }

    fn from_pixels(&self, pixels: &[u8], shape: Shape, range: PixelRange) -> Result<CpuTensor> {
        checks::from_pixels(pixels.len(), shape)?;
        Ok(self.install(|| pixels::from_pixels(&self.pool, pixels, shape, range)))
    }

    fn to_pixels(&self, x: &CpuTensor, range: PixelRange) -> Result<Vec<u8>> {
        checks::pixels("to_pixels", x.shape)?;
        Ok(self.install(|| pixels::to_pixels(&self.pool, x, range)))
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

fn shapes(xs: &[&CpuTensor]) -> Vec<Shape> {
    xs.iter().map(|x| x.shape).collect()
}
