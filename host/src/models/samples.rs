//! Pictures as planes of f32 and back.

use image::{DynamicImage, ImageBuffer, Luma, LumaA, Primitive, Rgb, Rgba};

/// A sample of 8 or 16 bits.
pub trait Sample: Primitive + Send + Sync + 'static {
    /// To 0..1.
    fn to_unit(self) -> f32;
    /// From 0..1, clamped and rounded to nearest.
    fn from_unit(value: f32) -> Self;
}

impl Sample for u8 {
    fn to_unit(self) -> f32 {
        f32::from(self) / 255.0
    }

    fn from_unit(value: f32) -> Self {
        (value * 255.0 + 0.5) as u8
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
pub struct Planes<T> {
    pub width: usize,
    pub height: usize,
    /// Three, each `width * height`, row by row.
    pub color: [Vec<T>; 3],
    pub alpha: Option<Vec<T>>,
}

/// The kind of picture to make again from planes.
#[derive(Clone, Copy)]
pub struct Kind {
    grey: bool,
}

impl<T: Sample> Planes<T> {
    fn from_rgba(width: u32, height: u32, pixels: &[T], has_alpha: bool) -> Self {
        let plane = |i: usize| pixels.iter().skip(i).step_by(4).copied().collect();
        Self {
            width: width as usize,
            height: height as usize,
            color: [plane(0), plane(1), plane(2)],
            alpha: has_alpha.then(|| plane(3)),
        }
    }

    /// Joins the planes; grey takes the mean of the three colours, which the network keeps nearly equal.
    fn join<const N: usize>(&self, grey: bool) -> Vec<T> {
        let [r, g, b] = &self.color;
        let mut out = Vec::with_capacity(r.len() * N);
        for i in 0..r.len() {
            if grey {
                out.push(T::from_unit((r[i].to_unit() + g[i].to_unit() + b[i].to_unit()) / 3.0));
            } else {
                out.extend([r[i], g[i], b[i]]);
            }
            if let Some(alpha) = &self.alpha {
                out.push(alpha[i]);
            }
        }
        out
    }
}

/// A picture in planes, of 8 or of 16 bits. Floats are taken as 16 bits.
pub enum AnyPlanes {
    Bits8(Planes<u8>),
    Bits16(Planes<u16>),
}

/// Splits a picture.
pub fn split(picture: DynamicImage) -> (AnyPlanes, Kind) {
    use image::ColorType::{L8, L16, La8, La16, Rgb8, Rgba8};
    let color = picture.color();
    let kind = Kind { grey: matches!(color, L8 | L16 | La8 | La16) };
    let (width, height, alpha) = (picture.width(), picture.height(), color.has_alpha());
    let planes = if matches!(color, L8 | La8 | Rgb8 | Rgba8) {
        AnyPlanes::Bits8(Planes::from_rgba(width, height, &picture.into_rgba8(), alpha))
    } else {
        AnyPlanes::Bits16(Planes::from_rgba(width, height, &picture.into_rgba16(), alpha))
    };
    (planes, kind)
}

macro_rules! joined {
    ($planes:expr, $kind:expr, $l:ident, $la:ident, $rgb:ident, $rgba:ident) => {{
        let (width, height) = ($planes.width as u32, $planes.height as u32);
        let made = match ($kind.grey, $planes.alpha.is_some()) {
            (true, false) => ImageBuffer::<Luma<_>, _>::from_raw(width, height, $planes.join::<1>(true))
                .map(DynamicImage::$l),
            (true, true) => ImageBuffer::<LumaA<_>, _>::from_raw(width, height, $planes.join::<2>(true))
                .map(DynamicImage::$la),
            (false, false) => ImageBuffer::<Rgb<_>, _>::from_raw(width, height, $planes.join::<3>(false))
                .map(DynamicImage::$rgb),
            (false, true) => ImageBuffer::<Rgba<_>, _>::from_raw(width, height, $planes.join::<4>(false))
                .map(DynamicImage::$rgba),
        };
        made.expect("planes of the picture's size")
    }};
}

/// Makes a picture of the kind that was split.
pub fn join(planes: &AnyPlanes, kind: Kind) -> DynamicImage {
    match planes {
        AnyPlanes::Bits8(planes) => joined!(planes, kind, ImageLuma8, ImageLumaA8, ImageRgb8, ImageRgba8),
        AnyPlanes::Bits16(planes) => {
            joined!(planes, kind, ImageLuma16, ImageLumaA16, ImageRgb16, ImageRgba16)
        }
    }
}
