//! A convolution and the method that suits it.

use super::buffer::{LANES, Pool};
use super::deep::Deep;
use super::direct::{Direct, Source};
use super::epilogue::{Output, Parameters};
use super::simd::Level;
use super::tensor::CpuTensor;
use super::winograd::Winograd;
use crate::backend::{Activation, Conv2dDesc, Shape};
use crate::weight::Weight;
use std::sync::Arc;

/// A convolution of the CPU backend.
pub struct CpuConv2d {
    pub(super) desc: Conv2dDesc,
    parameters: Parameters,
    method: Method,
}

enum Method {
    /// 3×3 of few channels, as in restoration networks.
    Winograd(Winograd),
    /// 3×3 of many channels, as in diffusion models.
    Deep(Deep),
    /// All others.
    Direct(Direct),
}

impl CpuConv2d {
    /// Prepares parameters that were checked.
    pub(super) fn new(
        desc: Conv2dDesc,
        weight: Weight<'_>,
        bias: Option<&[f32]>,
        act: &Activation,
        level: Level,
    ) -> Self {
        let method = if Winograd::suits(&desc) {
            Method::Winograd(Winograd::new(desc, &weight.to_f32(), level))
        } else if Deep::suits(&desc) {
            Method::Deep(Deep::new(desc, weight, level))
        } else {
            Method::Direct(Direct::new(desc, weight, level))
        };
        Self { desc, parameters: Parameters::new(desc.out_channels, bias, act), method }
    }

    /// Convolves `x` into a tensor of `shape`, with a factor and a tensor of that shape to be added where there
    /// are any.
    pub(super) fn run(
        &self,
        pool: &Arc<Pool>,
        x: &CpuTensor,
        residual: Option<(f32, &CpuTensor)>,
        shape: Shape,
    ) -> CpuTensor {
        let [n, c, h, w] = shape;
        let residual = residual.map(|(alpha, x)| (alpha, x.to_blocked(pool)));
        let residual_planes = residual.as_ref().map(|(_, x)| x.blocks());
        let residual = residual.as_ref().zip(residual_planes.as_deref());
        let mut out = pool.take(n * c.next_multiple_of(LANES) * h * w);
        let output = Output::new(
            &self.parameters,
            out.lanes_mut(),
            h * w,
            residual.map(|((alpha, _), planes)| (*alpha, planes)),
        );
        match &self.method {
            Method::Direct(direct) if direct.planar() => {
                direct.run(Source::Planar(x.to_planar(pool).floats()), x.shape, shape, &output);
            }
            Method::Direct(direct) => {
                direct.run(Source::Blocked(&x.to_blocked(pool).blocks()), x.shape, shape, &output);
            }
            Method::Deep(deep) => deep.run(pool, &x.to_blocked(pool).blocks(), x.shape, shape, &output),
            Method::Winograd(winograd) => {
                winograd.run(&x.to_blocked(pool).blocks(), x.shape, shape, &output);
            }
        }
        CpuTensor::blocked(out, shape)
    }
}
