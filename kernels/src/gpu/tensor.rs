//! Tensors on a device.

use std::sync::Arc;

use super::{Arg, Device};
use crate::{backend::Shape, checks::same_shape, error::Result};

/// fp16 values in N, H, W, C order.
pub struct GpuTensor<D: Device> {
    pub(super) buffer: Arc<D::Buffer>,
    pub(super) shape: Shape,
}

impl<D: Device> Clone for GpuTensor<D> {
    fn clone(&self) -> Self {
        Self { buffer: self.buffer.clone(), shape: self.shape }
    }
}

impl<D: Device> GpuTensor<D> {
    /// Values.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its memory, as a kernel's parameter.
    pub(super) fn arg(&self) -> Arg<'_, D::Buffer> {
        Arg::Buffer(&self.buffer)
    }

    /// The same values under another shape of as many.
    pub(super) fn reshaped(&self, shape: Shape) -> Self {
        Self { buffer: self.buffer.clone(), shape }
    }

    /// Whether axis 3 is the innermost in memory, as it is for sequences.
    pub(super) fn check_rows(&self, operation: &'static str) -> Result<()> {
        let [n, _, h, w] = self.shape;
        same_shape(operation, [n, 1, h, w], self.shape)
    }
}

/// Of each.
pub(super) fn shapes<D: Device>(xs: &[&GpuTensor<D>]) -> Vec<Shape> {
    xs.iter().map(|x| x.shape).collect()
}
