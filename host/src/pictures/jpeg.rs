//! Whether a JPEG is whole: the decoder makes up what is missing.

/// Whether a file has the marker that ends a JPEG (ITU-T T.81, B.1 and B.2). Segments with a length are passed over, as those
/// of an EXIF thumbnail have such a marker of their own.
pub fn is_whole(content: &[u8]) -> bool {
    /// Start and end of the image, start of a scan, the markers without a segment.
    const SOI: u8 = 0xd8;
    const EOI: u8 = 0xd9;
    const SOS: u8 = 0xda;
    const ALONE: [u8; 9] = [0x01, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7];
    let Some(mut rest) = content.strip_prefix(&[0xff, SOI]) else { return false };
    let mut scanned = false;
    loop {
        // What is between segments, above all the data of a scan: a zero behind 0xff says that it is no marker.
        let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))
        else {
            return false;
        };
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        match marker {
            EOI => return scanned,
            marker if ALONE.contains(&marker) => {}
            marker => {
                scanned |= marker == SOS;
                let Some(length) = rest.first_chunk::<2>().map(|length| u16::from_be_bytes(*length)) else {
                    return false;
                };
                let Some(after) = rest.get(usize::from(length).max(2)..) else { return false };
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageEncoder, codecs::jpeg::JpegEncoder};
    use reverie_memory::Budget;

    use crate::pictures;

    /// A JPEG with another one in its EXIF segment, as cameras write them.
    fn with_thumbnail() -> Vec<u8> {
        let plain = |side: u32| {
            let picture =
                image::RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * 7) as u8, (y * 9) as u8, 90]));
            let mut content = Vec::new();
            let encoder = JpegEncoder::new_with_quality(&mut content, 90);
            encoder.write_image(&picture, side, side, image::ExtendedColorType::Rgb8).unwrap();
            content
        };
        let (picture, thumbnail) = (plain(40), plain(8));
        let length = (2 + thumbnail.len() as u16).to_be_bytes();
        [&picture[..2], &[0xff, 0xe1], &length, &thumbnail, &picture[2..]].concat()
    }

    #[test]
    fn a_jpeg_is_read_whole_or_not_at_all() {
        let whole = with_thumbnail();
        let decode = |content: &[u8]| pictures::decode(content, 1 << 20, &Budget::unlimited());
        let read = decode(&whole).unwrap();
        assert!(matches!(&*read, DynamicImage::ImageRgb8(picture) if picture.dimensions() == (40, 40)));
        // What comes after the end is none of it.
        assert!(*decode(&[&whole[..], b"more"].concat()).unwrap() == *read);
        for cut in 0..whole.len() {
            let Err(error) = decode(&whole[..cut]) else { panic!("{cut} of {} bytes", whole.len()) };
            assert_eq!(error.kind.status(), 422, "{cut}: {}", error.message);
        }
        // One with several scans, as libjpeg writes it.
        let progressive = include_bytes!("../../../tests/fixtures/pictures/progressive.jpg");
        decode(progressive).unwrap();
        assert!((0..progressive.len()).all(|cut| decode(&progressive[..cut]).is_err()));
    }
}
