//! From the size at which a model makes its pictures to the one that was asked for.

use image::{DynamicImage, RgbImage};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::{Control, lease};
use crate::{
    error::Error,
    execution::{Device, Lease, Ticket},
    models::{self, Cancelled, Scale, UpscaleRequest, Upscalers},
    pictures::pillow::{self, Filter},
};

/// A picture at another size: a network's passes to at least that, then resampled down. Where it is no larger, and by the name of
/// a resampler, resampled alone. Reports tiles from `progress_from` of the whole to its end.
///
/// # Errors
/// `InvalidInput` for a name that is not known; `Cancelled`; the device's.
pub fn enlarged(
    upscalers: &Upscalers,
    device: &Device,
    name: &str,
    picture: RgbImage,
    (width, height): (u32, u32),
    progress_from: f32,
    control: &dyn Control,
) -> Result<RgbImage, Error> {
    let (from_width, from_height) = picture.dimensions();
    let resampler = match name {
        "nearest" => Some(Filter::Nearest),
        "bilinear" => Some(Filter::Bilinear),
        "bicubic" => Some(Filter::Bicubic),
        "lanczos3" => Some(Filter::Lanczos),
        _ => None,
    };
    if let Some(filter) = resampler {
        return Ok(pillow::resize(&DynamicImage::ImageRgb8(picture), width, height, filter).into_rgb8());
    }
    let ratio = (f64::from(width) / f64::from(from_width)).max(f64::from(height) / f64::from(from_height));
    let mut picture = DynamicImage::ImageRgb8(picture);
    let passes = passes(ratio, &scales(upscalers, name)?);
    for (done, scale) in passes.iter().enumerate() {
        let tiles = Tiles {
            ticket: device.ticket(),
            lease: Mutex::default(),
            control,
            done: done as f32 / passes.len() as f32,
            share: 1.0 / passes.len() as f32,
            progress_from,
        };
        let request = UpscaleRequest { model: name.to_owned(), scale: Scale::Factor(*scale as f32) };
        picture = upscalers.upscale(picture, &request, &tiles)?;
    }
    Ok(pillow::resize(&picture, width, height, Filter::Lanczos).into_rgb8())
}

/// The factors of a network by its name, ascending; none of a resampler.
///
/// # Errors
/// `InvalidInput`, with the names there are.
pub fn scales(upscalers: &Upscalers, name: &str) -> Result<Vec<u32>, Error> {
    let known = upscalers.list();
    match known.iter().find(|network| network.name == name) {
        Some(network) => Ok(network.scales.clone()),
        None => {
            let names: Vec<&str> = known.iter().map(|network| network.name.as_str()).collect();
            Err(Error::invalid(format!("enlarge: there is no '{name}'; there are: {}", names.join(", "))))
        }
    }
}

/// The fewest passes that enlarge by at least `ratio`, and of those by the least, the smallest first, where a picture is smallest.
fn passes(ratio: f64, scales: &[u32]) -> Vec<u32> {
    let largest = scales.last().copied().unwrap_or(1);
    if ratio <= 1.0 || largest < 2 {
        return Vec::new();
    }
    let mut left = 0;
    while f64::from(largest).powi(left + 1) < ratio {
        left += 1;
    }
    let enough = |scale: &&u32| f64::from(**scale) * f64::from(largest).powi(left) >= ratio;
    let mut least: Option<Vec<u32>> = None;
    for scale in scales.iter().filter(enough) {
        let all = [&[*scale][..], &passes(ratio / f64::from(*scale), scales)].concat();
        let product = |passes: &[u32]| passes.iter().product::<u32>();
        if all.len() as i32 == left + 1 && least.as_ref().is_none_or(|least| product(&all) < product(least)) {
            least = Some(all);
        }
    }
    least.unwrap_or_default()
}

/// Holds the device for one tile at a time.
struct Tiles<'a> {
    ticket: Ticket<'a>,
    lease: Mutex<Option<Lease<'a>>>,
    control: &'a dyn Control,
    /// Shares of all passes: those before, and this one.
    done: f32,
    share: f32,
    progress_from: f32,
}

impl models::Control for Tiles<'_> {
    fn before_tile(&self) -> Result<(), Cancelled> {
        let lease = lease(&self.ticket, self.control).ok_or(Cancelled)?;
        *self.lease.lock() = Some(lease);
        Ok(())
    }

    fn make_room(&self) -> bool {
        self.ticket.device().room.make()
    }

    fn tile_done(&self, done: usize, total: usize) {
        *self.lease.lock() = None;
        let share = self.done + self.share * done as f32 / total.max(1) as f32;
        let detail = json!({"stage": "upscaling", "tile": done, "tiles": total});
        let detail: Map<String, Value> = detail.as_object().cloned().unwrap_or_default();
        self.control.progress(self.progress_from + (1.0 - self.progress_from) * share, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_few_passes_as_can_be_and_no_larger_than_needed() {
        for (ratio, expected) in [
            (0.5, &[][..]),
            (1.0, &[]),
            (1.01, &[2]),
            (2.0, &[2]),
            (2.5, &[3]),
            (4.0, &[4]),
            (4.1, &[2, 3]),
            (8.0, &[2, 4]),
            (8.5, &[3, 3]),
            (16.0, &[4, 4]),
            (17.0, &[2, 3, 3]),
        ] {
            assert_eq!(passes(ratio, &[2, 3, 4]), expected, "{ratio}");
        }
        assert_eq!(passes(5.0, &[4]), [4, 4]);
        assert!(passes(5.0, &[1]).is_empty() && passes(5.0, &[]).is_empty());
    }
}
