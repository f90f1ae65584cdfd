//! The GPU backend: hand-written PTX in `kernels/ptx`, fp16 in memory and fp32 in sums.
//!
//! [`GpuBackend`] checks shapes, chooses variants and launches; [`Device`] is where it meets the CUDA driver, or in tests
//! the PTX interpreter. Tensors lie as N, H, W, C (channels last) without gaps, so that pixels are the rows of matrices and a
//! sequence of (N, 1, T, C) is its rows one after another: going between pictures and tokens moves nothing.

mod catalogue;
pub mod cuda;
mod device;
mod ops;
mod repeated;
mod template;
mod tensor;

use std::sync::Arc;

use crate::backend::{
    Activation, Backend, Conv2dDesc, Filter, Mask, PixelRange, Rows, Shape, Timesteps, Unary, Work,
    check_len, check_shape, check_slope,
};
use crate::checks::{self, same_shape};
use crate::error::{Error, Result};
use crate::weight::Weight;

pub use catalogue::{Variant, variants};
pub use device::{Arg, Device, Launch, Recording, TensorMap};
pub use ops::{ceiling, conv2d::GpuConv2d, embedding::GpuEmbedding, linear::GpuLinear};
use repeated::Recordings;
pub use repeated::Repeated;
pub use tensor::GpuTensor;
use tensor::shapes;

/// Runs tensor operations on a GPU.
///
/// Values are kept in fp16: what exceeds 65504 becomes infinite.
pub struct GpuBackend<D: Device> {
    device: D,
    /// Those of all lanes.
    recordings: Arc<Recordings<D>>,
    most_values: usize,
}

impl<D: Device> GpuBackend<D> {
    /// A backend on this device.
    pub fn new(device: D) -> Self {
        // Kernels number values in 32 bits.
        Self { device, recordings: Arc::default(), most_values: i32::MAX as usize }
    }

    /// The same with tensors of fewer values, at most `values`.
    pub fn with_most_values(self, values: usize) -> Self {
        Self { most_values: values.min(self.most_values), ..self }
    }

    /// The same, with at most so many recordings of each piece of work that is repeated: one for each combination of shapes that
    /// comes often. 16 unless set.
    pub fn keeping(self, recordings: usize) -> Self {
        Self { recordings: Arc::new(Recordings::keeping(recordings)), ..self }
    }

    /// A backend on another lane of the device: what both compute may overlap, and each may use the other's tensors and layers.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn lane(&self) -> Result<Self> {
        let (device, recordings) = (self.device.lane()?, self.recordings.clone());
        Ok(Self { device, recordings, most_values: self.most_values })
    }

    /// Whether attention at these sizes is by `wgmma` where the device has it: `width` of a head, and how many queries and keys.
    pub fn attends_by_wgmma(width: usize, queries: usize, keys: usize, causal: bool) -> bool {
        ops::attention::by_wgmma(width, queries, keys, causal)
    }

    /// What it runs on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Memory, for which recordings give theirs where there is no other.
    fn allocate(&self, bytes: usize) -> Result<D::Buffer> {
        self.with_room(|| self.device.allocate(bytes))
    }

    /// Launches what an operation of [`ops`] asks for. Where the driver has no memory for that, recordings give theirs.
    #[allow(unsafe_code, reason = "the one place where kernels are launched")]
    fn launch(
        &self,
        variant: &Variant,
        entry: &'static str,
        launch: Launch,
        args: &[Arg<'_, D::Buffer>],
    ) -> Result<()> {
        // SAFETY: private to the operations. Each allocates its results by the shape that it gives the kernel, has the shapes
        // of its inputs checked, which their buffers were allocated by, and makes grid and indices from those. Each is run in the
        // interpreter, at sizes around every bound, which checks all accesses.
        self.with_room(|| unsafe { self.device.launch(variant, entry, launch, args) })
    }

    /// Does `call`; where there is no memory for that, again after a recording gave its own, until there is.
    fn with_room<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match call() {
                Err(Error::OutOfMemory { .. }) if self.recordings.forget() => {}
                done => return done,
            }
        }
    }

    /// A tensor with nothing written to it.
    fn empty(&self, shape: Shape) -> Result<GpuTensor<D>> {
        let values = check_shape(shape).ok().filter(|values| *values <= self.most_values);
        let values = values.ok_or(Error::InvalidShape { shape })?;
        Ok(GpuTensor { buffer: Arc::new(self.allocate(2 * values)?), shape })
    }

    /// A buffer with these bytes.
    fn filled(&self, bytes: &[u8]) -> Result<D::Buffer> {
        let buffer = self.allocate(bytes.len())?;
        self.device.upload(&buffer, bytes)?;
        Ok(buffer)
    }

    /// A buffer of so many bytes, which `write` puts there some at a time; see [`Device::write`].
    fn written(&self, bytes: usize, mut write: impl FnMut(usize, &mut [u8])) -> Result<D::Buffer> {
        let buffer = self.allocate(bytes)?;
        self.device.write(&buffer, bytes, &mut write)?;
        Ok(buffer)
    }

    /// A buffer of fp32.
    fn floats(&self, values: &[f32]) -> Result<D::Buffer> {
        self.filled(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }
}

impl<D: Device> Backend for GpuBackend<D> {
    type Tensor = GpuTensor<D>;
    type Conv2d = GpuConv2d<D>;
    type Linear = GpuLinear<D>;
    type Embedding = GpuEmbedding<D>;
    type Repeated = Repeated<D>;

    fn name(&self) -> &str {
        self.device.name()
    }

    fn largest(&self) -> f32 {
        half::f16::MAX.to_f32()
    }

    fn most_values(&self) -> usize {
        self.most_values
    }

    fn repeated(&self) -> Self::Repeated {
        self.recordings.repeated()
    }

    fn repeat(
        &self,
        repeated: &Self::Repeated,
        inputs: &[&Self::Tensor],
        work: Work<'_, Self::Tensor>,
    ) -> Result<Vec<Self::Tensor>> {
        repeated.run(self, inputs, work)
    }

    fn tensor(&self, data: Vec<f32>, shape: Shape) -> Result<Self::Tensor> {
        let expected = check_shape(shape)?;
        if data.len() != expected {
            return Err(Error::DataLength { shape, expected, actual: data.len() });
        }
        let out = self.empty(shape)?;
        ops::layout::from_planes(self, &self.floats(&data)?, &out)?;
        Ok(out)
    }

    fn to_vec(&self, x: &Self::Tensor) -> Result<Vec<f32>> {
        let planes = ops::layout::to_planes(self, x)?;
        let mut bytes = vec![0; 4 * x.len()];
        self.device.download(&planes, &mut bytes)?;
        let (values, _) = bytes.as_chunks::<4>();
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn shape(&self, x: &Self::Tensor) -> Shape {
        x.shape
    }

    fn prepare_conv2d<'a>(
        &self,
        desc: Conv2dDesc,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Result<Self::Conv2d> {
        let weight = weight.into();
        desc.validate(weight, bias, &act)?;
        GpuConv2d::new(self, desc, weight, bias, &act)
    }

    fn conv2d(&self, x: &Self::Tensor, conv: &Self::Conv2d) -> Result<Self::Tensor> {
        conv.run(self, x, None)
    }

    fn conv2d_residual(
        &self,
        x: &Self::Tensor,
        conv: &Self::Conv2d,
        alpha: f32,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        same_shape("conv2d_residual", conv.desc.output_shape(x.shape)?, residual.shape)?;
        conv.run(self, x, Some((alpha, residual)))
    }

    fn prelu(&self, x: &Self::Tensor, slope: &[f32]) -> Result<Self::Tensor> {
        check_slope("PReLU slope", x.shape[1], slope)?;
        ops::elementwise::prelu(self, x, slope)
    }

    fn pixel_shuffle(&self, x: &Self::Tensor, factor: usize) -> Result<Self::Tensor> {
        ops::pixel_shuffle::pixel_shuffle(self, x, factor, None, checks::pixel_shuffle(x.shape, factor)?)
    }

    fn pixel_shuffle_add_nearest(
        &self,
        x: &Self::Tensor,
        factor: usize,
        base: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        let shape = checks::pixel_shuffle(x.shape, factor)?;
        let [n, c, ..] = shape;
        same_shape("pixel_shuffle_add_nearest", [n, c, x.shape[2], x.shape[3]], base.shape)?;
        ops::pixel_shuffle::pixel_shuffle(self, x, factor, Some(base), shape)
    }

    fn resize(&self, x: &Self::Tensor, h: usize, w: usize, filter: Filter) -> Result<Self::Tensor> {
        ops::resize::resize(self, x, [x.shape[0], x.shape[1], h, w], filter)
    }

    fn concat(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor> {
        ops::copies::concat(self, xs, checks::concat(&shapes(xs))?)
    }

    fn scale_add(&self, x: &Self::Tensor, alpha: f32, y: &Self::Tensor) -> Result<Self::Tensor> {
        same_shape("scale_add", x.shape, y.shape)?;
        ops::elementwise::scale_add(self, x, alpha, y)
    }

    fn combine(&self, terms: &[(f32, &Self::Tensor)]) -> Result<Self::Tensor> {
        checks::combine(terms.iter().map(|(_, x)| x.shape))?;
        ops::combine::combine(self, terms)
    }

    fn clamp(&self, x: &Self::Tensor, limit: f32) -> Result<Self::Tensor> {
        ops::combine::clamp(self, x, limit)
    }

    fn blend(&self, x: &Self::Tensor, y: &Self::Tensor, mask: &Self::Tensor) -> Result<Self::Tensor> {
        checks::blend(x.shape, y.shape, mask.shape)?;
        ops::combine::blend(self, x, y, mask)
    }

    fn prepare_linear<'a>(
        &self,
        inputs: usize,
        outputs: usize,
        weight: impl Into<Weight<'a>>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear> {
        let weight = weight.into();
        check_len("linear weight", check_shape([1, 1, outputs, inputs])?, weight.len())?;
        if let Some(bias) = bias {
            check_len("linear bias", outputs, bias.len())?;
        }
        GpuLinear::new(self, inputs, outputs, weight, bias)
    }

    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor> {
        x.check_rows("linear")?;
        linear.run(self, x, None, checks::linear("linear", x.shape, linear.inputs, linear.outputs)?)
    }

    fn linear_residual(
        &self,
        x: &Self::Tensor,
        linear: &Self::Linear,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        x.check_rows("linear_residual")?;
        let shape = checks::linear("linear_residual", x.shape, linear.inputs, linear.outputs)?;
        same_shape("linear_residual", shape, residual.shape)?;
        linear.run(self, x, Some(residual), shape)
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        mask: Mask,
    ) -> Result<Self::Tensor> {
        checks::attention(q.shape, k.shape, v.shape, heads)?;
        ops::attention::attention(self, [q, k, v], heads, mask)
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
        checks::group_norm(x.shape, groups, weight.shape, bias.shape)?;
        ops::norm::group_norm(self, x, groups, [weight, bias], eps, act)
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor> {
        x.check_rows("layer_norm")?;
        checks::layer_norm(x.shape, weight.shape, bias.shape)?;
        ops::norm::layer_norm(self, x, [weight, bias], eps)
    }

    fn unary(&self, x: &Self::Tensor, f: Unary) -> Result<Self::Tensor> {
        ops::elementwise::unary(self, x, f)
    }

    fn geglu(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        x.check_rows("geglu")?;
        ops::elementwise::geglu(self, x, checks::geglu(x.shape)?)
    }

    fn add_channels(&self, x: &Self::Tensor, bias: &Self::Tensor) -> Result<Self::Tensor> {
        same_shape("add_channels", [x.shape[0], 1, 1, x.shape[1]], bias.shape)?;
        ops::elementwise::add_channels(self, x, bias)
    }

    fn to_tokens(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        let [n, c, h, w] = x.shape;
        Ok(x.reshaped([n, 1, h * w, c]))
    }

    fn from_tokens(&self, x: &Self::Tensor, h: usize, w: usize) -> Result<Self::Tensor> {
        Ok(x.reshaped(checks::from_tokens(x.shape, h, w)?))
    }

    fn pad(&self, x: &Self::Tensor, right: usize, bottom: usize) -> Result<Self::Tensor> {
        ops::copies::pad(self, x, checks::pad(x.shape, right, bottom)?)
    }

    fn stack(&self, xs: &[&Self::Tensor]) -> Result<Self::Tensor> {
        ops::copies::stack(self, xs, checks::stack(&shapes(xs))?)
    }

    fn images(&self, x: &Self::Tensor, first: usize, count: usize) -> Result<Self::Tensor> {
        ops::copies::images(self, x, first, checks::images(x.shape, first, count)?)
    }

    fn timestep_embedding(&self, values: &[f32], batch: usize, timesteps: Timesteps) -> Result<Self::Tensor> {
        let shape = checks::timestep_embedding(values.len(), batch, timesteps.num_channels)?;
        ops::timesteps::timestep_embedding(self, values, timesteps, shape)
    }

    fn prepare_embedding(&self, count: usize, features: usize, rows: Rows) -> Result<Self::Embedding> {
        GpuEmbedding::new(self, count, features, &rows)
    }

    fn embedding(
        &self,
        sequences: &[&[u32]],
        table: &Self::Embedding,
        positions: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        let shape = checks::embedding(sequences, table.count, table.features, positions.shape)?;
        table.look_up(self, sequences, positions, shape)
    }

    fn from_pixels(&self, pixels: &[u8], shape: Shape, range: PixelRange) -> Result<Self::Tensor> {
        checks::from_pixels(pixels.len(), shape)?;
        ops::pixels::from_pixels(self, pixels, shape, range)
    }

    fn to_pixels(&self, x: &Self::Tensor, range: PixelRange) -> Result<Vec<u8>> {
        checks::pixels("to_pixels", x.shape)?;
        ops::pixels::to_pixels(self, x, range)
    }
}
