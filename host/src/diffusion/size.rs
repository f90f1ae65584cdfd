//! How large a picture is: what was asked for, and what the model makes it at.

use image::{DynamicImage, RgbImage};
use reverie_kernels::Backend;
use reverie_models::pipeline::Pipeline;

use super::Request;
use crate::{
    config::{Mode, parse_size},
    error::Error,
};

/// Width and height: the request's, its picture's (to a multiple of what the model takes), the mode's, the model's.
///
/// # Errors
/// `InvalidInput` for sides that the model can't make.
pub fn asked<B: Backend>(
    mode: &Mode,
    request: &Request,
    pipeline: &Pipeline<B>,
) -> Result<(u32, u32), Error> {
    let factor = pipeline.factor() as u32;
    let of_image = |picture: &DynamicImage| {
        let side = |pixels: u32| (pixels / factor).max(1) * factor;
        (side(picture.width()), side(picture.height()))
    };
    let side = pipeline.default_size() as u32;
    let (width, height) = match (request.width, request.height, &request.image) {
        (0, _, Some(picture)) | (_, 0, Some(picture)) => nearest(mode, of_image(picture)),
        (0, _, None) | (_, 0, None) => mode.default_size().unwrap_or((side, side)),
        (width, height, _) => (width, height),
    };
    let made = made_at(mode, (width, height));
    if !made.0.is_multiple_of(factor) || !made.1.is_multiple_of(factor) {
        return Err(Error::invalid(format!(
            "size: {}x{} is not accepted: both sides must be multiples of {factor}",
            made.0, made.1
        )));
    }
    Ok((width, height))
}

/// The size nearest to that of a picture which the mode accepts: of those whose sides' ratio is nearest, the one with the most
/// similar number of pixels.
fn nearest(mode: &Mode, (width, height): (u32, u32)) -> (u32, u32) {
    let far = |a: f64, b: f64| (a / b).ln().abs();
    let (width_px, height_px) = (f64::from(width), f64::from(height));
    let distance = |(w, h): (u32, u32)| {
        let (w, h) = (f64::from(w), f64::from(h));
        (far(w / h, width_px / height_px), far(w * h, width_px * height_px))
    };
    let listed = mode.resolutions.iter().filter_map(|resolution| parse_size(&resolution.size));
    let nearest = listed.min_by(|a, b| {
        let (a, b) = (distance(*a), distance(*b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    nearest.unwrap_or((width, height))
}

/// The size at which the model makes a picture of which `asked` is wanted.
pub fn made_at(mode: &Mode, asked: (u32, u32)) -> (u32, u32) {
    mode.native_size.as_deref().and_then(parse_size).unwrap_or(asked)
}

/// The size that a picture of `from` has inside one of `asked`: as large as fits, or, `stretched`, as distorted as the picture
/// was that it was made from.
pub fn inside(from: (u32, u32), (width, height): (u32, u32), stretched: bool) -> (u32, u32) {
    if stretched {
        return (width, height);
    }
    let scale = (f64::from(width) / f64::from(from.0)).min(f64::from(height) / f64::from(from.1));
    let side = |from: u32, most: u32| ((f64::from(from) * scale).round() as u32).clamp(1, most);
    (side(from.0, width), side(from.1, height))
}

/// A picture in the middle of a larger one, its edges continued.
pub fn framed(inner: RgbImage, (width, height): (u32, u32)) -> RgbImage {
    let (inner_width, inner_height) = inner.dimensions();
    if (inner_width, inner_height) == (width, height) {
        return inner;
    }
    let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
    RgbImage::from_fn(width, height, |x, y| {
        *inner.get_pixel(
            x.saturating_sub(left).min(inner_width - 1),
            y.saturating_sub(top).min(inner_height - 1),
        )
    })
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::config::Resolution;

    #[test]
    fn a_picture_stands_in_the_middle_and_its_edges_continue() {
        assert_eq!(inside((8, 8), (64, 16), false), (16, 16));
        assert_eq!(inside((8, 8), (64, 16), true), (64, 16));
        assert_eq!(inside((128, 128), (3, 1), false), (1, 1));
        let half = |x: u32| if x < 8 { Rgb([200, 0, 0]) } else { Rgb([0, 0, 200]) };
        let picture = RgbImage::from_fn(16, 16, |x, _| half(x));
        let wide = framed(picture.clone(), (64, 16));
        assert_eq!(wide.dimensions(), (64, 16));
        for (x, expected) in [(0, 0), (31, 0), (32, 15), (63, 15)] {
            assert_eq!(wide.get_pixel(x, 3), &half(expected), "{x}");
        }
        assert_eq!(framed(picture.clone(), (16, 16)), picture);
    }

    #[test]
    fn a_picture_to_begin_with_gets_the_nearest_size_of_a_set() {
        let resolution = |size: &&str| Resolution { size: (*size).to_owned(), aspect_ratio: String::new() };
        let sizes = ["512x512", "256x256", "512x768", "768x512"];
        let mode = Mode { resolutions: sizes.iter().map(resolution).collect(), ..Mode::default() };
        assert_eq!(nearest(&mode, (600, 640)), (512, 512));
        assert_eq!(nearest(&mode, (304, 296)), (256, 256));
        assert_eq!(nearest(&mode, (1000, 1600)), (512, 768));
        assert_eq!(nearest(&Mode::default(), (1000, 1600)), (1000, 1600));
    }
}
