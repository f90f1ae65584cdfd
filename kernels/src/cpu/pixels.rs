//! Pixels of 8 bits a channel as planes of `f32`, and back.

use super::buffer::Pool;
use super::tensor::CpuTensor;
use crate::backend::{PixelRange, Shape};
use rayon::prelude::*;
use std::sync::Arc;

/// Pictures of `shape` from their pixels.
pub(super) fn from_pixels(pool: &Arc<Pool>, pixels: &[u8], shape: Shape, range: PixelRange) -> CpuTensor {
    let [n, _, h, w] = shape;
    let area = h * w;
    let mut out = pool.take(n * 3 * area);
    out.floats_mut()[..n * 3 * area].par_chunks_mut(area).enumerate().for_each(|(plane, out)| {
        let picture = &pixels[plane / 3 * 3 * area..][..3 * area];
        for (out, byte) in out.iter_mut().zip(picture.iter().skip(plane % 3).step_by(3)) {
            *out = value(*byte, range);
        }
    });
    CpuTensor::planar(out, shape)
}

/// The pixels of pictures of three channels.
pub(super) fn to_pixels(pool: &Arc<Pool>, x: &CpuTensor, range: PixelRange) -> Vec<u8> {
    let [n, _, h, w] = x.shape;
    let area = h * w;
    let values = x.to_planar(pool);
    let mut out = vec![0; n * 3 * area];
    out.par_chunks_mut(3 * w).enumerate().for_each(|(row, out)| {
        let first = row / h * 3 * area + row % h * w;
        for (c, plane) in values.floats()[first..].chunks(area).take(3).enumerate() {
            for (out, value) in out.iter_mut().skip(c).step_by(3).zip(plane) {
                *out = byte(*value, range);
            }
        }
    });
    out
}

fn value(byte: u8, range: PixelRange) -> f32 {
    let unit = f32::from(byte) / 255.0;
    match range {
        PixelRange::Unit => unit,
        PixelRange::Signed => 2.0 * unit - 1.0,
    }
}

/// The conversion clamps: to `u8`, `as` gives the nearest there is.
fn byte(value: f32, range: PixelRange) -> u8 {
    match range {
        PixelRange::Unit => (value * 255.0 + 0.5) as u8,
        PixelRange::Signed => ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8,
    }
}
