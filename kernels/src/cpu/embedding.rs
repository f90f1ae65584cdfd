//! Rows of a table that stays where it is, such as in a file: a text names few of them.

use super::buffer::Pool;
use super::tensor::CpuTensor;
use crate::backend::{Rows, Shape};
use crate::checks;
use crate::error::Result;
use std::sync::Arc;

/// A table whose rows are read when they are looked up.
pub struct CpuEmbedding {
    pub(super) count: usize,
    pub(super) features: usize,
    pub(super) rows: Rows,
}

impl CpuEmbedding {
    /// The rows of `sequences`, each plus that of its position; all are within their tables.
    pub(super) fn look_up(
        &self,
        pool: &Arc<Pool>,
        sequences: &[&[u32]],
        positions: &CpuTensor,
        shape: Shape,
    ) -> Result<CpuTensor> {
        let positions = positions.to_planar(pool);
        let mut out = pool.take(shape.iter().product());
        let mut rest = out.floats_mut().chunks_exact_mut(self.features);
        for sequence in sequences {
            let places = positions.floats().chunks_exact(self.features);
            for ((&id, place), out) in sequence.iter().zip(places).zip(&mut rest) {
                let row = (self.rows)(id as usize)?;
                checks::row(&row, self.features)?;
                for ((out, value), place) in out.iter_mut().zip(row).zip(place) {
                    *out = value + place;
                }
            }
        }
        Ok(CpuTensor::planar(out, shape))
    }
}
