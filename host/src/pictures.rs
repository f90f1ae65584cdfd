//! Decoding and encoding pictures, with their limits.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageEncoder, ImageReader, Limits, Rgb, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
};

use crate::error::{Error, ErrorKind};

pub use image::imageops::FilterType as Filter;

/// What is read, for messages.
const ACCEPTED: &str = "PNG, JPEG, WebP, GIF, BMP or TIFF";

/// Bytes that a decoder may allocate for each pixel allowed: 16-bit RGBA and a copy of it.
const DECODER_BYTES_PER_PIXEL: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    Webp,
}

impl Format {
    /// Parses `png`, `jpeg`, `jpg` or `webp`.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpeg" | "jpg" => Some(Self::Jpeg),
            "webp" => Some(Self::Webp),
            _ => None,
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// How a picture is written; `quality` is 1 to 100 and counts for JPEG alone.
#[derive(Debug, Clone, Copy)]
pub struct Encoding {
    pub format: Format,
    pub quality: u8,
}

/// Width and height of a picture, from its header, turned as its EXIF orientation says.
///
/// # Errors
/// `InvalidInput` when it is no picture.
pub fn dimensions(content: &[u8]) -> Result<(u32, u32), Error> {
    use image::metadata::Orientation::*;
    let none = || Error::invalid(format!("the file is not a picture; accepted are {ACCEPTED}"));
    let reader = ImageReader::new(Cursor::new(content)).with_guessed_format().expect("reading from memory");
    reader.format().ok_or_else(none)?;
    let mut decoder = reader.into_decoder().map_err(|_| none())?;
    let (width, height) = decoder.dimensions();
    Ok(match decoder.orientation() {
        Ok(Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) => (height, width),
        _ => (width, height),
    })
}

/// Decodes a picture and turns it as its EXIF orientation says. Colour type and depth are kept; palettes become RGB(A).
///
/// # Errors
/// `InvalidInput` when it is no picture or a broken one, `TooLarge` when its header states more than `max_pixels`: then
/// nothing of that size was allocated.
pub fn decode(content: &[u8], max_pixels: u64) -> Result<DynamicImage, Error> {
    let broken = |e: image::ImageError| match e {
        image::ImageError::Limits(_) => too_large("the picture", max_pixels),
        e => Error::invalid(format!(
            "the file is not a picture that can be read ({e}); accepted are {ACCEPTED}"
        )),
    };
    let reader = ImageReader::new(Cursor::new(content)).with_guessed_format().expect("reading from memory");
    if reader.format().is_none() {
        return Err(Error::invalid(format!("the file is not a picture; accepted are {ACCEPTED}")));
    }
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(DECODER_BYTES_PER_PIXEL));
    decoder.set_limits(limits).map_err(broken)?;
    // A broken EXIF block does not make the picture unreadable.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Encodes a picture. JPEG has neither alpha (laid over white) nor 16 bits, WebP no 16 bits.
///
/// # Errors
/// `InvalidInput` when the format can't hold a picture of this size (JPEG: 65535 pixels a side, WebP: 16383).
pub fn encode(picture: &DynamicImage, encoding: Encoding) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let (width, height) = (picture.width(), picture.height());
    let (limit, name) = match encoding.format {
        Format::Png => (u32::MAX, "PNG"),
        Format::Jpeg => (65535, "JPEG"),
        Format::Webp => (16383, "WebP"),
    };
    if width.max(height) > limit {
        return Err(Error::invalid(format!(
            "a {width}x{height} picture does not fit {name} ({limit} pixels a side at most); use out_format png"
        )));
    }
    let written = match encoding.format {
        Format::Png => {
            // Floats are no PNG; every other type is kept.
            let picture = match picture {
                DynamicImage::ImageRgb32F(_) => &DynamicImage::ImageRgb16(picture.to_rgb16()),
                DynamicImage::ImageRgba32F(_) => &DynamicImage::ImageRgba16(picture.to_rgba16()),
                picture => picture,
            };
            picture.write_with_encoder(PngEncoder::new(&mut content))
        }
        Format::Jpeg => {
            let encoder = JpegEncoder::new_with_quality(&mut content, encoding.quality.clamp(1, 100));
            match picture.color() {
                image::ColorType::L8 | image::ColorType::L16 => {
                    DynamicImage::ImageLuma8(picture.to_luma8()).write_with_encoder(encoder)
                }
                color if color.has_alpha() => over_white(picture).write_with_encoder(encoder),
                _ => picture.to_rgb8().write_with_encoder(encoder),
            }
        }
        Format::Webp => {
            let encoder = WebPEncoder::new_lossless(&mut content);
            if picture.color().has_alpha() {
                let picture = picture.to_rgba8();
                encoder.write_image(&picture, width, height, image::ExtendedColorType::Rgba8)
            } else {
                let picture = picture.to_rgb8();
                encoder.write_image(&picture, width, height, image::ExtendedColorType::Rgb8)
            }
        }
    };
    written.map_err(|e| Error::internal(format!("the picture could not be encoded: {e}")))?;
    Ok(content)
}

/// Puts a text chunk `parameters` behind the header of a PNG, where AUTOMATIC1111's web UI and the tools around it look for
/// how a picture was made. Latin-1 is written as `tEXt`, any other text as `iTXt`, as Pillow does it.
pub fn add_parameters(png: &mut Vec<u8>, text: &str) {
    /// Signature, and the header with its length, name and checksum.
    const HEADER_END: usize = 8 + 25;
    // What ends the keyword can't stand in the text.
    let text = &text.replace('\0', " ");
    let latin1: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    let mut chunk = match latin1 {
        Some(text) => [b"tEXtparameters\0", text.as_slice()].concat(),
        // Not compressed, no language, no translated keyword.
        None => [b"iTXtparameters\0\0\0\0\0", text.as_bytes()].concat(),
    };
    let length = (chunk.len() - 4) as u32;
    let checksum = crc32fast::hash(&chunk);
    chunk.splice(..0, length.to_be_bytes());
    chunk.extend_from_slice(&checksum.to_be_bytes());
    png.splice(HEADER_END..HEADER_END, chunk);
}

/// # Errors
/// `TooLarge` over `max_pixels`, `InvalidInput` when a side is zero.
pub fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(Error::invalid(format!("a picture of {width}x{height} pixels has no pixels")));
    }
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(too_large(&format!("a picture of {width}x{height} pixels"), max_pixels));
    }
    Ok(())
}

fn too_large(what: &str, max_pixels: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("{what} is over the limit of {max_pixels} pixels"))
}

fn over_white(picture: &DynamicImage) -> RgbImage {
    let picture = picture.to_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, a] = picture.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|c| ((c * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}
