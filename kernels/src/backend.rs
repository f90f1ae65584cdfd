//! The contract between the models and the devices that run them.

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    weight::Weight,
};

/// The axes of a tensor: batch, channels, rows, columns.
pub type Shape = [usize; 4];

/// A two-dimensional convolution (cross-correlation, as in every deep-learning framework) with a square
/// kernel, one group, no dilation and zero padding on all four sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv2dDesc {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Side of the kernel; odd.
    pub kernel: usize,
    /// Step between two output pixels, in input pixels; at least 1.
    pub stride: usize,
    /// Zeros around the input, in pixels.
    pub padding: usize,
}

impl Conv2dDesc {
    /// A `kernel`×`kernel` convolution that keeps the size of the image: stride 1, padding `kernel / 2`.
    pub const fn same(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self { in_channels, out_channels, kernel, stride: 1, padding: kernel / 2 }
    }

    /// How many values the weights have (out, in, row, column order).
    pub const fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.kernel * self.kernel
    }

    /// [`Conv2dDesc::weight_len`] where it can be addressed.
    fn checked_weight_len(&self) -> Option<usize> {
        let channels = self.out_channels.checked_mul(self.in_channels)?;
        channels.checked_mul(self.kernel)?.checked_mul(self.kernel)
    }

    /// The output's shape for an input of `shape`.
    ///
    /// # Errors
    /// [`Error::ConvChannels`] or [`Error::ConvInputTooSmall`].
    pub fn output_shape(&self, shape: Shape) -> Result<Shape> {
        let [n, c, h, w] = shape;
        if c != self.in_channels {
            return Err(Error::ConvChannels { expected: self.in_channels, shape });
        }
        let side = |len: usize| {
            let padded = self.padding.checked_mul(2)?.checked_add(len)?;
            padded.checked_sub(self.kernel).map(|x| x / self.stride + 1)
        };
        match (side(h), side(w)) {
            (Some(oh), Some(ow)) => Ok([n, self.out_channels, oh, ow]),
            _ => Err(Error::ConvInputTooSmall { shape, desc: *self }),
        }
    }

    /// Checks the description itself and the lengths of its parameters.
    pub(crate) fn validate(&self, weight: Weight<'_>, bias: Option<&[f32]>, act: &Activation) -> Result<()> {
        let invalid = Error::InvalidConv { desc: *self };
        if self.in_channels == 0
            || self.out_channels == 0
            || self.kernel.is_multiple_of(2)
            || self.stride == 0
        {
            return Err(invalid);
        }
        check_len("convolution weight", self.checked_weight_len().ok_or(invalid)?, weight.len())?;
        if let Some(bias) = bias {
            check_len("convolution bias", self.out_channels, bias.len())?;
        }
        match act {
            Activation::PRelu(slope) => check_slope("PReLU slope", self.out_channels, slope),
            Activation::None | Activation::LeakyRelu(_) => Ok(()),
        }
    }
}

/// Refuses parameters of another length than `expected`.
pub(crate) fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::ParameterLength { what, expected, actual }) }
}

/// A slope is given once for all channels or once for each.
pub(crate) fn check_slope(what: &'static str, channels: usize, slope: &[f32]) -> Result<()> {
    if slope.len() == 1 { Ok(()) } else { check_len(what, channels, slope.len()) }
}

/// The number of elements of `shape`.
///
/// # Errors
/// [`Error::InvalidShape`] where an axis is empty or the bytes would not be addressable.
pub(crate) fn check_shape(shape: Shape) -> Result<usize> {
    let elements = shape.iter().try_fold(1usize, |n, &x| n.checked_mul(x));
    match elements {
        // 16 bytes an element leaves room for the padding of any internal layout.
        Some(n) if n > 0 && n <= isize::MAX as usize / (16 * 16) => Ok(n),
        _ => Err(Error::InvalidShape { shape }),
    }
}

/// What is applied to each output of a convolution, after its bias.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `x > 0 ? x : slope[c] * x`, with one slope for each output channel, or a single one for all.
    PRelu(Vec<f32>),
    /// `x > 0 ? x : slope * x`. A slope of 0 is ReLU.
    LeakyRelu(f32),
}

/// How [`Backend::resize`] computes a pixel of the new size from the old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// The pixel at `floor(x * old / new)`: `torch.nn.functional.interpolate(mode="nearest")`.
    Nearest,
    /// Two taps an axis: `interpolate(mode="bilinear", align_corners=False)`.
    Bilinear,
    /// Four taps an axis, Keys' cubic with a = -0.75: `interpolate(mode="bicubic", align_corners=False)`.
    Bicubic,
    /// Windowed sinc of radius 3, as in Pillow's `Image.resize(LANCZOS)` for enlargements: taps that fall
    /// outside of the image are left out and the others renormalised. Like the other filters it does not
    /// widen its support to reduce an image, so reductions alias.
    Lanczos3,
}

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unary {
    /// `x`.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
    /// `x * Φ(x)` by the error function: `torch.nn.GELU()`.
    Gelu,
    /// `x * sigmoid(1.702 x)`: CLIP's GELU.
    QuickGelu,
    /// `tanh(x)`.
    Tanh,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mask {
    /// All.
    None,
    /// Those at its own position and before it.
    Causal,
}

/// Sinusoids of numbers (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", after Vaswani et al. 2017): diffusers'
/// `Timesteps`. With h = `num_channels` / 2, sin(t f) and cos(t f) for the h frequencies
/// f = 10000^(-i / (h - `downscale_freq_shift`)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timesteps {
    /// Features of each number's embedding. Where it is odd, the last is zero.
    pub num_channels: usize,
    /// Whether the cosines come first.
    pub flip_sin_to_cos: bool,
    /// What is taken off the number of frequencies where they are spaced.
    pub downscale_freq_shift: f32,
}

/// The values that the 256 steps of a pixel's channel stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelRange {
    /// 0 to 1. Towards pixels halves are rounded up.
    Unit,
    /// -1 to 1. Towards pixels halves are rounded to even, as numpy does for diffusers.
    Signed,
}

/// The rows of a table by their numbers, read when they are asked for; an error where one can't be read any more.
pub type Rows = Arc<dyn Fn(usize) -> Result<Vec<f32>> + Send + Sync>;

/// From tensors to tensors.
pub type Work<'a, T> = &'a mut dyn FnMut(&[T]) -> Result<Vec<T>>;

/// The tensor operations that the models need, on one device.
///
/// Tensors hold `f32` values as N, C, H, W to the outside; how they lie in memory is the backend's affair.
/// A sequence of T tokens of C features is a tensor of shape (N, 1, T, C).
/// They are immutable and cheap to clone. No method panics on shapes that do not fit: it returns an
/// [`Error`] that names them.
pub trait Backend: Send + Sync + 'static {
    /// A tensor on the device; cloning shares the data.
    type Tensor: Clone + Send + Sync + 'static;
    /// A convolution with its weights laid out for the device.
    type Conv2d: Send + Sync + 'static;
    /// A matrix with its weights laid out for the device.
    type Linear: Send + Sync + 'static;
    /// A table of which rows are looked up.
    type Embedding: Send + Sync + 'static;
    /// What is remembered of work that is done again and again.
    type Repeated: Send + Sync + 'static;

    /// The device in words, for logs and reports.
    fn name(&self) -> &str;

    /// The largest finite value that a tensor holds. Where it is less than fp32's, models scale what would pass it.
    fn largest(&self) -> f32 {
        f32::MAX
    }

    /// The most values of one tensor, beyond which [`Error::InvalidShape`] refuses it.
    fn most_values(&self) -> usize {
        usize::MAX
    }

    /// The bytes of memory that are free for tensors; none where that is not known.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    /// Nothing to remember yet.
    fn repeated(&self) -> Self::Repeated;

    /// Does `work` with these inputs. It must be the same each time for one `repeated`: a device may record what it does and,
    /// for inputs of the same shapes, replay that without calling it. So whatever changes must be among the inputs, and nothing
    /// but the results may outlive the work.
    ///
    /// # Errors
    /// Those of `work`; a device may fail.
    fn repeat(
        &self,
        repeated: &Self::Repeated,
        inputs: &[&Self::Tensor],
        work: Work<'_, Self::Tensor>,
    ) -> Result<Vec<Self::Tensor>>;

    /// Brings `data`, in N, C, H, W order, to the device.
    ///
    /// # Errors
    /// [`Error::InvalidShape`], [`Error::DataLength`].
    fn tensor(&self, data: Vec<f32>, shape: Shape) -> Result<Self::Tensor>;

    /// The values of `x` in N, C, H, W order. Waits for the device.
    ///
    /// # Errors
    /// None on the CPU; a device may fail.
    fn to_vec(&self, x: &Self::Tensor) -> Result<Vec<f32>>;

    /// N, C, H, W.
    fn shape(&self, x: &Self::Tensor) -> Shape;

    /// Prepares a convolution once, to be run many times. `weight` is in out, in, row, column order;
    /// `bias`, where there is one, has a value for each output channel.
    ///
    /// # Errors
    /// [`Error::InvalidConv`], [`Error::ParameterLength`].
    fn prepare_conv2d<'a>(
        &self,
        desc: Conv2dDesc,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Result<Self::Conv2d>;

    /// `act(conv(x) + bias)`.
    ///
    /// # Errors
    /// [`Error::ConvChannels`], [`Error::ConvInputTooSmall`].
    fn conv2d(&self, x: &Self::Tensor, conv: &Self::Conv2d) -> Result<Self::Tensor>;

    /// `act(conv(x) + bias) * alpha + residual`, in one pass where the backend can.
    ///
    /// # Errors
    /// Those of [`Backend::conv2d`], and [`Error::ShapeMismatch`] where the residual has another shape than
    /// the convolution's output.
    fn conv2d_residual(
        &self,
        x: &Self::Tensor,
        conv: &Self::Conv2d,
        alpha: f32,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.scale_add(&self.conv2d(x, conv)?, alpha, residual)
    }

    /// `x > 0 ? x : slope[c] * x`; `slope` has a value for each channel, or a single one for all.
    ///
    /// # Errors
    /// [`Error::ParameterLength`].
    fn prelu(&self, x: &Self::Tensor, slope: &[f32]) -> Result<Self::Tensor>;

    /// `x > 0 ? x : slope * x`.
    ///
    /// # Errors
    /// None on the CPU; a device may fail.
    fn leaky_relu(&self, x: &Self::Tensor, slope: f32) -> Result<Self::Tensor> {
        self.prelu(x, &[slope])
    }

    /// Turns (N, C·f², H, W) into (N, C, H·f, W·f), in the channel order of `torch.nn.PixelShuffle`: the
    /// output at (c, y·f + i, x·f + j) is the input at (c·f² + i·f + j, y, x).
    ///
    /// # Errors
    /// [`Error::PixelShuffle`].
    fn pixel_shuffle(&self, x: &Self::Tensor, factor: usize) -> Result<Self::Tensor>;

    /// `pixel_shuffle(x, factor) + nearest(base)`, where `base` of (N, C, H, W) is enlarged by `factor`.
    /// In one pass where the backend can: at the enlarged size, memory traffic is what counts.
    ///
    /// # Errors
    /// [`Error::PixelShuffle`], and [`Error::ShapeMismatch`] where `base` is not (N, C, H, W).
    fn pixel_shuffle_add_nearest(
        &self,
        x: &Self::Tensor,
        factor: usize,
        base: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        let shuffled = self.pixel_shuffle(x, factor)?;
        let [n, c, h, w] = self.shape(&shuffled);
        let expected = [n, c, h / factor, w / factor];
        if self.shape(base) != expected {
            return Err(Error::ShapeMismatch {
                operation: "pixel_shuffle_add_nearest",
                left: expected,
                right: self.shape(base),
            });
        }
        self.add(&shuffled, &self.resize(base, h, w, Filter::Nearest)?)
    }

    /// `x` at `h` rows and `w` columns, both at least 1; pixel centres are at half-integers
    /// (`align_corners=False`).
    ///
    /// # Errors
    /// [`Error::InvalidShape`].
    fn resize(&self, x: &Self::Tensor, h: usize, w: usize, filter: Filter) -> Result<Self::Tensor>;

    /// Joins tensors along the channels.
    ///
    /// # Errors
    /// [`Error::NothingToConcat`]; [`Error::ShapeMismatch`] where batch, rows or columns differ.
    fn concat(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor>;

    /// `a + b`, of equal shapes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor> {
        self.scale_add(a, 1.0, b)
    }

    /// `x * alpha + y`, of equal shapes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    fn scale_add(&self, x: &Self::Tensor, alpha: f32, y: &Self::Tensor) -> Result<Self::Tensor>;

    /// `Σ factor · x` over one or more `terms` of equal shapes: guidance, and the updates of a sampler. Summed in fp32 in the
    /// order of the terms. Of 6 terms or fewer it is one pass, and what comes out is rounded once.
    ///
    /// # Errors
    /// [`Error::NothingToCombine`], [`Error::ShapeMismatch`].
    fn combine(&self, terms: &[(f32, &Self::Tensor)]) -> Result<Self::Tensor>;

    /// Each value held within -`limit`..`limit`; NaN stays.
    ///
    /// # Errors
    /// None on the CPU; a device may fail.
    fn clamp(&self, x: &Self::Tensor, limit: f32) -> Result<Self::Tensor>;

    /// `x * mask + y * (1 - mask)`, of equal shapes: `x` where the mask is 1, `y` where it is 0.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    fn blend(&self, x: &Self::Tensor, y: &Self::Tensor, mask: &Self::Tensor) -> Result<Self::Tensor>;

    /// Prepares `y = x Wᵀ + b` once, to be run many times. `weight` is in out, in order, as in PyTorch;
    /// `bias`, where there is one, has a value for each output.
    ///
    /// # Errors
    /// [`Error::ParameterLength`].
    fn prepare_linear<'a>(
        &self,
        inputs: usize,
        outputs: usize,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear>;

    /// `x Wᵀ + b` for every row: (N, 1, T, in) to (N, 1, T, out).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor>;

    /// `x Wᵀ + b + residual`, in one pass where the backend can.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    fn linear_residual(
        &self,
        x: &Self::Tensor,
        linear: &Self::Linear,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.add(&self.linear(x, linear)?, residual)
    }

    /// `softmax(q kᵀ / √d + mask) v`, by heads of d = C / `heads` neighbouring features each; the N×N matrix
    /// is never held as a whole. `q` is (N, 1, T, C); `k` and `v` are (N, 1, S, C).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`]; [`Error::Heads`] where `heads` does not divide C.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        mask: Mask,
    ) -> Result<Self::Tensor>;

    /// `torch.nn.GroupNorm` followed by `act`, in one pass: statistics over the C / `groups` neighbouring
    /// channels of an image; `weight` and `bias` are (1, 1, 1, C).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`]; [`Error::Groups`] where `groups` does not divide C.
    fn group_norm(
        &self,
        x: &Self::Tensor,
        groups: usize,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
        act: Unary,
    ) -> Result<Self::Tensor>;

    /// `torch.nn.LayerNorm` over the last axis; `weight` and `bias` are (1, 1, 1, W).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor>;

    /// `f` of each value.
    ///
    /// # Errors
    /// None on the CPU; a device may fail.
    fn unary(&self, x: &Self::Tensor, f: Unary) -> Result<Self::Tensor>;

    /// (N, 1, T, 2C) to (N, 1, T, C): the first half times the GELU of the second (Shazeer 2020, "GLU Variants
    /// Improve Transformer").
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where the last axis is odd.
    fn geglu(&self, x: &Self::Tensor) -> Result<Self::Tensor>;

    /// Adds one value to each channel: `x` is (N, C, H, W), `bias` (N, 1, 1, C).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    fn add_channels(&self, x: &Self::Tensor, bias: &Self::Tensor) -> Result<Self::Tensor>;

    /// The pixels as a sequence, row after row: (N, C, H, W) to (N, 1, H·W, C).
    ///
    /// # Errors
    /// None on the CPU; a device may fail.
    fn to_tokens(&self, x: &Self::Tensor) -> Result<Self::Tensor>;

    /// The inverse of [`Backend::to_tokens`]: (N, 1, H·W, C) to (N, C, H, W).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where the tokens are not `h`·`w`.
    #[expect(clippy::wrong_self_convention, reason = "the counterpart of `to_tokens`")]
    fn from_tokens(&self, x: &Self::Tensor, h: usize, w: usize) -> Result<Self::Tensor>;

    /// Zeros added at the right and at the bottom, in pixels.
    ///
    /// # Errors
    /// [`Error::InvalidShape`].
    fn pad(&self, x: &Self::Tensor, right: usize, bottom: usize) -> Result<Self::Tensor>;

    /// Joins tensors along the batch.
    ///
    /// # Errors
    /// [`Error::NothingToConcat`]; [`Error::ShapeMismatch`] where another axis differs.
    fn stack(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor>;

    /// `count` images of a batch, from the one numbered `first` on.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where the batch has fewer.
    fn images(&self, x: &Self::Tensor, first: usize, count: usize) -> Result<Self::Tensor>;

    /// The sinusoids of `values`, which are as many for each entry of a batch of `batch`: (batch, 1, 1, C), where C is
    /// `num_channels` times that number. Values are up to some 10^5: of larger ones, `f32` has too few digits.
    ///
    /// # Errors
    /// [`Error::InvalidShape`] where there is nothing; [`Error::DataLength`] where `batch` does not divide the values.
    fn timestep_embedding(&self, values: &[f32], batch: usize, timesteps: Timesteps) -> Result<Self::Tensor>;

    /// Prepares a table of `count` rows of `features` values, once, to be looked up many times. A device reads all rows now;
    /// the CPU keeps `rows` and reads those that are looked up.
    ///
    /// # Errors
    /// [`Error::InvalidShape`]; [`Error::ParameterLength`] for a row of another length, and what `rows` returns for one that
    /// can't be read: here or when it is looked up.
    fn prepare_embedding(&self, count: usize, features: usize, rows: Rows) -> Result<Self::Embedding>;

    /// `torch.nn.Embedding` plus that of the positions: for N `sequences` of T ids each, the rows that the ids name, each plus
    /// the row of `positions`, (1, 1, at least T, C), that its place in the sequence names: (N, 1, T, C).
    ///
    /// # Errors
    /// [`Error::InvalidShape`] where there are no ids; [`Error::DataLength`] for sequences of different lengths;
    /// [`Error::Row`] for an id past the table's end; [`Error::ShapeMismatch`] where the positions do not fit.
    fn embedding(
        &self,
        sequences: &[&[u32]],
        table: &Self::Embedding,
        positions: &Self::Tensor,
    ) -> Result<Self::Tensor>;

    /// Brings pictures to the device: `pixels` are N pictures of H rows of W pixels of 3 bytes, `shape` is (N, 3, H, W).
    ///
    /// # Errors
    /// [`Error::InvalidShape`], [`Error::DataLength`]; [`Error::ShapeMismatch`] for other than 3 channels.
    #[expect(clippy::wrong_self_convention, reason = "the counterpart of `to_pixels`")]
    fn from_pixels(&self, pixels: &[u8], shape: Shape, range: PixelRange) -> Result<Self::Tensor>;

    /// The inverse of [`Backend::from_pixels`]. Values out of range are clamped. Waits for the device.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for other than 3 channels.
    fn to_pixels(&self, x: &Self::Tensor, range: PixelRange) -> Result<Vec<u8>>;
}
