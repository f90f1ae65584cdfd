//! A hash that pictures which look alike have nearly in common.

use std::f32::consts::PI;

use image::{DynamicImage, imageops::FilterType};

use super::luma;

/// Side of the small picture that is transformed, and of the square of its low frequencies that is kept.
const SIDE: usize = 32;
const KEPT: usize = 8;

/// pHash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"): of the discrete cosine transform
/// of the picture at 32x32 the 8x8 lowest frequencies but the constant ones; a bit is set where a coefficient is above their
/// median. In place of pHash's mean filter the reduction itself filters (a triangle as wide as it reduces).
pub fn perceptual_hash(image: &DynamicImage) -> u64 {
    let small = image.resize_exact(SIDE as u32, SIDE as u32, FilterType::Triangle).to_rgb8();
    let luma = luma(&small);
    let cosines: Vec<[f32; SIDE]> = (1..=KEPT)
        .map(|frequency| {
            std::array::from_fn(|at| (PI / SIDE as f32 * (at as f32 + 0.5) * frequency as f32).cos())
        })
        .collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut coefficients = Vec::with_capacity(KEPT * KEPT);
    for across in &cosines {
        let column: Vec<f32> = luma.chunks_exact(SIDE).map(|row| dot(row, across)).collect();
        coefficients.extend(cosines.iter().map(|down| dot(&column, down)));
    }
    let mut sorted = coefficients.clone();
    sorted.sort_by(f32::total_cmp);
    let median = (sorted[KEPT * KEPT / 2 - 1] + sorted[KEPT * KEPT / 2]) / 2.0;
    coefficients.iter().enumerate().fold(0, |hash, (bit, x)| hash | u64::from(*x > median) << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_alike_has_nearly_the_same_hash() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sr/photo.png");
        let photo = image::open(path).unwrap();
        let distance = |other: &DynamicImage| (perceptual_hash(&photo) ^ perceptual_hash(other)).count_ones();
        assert_eq!(perceptual_hash(&photo).count_ones(), 32);
        let smaller = photo.resize_exact(photo.width() * 2 / 5, photo.height() * 2 / 5, FilterType::Lanczos3);
        assert!(distance(&smaller) <= 4, "smaller: {}", distance(&smaller));
        assert!(distance(&photo.brighten(20)) <= 4, "brighter: {}", distance(&photo.brighten(20)));
        assert!(distance(&photo.fliph()) >= 20, "mirrored: {}", distance(&photo.fliph()));
    }
}
