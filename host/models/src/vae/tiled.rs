//! Large pictures in overlapping tiles, blended where they overlap.
//!
//! The arithmetic is diffusers' (`tiled_decode`, `blend_v`, `blend_h`): each tile is blended with the tile above it, then
//! with the one at its left, both as they are after their own blending. Of those only the rows and columns that take part
//! are kept, so that what is held beside the result does not grow with it in both directions.

use reverie_kernels::{Backend, Shape};

use crate::{
    error::{Error, Result},
    finite::Part,
};

/// The sizes of the tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Side of a tile in pixels.
    pub tile_sample_min_size: usize,
    /// Side of a tile in latents.
    pub tile_latent_min_size: usize,
    /// The part of a tile's side that it shares with its neighbour; diffusers' is 0.25.
    pub tile_overlap_factor: f64,
}

impl Tiling {
    /// Tiles of `sample_size` pixels for a VAE whose latents are `factor` pixels wide, with diffusers' overlap.
    pub fn new(sample_size: usize, factor: usize) -> Self {
        Self {
            tile_sample_min_size: sample_size,
            tile_latent_min_size: sample_size / factor.max(1),
            tile_overlap_factor: 0.25,
        }
    }

    pub(super) fn decode_plan(&self) -> Result<Plan> {
        self.plan(self.tile_latent_min_size, self.tile_sample_min_size)
    }

    pub(super) fn encode_plan(&self) -> Result<Plan> {
        self.plan(self.tile_sample_min_size, self.tile_latent_min_size)
    }

    fn plan(&self, input: usize, output: usize) -> Result<Plan> {
        let part = |size: usize, factor: f64| (size as f64 * factor) as usize;
        let step = part(input, 1.0 - self.tile_overlap_factor);
        let blend = part(output, self.tile_overlap_factor);
        let inside = (0.0..1.0).contains(&self.tile_overlap_factor);
        // A step of other than the kept size would tear the picture at every seam.
        if !inside || step == 0 || step * output != (output - blend) * input {
            return Err(Error::Invalid(format!(
                "tiles of {} pixels and {} latents can't overlap by {} of their side: all parts must be whole numbers",
                self.tile_sample_min_size, self.tile_latent_min_size, self.tile_overlap_factor
            )));
        }
        Ok(Plan { tile: input, step, blend, keep: output - blend })
    }
}

/// [`Tiling`] for one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Side of an input tile.
    tile: usize,
    /// From one input tile to the next.
    step: usize,
    /// How far output tiles are blended.
    blend: usize,
    /// How much of an output tile ends up in the result, where there is another after it.
    keep: usize,
}

/// Applies `run`, which is of `part`, to the tiles of `x` and joins what it returns.
///
/// # Errors
/// Those of `run` and `progress`; [`Error::NotFinite`] for a tile whose values are not numbers.
pub(super) fn run<B: Backend>(
    backend: &B,
    x: &B::Tensor,
    plan: &Plan,
    part: &Part,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    mut run: impl FnMut(&B::Tensor) -> Result<B::Tensor>,
) -> Result<B::Tensor> {
    let [.., height, width] = backend.shape(x);
    let input = Tile { data: backend.to_vec(x)?, shape: backend.shape(x) };
    let (rows, columns) = (height.div_ceil(plan.step), width.div_ceil(plan.step));
    let total = rows * columns;
    let mut bands = Vec::with_capacity(rows);
    let mut above: Vec<Tile> = Vec::new();
    for row in 0..rows {
        let mut bottoms = Vec::with_capacity(columns);
        let mut left: Option<Tile> = None;
        let mut kept = Vec::with_capacity(columns);
        for column in 0..columns {
            progress(row * columns + column, total)?;
            let tile = input.part((row * plan.step, plan.tile), (column * plan.step, plan.tile));
            let out = run(&backend.tensor(tile.data, tile.shape)?)?;
            let mut tile = Tile { shape: backend.shape(&out), data: backend.to_vec(&out)? };
            drop(out);
            part.check(&tile.data)?;
            if let Some(above) = above.get(column) {
                tile.blend_v(above, plan.blend);
            }
            if let Some(left) = &left {
                tile.blend_h(left, plan.blend);
            }
            let [.., tile_height, tile_width] = tile.shape;
            bottoms.push(tile.part((tile_height.saturating_sub(plan.blend), plan.blend), (0, tile_width)));
            left = Some(tile.part((0, tile_height), (tile_width.saturating_sub(plan.blend), plan.blend)));
            kept.push(tile.part((0, plan.keep), (0, plan.keep)));
        }
        above = bottoms;
        bands.push(Tile::beside(&kept));
    }
    progress(total, total)?;
    let out = Tile::below(&bands);
    Ok(backend.tensor(out.data, out.shape)?)
}

/// A piece of an image on the host, in N, C, H, W order.
struct Tile {
    data: Vec<f32>,
    shape: Shape,
}

impl Tile {
    /// The rows and columns from a first one on, at most as many as are asked for.
    fn part(&self, rows: (usize, usize), columns: (usize, usize)) -> Self {
        let [n, c, height, width] = self.shape;
        let (y, x) = (rows.0.min(height), columns.0.min(width));
        let (h, w) = (rows.1.min(height - y), columns.1.min(width - x));
        let mut data = Vec::with_capacity(n * c * h * w);
        for plane in self.data.chunks_exact(height * width) {
            for row in plane.chunks_exact(width).skip(y).take(h) {
                data.extend_from_slice(&row[x..x + w]);
            }
        }
        Self { data, shape: [n, c, h, w] }
    }

    /// Fades from the last rows of `above` into the first of this tile.
    fn blend_v(&mut self, above: &Self, extent: usize) {
        let ([.., from, _], [.., height, width]) = (above.shape, self.shape);
        let extent = extent.min(from).min(height);
        let planes = self.data.chunks_exact_mut(height * width);
        for (plane, above) in planes.zip(above.data.chunks_exact(from * width)) {
            for y in 0..extent {
                let (old, new) = weights(y, extent);
                let above = &above[(from - extent + y) * width..][..width];
                for (b, a) in plane[y * width..][..width].iter_mut().zip(above) {
                    *b = a * old + *b * new;
                }
            }
        }
    }

    /// Fades from the last columns of `left` into the first of this tile.
    fn blend_h(&mut self, left: &Self, extent: usize) {
        let ([.., from], [.., width]) = (left.shape, self.shape);
        let extent = extent.min(from).min(width);
        let rows = self.data.chunks_exact_mut(width);
        for (row, left) in rows.zip(left.data.chunks_exact(from)) {
            for x in 0..extent {
                let (old, new) = weights(x, extent);
                row[x] = left[from - extent + x] * old + row[x] * new;
            }
        }
    }

    /// Joins tiles of equal height from left to right.
    fn beside(tiles: &[Self]) -> Self {
        let [n, c, height, _] = tiles.first().map_or([0; 4], |tile| tile.shape);
        let width = tiles.iter().map(|tile| tile.shape[3]).sum();
        let mut data = Vec::with_capacity(n * c * height * width);
        for line in 0..n * c * height {
            for tile in tiles {
                data.extend_from_slice(&tile.data[line * tile.shape[3]..][..tile.shape[3]]);
            }
        }
        Self { data, shape: [n, c, height, width] }
    }

    /// Joins tiles of equal width from top to bottom.
    fn below(tiles: &[Self]) -> Self {
        let [n, c, _, width] = tiles.first().map_or([0; 4], |tile| tile.shape);
        let height = tiles.iter().map(|tile| tile.shape[2]).sum();
        let mut data = Vec::with_capacity(n * c * height * width);
        for plane in 0..n * c {
            for tile in tiles {
                let len = tile.shape[2] * width;
                data.extend_from_slice(&tile.data[plane * len..][..len]);
            }
        }
        Self { data, shape: [n, c, height, width] }
    }
}

/// How much of the old and of the new tile there is at a place of the fade.
fn weights(place: usize, extent: usize) -> (f32, f32) {
    let new = place as f64 / extent as f64;
    ((1.0 - new) as f32, new as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reverie_kernels::{Filter, cpu::CpuBackend};

    use super::*;
    use crate::weights::Weights;

    fn part() -> Part {
        Part::new("a test", &Weights::open(&[""; 0]).unwrap())
    }

    proptest! {
        /// What is made of each pixel by itself is the same in tiles of any size: each part of the picture is there once, in its
        /// place.
        #[test]
        fn tiles_cover_a_picture_once(
            size in (1usize..70, 1usize..70),
            quarters in 1usize..6,
            factor in prop::sample::select(vec![1usize, 2, 8]),
        ) {
            let backend = CpuBackend::new(1);
            let (height, width) = size;
            let tiling = Tiling::new(4 * quarters * factor, factor);
            let values = (0..height * width).map(|i| i as f32 / 64.0).collect();
            let latents = backend.tensor(values, [1, 1, height, width]).unwrap();
            let enlarge = |x: &_| {
                let [.., h, w] = backend.shape(x);
                Ok(backend.resize(x, h * factor, w * factor, Filter::Nearest)?)
            };
            let mut calls = Vec::new();
            let mut progress = |done, total| {
                calls.push((done, total));
                Ok(())
            };
            let plan = tiling.decode_plan().unwrap();
            let tiled = run(&backend, &latents, &plan, &part(), &mut progress, enlarge).unwrap();
            prop_assert_eq!(backend.shape(&tiled), [1, 1, height * factor, width * factor]);
            let whole = backend.to_vec(&enlarge(&latents).unwrap()).unwrap();
            for (tiled, whole) in backend.to_vec(&tiled).unwrap().iter().zip(whole) {
                // At most three blends make a value, each with three roundings of half an epsilon.
                prop_assert!((tiled - whole).abs() <= whole.abs() * 4.5 * f32::EPSILON);
            }
            let total = calls.len() - 1;
            prop_assert_eq!(calls, (0..=total).map(|done| (done, total)).collect::<Vec<_>>());
        }

        /// No sizes make it panic, and what it accepts has steps that fit.
        #[test]
        fn a_tiling_is_refused_or_whole(
            samples in any::<u32>(),
            latents in any::<u32>(),
            overlap in prop_oneof![any::<f64>(), 0.0..1.0f64, Just(0.25)],
        ) {
            let tiling = Tiling {
                tile_sample_min_size: samples as usize,
                tile_latent_min_size: latents as usize,
                tile_overlap_factor: overlap,
            };
            for plan in [tiling.decode_plan(), tiling.encode_plan()].into_iter().flatten() {
                prop_assert!(plan.step > 0 && plan.step <= plan.tile);
                prop_assert_eq!(plan.keep * plan.tile, plan.step * (plan.keep + plan.blend));
            }
        }
    }
}
