//! A backend that notes how long each operation of another takes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reverie_kernels::{
    Activation, Backend, Conv2dDesc, Filter, Mask, PixelRange, Result, Rows, Shape, Timesteps, Unary, Weight,
    Work,
};

/// What the operations of one kind have cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub calls: usize,
    pub time: Duration,
    /// Floating-point operations of the direct algorithm; 0 where they do not count.
    pub flops: f64,
}

/// Times the operations of `inner`. It is right only for backends that are done when they return.
pub struct Timed<B> {
    inner: B,
    costs: Mutex<BTreeMap<String, Cost>>,
}

impl<B: Backend> Timed<B> {
    pub fn new(inner: B) -> Self {
        Self { inner, costs: Mutex::default() }
    }

    /// The costs since the last call, by kind of operation.
    pub fn take(&self) -> BTreeMap<String, Cost> {
        std::mem::take(&mut self.costs.lock())
    }

    fn timed<T>(&self, what: impl Into<String>, flops: f64, work: impl FnOnce(&B) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let out = work(&self.inner);
        let time = start.elapsed();
        let mut costs = self.costs.lock();
        let cost = costs.entry(what.into()).or_default();
        cost.calls += 1;
        cost.time += time;
        cost.flops += flops;
        out
    }

    fn conv<T>(&self, x: &B::Tensor, desc: &Conv2dDesc, work: impl FnOnce(&B) -> Result<T>) -> Result<T> {
        let outputs = desc.output_shape(self.inner.shape(x))?.iter().product::<usize>() as f64;
        let depth = (desc.in_channels * desc.kernel * desc.kernel) as f64;
        let stride = if desc.stride == 1 { String::new() } else { format!("/{}", desc.stride) };
        self.timed(format!("conv {0}x{0}{stride}", desc.kernel), 2.0 * outputs * depth, work)
    }
}

/// A layer, and what is needed to count its arithmetic.
pub struct Layer<L, D> {
    layer: L,
    size: D,
}

impl<B: Backend> Backend for Timed<B> {
    type Tensor = B::Tensor;
    type Conv2d = Layer<B::Conv2d, Conv2dDesc>;
    type Linear = Layer<B::Linear, (usize, usize)>;
    type Embedding = B::Embedding;
    type Repeated = ();

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn repeated(&self) {}

    // What is timed is each operation, so nothing is recorded.
    fn repeat(&self, (): &(), inputs: &[&B::Tensor], work: Work<'_, B::Tensor>) -> Result<Vec<B::Tensor>> {
        work(&inputs.iter().map(|x| (*x).clone()).collect::<Vec<_>>())
    }

    fn tensor(&self, data: Vec<f32>, shape: Shape) -> Result<B::Tensor> {
        self.timed("copy in", 0.0, |b| b.tensor(data, shape))
    }

    fn to_vec(&self, x: &B::Tensor) -> Result<Vec<f32>> {
        self.timed("copy out", 0.0, |b| b.to_vec(x))
    }

    fn shape(&self, x: &B::Tensor) -> Shape {
        self.inner.shape(x)
    }

    fn prepare_conv2d<'a>(
        &self,
        desc: Conv2dDesc,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Result<Self::Conv2d> {
        let weight = weight.into();
        let prepare = |b: &B| b.prepare_conv2d(desc, weight, bias, act);
        Ok(Layer { layer: self.timed("prepare conv", 0.0, prepare)?, size: desc })
    }

    fn conv2d(&self, x: &B::Tensor, conv: &Self::Conv2d) -> Result<B::Tensor> {
        self.conv(x, &conv.size, |b| b.conv2d(x, &conv.layer))
    }

    fn conv2d_residual(
        &self,
        x: &B::Tensor,
        conv: &Self::Conv2d,
        alpha: f32,
        residual: &B::Tensor,
    ) -> Result<B::Tensor> {
        self.conv(x, &conv.size, |b| b.conv2d_residual(x, &conv.layer, alpha, residual))
    }

    fn prelu(&self, x: &B::Tensor, slope: &[f32]) -> Result<B::Tensor> {
        self.timed("activation", 0.0, |b| b.prelu(x, slope))
    }

    fn leaky_relu(&self, x: &B::Tensor, slope: f32) -> Result<B::Tensor> {
        self.timed("activation", 0.0, |b| b.leaky_relu(x, slope))
    }

    fn pixel_shuffle(&self, x: &B::Tensor, factor: usize) -> Result<B::Tensor> {
        self.timed("pixel shuffle", 0.0, |b| b.pixel_shuffle(x, factor))
    }

    fn resize(&self, x: &B::Tensor, h: usize, w: usize, filter: Filter) -> Result<B::Tensor> {
        self.timed("resize", 0.0, |b| b.resize(x, h, w, filter))
    }

    fn concat(&self, xs: &[&B::Tensor]) -> Result<B::Tensor> {
        self.timed("concat", 0.0, |b| b.concat(xs))
    }

    fn add(&self, a: &B::Tensor, b: &B::Tensor) -> Result<B::Tensor> {
        self.timed("add", 0.0, |backend| backend.add(a, b))
    }

    fn scale_add(&self, x: &B::Tensor, alpha: f32, y: &B::Tensor) -> Result<B::Tensor> {
        self.timed("add", 0.0, |b| b.scale_add(x, alpha, y))
    }

    fn combine(&self, terms: &[(f32, &B::Tensor)]) -> Result<B::Tensor> {
        self.timed("combine", 0.0, |b| b.combine(terms))
    }

    fn clamp(&self, x: &B::Tensor, limit: f32) -> Result<B::Tensor> {
        self.timed("combine", 0.0, |b| b.clamp(x, limit))
    }

    fn blend(&self, x: &B::Tensor, y: &B::Tensor, mask: &B::Tensor) -> Result<B::Tensor> {
        self.timed("combine", 0.0, |b| b.blend(x, y, mask))
    }

    fn prepare_linear<'a>(
        &self,
        inputs: usize,
        outputs: usize,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear> {
        let weight = weight.into();
        let prepare = |b: &B| b.prepare_linear(inputs, outputs, weight, bias);
        Ok(Layer { layer: self.timed("prepare linear", 0.0, prepare)?, size: (inputs, outputs) })
    }

    fn linear(&self, x: &B::Tensor, linear: &Self::Linear) -> Result<B::Tensor> {
        let values = self.inner.shape(x).iter().product::<usize>() as f64;
        self.timed("linear", 2.0 * values * linear.size.1 as f64, |b| b.linear(x, &linear.layer))
    }

    fn linear_residual(
        &self,
        x: &B::Tensor,
        linear: &Self::Linear,
        residual: &B::Tensor,
    ) -> Result<B::Tensor> {
        let values = self.inner.shape(x).iter().product::<usize>() as f64;
        let flops = 2.0 * values * linear.size.1 as f64;
        self.timed("linear", flops, |b| b.linear_residual(x, &linear.layer, residual))
    }

    fn attention(
        &self,
        q: &B::Tensor,
        k: &B::Tensor,
        v: &B::Tensor,
        heads: usize,
        mask: Mask,
    ) -> Result<B::Tensor> {
        let ([n, _, queries, c], [_, _, keys, _]) = (self.inner.shape(q), self.inner.shape(k));
        let what = if queries == keys { "attention, own" } else { "attention, prompt" };
        let flops = 4.0 * (n * queries * c) as f64 * keys as f64;
        self.timed(what, flops, |b| b.attention(q, k, v, heads, mask))
    }

    fn group_norm(
        &self,
        x: &B::Tensor,
        groups: usize,
        weight: &B::Tensor,
        bias: &B::Tensor,
        eps: f32,
        act: Unary,
    ) -> Result<B::Tensor> {
        self.timed("group norm", 0.0, |b| b.group_norm(x, groups, weight, bias, eps, act))
    }

    fn layer_norm(&self, x: &B::Tensor, weight: &B::Tensor, bias: &B::Tensor, eps: f32) -> Result<B::Tensor> {
        self.timed("layer norm", 0.0, |b| b.layer_norm(x, weight, bias, eps))
    }

    fn unary(&self, x: &B::Tensor, f: Unary) -> Result<B::Tensor> {
        self.timed("activation", 0.0, |b| b.unary(x, f))
    }

    fn geglu(&self, x: &B::Tensor) -> Result<B::Tensor> {
        self.timed("geglu", 0.0, |b| b.geglu(x))
    }

    fn add_channels(&self, x: &B::Tensor, bias: &B::Tensor) -> Result<B::Tensor> {
        self.timed("add channels", 0.0, |b| b.add_channels(x, bias))
    }

    fn to_tokens(&self, x: &B::Tensor) -> Result<B::Tensor> {
        self.timed("to tokens", 0.0, |b| b.to_tokens(x))
    }

    fn from_tokens(&self, x: &B::Tensor, h: usize, w: usize) -> Result<B::Tensor> {
        self.timed("from tokens", 0.0, |b| b.from_tokens(x, h, w))
    }

    fn pad(&self, x: &B::Tensor, right: usize, bottom: usize) -> Result<B::Tensor> {
        self.timed("pad", 0.0, |b| b.pad(x, right, bottom))
    }

    fn stack(&self, xs: &[&B::Tensor]) -> Result<B::Tensor> {
        self.timed("stack", 0.0, |b| b.stack(xs))
    }

    fn images(&self, x: &B::Tensor, first: usize, count: usize) -> Result<B::Tensor> {
        self.timed("images", 0.0, |b| b.images(x, first, count))
    }

    fn timestep_embedding(&self, values: &[f32], batch: usize, timesteps: Timesteps) -> Result<B::Tensor> {
        self.timed("timestep embedding", 0.0, |b| b.timestep_embedding(values, batch, timesteps))
    }

    fn prepare_embedding(&self, count: usize, features: usize, rows: Rows) -> Result<B::Embedding> {
        self.timed("prepare embedding", 0.0, |b| b.prepare_embedding(count, features, rows))
    }

    fn embedding(
        &self,
        sequences: &[&[u32]],
        table: &B::Embedding,
        positions: &B::Tensor,
    ) -> Result<B::Tensor> {
        self.timed("embedding", 0.0, |b| b.embedding(sequences, table, positions))
    }

    fn from_pixels(&self, pixels: &[u8], shape: Shape, range: PixelRange) -> Result<B::Tensor> {
        self.timed("copy in", 0.0, |b| b.from_pixels(pixels, shape, range))
    }

    fn to_pixels(&self, x: &B::Tensor, range: PixelRange) -> Result<Vec<u8>> {
        self.timed("copy out", 0.0, |b| b.to_pixels(x, range))
    }
}
