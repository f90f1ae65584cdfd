//! Measures of a picture alone, as they were published: no model is in them.

use image::DynamicImage;

use super::{luma, mean_and_variance};

/// What `reverie:handler/scoring` says of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aesthetics {
    pub sharpness: f32,
    pub colourfulness: f32,
    pub contrast: f32,
}

/// Measures a picture.
pub fn measure(image: &DynamicImage) -> Aesthetics {
    let image = image.to_rgb8();
    let luma = luma(&image);
    let (_, variance) = mean_and_variance(luma.iter().map(|x| x / 255.0));
    Aesthetics {
        sharpness: sharpness(&luma, image.width() as usize),
        colourfulness: colourfulness(image.pixels().map(|pixel| pixel.0.map(f32::from))),
        contrast: variance.sqrt(),
    }
}

/// The variance of the Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative
/// study"), away from the edges.
fn sharpness(luma: &[f32], width: usize) -> f32 {
    let height = luma.len() / width.max(1);
    let inner = (1..height.max(1) - 1).flat_map(|y| (1..width.max(1) - 1).map(move |x| y * width + x));
    let laplacian = |i: usize| luma[i - 1] + luma[i + 1] + luma[i - width] + luma[i + width] - 4.0 * luma[i];
    mean_and_variance(inner.map(laplacian)).1
}

/// Hasler and Süsstrunk 2003, "Measuring colourfulness in natural images".
fn colourfulness(pixels: impl Iterator<Item = [f32; 3]> + Clone) -> f32 {
    let (rg_mean, rg_variance) = mean_and_variance(pixels.clone().map(|[r, g, _]| r - g));
    let (yb_mean, yb_variance) = mean_and_variance(pixels.map(|[r, g, b]| 0.5 * (r + g) - b));
    (rg_variance + yb_variance).sqrt() + 0.3 * (rg_mean.powi(2) + yb_mean.powi(2)).sqrt()
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    fn of(pixel: impl Fn(u32, u32) -> [u8; 3]) -> Aesthetics {
        measure(&DynamicImage::ImageRgb8(RgbImage::from_fn(8, 8, |x, y| Rgb(pixel(x, y)))))
    }

    #[test]
    fn plain_pictures_have_the_values_that_the_formulas_give() {
        let grey = of(|_, _| [128; 3]);
        assert_eq!(grey, Aesthetics { sharpness: 0.0, colourfulness: 0.0, contrast: 0.0 });
        // Black and white squares: the Laplacian is 4 * 255 up or down.
        let board = of(|x, y| [255 * ((x + y) % 2) as u8; 3]);
        assert!((board.sharpness - 1020f32.powi(2)).abs() < 1.0 && board.colourfulness < 1e-3, "{board:?}");
        assert!((board.contrast - 0.5).abs() < 1e-5, "{board:?}");
        // Red and blue halves: rg is 255 or 0, yb 127.5 or -255.
        let halves = of(|x, _| if x < 4 { [255, 0, 0] } else { [0, 0, 255] });
        let expected = 127.5f32.hypot(191.25) + 0.3 * 127.5f32.hypot(63.75);
        assert!((halves.colourfulness - expected).abs() < 1e-2, "{halves:?}");
    }
}
