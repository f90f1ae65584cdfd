//! One of two backends, chosen at run time.

use crate::backend::{
    Activation, Backend, Conv2dDesc, Filter, Mask, PixelRange, Rows, Shape, Timesteps, Unary, Work,
};
use crate::error::{Error, Result};
use crate::weight::Weight;

/// What belongs to one of two backends: the backend itself, its tensors, its layers.
///
/// As a backend it is whichever it holds; tensors and layers of the other one are refused with [`Error::OtherDevice`].
#[derive(Debug, Clone)]
pub enum Either<A, B> {
    /// The first.
    First(A),
    /// The second.
    Second(B),
}

use Either::{First, Second};

/// Runs `$call` on whichever backend `$self` is, with the operands that belong to it.
macro_rules! on {
    ($self:ident, $($x:ident),* => |$backend:ident| $call:expr) => {
        match ($self, $($x),*) {
            (First($backend), $(First($x)),*) => $call.map(First),
            (Second($backend), $(Second($x)),*) => $call.map(Second),
            _ => Err(Error::OtherDevice),
        }
    };
}

/// The same for a list of tensors.
macro_rules! on_all {
    ($self:ident, $xs:ident => |$backend:ident| $call:expr) => {
        match $self {
            First($backend) => {
                let $xs = each($xs, Either::first)?;
                $call.map(First)
            }
            Second($backend) => {
                let $xs = each($xs, Either::second)?;
                $call.map(Second)
            }
        }
    };
}

impl<A, B> Either<A, B> {
    fn first(&self) -> Option<&A> {
        if let First(a) = self { Some(a) } else { None }
    }

    fn second(&self) -> Option<&B> {
        if let Second(b) = self { Some(b) } else { None }
    }
}

/// What of `xs` belongs to one of the two: all, or it is refused.
fn each<'a, A, B, X>(
    xs: &[&'a Either<A, B>],
    of: impl Fn(&'a Either<A, B>) -> Option<&'a X>,
) -> Result<Vec<&'a X>> {
    xs.iter().map(|x| of(x).ok_or(Error::OtherDevice)).collect()
}

impl<A: Backend, B: Backend> Backend for Either<A, B> {
    type Tensor = Either<A::Tensor, B::Tensor>;
    type Conv2d = Either<A::Conv2d, B::Conv2d>;
    type Linear = Either<A::Linear, B::Linear>;
    type Embedding = Either<A::Embedding, B::Embedding>;
    type Repeated = Either<A::Repeated, B::Repeated>;

    fn name(&self) -> &str {
        match self {
            First(backend) => backend.name(),
            Second(backend) => backend.name(),
        }
    }

    fn largest(&self) -> f32 {
        match self {
            First(backend) => backend.largest(),
            Second(backend) => backend.largest(),
        }
    }

    fn most_values(&self) -> usize {
        match self {
            First(backend) => backend.most_values(),
            Second(backend) => backend.most_values(),
        }
    }

    fn free_memory(&self) -> Option<u64> {
        match self {
            First(backend) => backend.free_memory(),
            Second(backend) => backend.free_memory(),
        }
    }

    fn repeated(&self) -> Self::Repeated {
        match self {
            First(backend) => First(backend.repeated()),
            Second(backend) => Second(backend.repeated()),
        }
    }

    fn repeat(
        &self,
        repeated: &Self::Repeated,
        inputs: &[&Self::Tensor],
        work: Work<'_, Self::Tensor>,
    ) -> Result<Vec<Self::Tensor>> {
        match (self, repeated) {
            (First(backend), First(repeated)) => {
                let inputs = each(inputs, Either::first)?;
                let out = backend.repeat(repeated, &inputs, &mut |inputs| {
                    let out = work(&inputs.iter().cloned().map(First).collect::<Vec<_>>())?;
                    out.iter().map(|x| x.first().cloned().ok_or(Error::OtherDevice)).collect()
                });
                Ok(out?.into_iter().map(First).collect())
            }
            (Second(backend), Second(repeated)) => {
                let inputs = each(inputs, Either::second)?;
                let out = backend.repeat(repeated, &inputs, &mut |inputs| {
                    let out = work(&inputs.iter().cloned().map(Second).collect::<Vec<_>>())?;
                    out.iter().map(|x| x.second().cloned().ok_or(Error::OtherDevice)).collect()
                });
                Ok(out?.into_iter().map(Second).collect())
            }
            _ => Err(Error::OtherDevice),
        }
    }

    fn tensor(&self, data: Vec<f32>, shape: Shape) -> Result<Self::Tensor> {
        match self {
            First(backend) => backend.tensor(data, shape).map(First),
            Second(backend) => backend.tensor(data, shape).map(Second),
        }
    }

    fn to_vec(&self, x: &Self::Tensor) -> Result<Vec<f32>> {
        match (self, x) {
            (First(backend), First(x)) => backend.to_vec(x),
            (Second(backend), Second(x)) => backend.to_vec(x),
            _ => Err(Error::OtherDevice),
        }
    }

    /// # Panics
    /// For a tensor of the other backend.
    fn shape(&self, x: &Self::Tensor) -> Shape {
        match (self, x) {
            (First(backend), First(x)) => backend.shape(x),
            (Second(backend), Second(x)) => backend.shape(x),
            _ => panic!("{}", Error::OtherDevice),
        }
    }

    fn prepare_conv2d<'a>(
        &self,
        desc: Conv2dDesc,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Result<Self::Conv2d> {
        match self {
            First(backend) => backend.prepare_conv2d(desc, weight, bias, act).map(First),
            Second(backend) => backend.prepare_conv2d(desc, weight, bias, act).map(Second),
        }
    }

    fn conv2d(&self, x: &Self::Tensor, conv: &Self::Conv2d) -> Result<Self::Tensor> {
        on!(self, x, conv => |backend| backend.conv2d(x, conv))
    }

    fn conv2d_residual(
        &self,
        x: &Self::Tensor,
        conv: &Self::Conv2d,
        alpha: f32,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        on!(self, x, conv, residual => |backend| backend.conv2d_residual(x, conv, alpha, residual))
    }

    fn prelu(&self, x: &Self::Tensor, slope: &[f32]) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.prelu(x, slope))
    }

    fn leaky_relu(&self, x: &Self::Tensor, slope: f32) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.leaky_relu(x, slope))
    }

    fn pixel_shuffle(&self, x: &Self::Tensor, factor: usize) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.pixel_shuffle(x, factor))
    }

    fn pixel_shuffle_add_nearest(
        &self,
        x: &Self::Tensor,
        factor: usize,
        base: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        on!(self, x, base => |backend| backend.pixel_shuffle_add_nearest(x, factor, base))
    }

    fn resize(&self, x: &Self::Tensor, h: usize, w: usize, filter: Filter) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.resize(x, h, w, filter))
    }

    fn concat(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor> {
        on_all!(self, xs => |backend| backend.concat(&xs))
    }

    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor> {
        on!(self, a, b => |backend| backend.add(a, b))
    }

    fn scale_add(&self, x: &Self::Tensor, alpha: f32, y: &Self::Tensor) -> Result<Self::Tensor> {
        on!(self, x, y => |backend| backend.scale_add(x, alpha, y))
    }

    fn combine(&self, terms: &[(f32, &Self::Tensor)]) -> Result<Self::Tensor> {
        let (factors, xs): (Vec<f32>, Vec<_>) = terms.iter().copied().unzip();
        let factors = factors.into_iter();
        let xs = xs.as_slice();
        on_all!(self, xs => |backend| backend.combine(&factors.zip(xs).collect::<Vec<_>>()))
    }

    fn clamp(&self, x: &Self::Tensor, limit: f32) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.clamp(x, limit))
    }

    fn blend(&self, x: &Self::Tensor, y: &Self::Tensor, mask: &Self::Tensor) -> Result<Self::Tensor> {
        on!(self, x, y, mask => |backend| backend.blend(x, y, mask))
    }

    fn prepare_linear<'a>(
        &self,
        inputs: usize,
        outputs: usize,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear> {
        match self {
            First(backend) => backend.prepare_linear(inputs, outputs, weight, bias).map(First),
            Second(backend) => backend.prepare_linear(inputs, outputs, weight, bias).map(Second),
        }
    }

    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor> {
        on!(self, x, linear => |backend| backend.linear(x, linear))
    }

    fn linear_residual(
        &self,
        x: &Self::Tensor,
        linear: &Self::Linear,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        on!(self, x, linear, residual => |backend| backend.linear_residual(x, linear, residual))
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        mask: Mask,
    ) -> Result<Self::Tensor> {
        on!(self, q, k, v => |backend| backend.attention(q, k, v, heads, mask))
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
        on!(self, x, weight, bias => |backend| backend.group_norm(x, groups, weight, bias, eps, act))
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor> {
        on!(self, x, weight, bias => |backend| backend.layer_norm(x, weight, bias, eps))
    }

    fn unary(&self, x: &Self::Tensor, f: Unary) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.unary(x, f))
    }

    fn geglu(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.geglu(x))
    }

    fn add_channels(&self, x: &Self::Tensor, bias: &Self::Tensor) -> Result<Self::Tensor> {
        on!(self, x, bias => |backend| backend.add_channels(x, bias))
    }

    fn to_tokens(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.to_tokens(x))
    }

    fn from_tokens(&self, x: &Self::Tensor, h: usize, w: usize) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.from_tokens(x, h, w))
    }

    fn pad(&self, x: &Self::Tensor, right: usize, bottom: usize) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.pad(x, right, bottom))
    }

    fn stack(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor> {
        on_all!(self, xs => |backend| backend.stack(&xs))
    }

    fn images(&self, x: &Self::Tensor, first: usize, count: usize) -> Result<Self::Tensor> {
        on!(self, x => |backend| backend.images(x, first, count))
    }

    fn timestep_embedding(&self, values: &[f32], batch: usize, timesteps: Timesteps) -> Result<Self::Tensor> {
        match self {
            First(backend) => backend.timestep_embedding(values, batch, timesteps).map(First),
            Second(backend) => backend.timestep_embedding(values, batch, timesteps).map(Second),
        }
    }

    fn prepare_embedding(&self, count: usize, features: usize, rows: Rows) -> Result<Self::Embedding> {
        match self {
            First(backend) => backend.prepare_embedding(count, features, rows).map(First),
            Second(backend) => backend.prepare_embedding(count, features, rows).map(Second),
        }
    }

    fn embedding(
        &self,
        sequences: &[&[u32]],
        table: &Self::Embedding,
        positions: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        on!(self, table, positions => |backend| backend.embedding(sequences, table, positions))
    }

    fn from_pixels(&self, pixels: &[u8], shape: Shape, range: PixelRange) -> Result<Self::Tensor> {
        match self {
            First(backend) => backend.from_pixels(pixels, shape, range).map(First),
            Second(backend) => backend.from_pixels(pixels, shape, range).map(Second),
        }
    }

    fn to_pixels(&self, x: &Self::Tensor, range: PixelRange) -> Result<Vec<u8>> {
        match (self, x) {
            (First(backend), First(x)) => backend.to_pixels(x, range),
            (Second(backend), Second(x)) => backend.to_pixels(x, range),
            _ => Err(Error::OtherDevice),
        }
    }
}
