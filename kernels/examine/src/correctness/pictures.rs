//! Sizes and places of pixels: resizing, shuffling, joining, cutting.

use reverie_kernels::{Backend, Filter, Shape};

use super::{
    Sizes,
    run::{Case, ONE_ROUNDING, Run, SUMS, text},
};

const FILTERS: [Filter; 4] = [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos3];

/// Shapes and the new height and width.
const REAL: [(Shape, [usize; 2]); 3] =
    [([1, 320, 32, 32], [64, 64]), ([1, 3, 101, 75], [404, 300]), ([2, 4, 64, 48], [37, 91])];

const SMALL: [(Shape, [usize; 2]); 3] =
    [([1, 40, 6, 5], [12, 10]), ([1, 3, 11, 7], [44, 28]), ([2, 4, 8, 6], [5, 13])];

pub fn check(run: &mut Run<'_>) {
    let real = run.sizes == Sizes::Real;
    for &(x, [h, w]) in if real { &REAL } else { &SMALL } {
        for filter in FILTERS {
            let what = format!("{} to {h}x{w} {filter:?}", text(x)).to_lowercase();
            run.tensors(Case::new("resize", what, &[x], SUMS), |backend, xs| {
                backend.resize(xs[0], h, w, filter)
            });
        }
    }
    let [h, w] = if real { [75, 101] } else { [5, 7] };
    let x = [1, 48, h, w];
    run.tensors(Case::new("pixel_shuffle", text(x), &[x], ONE_ROUNDING), |backend, xs| {
        backend.pixel_shuffle(xs[0], 4)
    });
    let with_base = [x, [1, 3, h, w]];
    let case = Case::new("pixel_shuffle_add_nearest", text(x), &with_base, ONE_ROUNDING);
    run.tensors(case, |backend, xs| backend.pixel_shuffle_add_nearest(xs[0], 4, xs[1]));

    // What only moves values is exact.
    let x = [2, 3, h, w];
    run.tensors(Case::new("pad", text(x), &[x], 0.0), |backend, xs| backend.pad(xs[0], 3, 5));
    let side = if real { 32 } else { 5 };
    let parts = [640, 320, 3].map(|c| [2, c, side, side]);
    let what = format!("2x(640, 320, 3)x{side}x{side}");
    run.tensors(Case::new("concat", what, &parts, 0.0), |backend, xs| backend.concat(xs));
    let batches = [2, 1].map(|n| [n, 4, 2 * side, side]);
    let what = format!("(2, 1)x4x{}x{side}", 2 * side);
    run.tensors(Case::new("stack", what, &batches, 0.0), |backend, xs| backend.stack(xs));
    let x = [4, 3, side + 1, side + 3];
    run.tensors(Case::new("images", text(x), &[x], 0.0), |backend, xs| backend.images(xs[0], 1, 2));
    let x = if real { [2, 320, 24, 40] } else { [2, 13, 3, 5] };
    let [.., h, w] = x;
    // Between the two something must be done to the sequence, or nothing would show where its values lie.
    run.tensors(Case::new("tokens", text(x), &[x, [1, 1, h * w, x[1]]], 1e-3), |backend, xs| {
        let tokens = backend.to_tokens(xs[0])?;
        let added = backend.add(&tokens, &backend.stack(&[xs[1]; 2])?)?;
        // The other way round: what was h rows of w becomes w rows of h.
        backend.from_tokens(&added, w, h)
    });
}
