//! Linear layers.

use super::gemm::{self, Matrix};
use crate::backend::Shape;
use crate::error::Result;
use crate::gpu::{Device, GpuBackend, GpuTensor, Variant};
use crate::weight::Weight;

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    gemm::variants(false)
}

/// `y = x Wᵀ + b` with weights on the device.
pub struct GpuLinear<D: Device> {
    pub(in crate::gpu) inputs: usize,
    pub(in crate::gpu) outputs: usize,
    matrix: Matrix<D>,
}

impl<D: Device> GpuLinear<D> {
    pub(in crate::gpu) fn new(
        gpu: &GpuBackend<D>,
        inputs: usize,
        outputs: usize,
        weight: Weight<'_>,
        bias: Option<&[f32]>,
    ) -> Result<Self> {
        let matrix = Matrix::new(gpu, [outputs, inputs, 1], weight, bias, &[1.0])?;
        Ok(Self { inputs, outputs, matrix })
    }

    /// The product, plus `residual` of the output's `shape` where there is one.
    pub(in crate::gpu) fn run(
        &self,
        gpu: &GpuBackend<D>,
        x: &GpuTensor<D>,
        residual: Option<&GpuTensor<D>>,
        shape: Shape,
    ) -> Result<GpuTensor<D>> {
        self.matrix.run(gpu, x, None, residual.map(|residual| (1.0, residual)), shape)
    }
}
