//! The first value that is no number, by the operation that made it.

use crate::backend::{
    Activation, Backend, Conv2dDesc, Filter, Mask, PixelRange, Rows, Shape, Timesteps, Unary, Work,
};
use crate::error::{Error, Result};
use crate::gpu::{Device, GpuBackend};
use crate::weight::Weight;

/// A backend that, where it is asked to, reads the result of each operation and refuses it with [`Error::NotFinite`] where a
/// value is infinite or NaN.
///
/// What only moves values is not looked at, as it makes none. All is read by the host, and work is not recorded: much slower.
/// Unasked, it is the backend itself.
pub struct Numerics<B> {
    backend: B,
    checks: bool,
}

/// Which operation gave the first values that are no numbers, and what is known of them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{operation} of {inputs:?} to {shape:?}: {nan} values are NaN and {infinite} infinite, the first at {first:?}; the largest \
     finite input is {largest_input:e}, and a tensor of this device holds up to {largest:e}. In a VAE: set \"force_upcast\": \
     true in its config.json, and its activations are scaled to fit. Elsewhere: use the CPU, which computes in fp32. Where the \
     inputs are small, a weight is damaged, or is itself too large"
)]
pub struct NotFinite {
    /// By the name of the [`Backend`]'s method.
    pub operation: &'static str,
    /// The shapes of the tensors that it was given.
    pub inputs: Vec<Shape>,
    /// That of its result.
    pub shape: Shape,
    /// Values of the result that are NaN.
    pub nan: usize,
    /// Values of the result that are infinite.
    pub infinite: usize,
    /// The place of the first of them, in N, C, H, W order.
    pub first: Shape,
    /// The largest magnitude among the finite values of the inputs.
    pub largest_input: f32,
    /// [`Backend::largest`].
    pub largest: f32,
}

impl<B> Numerics<B> {
    /// `backend`, whose results are checked or not.
    pub fn new(backend: B, checks: bool) -> Self {
        Self { backend, checks }
    }

    /// Whether results are checked.
    pub fn checks(&self) -> bool {
        self.checks
    }
}

impl<D: Device> Numerics<GpuBackend<D>> {
    /// [`GpuBackend::device`].
    pub fn device(&self) -> &D {
        self.backend.device()
    }

    /// [`GpuBackend::lane`], with the same checks.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn lane(&self) -> Result<Self> {
        Ok(Self { backend: self.backend.lane()?, checks: self.checks })
    }
}

/// What is not finite among some values.
struct Found {
    nan: usize,
    infinite: usize,
    first: usize,
}

impl Found {
    /// None where all are finite.
    fn among(values: &[f32]) -> Option<Self> {
        let first = values.iter().position(|x| !x.is_finite())?;
        let rest = &values[first..];
        let nan = rest.iter().filter(|x| x.is_nan()).count();
        let infinite = rest.iter().filter(|x| x.is_infinite()).count();
        Some(Self { nan, infinite, first })
    }
}

/// The largest magnitude of what is finite.
fn magnitude(values: &[f32]) -> f32 {
    values.iter().filter(|x| x.is_finite()).fold(0.0, |largest, x| largest.max(x.abs()))
}

/// Where the value numbered `index` is.
fn place(index: usize, [_, c, h, w]: Shape) -> Shape {
    [index / (c * h * w), index / (h * w) % c, index / w % h, index % w]
}

impl<B: Backend> Numerics<B> {
    /// `out`, which `operation` made of `inputs`.
    fn check(&self, operation: &'static str, inputs: &[&B::Tensor], out: B::Tensor) -> Result<B::Tensor> {
        self.check_with(operation, inputs, out, 0.0)
    }

    /// The same for an operation that was given other values too, of this magnitude.
    fn check_with(
        &self,
        operation: &'static str,
        inputs: &[&B::Tensor],
        out: B::Tensor,
        others: f32,
    ) -> Result<B::Tensor> {
        if !self.checks {
            return Ok(out);
        }
        let Some(found) = Found::among(&self.backend.to_vec(&out)?) else { return Ok(out) };
        let Found { nan, infinite, first } = found;
        let mut largest_input = others;
        for x in inputs {
            largest_input = largest_input.max(magnitude(&self.backend.to_vec(x)?));
        }
        let shape = self.backend.shape(&out);
        Err(Error::NotFinite(Box::new(NotFinite {
            operation,
            inputs: inputs.iter().map(|x| self.backend.shape(x)).collect(),
            shape,
            nan,
            infinite,
            first: place(first, shape),
            largest_input,
            largest: self.backend.largest(),
        })))
    }
}

impl<B: Backend> Backend for Numerics<B> {
    type Tensor = B::Tensor;
    type Conv2d = B::Conv2d;
    type Linear = B::Linear;
    type Embedding = B::Embedding;
    type Repeated = B::Repeated;

    fn name(&self) -> &str {
        self.backend.name()
    }

    fn largest(&self) -> f32 {
        self.backend.largest()
    }

    fn most_values(&self) -> usize {
        self.backend.most_values()
    }

    fn free_memory(&self) -> Option<u64> {
        self.backend.free_memory()
    }

    fn repeated(&self) -> Self::Repeated {
        self.backend.repeated()
    }

    fn repeat(
        &self,
        repeated: &Self::Repeated,
        inputs: &[&Self::Tensor],
        work: Work<'_, Self::Tensor>,
    ) -> Result<Vec<Self::Tensor>> {
        if self.checks {
            return work(&inputs.iter().copied().cloned().collect::<Vec<_>>());
        }
        self.backend.repeat(repeated, inputs, work)
    }

    fn tensor(&self, data: Vec<f32>, shape: Shape) -> Result<Self::Tensor> {
        let largest = if self.checks { magnitude(&data) } else { 0.0 };
        self.check_with("tensor", &[], self.backend.tensor(data, shape)?, largest)
    }

    fn to_vec(&self, x: &Self::Tensor) -> Result<Vec<f32>> {
        self.backend.to_vec(x)
    }

    fn shape(&self, x: &Self::Tensor) -> Shape {
        self.backend.shape(x)
    }

    fn prepare_conv2d<'a>(
        &self,
        desc: Conv2dDesc,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Result<Self::Conv2d> {
        self.backend.prepare_conv2d(desc, weight, bias, act)
    }

    fn prepare_linear<'a>(
        &self,
        inputs: usize,
        outputs: usize,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear> {
        self.backend.prepare_linear(inputs, outputs, weight, bias)
    }

    fn prepare_embedding(&self, count: usize, features: usize, rows: Rows) -> Result<Self::Embedding> {
        self.backend.prepare_embedding(count, features, rows)
    }

    fn conv2d(&self, x: &Self::Tensor, conv: &Self::Conv2d) -> Result<Self::Tensor> {
        self.check("conv2d", &[x], self.backend.conv2d(x, conv)?)
    }

    fn conv2d_residual(
        &self,
        x: &Self::Tensor,
        conv: &Self::Conv2d,
        alpha: f32,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.check("conv2d_residual", &[x, residual], self.backend.conv2d_residual(x, conv, alpha, residual)?)
    }

    fn prelu(&self, x: &Self::Tensor, slope: &[f32]) -> Result<Self::Tensor> {
        self.check("prelu", &[x], self.backend.prelu(x, slope)?)
    }

    fn leaky_relu(&self, x: &Self::Tensor, slope: f32) -> Result<Self::Tensor> {
        self.check("leaky_relu", &[x], self.backend.leaky_relu(x, slope)?)
    }

    fn pixel_shuffle(&self, x: &Self::Tensor, factor: usize) -> Result<Self::Tensor> {
        self.backend.pixel_shuffle(x, factor)
    }

    fn pixel_shuffle_add_nearest(
        &self,
        x: &Self::Tensor,
        factor: usize,
        base: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.check(
            "pixel_shuffle_add_nearest",
            &[x, base],
            self.backend.pixel_shuffle_add_nearest(x, factor, base)?,
        )
    }

    fn resize(&self, x: &Self::Tensor, h: usize, w: usize, filter: Filter) -> Result<Self::Tensor> {
        self.check("resize", &[x], self.backend.resize(x, h, w, filter)?)
    }

    fn concat(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor> {
        self.backend.concat(xs)
    }

    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor> {
        self.check("add", &[a, b], self.backend.add(a, b)?)
    }

    fn scale_add(&self, x: &Self::Tensor, alpha: f32, y: &Self::Tensor) -> Result<Self::Tensor> {
        self.check("scale_add", &[x, y], self.backend.scale_add(x, alpha, y)?)
    }

    fn combine(&self, terms: &[(f32, &Self::Tensor)]) -> Result<Self::Tensor> {
        let inputs: Vec<_> = terms.iter().map(|(_, x)| *x).collect();
        self.check("combine", &inputs, self.backend.combine(terms)?)
    }

    fn clamp(&self, x: &Self::Tensor, limit: f32) -> Result<Self::Tensor> {
        self.check("clamp", &[x], self.backend.clamp(x, limit)?)
    }

    fn blend(&self, x: &Self::Tensor, y: &Self::Tensor, mask: &Self::Tensor) -> Result<Self::Tensor> {
        self.check("blend", &[x, y, mask], self.backend.blend(x, y, mask)?)
    }

    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor> {
        self.check("linear", &[x], self.backend.linear(x, linear)?)
    }

    fn linear_residual(
        &self,
        x: &Self::Tensor,
        linear: &Self::Linear,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.check("linear_residual", &[x, residual], self.backend.linear_residual(x, linear, residual)?)
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        mask: Mask,
    ) -> Result<Self::Tensor> {
        self.check("attention", &[q, k, v], self.backend.attention(q, k, v, heads, mask)?)
    }

    fn group_norm(
        &self,
        x: &Self::Tensor,
        groups: usize,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
        act: Unary,
    ) -> Result<Self::Tensor> {
        self.check(
            "group_norm",
            &[x, weight, bias],
            self.backend.group_norm(x, groups, weight, bias, eps, act)?,
        )
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor> {
        self.check("layer_norm", &[x, weight, bias], self.backend.layer_norm(x, weight, bias, eps)?)
    }

    fn unary(&self, x: &Self::Tensor, f: Unary) -> Result<Self::Tensor> {
        self.check("unary", &[x], self.backend.unary(x, f)?)
    }

    fn geglu(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        self.check("geglu", &[x], self.backend.geglu(x)?)
    }

    fn add_channels(&self, x: &Self::Tensor, bias: &Self::Tensor) -> Result<Self::Tensor> {
        self.check("add_channels", &[x, bias], self.backend.add_channels(x, bias)?)
    }

    fn to_tokens(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        self.backend.to_tokens(x)
    }

    fn from_tokens(&self, x: &Self::Tensor, h: usize, w: usize) -> Result<Self::Tensor> {
        self.backend.from_tokens(x, h, w)
    }

    fn pad(&self, x: &Self::Tensor, right: usize, bottom: usize) -> Result<Self::Tensor> {
        self.backend.pad(x, right, bottom)
    }

    fn stack(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor> {
        self.backend.stack(xs)
    }

    fn images(&self, x: &Self::Tensor, first: usize, count: usize) -> Result<Self::Tensor> {
        self.backend.images(x, first, count)
    }

    fn timestep_embedding(&self, values: &[f32], batch: usize, timesteps: Timesteps) -> Result<Self::Tensor> {
        self.check("timestep_embedding", &[], self.backend.timestep_embedding(values, batch, timesteps)?)
    }

    fn embedding(
        &self,
        sequences: &[&[u32]],
        table: &Self::Embedding,
        positions: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.check("embedding", &[positions], self.backend.embedding(sequences, table, positions)?)
    }

    fn from_pixels(&self, pixels: &[u8], shape: Shape, range: PixelRange) -> Result<Self::Tensor> {
        self.backend.from_pixels(pixels, shape, range)
    }

    fn to_pixels(&self, x: &Self::Tensor, range: PixelRange) -> Result<Vec<u8>> {
        self.backend.to_pixels(x, range)
    }
}
