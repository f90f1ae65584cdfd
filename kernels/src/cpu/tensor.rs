//! How a tensor lies in memory.
//!
//! *Planar*: N, C, H, W, as it comes and goes. *Blocked*: sixteen neighbouring channels make a plane of
//! H × W [`Lanes`], so that a pixel of a plane is one cache line and one vector; convolutions work on this.
//! A blocked tensor is a list of planes, so that joining tensors along the channels copies nothing.

use super::buffer::{Buffer, LANES, Lanes, Pool};
use crate::backend::Shape;
use rayon::prelude::*;
use std::sync::Arc;

/// A tensor of the CPU backend.
#[derive(Clone)]
pub struct CpuTensor {
    pub(crate) shape: Shape,
    pub(crate) data: Data,
}

#[derive(Clone)]
pub(crate) enum Data {
    Planar(Arc<Buffer>),
    /// For each image in turn its channel blocks. Lanes past the last channel are arbitrary but finite in
    /// images that are finite.
    Blocked(Vec<Plane>),
}

/// One channel block of one image, within a buffer that it may share with others.
#[derive(Clone)]
pub(crate) struct Plane {
    buffer: Arc<Buffer>,
    start: usize,
}

impl CpuTensor {
    pub(crate) fn planar(buffer: Buffer, shape: Shape) -> Self {
        Self { shape, data: Data::Planar(Arc::new(buffer)) }
    }

    /// `buffer` holds the planes one after the other.
    pub(crate) fn blocked(buffer: Buffer, shape: Shape) -> Self {
        let [n, c, h, w] = shape;
        let buffer = Arc::new(buffer);
        let planes = (0..n * c.div_ceil(LANES))
            .map(|i| Plane { buffer: Arc::clone(&buffer), start: i * h * w })
            .collect();
        Self { shape, data: Data::Blocked(planes) }
    }

    /// Pixels of an image.
    pub(crate) fn area(&self) -> usize {
        self.shape[2] * self.shape[3]
    }

    /// The planes of a blocked tensor; a planar one has none.
    pub(crate) fn blocks(&self) -> Vec<&[Lanes]> {
        let Data::Blocked(planes) = &self.data else { return Vec::new() };
        planes.iter().map(|plane| &plane.buffer.lanes()[plane.start..][..self.area()]).collect()
    }

    /// Joins blocked tensors along the channels, without copying. All but the last fill their blocks.
    pub(crate) fn from_parts(parts: &[Self], shape: Shape) -> Self {
        let mut planes = Vec::new();
        for image in 0..shape[0] {
            for part in parts {
                if let Data::Blocked(all) = &part.data {
                    let blocks = all.len() / shape[0];
                    planes.extend_from_slice(&all[image * blocks..][..blocks]);
                }
            }
        }
        Self { shape, data: Data::Blocked(planes) }
    }

    /// Joins blocked tensors along the batch, without copying.
    pub(crate) fn from_images(parts: &[Self], shape: Shape) -> Self {
        let mut planes = Vec::new();
        for part in parts {
            if let Data::Blocked(all) = &part.data {
                planes.extend_from_slice(all);
            }
        }
        Self { shape, data: Data::Blocked(planes) }
    }

    /// As many images of a blocked tensor as `shape` has, from `first` on, without copying.
    pub(crate) fn some_images(&self, first: usize, shape: Shape) -> Self {
        let Data::Blocked(planes) = &self.data else { return self.clone() };
        let blocks = shape[1].div_ceil(LANES);
        Self { shape, data: Data::Blocked(planes[first * blocks..][..shape[0] * blocks].to_vec()) }
    }

    /// The same tensor in the planar layout.
    pub(crate) fn to_planar(&self, pool: &Arc<Pool>) -> Arc<Buffer> {
        match &self.data {
            Data::Planar(buffer) => Arc::clone(buffer),
            Data::Blocked(_) => {
                let mut out = pool.take(self.shape.iter().product());
                self.write_planar(out.floats_mut());
                Arc::new(out)
            }
        }
    }

    /// The values in N, C, H, W order.
    pub(crate) fn to_vec(&self) -> Vec<f32> {
        let len = self.shape.iter().product();
        match &self.data {
            Data::Planar(buffer) => buffer.floats()[..len].to_vec(),
            Data::Blocked(_) => {
                let mut out = vec![0.0; len];
                self.write_planar(&mut out);
                out
            }
        }
    }

    fn write_planar(&self, out: &mut [f32]) {
        let [n, c, ..] = self.shape;
        let (planes, blocks) = (self.blocks(), c.div_ceil(LANES));
        let len = n * c * self.area();
        out[..len].par_chunks_mut(self.area()).enumerate().for_each(|(i, out)| {
            let (image, channel) = (i / c, i % c);
            let plane = planes[image * blocks + channel / LANES];
            for (out, lanes) in out.iter_mut().zip(plane) {
                *out = lanes.0[channel % LANES];
            }
        });
    }

    /// The same tensor in the blocked layout.
    pub(crate) fn to_blocked(&self, pool: &Arc<Pool>) -> Self {
        let Data::Planar(buffer) = &self.data else { return self.clone() };
        let [n, c, ..] = self.shape;
        let (blocks, area) = (c.div_ceil(LANES), self.area());
        let mut out = pool.take(n * blocks * area * LANES);
        out.lanes_mut().par_chunks_mut(area).enumerate().for_each(|(i, plane)| {
            let first = i % blocks * LANES;
            let channels = LANES.min(c - first);
            if channels < LANES {
                plane.fill(Lanes::ZERO);
            }
            let source = &buffer.floats()[(i / blocks * c + first) * area..][..channels * area];
            for (lane, source) in source.chunks_exact(area).enumerate() {
                for (out, value) in plane.iter_mut().zip(source) {
                    out.0[lane] = *value;
                }
            }
        });
        Self::blocked(out, self.shape)
    }
}
