//! From a picture to the pixels that the picture encoder takes: `transformers.CLIPImageProcessor` on Pillow.
//!
//! The picture is resized by Pillow's bicubic filter until its shorter side fits, its middle is cut out, and the channels are
//! normalised.

use std::path::Path;

use serde::Deserialize;

use crate::{
    config::SEEN,
    error::{Error, Result},
    json,
    pillow::{self, Filter},
    pipeline::Picture,
};

/// Pillow's number of its bicubic filter.
const BICUBIC: u8 = 3;
/// Pixels of a picture that is resized, before its middle is cut out.
const LARGEST: usize = 1 << 26;

/// How pictures are prepared.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    shortest_edge: usize,
    crop: usize,
    rescale_factor: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

/// `preprocessor_config.json`.
#[derive(Deserialize)]
struct File {
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default = "yes")]
    do_center_crop: bool,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "yes")]
    do_normalize: bool,
    size: Size,
    crop_size: Option<Size>,
    #[serde(default = "bicubic")]
    resample: u8,
    #[serde(default = "of_byte")]
    rescale_factor: f32,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

/// `processor_config.json`, which newer versions write.
#[derive(Deserialize)]
struct Processor {
    image_processor: File,
}

/// A side, or both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Side(usize),
    Edge { shortest_edge: usize },
    Both { height: usize, width: usize },
}

fn yes() -> bool {
    true
}

fn bicubic() -> u8 {
    BICUBIC
}

fn of_byte() -> f32 {
    1.0 / 255.0
}

impl Size {
    fn side(&self) -> Option<usize> {
        match *self {
            Self::Side(side) | Self::Edge { shortest_edge: side } => Some(side),
            Self::Both { height, width } => (height == width).then_some(height),
        }
    }
}

impl Preprocessor {
    /// Reads `preprocessor_config.json`, or `processor_config.json`, of a folder.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Unsupported`] for another filter than bicubic and for steps left out.
    pub fn open(folder: &Path) -> Result<Self> {
        let (old, new) = (folder.join("preprocessor_config.json"), folder.join("processor_config.json"));
        let path = if old.exists() { &old } else { &new };
        let failed = |reason: String| Error::File { file: path.display().to_string(), reason };
        let text = json::text(path, json::CONFIG)?;
        let file: File = match path == &old {
            true => serde_json::from_str(&text),
            false => serde_json::from_str::<Processor>(&text).map(|processor| processor.image_processor),
        }
        .map_err(|e| failed(e.to_string()))?;
        let whole = file.do_resize && file.do_center_crop && file.do_rescale && file.do_normalize;
        if !whole || file.resample != BICUBIC {
            return Err(Error::Unsupported(format!(
                "{}: accepted is a bicubic resize (resample: 3), a centre crop, rescaling and normalising, all on",
                path.display()
            )));
        }
        let values = file.image_mean.iter().chain(&file.image_std).chain([&file.rescale_factor]);
        if values.into_iter().any(|value| !value.is_finite()) || file.image_std.contains(&0.0) {
            return Err(failed(
                "image_mean, image_std and rescale_factor: accepted are numbers, image_std not 0".into(),
            ));
        }
        let size = file.size.side().filter(|side| SEEN.contains(side));
        let crop = file.crop_size.as_ref().map_or(size, Size::side);
        match (size, crop) {
            (Some(shortest_edge), Some(crop)) if 0 < crop && crop <= shortest_edge => Ok(Self {
                shortest_edge,
                crop,
                rescale_factor: file.rescale_factor,
                mean: file.image_mean,
                std: file.image_std,
            }),
            _ => Err(failed(format!(
                "size and crop_size: accepted are squares of {} to {} pixels, the crop not larger",
                SEEN.start(),
                SEEN.end()
            ))),
        }
    }

    /// Rows and columns of what [`Preprocessor::values`] makes.
    pub fn side(&self) -> usize {
        self.crop
    }

    /// Three channels, one after the other, of [`Preprocessor::side`] rows and columns.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a picture without pixels, and for one whose longer side is many times the shorter.
    pub fn values(&self, picture: &Picture) -> Result<Vec<f32>> {
        let (width, height) = (picture.width, picture.height);
        if width == 0 || height == 0 || picture.rgb.len() != width * height * 3 {
            return Err(Error::Invalid(format!("a picture of {width}x{height} has no pixels to look at")));
        }
        // The longer side is rounded down, as in transformers.
        let longer = |long: usize, short: usize| self.shortest_edge.saturating_mul(long) / short;
        let (new_width, new_height) = match width <= height {
            true => (self.shortest_edge, longer(height, width)),
            false => (longer(width, height), self.shortest_edge),
        };
        let size = [new_width, new_height];
        if new_width.saturating_mul(new_height) > LARGEST {
            return Err(Error::Invalid(format!(
                "a picture of {width}x{height} is too long and thin to look at"
            )));
        }
        let resized = pillow::resize(&picture.rgb, [width, height], 3, size, Filter::Bicubic);
        let (left, top) = ((new_width - self.crop) / 2, (new_height - self.crop) / 2);
        let mut values = Vec::with_capacity(3 * self.crop * self.crop);
        for channel in 0..3 {
            for row in top..top + self.crop {
                for column in left..left + self.crop {
                    let byte = f32::from(resized[(row * new_width + column) * 3 + channel]);
                    values.push((byte * self.rescale_factor - self.mean[channel]) / self.std[channel]);
                }
            }
        }
        Ok(values)
    }
}
