//! Pictures as colours and alpha, to the device and back.

use image::{DynamicImage, ImageBuffer, Luma, LumaA, Primitive, Rgb, Rgba};
use reverie_kernels::{Backend, PixelRange, Result};

/// A sample of 8 or 16 bits.
pub trait Sample: Primitive + Send + Sync + 'static {
    /// To 0..1.
    fn to_unit(self) -> f32;
    /// From 0..1, clamped and rounded to nearest.
    fn from_unit(value: f32) -> Self;

    /// Brings `height` rows of `width` colours to the device: (1, 3, H, W) in 0..1.
    ///
    /// # Errors
    /// Those of the backend.
    fn upload<B: Backend>(
        backend: &B,
        color: &[[Self; 3]],
        (width, height): (usize, usize),
    ) -> Result<B::Tensor> {
        let values = (0..3).flat_map(|c| color.iter().map(move |color| color[c].to_unit()));
        backend.tensor(values.collect(), [1, 3, height, width])
    }

    /// The colours of (1, 3, H, W) in 0..1, clamped.
    ///
    /// # Errors
    /// Those of the backend.
    fn download<B: Backend>(backend: &B, x: &B::Tensor) -> Result<Vec<[Self; 3]>> {
        let values = backend.to_vec(x)?;
        let area = values.len() / 3;
        Ok((0..area).map(|i| [0, 1, 2].map(|c| Self::from_unit(values[c * area + i]))).collect())
    }
}

impl Sample for u8 {
    fn to_unit(self) -> f32 {
        f32::from(self) / 255.0
    }

    fn from_unit(value: f32) -> Self {
        (value * 255.0 + 0.5) as u8
    }

    fn upload<B: Backend>(
        backend: &B,
        color: &[[u8; 3]],
        (width, height): (usize, usize),
    ) -> Result<B::Tensor> {
        backend.from_pixels(color.as_flattened(), [1, 3, height, width], PixelRange::Unit)
    }

    fn download<B: Backend>(backend: &B, x: &B::Tensor) -> Result<Vec<[u8; 3]>> {
        Ok(backend.to_pixels(x, PixelRange::Unit)?.as_chunks().0.to_vec())
    }
}

impl Sample for u16 {
    fn to_unit(self) -> f32 {
        f32::from(self) / 65535.0
    }

    fn from_unit(value: f32) -> Self {
        (value * 65535.0 + 0.5) as u16
    }
}

/// Colour, and alpha where there is any.
pub struct Pixels<T> {
    pub width: usize,
    pub height: usize,
    /// Red, green and blue, row by row.
    pub color: Vec<[T; 3]>,
    /// Row by row.
    pub alpha: Option<Vec<T>>,
}

/// The kind of picture to make again.
#[derive(Clone, Copy)]
pub struct Kind {
    grey: bool,
}

impl<T: Sample> Pixels<T> {
    fn from_rgba(width: u32, height: u32, pixels: &[T], has_alpha: bool) -> Self {
        let (pixels, _) = pixels.as_chunks();
        Self {
            width: width as usize,
            height: height as usize,
            color: pixels.iter().map(|&[r, g, b, _]| [r, g, b]).collect(),
            alpha: has_alpha.then(|| pixels.iter().map(|&[.., a]| a).collect()),
        }
    }

    /// Joins colour and alpha; grey takes the mean of the three colours, which the network keeps nearly equal.
    fn join<const N: usize>(&self, grey: bool) -> Vec<T> {
        let mut out = Vec::with_capacity(self.color.len() * N);
        for (i, &[r, g, b]) in self.color.iter().enumerate() {
            if grey {
                out.push(T::from_unit((r.to_unit() + g.to_unit() + b.to_unit()) / 3.0));
            } else {
                out.extend([r, g, b]);
            }
            if let Some(alpha) = &self.alpha {
                out.push(alpha[i]);
            }
        }
        out
    }
}

/// A picture of 8 or of 16 bits a sample. Floats are taken as 16 bits.
pub enum AnyPixels {
    Bits8(Pixels<u8>),
    Bits16(Pixels<u16>),
}

/// Splits a picture.
pub fn split(picture: DynamicImage) -> (AnyPixels, Kind) {
    use image::ColorType::{L8, L16, La8, La16, Rgb8, Rgba8};
    let color = picture.color();
    let kind = Kind { grey: matches!(color, L8 | L16 | La8 | La16) };
    let (width, height, alpha) = (picture.width(), picture.height(), color.has_alpha());
    let pixels = if matches!(color, L8 | La8 | Rgb8 | Rgba8) {
        AnyPixels::Bits8(Pixels::from_rgba(width, height, &picture.into_rgba8(), alpha))
    } else {
        AnyPixels::Bits16(Pixels::from_rgba(width, height, &picture.into_rgba16(), alpha))
    };
    (pixels, kind)
}

macro_rules! joined {
    ($pixels:expr, $kind:expr, $l:ident, $la:ident, $rgb:ident, $rgba:ident) => {{
        let (width, height) = ($pixels.width as u32, $pixels.height as u32);
        let made = match ($kind.grey, $pixels.alpha.is_some()) {
            (true, false) => ImageBuffer::<Luma<_>, _>::from_raw(width, height, $pixels.join::<1>(true))
                .map(DynamicImage::$l),
            (true, true) => ImageBuffer::<LumaA<_>, _>::from_raw(width, height, $pixels.join::<2>(true))
                .map(DynamicImage::$la),
            (false, false) => ImageBuffer::<Rgb<_>, _>::from_raw(width, height, $pixels.join::<3>(false))
                .map(DynamicImage::$rgb),
            (false, true) => ImageBuffer::<Rgba<_>, _>::from_raw(width, height, $pixels.join::<4>(false))
                .map(DynamicImage::$rgba),
        };
        made.expect("pixels of the picture's size")
    }};
}

/// Makes a picture of the kind that was split.
pub fn join(pixels: &AnyPixels, kind: Kind) -> DynamicImage {
    match pixels {
        AnyPixels::Bits8(pixels) => joined!(pixels, kind, ImageLuma8, ImageLumaA8, ImageRgb8, ImageRgba8),
        AnyPixels::Bits16(pixels) => {
            joined!(pixels, kind, ImageLuma16, ImageLumaA16, ImageRgb16, ImageRgba16)
        }
    }
}
