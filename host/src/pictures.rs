//! Decoding and encoding pictures, with their limits.

mod jpeg;
pub mod pillow;

use std::{io::Cursor, sync::Arc};

use image::{
    DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
};

use reverie_memory::{Budget, Kept, Use};

use crate::error::{Error, ErrorKind};

/// What is read, for messages.
const ACCEPTED: &str = "PNG, JPEG, WebP, GIF, BMP or TIFF";

/// Bytes that colour profile and texts of a PNG may take, unpacked.
const HEADER_BYTES: usize = 4 << 20;

/// Bytes that a decoder or an encoder may need beside files and pictures.
const TABLES: usize = 1 << 20;

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
    let mut decoder = reader(content).ok_or_else(none)?.into_decoder().map_err(|_| none())?;
    let (width, height) = decoder.dimensions();
    Ok(match decoder.orientation() {
        Ok(Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) => (height, width),
        _ => (width, height),
    })
}

/// A reader of the format that the first bytes show.
fn reader(content: &[u8]) -> Option<ImageReader<Cursor<&[u8]>>> {
    let reader = ImageReader::new(Cursor::new(content)).with_guessed_format().expect("reading from memory");
    let mut reader = reader.format().is_some().then_some(reader)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(HEADER_BYTES as u64);
    reader.limits(limits);
    Some(reader)
}

/// Decodes a picture and turns it as its EXIF orientation says. Colour type and depth are kept; palettes become RGB(A). The
/// memory is asked for before the decoder allocates, and the decoder refuses a picture that wants more, by colour profile or text.
///
/// # Errors
/// `InvalidInput` when it is no picture or a broken one, `TooLarge` when its header states more than `max_pixels`, or more than
/// the budget has in all: then nothing of that size was allocated. `Unavailable` when the memory is in use.
pub fn decode(content: &[u8], max_pixels: u64, memory: &Arc<Budget>) -> Result<Kept<DynamicImage>, Error> {
    let broken = |e: image::ImageError| match e {
        image::ImageError::Limits(_) => Error::new(
            ErrorKind::TooLarge,
            "the picture wants more memory than its size explains: its colour profile or texts are too long",
        ),
        e => Error::invalid(format!(
            "the file is not a picture that can be read ({e}); accepted are {ACCEPTED}"
        )),
    };
    let none = || Error::invalid(format!("the file is not a picture; accepted are {ACCEPTED}"));
    let reader = reader(content).ok_or_else(none)?;
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg::is_whole(content) {
        return Err(Error::invalid(format!(
            "the file is a JPEG without its end; accepted are whole {ACCEPTED}"
        )));
    }
    let mut held = memory.hold(Use::Pictures, HEADER_BYTES + content.len())?;
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    let pixels = usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX);
    // Once more when it is turned, or put together from parts.
    let room = pixels.saturating_mul(2).saturating_add(content.len() + HEADER_BYTES + TABLES);
    held.resize(room)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(room as u64);
    decoder.set_limits(limits).map_err(broken)?;
    // A broken EXIF block does not make the picture unreadable.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    held.shrink(room - picture.as_bytes().len().min(room));
    Ok(held.with(picture))
}

/// Encodes a picture. JPEG has neither alpha (laid over white) nor 16 bits, WebP no 16 bits.
///
/// # Errors
/// `InvalidInput` when the format can't hold a picture of this size (JPEG: 65535 pixels a side, WebP: 16383), `TooLarge` or
/// `Unavailable` when the memory for it is not free.
pub fn encode(
    picture: &DynamicImage,
    encoding: Encoding,
    memory: &Arc<Budget>,
) -> Result<Kept<Vec<u8>>, Error> {
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
    // A copy in the encoder's own colour type, and a file that is hardly longer than the pixels.
    let mut held = memory.hold(Use::Pictures, picture.as_bytes().len().saturating_mul(2) + TABLES)?;
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
    content.shrink_to_fit();
    held.shrink(held.bytes().saturating_sub(content.len()));
    Ok(held.with(content))
}

/// Puts text chunks behind the header of a PNG, in their order, where AUTOMATIC1111's web UI and the tools around it look for
/// how a picture was made (`parameters`). Latin-1 is written as `tEXt`, any other text as `iTXt`, as Pillow does it.
///
/// # Errors
/// `InvalidInput` for a keyword that is not 1 to 79 printable ASCII characters without a space at either end.
pub fn add_texts(png: &mut Vec<u8>, texts: &[(String, String)]) -> Result<(), Error> {
    /// Signature, and the header with its length, name and checksum.
    const HEADER_END: usize = 8 + 25;
    let mut chunks = Vec::new();
    for (keyword, text) in texts {
        let printable = keyword.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !(1..=79).contains(&keyword.len()) || !printable || keyword.trim() != keyword {
            return Err(Error::invalid(format!(
                "'{keyword}' is no keyword of a PNG's text: accepted are 1 to 79 printable ASCII characters, without a \
                 space at either end"
            )));
        }
        chunks.extend(text_chunk(keyword, text));
    }
    png.splice(HEADER_END..HEADER_END, chunks);
    Ok(())
}

fn text_chunk(keyword: &str, text: &str) -> Vec<u8> {
    // What ends the keyword can't stand in the text.
    let text = text.replace('\0', " ");
    let latin1: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    let keyword = keyword.as_bytes();
    let content = match latin1 {
        Some(text) => [b"tEXt", keyword, b"\0", &text].concat(),
        // Not compressed, no language, no translated keyword.
        None => [b"iTXt", keyword, b"\0\0\0\0\0", text.as_bytes()].concat(),
    };
    let length = (content.len() - 4) as u32;
    [&length.to_be_bytes(), &content[..], &crc32fast::hash(&content).to_be_bytes()].concat()
}

/// Bytes of a picture of this one's colour type, at another size.
pub fn bytes(picture: &DynamicImage, width: u32, height: u32) -> usize {
    let pixels = width as usize * height as usize;
    pixels.saturating_mul(usize::from(picture.color().bytes_per_pixel()))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, keywords and the rest of a PNG's text chunks, in their order.
    fn texts(png: &[u8]) -> Vec<(String, String, Vec<u8>)> {
        let (mut at, mut found) = (8, Vec::new());
        while at < png.len() {
            let length = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
            let content = &png[at + 4..at + 8 + length];
            let checksum = u32::from_be_bytes(png[at + 8 + length..][..4].try_into().unwrap());
            assert_eq!(checksum, crc32fast::hash(content));
            let (name, data) = content.split_at(4);
            if name.ends_with(b"Xt") {
                let end = data.iter().position(|byte| *byte == 0).unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                found.push((text(name), text(&data[..end]), data[end + 1..].to_vec()));
            }
            at += 12 + length;
        }
        found
    }

    #[test]
    fn a_png_carries_texts_in_their_order() {
        let picture = DynamicImage::new_rgb8(2, 2);
        let encoding = Encoding { format: Format::Png, quality: 1 };
        let (mut png, _) = encode(&picture, encoding, &Budget::unlimited()).unwrap().apart();
        let given = [("parameters", "K\u{e4}se"), ("lcm", "\u{732b} \0"), ("a b", "")];
        add_texts(&mut png, &given.map(|(keyword, text)| (keyword.into(), text.into()))).unwrap();
        let text = |name: &str, keyword: &str, rest: &[u8]| (name.into(), keyword.into(), rest.to_vec());
        let expected = [
            text("tEXt", "parameters", b"K\xe4se"),
            text("iTXt", "lcm", b"\0\0\0\0\xe7\x8c\xab  "),
            text("tEXt", "a b", b""),
        ];
        assert_eq!(texts(&png), expected);
        assert_eq!(image::load_from_memory(&png).unwrap(), picture);

        let whole = png.clone();
        for keyword in ["", " a", "a\nb", "\u{e4}", &"x".repeat(80)] {
            let refused = add_texts(&mut png, &[(keyword.to_owned(), String::new())]).unwrap_err();
            assert!(refused.message.contains("1 to 79"), "{}", refused.message);
        }
        assert_eq!(png, whole);
    }
}
