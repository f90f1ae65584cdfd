//! Attention without the N×N matrix: tiles of queries against tiles of keys, with a softmax that is corrected
//! as keys go by (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022,
//! "FlashAttention").
//!
//! Everything is transposed: scores are k qᵀ and results vᵀ p, with queries in the vectors' lanes. So the
//! softmax needs no sums across lanes, a tile of scores is as it stands a packed right-hand side for the second
//! multiplication, and the features of a head, which are seldom a multiple of the lanes, are rows.

use super::buffer::{LANES, Pool, flat_mut};
use super::gemm::{self, DEPTH_STEP, Gemm};
use super::scratch::with_scratch;
use super::simd::{Level, Simd, Task, math};
use super::tensor::CpuTensor;
use crate::backend::Mask;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Keys of a tile: a step of the depth where scores are multiplied with values. Fixed, as the order of the
/// sums depends on it.
const KEYS: usize = DEPTH_STEP;
/// Floats from one feature to the next in a tile of values: not a power of two, which would put all features
/// into the same few cache sets.
const VALUE_STRIDE: usize = KEYS + LANES;

/// `softmax(q kᵀ / √d + mask) v` for shapes that were checked.
pub(crate) fn attention(
    pool: &Arc<Pool>,
    [q, k, v]: [&CpuTensor; 3],
    heads: usize,
    mask: Mask,
    level: Level,
) -> CpuTensor {
    let [n, _, queries, features] = q.shape;
    let sizes = Sizes { features, width: features / heads, queries, keys: k.shape[2], mask, level };
    let [q, k, v] = [q, k, v].map(|x| x.to_planar(pool));

    let head_lanes = sizes.head_lanes();
    let mut packed = pool.take(n * heads * head_lanes * LANES);
    packed.lanes_mut().par_chunks_mut(head_lanes).enumerate().for_each(|(i, target)| {
        let start = i / heads * sizes.keys * features + i % heads * sizes.width;
        sizes.pack(&k.floats()[start..], &v.floats()[start..], flat_mut(target));
    });

    let mut out = pool.take(n * queries * features);
    let target = Target(out.floats_mut().as_mut_ptr());
    // The queries of a task are a panel of the matrix multiplication.
    let blocks = queries.div_ceil(LANES);
    let tiles = gemm::panel_count(blocks, level);
    (0..n * heads * tiles).into_par_iter().for_each(|i| {
        let (head, tile) = (i / tiles, i % tiles);
        let [first, end] = [tile, tile + 1].map(|tile| blocks * tile / tiles);
        let place = [head / heads, first * LANES, head % heads];
        let start = sizes.offset(place);
        with_scratch(sizes.scratch_lanes(end - first), |scratch| {
            let tile = Tile {
                sizes: &sizes,
                queries: first * LANES..queries.min(end * LANES),
                vectors: end - first,
                q: &q.floats()[start..],
                packed: &packed.floats()[head * head_lanes * LANES..],
                out: target.at(start),
                scratch: flat_mut(scratch),
            };
            // SAFETY: the backend's level is available; different tasks have different rows or heads.
            unsafe { level.run(tile) }
        });
    });
    CpuTensor::planar(out, [n, 1, queries, features])
}

/// Where the results go.
struct Target(*mut f32);

// SAFETY: different tasks write to different parts.
unsafe impl Sync for Target {}

impl Target {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// What is the same for all heads.
struct Sizes {
    /// Features of a token: the floats from one to the next.
    features: usize,
    /// Features of a head.
    width: usize,
    queries: usize,
    keys: usize,
    mask: Mask,
    level: Level,
}

impl Sizes {
    /// Where a head's part of a query begins: image, query and head.
    fn offset(&self, [image, query, head]: [usize; 3]) -> usize {
        (image * self.queries + query) * self.features + head * self.width
    }

    /// Floats of a head's packed keys.
    fn key_floats(&self) -> usize {
        (self.keys * self.width).next_multiple_of(LANES)
    }

    /// Vectors of a head's packed keys and values.
    fn head_lanes(&self) -> usize {
        let values = self.keys.div_ceil(KEYS) * self.width * VALUE_STRIDE;
        (self.key_floats() + values) / LANES
    }

    /// Vectors of the working area of a task: for so many vectors of queries the queries themselves, the
    /// scores of a tile of keys, and the sums.
    fn scratch_lanes(&self, vectors: usize) -> usize {
        vectors * (2 * self.width + KEYS)
    }

    /// Packs a head: the keys one after the other, then the values, feature by feature, for each tile of keys.
    /// `k` and `v` begin at the head's part of the first token.
    fn pack(&self, k: &[f32], v: &[f32], target: &mut [f32]) {
        let (keys, values) = target.split_at_mut(self.key_floats());
        for (target, k) in keys.chunks_exact_mut(self.width).zip(k.chunks(self.features)).take(self.keys) {
            target.copy_from_slice(&k[..self.width]);
        }
        let tiles = values.chunks_exact_mut(self.width * VALUE_STRIDE);
        for (target, v) in tiles.zip(v.chunks(KEYS * self.features)) {
            for (feature, target) in target.chunks_exact_mut(VALUE_STRIDE).enumerate() {
                for (target, v) in target.iter_mut().zip(v[feature..].iter().step_by(self.features)) {
                    *target = *v;
                }
            }
        }
    }
}

/// Some queries of one head.
struct Tile<'a> {
    sizes: &'a Sizes,
    /// Their positions.
    queries: Range<usize>,
    /// How many vectors they fill, the last one perhaps in part.
    vectors: usize,
    /// From the head's part of the first query on.
    q: &'a [f32],
    /// The head's keys and values.
    packed: &'a [f32],
    /// Where the head's part of the first result goes.
    out: *mut f32,
    scratch: &'a mut [f32],
}

impl Task for Tile<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise; a tile has at most as many vectors as a panel.
        unsafe {
            match self.vectors {
                1 => self.of_vectors::<S, 1>(),
                2 if S::PANEL >= 2 => self.of_vectors::<S, 2>(),
                3 if S::PANEL >= 3 => self.of_vectors::<S, 3>(),
                _ if S::PANEL >= 4 => self.of_vectors::<S, 4>(),
                _ => {}
            }
        }
    }
}

impl Tile<'_> {
    #[inline(always)]
    unsafe fn of_vectors<S: Simd, const NV: usize>(self) {
        let Self { sizes, queries, q, packed, out, scratch, .. } = self;
        let Sizes { features, width, keys, mask, level, .. } = *sizes;
        let columns = NV * LANES;
        let (transposed, scratch) = scratch.split_at_mut(width * columns);
        let (sums, scores) = scratch.split_at_mut(width * columns);
        // Scores in units of log 2, so that weights are powers of two.
        let scale = std::f32::consts::LOG2_E / (width as f32).sqrt();
        transposed.fill(0.0);
        for (column, q) in (0..queries.len()).zip(q.chunks(features)) {
            for (row, q) in transposed.chunks_exact_mut(columns).zip(&q[..width]) {
                row[column] = q * scale;
            }
        }
        sums.fill(0.0);
        let (packed_k, packed_v) = packed.split_at(sizes.key_floats());
        let visible = if mask == Mask::Causal { keys.min(queries.end) } else { keys };
        // SAFETY: keys and values of the tile are packed from the places given on; `scores` has room for a tile
        // of keys and `sums` for all features.
        unsafe {
            let mut state = Softmax::<S, NV>::new();
            for first in (0..visible).step_by(KEYS) {
                let count = KEYS.min(visible - first);
                Gemm::whole(count, width, NV, transposed.as_ptr(), level)
                    .into(scores.as_mut_ptr(), columns)
                    .multiply::<S>(packed_k.as_ptr().add(first * width), width);
                let scores = &mut scores[..count * columns];
                if mask == Mask::Causal {
                    hide::<S, NV>(scores, first as isize - queries.start as isize);
                }
                state.update(scores, sums);
                let sums = sums.as_mut_ptr();
                Gemm {
                    residual: sums,
                    ..Gemm::whole(width, count, NV, scores.as_ptr(), level).into(sums, columns)
                }
                .multiply::<S>(packed_v.as_ptr().add(first / KEYS * width * VALUE_STRIDE), VALUE_STRIDE);
            }
            state.finish(sums);
        }
        for column in 0..queries.len() {
            for (feature, sums) in sums.chunks_exact(columns).enumerate() {
                // SAFETY: `width` floats from the head's part of each row on belong to this task.
                unsafe { *out.add(column * features + feature) = sums[column] }
            }
        }
    }
}

/// Takes scores of keys after the query out of account. `first` is the position of the first key, relative to
/// that of the first query.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
unsafe fn hide<S: Simd, const NV: usize>(scores: &mut [f32], first: isize) {
    let position: [f32; LANES] = std::array::from_fn(|i| i as f32 + 0.5);
    for (key, row) in (first..).zip(scores.chunks_exact_mut(NV * LANES)).filter(|(key, _)| *key > 0) {
        for (v, x) in row.chunks_exact_mut(LANES).enumerate() {
            // SAFETY: the caller's promise; chunks are whole vectors.
            unsafe {
                let limit = S::splat(key as f32 - (v * LANES) as f32);
                let hidden = S::splat(f32::NEG_INFINITY);
                let seen = S::above(S::load(position.as_ptr()), limit, S::load(x.as_ptr()), hidden);
                S::store(x.as_mut_ptr(), seen);
            }
        }
    }
}

/// For each query its largest score so far and the sum of its weights relative to that one.
struct Softmax<S: Simd, const NV: usize> {
    largest: [S::V; NV],
    weight: [S::V; NV],
}

impl<S: Simd, const NV: usize> Softmax<S, NV> {
    /// # Safety
    /// The machine has the instructions of `S`.
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self { largest: [S::splat(f32::NEG_INFINITY); NV], weight: [S::splat(0.0); NV] } }
    }

    /// Turns the scores of a tile of keys into weights; earlier sums are brought in line.
    ///
    /// # Safety
    /// The machine has the instructions of `S`; both slices are rows of `NV` vectors.
    #[inline(always)]
    unsafe fn update(&mut self, scores: &mut [f32], sums: &mut [f32]) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut largest = self.largest;
            for row in scores.chunks_exact(NV * LANES) {
                for (v, largest) in largest.iter_mut().enumerate() {
                    *largest = S::max(*largest, S::load(row.as_ptr().add(v * LANES)));
                }
            }
            let mut factors = [S::splat(0.0); NV];
            for (v, factor) in factors.iter_mut().enumerate() {
                *factor = math::exp2::<S>(S::sub(self.largest[v], largest[v]));
                self.weight[v] = S::mul(self.weight[v], *factor);
            }
            self.largest = largest;
            scale_rows::<S, NV>(sums, factors);
            for row in scores.chunks_exact_mut(NV * LANES) {
                for (v, largest) in largest.into_iter().enumerate() {
                    let x = row.as_mut_ptr().add(v * LANES);
                    let weight = math::exp2::<S>(S::sub(S::load(x), largest));
                    self.weight[v] = S::add(self.weight[v], weight);
                    S::store(x, weight);
                }
            }
        }
    }

    /// Divides the sums by the sums of the weights.
    ///
    /// # Safety
    /// The machine has the instructions of `S`; `sums` is rows of `NV` vectors.
    #[inline(always)]
    unsafe fn finish(&self, sums: &mut [f32]) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut factors = self.weight;
            for factor in &mut factors {
                *factor = S::div(S::splat(1.0), *factor);
            }
            scale_rows::<S, NV>(sums, factors);
        }
    }
}

#[inline(always)]
unsafe fn scale_rows<S: Simd, const NV: usize>(rows: &mut [f32], factors: [S::V; NV]) {
    for row in rows.chunks_exact_mut(NV * LANES) {
        for (v, factor) in factors.into_iter().enumerate() {
            // SAFETY: the caller has the instructions and gives rows of `NV` vectors.
            unsafe {
                let x = row.as_mut_ptr().add(v * LANES);
                S::store(x, S::mul(S::load(x), factor));
            }
        }
    }
}
