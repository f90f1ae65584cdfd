//! Rows of a table on the device: only their numbers go there.

use rayon::prelude::*;

use super::blocks;
use crate::backend::{Rows, Shape, check_shape};
use crate::checks;
use crate::error::{Error, Result};
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

/// A table of fp16.
pub struct GpuEmbedding<D: Device> {
    table: D::Buffer,
    pub(in crate::gpu) count: usize,
    pub(in crate::gpu) features: usize,
}

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    [1, 8].map(variant).to_vec()
}

fn variant(values: usize) -> Variant {
    Variant::new("embedding", &[("VALUES", values as i64)])
}

impl<D: Device> GpuEmbedding<D> {
    pub(in crate::gpu) fn new(
        gpu: &GpuBackend<D>,
        count: usize,
        features: usize,
        rows: &Rows,
    ) -> Result<Self> {
        let shape = [1, 1, count, features];
        // Kernels number values in 32 bits.
        if check_shape(shape)? > i32::MAX as usize {
            return Err(Error::InvalidShape { shape });
        }
        let mut bytes = vec![0; 2 * count * features];
        bytes.par_chunks_mut(2 * features).enumerate().try_for_each(|(index, out)| {
            let row = rows(index)?;
            checks::row(&row, features)?;
            let halves = row.into_iter().map(|value| half::f16::from_f32(value).to_le_bytes());
            out.as_chunks_mut().0.iter_mut().zip(halves).for_each(|(out, half)| *out = half);
            Ok(())
        })?;
        Ok(Self { table: gpu.filled(&bytes)?, count, features })
    }

    /// The rows of `sequences`, each plus that of its position; all are within their tables.
    pub(in crate::gpu) fn look_up(
        &self,
        gpu: &GpuBackend<D>,
        sequences: &[&[u32]],
        positions: &GpuTensor<D>,
        shape: Shape,
    ) -> Result<GpuTensor<D>> {
        let out = gpu.empty(shape)?;
        let ids: Vec<u8> =
            sequences.iter().flat_map(|sequence| sequence.iter().flat_map(|id| id.to_le_bytes())).collect();
        let ids = gpu.filled(&ids)?;
        let values = if self.features.is_multiple_of(8) { 8 } else { 1 };
        let args = [
            Arg::Buffer(&ids),
            Arg::Buffer(&self.table),
            positions.arg(),
            out.arg(),
            Arg::U32(self.features as u32),
            Arg::U32(shape[2] as u32),
            Arg::U32(out.len() as u32),
        ];
        let launch = Launch { grid: [blocks(out.len(), 256 * values), 1, 1], block: 256, shared: 0 };
        gpu.launch(&variant(values), "embedding", launch, &args)?;
        Ok(out)
    }
}
