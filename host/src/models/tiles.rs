//! A picture of any size through a network in bounded memory: tiles that overlap by what the network sees.

use reverie_kernels::{Backend, Filter};

use super::{
    Control, Upscale, UpscaleError,
    samples::{Pixels, Sample},
};
use crate::execution::room::MayBeFull;

/// Counts tiles over all passes.
pub struct Progress<'a> {
    pub control: &'a dyn Control,
    pub done: usize,
    pub total: usize,
}

impl Progress<'_> {
    /// `work`, once more where the device was full and room could be made.
    pub fn fit<T>(&self, mut work: impl FnMut() -> Result<T, UpscaleError>) -> Result<T, UpscaleError> {
        match work() {
            Err(error) if error.full().is_some() && self.control.make_room() => work(),
            made => made,
        }
    }

    fn step<T>(&mut self, work: impl FnMut() -> Result<T, UpscaleError>) -> Result<T, UpscaleError> {
        self.control.before_tile().map_err(|_| UpscaleError::Cancelled)?;
        let made = self.fit(work);
        if made.is_ok() {
            self.done += 1;
        }
        // Also after a failure: the control may hold the device.
        self.control.tile_done(self.done, self.total);
        made
    }
}

/// How many tiles `pass` takes.
pub fn count(width: usize, height: usize, tile: usize) -> usize {
    width.div_ceil(tile) * height.div_ceil(tile)
}

/// The tiles of one axis: equal but for rounding, so that no sliver is left over.
fn spans(length: usize, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = length.div_ceil(tile);
    (0..count).map(move |i| (i * length / count, (i + 1) * length / count))
}

/// A tile's span with its overlap, widened to the network's grid, within the picture.
fn widen(from: usize, to: usize, overlap: usize, grid: usize, length: usize) -> (usize, usize) {
    (from.saturating_sub(overlap) / grid * grid, (to + overlap).next_multiple_of(grid).min(length))
}

/// One pass of a network. Alpha is enlarged by bicubic interpolation: the network has never seen one.
pub fn network_pass<B: Backend, T: Sample>(
    backend: &B,
    (network, scale): (&dyn Upscale<B>, usize),
    picture: &Pixels<T>,
    tile: usize,
    progress: &mut Progress<'_>,
) -> Result<Pixels<T>, UpscaleError> {
    let (overlap, grid) = (network.overlap(), network.grid());
    let (width, height) = (picture.width, picture.height);
    let (out_width, out_height) = (width * scale, height * scale);
    let mut color = vec![[T::from_unit(0.0); 3]; out_width * out_height];
    for (top, bottom) in spans(height, tile) {
        for (left, right) in spans(width, tile) {
            progress.step(|| {
                let (x0, x1) = widen(left, right, overlap, grid, width);
                let (y0, y1) = widen(top, bottom, overlap, grid, height);
                let rows = (y0..y1).map(|y| &picture.color[y * width + x0..y * width + x1]);
                let input = T::upload(backend, &rows.collect::<Vec<_>>().concat(), (x1 - x0, y1 - y0))?;
                let made = network.forward(backend, &input, scale)?;
                // As pixels they would be black.
                if !reverie_models::is_picture_finite(backend, &made)? {
                    return Err(UpscaleError::NotFinite(String::new()));
                }
                let made = T::download(backend, &made)?;
                let kept = (right - left) * scale;
                for y in top * scale..bottom * scale {
                    let from = (y - y0 * scale) * (x1 - x0) * scale + (left - x0) * scale;
                    color[y * out_width + left * scale..][..kept].copy_from_slice(&made[from..][..kept]);
                }
                Ok(())
            })?;
        }
    }
    let alpha = match &picture.alpha {
        Some(alpha) => {
            Some(resize(backend, alpha, (width, height), (out_width, out_height), Filter::Bicubic)?)
        }
        None => None,
    };
    Ok(Pixels { width: out_width, height: out_height, color, alpha })
}

/// One pass of a resampler, which counts as a tile.
pub fn resampler_pass<B: Backend, T: Sample>(
    backend: &B,
    filter: Filter,
    picture: &Pixels<T>,
    (width, height): (usize, usize),
    progress: &mut Progress<'_>,
) -> Result<Pixels<T>, UpscaleError> {
    let from = (picture.width, picture.height);
    let color = progress.step(|| {
        let x = T::upload(backend, &picture.color, from)?;
        Ok(T::download(backend, &backend.resize(&x, height, width, filter)?)?)
    })?;
    let alpha = match &picture.alpha {
        Some(alpha) => Some(resize(backend, alpha, from, (width, height), filter)?),
        None => None,
    };
    Ok(Pixels { width, height, color, alpha })
}

fn resize<B: Backend, T: Sample>(
    backend: &B,
    plane: &[T],
    (width, height): (usize, usize),
    (to_width, to_height): (usize, usize),
    filter: Filter,
) -> Result<Vec<T>, UpscaleError> {
    let values = plane.iter().map(|v| v.to_unit()).collect();
    let made =
        backend.resize(&backend.tensor(values, [1, 1, height, width])?, to_height, to_width, filter)?;
    Ok(backend.to_vec(&made)?.into_iter().map(T::from_unit).collect())
}
