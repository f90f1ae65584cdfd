//! Convolutions.

use super::gemm::{self, Matrix, Window};
use crate::backend::{Activation, Conv2dDesc};
use crate::error::{Error, Result};
use crate::gpu::{Device, GpuBackend, GpuTensor, Variant};
use crate::weight::Weight;

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    gemm::variants(true)
}

/// A convolution with weights on the device.
pub struct GpuConv2d<D: Device> {
    pub(in crate::gpu) desc: Conv2dDesc,
    matrix: Matrix<D>,
}

impl<D: Device> GpuConv2d<D> {
    pub(in crate::gpu) fn new(
        gpu: &GpuBackend<D>,
        desc: Conv2dDesc,
        weight: Weight<'_>,
        bias: Option<&[f32]>,
        act: &Activation,
    ) -> Result<Self> {
        let slopes = match act {
            Activation::None => &[1.0][..],
            Activation::PRelu(slopes) => slopes,
            Activation::LeakyRelu(slope) => std::slice::from_ref(slope),
        };
        let sides = [desc.out_channels, desc.in_channels, desc.kernel * desc.kernel];
        Ok(Self { desc, matrix: Matrix::new(gpu, sides, weight, bias, slopes)? })
    }

    /// `act(conv(x) + bias)`, times a factor plus a residual of the output's shape where there is one.
    pub(in crate::gpu) fn run(
        &self,
        gpu: &GpuBackend<D>,
        x: &GpuTensor<D>,
        residual: Option<(f32, &GpuTensor<D>)>,
    ) -> Result<GpuTensor<D>> {
        let shape = self.desc.output_shape(x.shape)?;
        let ([.., height, width], [.., out_height, out_width]) = (x.shape, shape);
        let Conv2dDesc { kernel, stride, padding, .. } = self.desc;
        // Pixels have coordinates of 32 bits, with a sign.
        if height.max(width) + 2 * padding > i32::MAX as usize {
            return Err(Error::InvalidConv { desc: self.desc });
        }
        // A longer step than the picture is never taken.
        let stride = stride.min(i32::MAX as usize);
        let window = Window { height, width, out_height, out_width, kernel, stride, padding };
        // Pixels by themselves, in their order, are the rows of a matrix.
        let pixels = (kernel, stride, padding) == (1, 1, 0);
        self.matrix.run(gpu, x, (!pixels).then_some(&window), residual, shape)
    }
}
