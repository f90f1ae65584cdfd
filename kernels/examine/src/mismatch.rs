//! What is wrong with a result, in a text that lets it be mended by whoever does not have the device.
//!
//! A tensor is looked at as the device has it, as a matrix: of pixels by channels, or of a sequence's rows by features. Where errors
//! crowd, by rows modulo 16 and columns modulo 8 (the fragments of the tensor cores), by heads and by tiles, is what tells a wrong
//! fragment from a wrong swizzle, a rest that is missing from a wrong stride.

mod dump;
mod map;

use std::fmt::Write as _;

use reverie_kernels::Shape;

pub use dump::{DUMP, dump};
use map::Histogram;
pub use map::Layout;

/// How many errors are listed.
const LISTED: usize = 32;

/// The least value that errors are relative to.
const LEAST: f32 = 1e-3;

/// What came of a comparison.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The largest difference over the largest finite value that was expected, which counts as 1e-3 at least; infinite where a value
    /// is NaN or infinite and should not be.
    pub worst: f32,
    /// What is wrong, over several lines; none where nothing differs by more than allowed.
    pub mismatch: Option<String>,
}

/// The largest finite value, by size.
fn scale(expected: &[f32]) -> f32 {
    expected.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(LEAST, f32::max)
}

/// How far a value is off: nothing for the same infinity or NaN.
fn difference(actual: f32, expected: f32) -> f32 {
    if actual == expected || (actual.is_nan() && expected.is_nan()) {
        return 0.0;
    }
    let difference = (actual - expected).abs();
    if difference.is_nan() { f32::INFINITY } else { difference }
}

/// Holds values in N, C, H, W order against the expected ones. `allowed` is relative to the largest of these.
pub fn compare(actual: &[f32], expected: &[f32], layout: Layout, allowed: f32) -> Comparison {
    let scale = scale(expected);
    if actual.len() != expected.len() {
        let text = format!("{} values, not {}\n", actual.len(), expected.len());
        return Comparison { worst: f32::INFINITY, mismatch: Some(text) };
    }
    let error = |(actual, expected): (&f32, &f32)| difference(*actual, *expected) / scale;
    let errors: Vec<f32> = actual.iter().zip(expected).map(error).collect();
    let worst = errors.iter().copied().fold(0.0, f32::max);
    let mismatch = (worst > allowed).then(|| {
        let wrong: Vec<usize> = (0..errors.len()).filter(|&i| errors[i] > allowed).collect();
        let mut text = String::new();
        head(&mut text, actual, expected, &wrong, [worst, allowed, scale]);
        list(&mut text, actual, expected, &wrong, &errors, layout);
        histograms(&mut text, &wrong, layout);
        text
    });
    Comparison { worst, mismatch }
}

fn head(
    text: &mut String,
    actual: &[f32],
    expected: &[f32],
    wrong: &[usize],
    [worst, allowed, scale]: [f32; 3],
) {
    let count = |values: &[f32], is: fn(f32) -> bool| values.iter().filter(|x| is(**x)).count();
    let [nan, infinite] = [f32::is_nan, f32::is_infinite].map(|is| [count(actual, is), count(expected, is)]);
    let _ = writeln!(
        text,
        "{} of {} values differ by more than {allowed:.1e} of {scale}, by {worst:.2e} at worst; \
         NaN: {}, not {}; infinite: {}, not {}",
        wrong.len(),
        actual.len(),
        nan[0],
        nan[1],
        infinite[0],
        infinite[1],
    );
}

fn list(
    text: &mut String,
    actual: &[f32],
    expected: &[f32],
    wrong: &[usize],
    errors: &[f32],
    layout: Layout,
) {
    let worst = wrong.iter().copied().max_by(|a, b| errors[*a].total_cmp(&errors[*b]));
    for (i, name) in wrong.iter().take(LISTED).map(|i| (*i, "")).chain(worst.map(|i| (i, "worst: "))) {
        let place = layout.describe(i);
        let _ = writeln!(text, "  {name}{place}: {}, not {}", actual[i], expected[i]);
    }
}

fn histograms(text: &mut String, wrong: &[usize], layout: Layout) {
    let places: Vec<_> = wrong.iter().map(|&i| layout.place(i)).collect();
    let mut line = |title: &str, histogram: Histogram| {
        let _ = writeln!(text, "  by {title}: {histogram}");
    };
    line("row mod 16", places.iter().map(|place| [place.row % 16, 0]).collect());
    line("column mod 8", places.iter().map(|place| [place.column % 8, 0]).collect());
    if layout.images() > 1 {
        line("image", places.iter().map(|place| [place.image, 0]).collect());
    }
    if layout.heads > 1 {
        line("head", places.iter().map(|place| [place.head, 0]).collect());
    }
    for side in [64, 128] {
        if layout.rows() > side || layout.columns() > side {
            let tiles = places.iter().map(|place| [place.row / side, place.column / side]);
            line(&format!("tile of {side} x {side}"), tiles.collect::<Histogram>().of_pairs());
        }
    }
}

/// [`compare`], which also writes both, and what it was made of, to [`DUMP`]'s folder where something is wrong. `what` names it.
pub fn compare_and_dump(
    what: &str,
    actual: &[f32],
    expected: &[f32],
    layout: Layout,
    allowed: f32,
    inputs: &[(&str, &[f32])],
) -> Comparison {
    let mut comparison = compare(actual, expected, layout, allowed);
    if let Some(text) = &mut comparison.mismatch {
        let values = [("actual", actual), ("expected", expected)];
        text.push_str(&dump(what, &values.into_iter().chain(inputs.iter().copied()).collect::<Vec<_>>()));
    }
    comparison
}

/// The layout of a shape without heads.
impl From<Shape> for Layout {
    fn from(shape: Shape) -> Self {
        Self { shape, heads: 1 }
    }
}

#[cfg(test)]
mod tests;
