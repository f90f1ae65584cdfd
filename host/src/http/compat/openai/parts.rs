//! The parts of a form with a picture that is to be changed.

use std::sync::Arc;

use bytes::Bytes;
use image::{DynamicImage, GrayImage};
use reverie_memory::{Budget, Buffer, Kept, Use};

use super::{super::multipart::Part, MAX_FORM, body};
use crate::{
    error::{Error, ErrorKind},
    pictures::{self, Encoding, Format},
};

/// OpenAI's masks are transparent where the picture is made anew: as a PNG that is white there. None where nothing is
/// transparent.
pub fn edited(content: &[u8], limit: u64, memory: &Arc<Budget>) -> Result<Option<Kept<Vec<u8>>>, Error> {
    let picture = pictures::decode(content, limit, memory)?;
    if !picture.color().has_alpha() {
        return Ok(None);
    }
    let _both = memory.hold(Use::Pictures, 5 * picture.width() as usize * picture.height() as usize)?;
    let alpha = picture.to_rgba8();
    let mask = GrayImage::from_fn(alpha.width(), alpha.height(), |x, y| {
        image::Luma([255 - alpha.get_pixel(x, y).0[3]])
    });
    if mask.iter().all(|&value| value == 0) {
        return Ok(None);
    }
    let encoding = Encoding { format: Format::Png, quality: 100 };
    pictures::encode(&DynamicImage::ImageLuma8(mask), encoding, memory).map(Some)
}

/// A part of at most `room` bytes.
pub async fn read(mut part: Part, room: usize, memory: &Arc<Budget>) -> Result<Bytes, Error> {
    if room == 0 {
        return Err(Error::new(ErrorKind::TooLarge, format!("the form is over {MAX_FORM} bytes")));
    }
    let mut content = Buffer::new(memory.nothing(Use::Bodies));
    while let Some(chunk) = part.data().await {
        let chunk = chunk?;
        if content.len() + chunk.len() > room {
            return Err(Error::new(ErrorKind::TooLarge, format!("the form is over {MAX_FORM} bytes")));
        }
        body::push(&mut content, chunk)?;
    }
    Ok(content.into_bytes())
}
