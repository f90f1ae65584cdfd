//! Pictures as Pillow has them: what diffusers is given, and what it resizes.

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use reverie_models::pillow;
pub use reverie_models::pillow::Filter;

/// Pillow's `convert("RGB")` of a file that it opens: 3 bytes a pixel. Transparency is left away. Of 16 bits the upper 8 count,
/// but those of a grey picture without transparency, which Pillow cuts off at 255.
pub fn rgb(picture: &DynamicImage) -> Vec<u8> {
    match picture {
        DynamicImage::ImageRgb8(picture) => picture.as_raw().clone(),
        DynamicImage::ImageLuma16(picture) => {
            grey_to_rgb(picture.as_raw().iter().map(|x| (*x).min(255) as u8))
        }
        DynamicImage::ImageLumaA16(picture) => grey_to_rgb(picture.pixels().map(|pixel| upper(pixel[0]))),
        DynamicImage::ImageRgb16(picture) => picture.as_raw().iter().map(|x| upper(*x)).collect(),
        DynamicImage::ImageRgba16(picture) => {
            picture.pixels().flat_map(|pixel| [0, 1, 2].map(|channel| upper(pixel[channel]))).collect()
        }
        picture => picture.to_rgb8().into_raw(),
    }
}

/// `rgb` of this size.
pub fn fitted(picture: &DynamicImage, [width, height]: [usize; 2]) -> Vec<u8> {
    let size = size(picture);
    let rgb = rgb(picture);
    if size == [width, height] {
        rgb
    } else {
        pillow::resize(&rgb, size, 3, [width, height], Filter::Lanczos)
    }
}

/// A mask of this size, a byte a pixel. One in colour is resized before it becomes grey, as by diffusers.
pub fn mask(picture: &DynamicImage, to: [usize; 2]) -> Vec<u8> {
    match picture {
        DynamicImage::ImageLuma8(grey) if size(picture) == to => grey.as_raw().clone(),
        DynamicImage::ImageLuma8(grey) => {
            pillow::resize(grey.as_raw(), size(picture), 1, to, Filter::Lanczos)
        }
        picture => pillow::grey(&fitted(picture, to)),
    }
}

/// Pillow's `convert("L")` of the same.
pub fn grey(picture: &DynamicImage) -> Vec<u8> {
    mask(picture, size(picture))
}

/// Pillow's `resize` of a picture with 8 bits a channel; colours are weighed by how opaque they are. Pillow has none with more:
/// those keep their bits.
pub fn resize(picture: &DynamicImage, width: u32, height: u32, filter: Filter) -> DynamicImage {
    if size(picture) == [width as usize, height as usize] {
        return picture.clone();
    }
    let to = |pixels: &[u8], channels| {
        pillow::resize(pixels, size(picture), channels, [width as usize, height as usize], filter)
    };
    // The nearest pixel is one that there is.
    let weighs = filter != Filter::Nearest;
    let resized = match picture {
        DynamicImage::ImageLuma8(grey) => {
            GrayImage::from_raw(width, height, to(grey.as_raw(), 1)).map(DynamicImage::ImageLuma8)
        }
        DynamicImage::ImageRgb8(rgb) => {
            RgbImage::from_raw(width, height, to(rgb.as_raw(), 3)).map(DynamicImage::ImageRgb8)
        }
        DynamicImage::ImageLumaA8(grey) => {
            let pixels =
                if weighs { weighed::<2>(grey.as_raw(), &|x| to(x, 2)) } else { to(grey.as_raw(), 2) };
            GrayAlphaImage::from_raw(width, height, pixels).map(DynamicImage::ImageLumaA8)
        }
        DynamicImage::ImageRgba8(rgba) => {
            let pixels =
                if weighs { weighed::<4>(rgba.as_raw(), &|x| to(x, 4)) } else { to(rgba.as_raw(), 4) };
            RgbaImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgba8)
        }
        picture => Some(picture.resize_exact(width, height, of_more_bits(filter))),
    };
    resized.expect("as many bytes as pixels have")
}

/// Bytes that [`resize`], [`fitted`] and [`mask`] take at their most: what comes out, what lies between the two passes, and the
/// picture once more.
pub fn bytes_to_resize(picture: &DynamicImage, width: u32, height: u32) -> usize {
    let [from_width, from_height] = size(picture);
    let (width, height) = (width as usize, height as usize);
    let between = (width * from_height).max(from_width * height);
    let pixels =
        width.saturating_mul(height).saturating_add(between).saturating_add(from_width * from_height);
    pixels.saturating_mul(usize::from(picture.color().bytes_per_pixel()).max(3))
}

fn size(picture: &DynamicImage) -> [usize; 2] {
    [picture.width() as usize, picture.height() as usize]
}

fn grey_to_rgb(grey: impl Iterator<Item = u8>) -> Vec<u8> {
    grey.flat_map(|x| [x; 3]).collect()
}

fn upper(x: u16) -> u8 {
    (x >> 8) as u8
}

/// What `resized` makes of pixels whose last channel is how opaque they are, by way of Pillow's modes `RGBa` and `La`.
fn weighed<const CHANNELS: usize>(pixels: &[u8], resized: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut weighed = pixels.to_vec();
    for pixel in weighed.as_chunks_mut::<CHANNELS>().0 {
        let alpha = u32::from(pixel[CHANNELS - 1]);
        for colour in &mut pixel[..CHANNELS - 1] {
            let product = u32::from(*colour) * alpha + 128;
            *colour = (((product >> 8) + product) >> 8) as u8;
        }
    }
    let mut resized = resized(&weighed);
    for pixel in resized.as_chunks_mut::<CHANNELS>().0 {
        let alpha = u32::from(pixel[CHANNELS - 1]);
        if !matches!(alpha, 0 | 255) {
            pixel[..CHANNELS - 1].iter_mut().for_each(|x| *x = (255 * u32::from(*x) / alpha).min(255) as u8);
        }
    }
    resized
}

fn of_more_bits(filter: Filter) -> image::imageops::FilterType {
    use image::imageops::FilterType;
    match filter {
        Filter::Nearest => FilterType::Nearest,
        Filter::Bilinear => FilterType::Triangle,
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Lanczos => FilterType::Lanczos3,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// One of those that tests/oracles/diffusion/make_picture_goldens.py made.
    fn golden(name: &str) -> DynamicImage {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pictures");
        image::open(folder.join(format!("{name}.png"))).unwrap()
    }

    #[test]
    fn every_kind_of_picture_is_what_pillow_makes_of_it() {
        for name in ["l", "la", "rgb", "rgba", "p", "1", "l16", "la16", "rgb16", "rgba16"] {
            let picture = golden(name);
            assert!(rgb(&picture) == golden(&format!("{name}.rgb")).as_bytes(), "{name}");
            assert!(grey(&picture) == golden(&format!("{name}.l")).as_bytes(), "{name}");
        }
    }

    #[test]
    fn resized_pictures_are_pillows() {
        let filters = [
            ("nearest", Filter::Nearest),
            ("bilinear", Filter::Bilinear),
            ("bicubic", Filter::Bicubic),
            ("lanczos", Filter::Lanczos),
        ];
        for name in ["l", "la", "rgb", "rgba"] {
            let picture = golden(name);
            for (filter_name, filter) in filters {
                for (width, height) in [(37, 26), (13, 9), (24, 30)] {
                    let expected = golden(&format!("{name}.{filter_name}.{width}x{height}"));
                    let resized = resize(&picture, width, height, filter);
                    assert!(resized == expected, "{name} {filter_name} {width}x{height}");
                }
            }
        }
        // Those with more bits keep them.
        assert!(matches!(resize(&golden("rgb16"), 5, 4, Filter::Lanczos), DynamicImage::ImageRgb16(_)));
    }

    #[test]
    fn a_mask_in_colour_is_resized_before_it_is_grey() {
        let (picture, to) = (golden("rgb"), [13, 9]);
        let resized = golden("rgb.lanczos.13x9");
        assert!(mask(&picture, to) == grey(&resized));
        assert!(mask(&golden("l"), to) == golden("l.lanczos.13x9").as_bytes());
        assert!(fitted(&picture, to) == resized.as_bytes());
    }
}
