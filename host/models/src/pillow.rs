//! What Pillow makes of pictures, to the bit: diffusers and transformers have their pictures from there.
//!
//! Resizing is separable, in 8-bit fixed-point arithmetic with a rounding to bytes between the two passes. Where a picture is
//! reduced, a filter's support is widened. It is that of Pillow 13, which chooses the pass that comes first by the sizes.

/// Bits after the point of Pillow's coefficients.
const PRECISION_BITS: u32 = 22;

/// Pillow's `Image.Resampling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The pixel at the middle.
    Nearest,
    /// A triangle.
    Bilinear,
    /// Keys 1981 with a = -0.5.
    Bicubic,
    /// Duchon 1979, of radius 3: what diffusers resizes pictures and masks by.
    Lanczos,
}

impl Filter {
    /// How far it reaches, in pixels of the larger picture.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Nearest => 1.0,
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => cubic(x),
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// Pillow's `Image.resize` of `channels` bytes a pixel (those of an `L` picture 1, of an `RGB` picture 3), row by row. Sizes are
/// width and height, at least 1 each, and `pixels` has as many bytes as they say.
pub fn resize(
    pixels: &[u8],
    [width, height]: [usize; 2],
    channels: usize,
    [new_width, new_height]: [usize; 2],
    filter: Filter,
) -> Vec<u8> {
    if filter == Filter::Nearest {
        return nearest(pixels, [width, height], channels, [new_width, new_height]);
    }
    let horizontal = |pixels: Vec<u8>| match width == new_width {
        true => pixels,
        false => across(&pixels, width * channels, channels, &taps(width, new_width, filter)),
    };
    let vertical = |pixels: Vec<u8>, width: usize| match height == new_height {
        true => pixels,
        false => down(&pixels, width * channels, &taps(height, new_height, filter)),
    };
    match columns_come_first([width, height], [new_width, new_height]) {
        true => horizontal(vertical(pixels.to_vec(), width)),
        false => vertical(horizontal(pixels.to_vec()), new_width),
    }
}

/// Whether Pillow resizes the columns before the rows: where that takes more than twice as many pixels off a side. The rule is
/// one that agrees with it at every size that was tried.
fn columns_come_first([width, height]: [usize; 2], [new_width, new_height]: [usize; 2]) -> bool {
    let lost = |old: usize, new: usize| old as i64 - new as i64;
    new_height < height && lost(height, new_height) > 2 * lost(width, new_width)
}

/// Pillow's `Image.convert("L")` of an `RGB` picture: luma of ITU-R BT.601.
pub fn grey(rgb: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgb.as_chunks::<3>();
    let luma = |&[red, green, blue]: &[u8; 3]| {
        let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000;
        (sum >> 16) as u8
    };
    pixels.iter().map(luma).collect()
}

/// The pixels that one of the new size is made of: the first, and a coefficient for each.
struct Taps {
    first: usize,
    coefficients: Vec<i32>,
}

/// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn taps(old: usize, new: usize, filter: Filter) -> Vec<Taps> {
    let scale = old as f64 / new as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    (0..new)
        .map(|x| {
            let center = (x as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let inverse = 1.0 / filter_scale;
            let weights: Vec<f64> =
                (first..end).map(|i| filter.at((i as f64 - center + 0.5) * inverse)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: f64| (weight / sum * f64::from(1u32 << PRECISION_BITS)).round() as i32;
            Taps { first, coefficients: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

/// Each row of `stride` bytes by itself.
fn across(pixels: &[u8], stride: usize, channels: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / stride * taps.len() * channels);
    for row in pixels.chunks_exact(stride) {
        for Taps { first, coefficients } in taps {
            for channel in 0..channels {
                let bytes = row[first * channels + channel..].iter().step_by(channels);
                let sum: i64 =
                    coefficients.iter().zip(bytes).map(|(k, byte)| i64::from(*k) * i64::from(*byte)).sum();
                out.push(rounded(sum));
            }
        }
    }
    out
}

/// Rows of `stride` bytes into one another.
fn down(pixels: &[u8], stride: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.len() * stride);
    let mut sums = vec![0i64; stride];
    for Taps { first, coefficients } in taps {
        sums.fill(0);
        for (k, row) in coefficients.iter().zip(pixels[first * stride..].chunks_exact(stride)) {
            sums.iter_mut().zip(row).for_each(|(sum, byte)| *sum += i64::from(*k) * i64::from(*byte));
        }
        out.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    out
}

fn rounded(sum: i64) -> u8 {
    ((sum + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Pillow's `ImagingScaleAffine`, which adds the scale up pixel by pixel.
fn nearest(
    pixels: &[u8],
    [width, height]: [usize; 2],
    channels: usize,
    [new_width, new_height]: [usize; 2],
) -> Vec<u8> {
    let places = |old: usize, new: usize| -> Vec<usize> {
        let scale = old as f64 / new as f64;
        let middles = std::iter::successors(Some(scale * 0.5), |place| Some(place + scale));
        middles.take(new).map(|place| (place as usize).min(old - 1)).collect()
    };
    let columns = places(width, new_width);
    let mut out = Vec::with_capacity(new_width * new_height * channels);
    for row in places(height, new_height) {
        let row = &pixels[row * width * channels..][..width * channels];
        columns.iter().for_each(|column| out.extend(&row[column * channels..][..channels]));
    }
    out
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}
