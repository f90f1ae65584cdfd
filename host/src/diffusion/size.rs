//! How large a picture is: what was asked for, and what the model makes it at.

use std::sync::Arc;

use image::{
    DynamicImage, RgbImage,
    imageops::{self, FilterType},
};
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
    let of_image = |picture: &Arc<DynamicImage>| {
        let side = |pixels: u32| (pixels / factor).max(1) * factor;
        (side(picture.width()), side(picture.height()))
    };
    let of_mode = || [&mode.size, &mode.native_size].into_iter().flatten().find_map(|size| parse_size(size));
    let side = pipeline.default_size() as u32;
    let (width, height) = match (request.width, request.height) {
        (0, _) | (_, 0) => request.image.as_ref().map(of_image).or_else(of_mode).unwrap_or((side, side)),
        size => size,
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

/// The size at which the model makes a picture of which `asked` is wanted.
pub fn made_at(mode: &Mode, asked: (u32, u32)) -> (u32, u32) {
    mode.native_size.as_deref().and_then(parse_size).unwrap_or(asked)
}

/// A picture at the size that was asked for. Where the sides' ratio is another it is put in the middle and its edges are
/// continued; `stretched`, it is as distorted as the picture was that it was made from.
pub fn fitted(picture: RgbImage, (width, height): (u32, u32), stretched: bool) -> RgbImage {
    let (from_width, from_height) = picture.dimensions();
    if (from_width, from_height) == (width, height) {
        return picture;
    }
    let scale = (f64::from(width) / f64::from(from_width)).min(f64::from(height) / f64::from(from_height));
    let side = |from: u32, most: u32| ((f64::from(from) * scale).round() as u32).clamp(1, most);
    let (inner_width, inner_height) = match stretched {
        true => (width, height),
        false => (side(from_width, width), side(from_height, height)),
    };
    let inner = imageops::resize(&picture, inner_width, inner_height, FilterType::Lanczos3);
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

    #[test]
    fn a_picture_is_enlarged_evenly_and_its_edges_continue() {
        let half = |x: u32| if x < 4 { Rgb([200, 0, 0]) } else { Rgb([0, 0, 200]) };
        let picture = RgbImage::from_fn(8, 8, |x, _| half(x));
        let wide = fitted(picture.clone(), (64, 16), false);
        assert_eq!(wide.dimensions(), (64, 16));
        // The middle 16 columns are the picture.
        assert_eq!((wide.get_pixel(0, 3), wide.get_pixel(63, 3)), (&half(0), &half(7)));
        assert!(wide.get_pixel(28, 8)[0] > 150 && wide.get_pixel(35, 8)[2] > 150);
        let stretched = fitted(picture.clone(), (64, 16), true);
        assert!(stretched.get_pixel(20, 8)[0] > 150 && stretched.get_pixel(40, 8)[2] > 150);
        assert_eq!(fitted(picture.clone(), (8, 8), false), picture);
    }
}
