//! Resampling along an axis: which source pixels make up a target pixel, and with what weights.

use crate::backend::Filter;

/// For each target position along one axis, `width` source positions and weights that add up to 1.
pub(crate) struct Taps {
    /// Taps of a target position.
    pub width: usize,
    /// Source positions.
    pub index: Vec<usize>,
    /// As many weights.
    pub weight: Vec<f32>,
}

impl Taps {
    /// The taps that turn `old` pixels into `new`. Pixel centres are at half-integers, so target `i` falls
    /// on the source coordinate `(i + 0.5) * old / new - 0.5` (`align_corners=False`).
    pub fn new(old: usize, new: usize, filter: Filter) -> Self {
        let width = width(filter);
        let mut taps = Self { width, index: Vec::new(), weight: Vec::new() };
        let last = old as isize - 1;
        for i in 0..new {
            if filter == Filter::Nearest {
                // In integers, so that no rounding can pick a neighbour.
                taps.push(i * old / new, 1.0);
                continue;
            }
            let centre = (i as f64 + 0.5) * old as f64 / new as f64 - 0.5;
            // torch clamps the coordinate for bilinear and repeats the edge for bicubic; at the edges the
            // two are the same for bilinear.
            let floor = centre.floor();
            let (first, frac) = (floor as isize - (width as isize / 2 - 1), centre - floor);
            let mut weights = [0.0f64; 6];
            for (t, weight) in weights[..width].iter_mut().enumerate() {
                let distance = (frac + (width / 2 - 1) as f64 - t as f64).abs();
                let outside = !(0..=last).contains(&(first + t as isize));
                *weight = match filter {
                    Filter::Nearest => 1.0,
                    Filter::Bilinear => 1.0 - distance,
                    Filter::Bicubic => keys(distance),
                    Filter::Lanczos3 if outside => 0.0,
                    Filter::Lanczos3 => lanczos3(distance),
                };
            }
            let sum: f64 = weights[..width].iter().sum();
            for (t, weight) in weights[..width].iter().enumerate() {
                taps.push((first + t as isize).clamp(0, last) as usize, (weight / sum) as f32);
            }
        }
        taps
    }

    fn push(&mut self, index: usize, weight: f32) {
        self.index.push(index);
        self.weight.push(weight);
    }

    /// The source positions and weights of target position `i`.
    pub fn of(&self, i: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let range = i * self.width..(i + 1) * self.width;
        self.index[range.clone()].iter().copied().zip(self.weight[range].iter().copied())
    }
}

/// Taps along an axis.
pub(crate) const fn width(filter: Filter) -> usize {
    match filter {
        Filter::Nearest => 1,
        Filter::Bilinear => 2,
        Filter::Bicubic => 4,
        Filter::Lanczos3 => 6,
    }
}

/// The cubic convolution kernel of Keys (1981) with a = -0.75, the value that torch and OpenCV use.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.75;
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

/// sinc(x) · sinc(x / 3) for |x| < 3 (Duchon 1979).
fn lanczos3(x: f64) -> f64 {
    let sinc =
        |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if x < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}
