//! What is done to each value by itself.

use reverie_kernels::{Backend, Shape, Unary};

use super::{
    Sizes,
    run::{Case, ONE_ROUNDING, Run, SUMS, text},
};
use crate::noise;

/// Of a picture and what fits it.
fn case<'a>(operation: &'static str, what: &str, inputs: &'a [Shape]) -> Case<'a> {
    Case::new(operation, format!("{} {what}", text(inputs[0])).trim_end().to_owned(), inputs, ONE_ROUNDING)
}

pub fn check(run: &mut Run<'_>) {
    let (x, latents, rows): (Shape, Shape, Shape) = match run.sizes {
        Sizes::Real => ([2, 320, 64, 64], [2, 4, 128, 128], [2, 1, 4096, 2560]),
        Sizes::Small => ([2, 40, 7, 9], [2, 4, 9, 7], [2, 1, 13, 80]),
    };
    let [n, c, ..] = x;
    for f in [Unary::Identity, Unary::Relu, Unary::Silu, Unary::Gelu, Unary::QuickGelu, Unary::Tanh] {
        let what = format!("{f:?}").to_lowercase();
        run.tensors(case("unary", &what, &[x]), |backend, xs| backend.unary(xs[0], f));
    }
    run.tensors(case("scale_add", "", &[x, x]), |backend, xs| backend.scale_add(xs[0], 0.7, xs[1]));
    run.tensors(case("clamp", "", &[x]), |backend, xs| backend.clamp(xs[0], 0.3));
    run.tensors(case("blend", "", &[x, x, x]), |backend, xs| backend.blend(xs[0], xs[1], xs[2]));
    let slopes = noise::halves(c, 1.0, 9);
    run.tensors(case("prelu", "", &[x]), |backend, xs| backend.prelu(xs[0], &slopes));
    run.tensors(case("add_channels", "", &[x, [n, 1, 1, c]]), |backend, xs| {
        backend.add_channels(xs[0], xs[1])
    });
    for count in [1, 2, 3, 4, 5, 6, 11] {
        let inputs = vec![latents; count];
        let what = format!("{count} of {}", text(latents));
        run.tensors(Case::new("combine", what, &inputs, SUMS), |backend, xs| {
            backend.combine(&xs.iter().map(|x| (0.7, *x)).collect::<Vec<_>>())
        });
    }
    run.tensors(case("geglu", "", &[rows]), |backend, xs| backend.geglu(xs[0]));
}
