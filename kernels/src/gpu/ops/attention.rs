//! Scaled dot-product attention.

use super::blocks;
use crate::backend::{Backend, Mask};
use crate::checks;
use crate::error::{Error, Result};
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, TensorMap, Variant};

/// Widths of heads that `attention.ptx` has variants for; heads between two of them are done as the next wider one. 40, 64, 80,
/// 160 and 512 are those of Stable Diffusion and its autoencoder.
const WIDTHS: [usize; 8] = [24, 32, 40, 64, 80, 128, 160, 512];

/// Of those, the ones that have variants with 32 queries a warp: there are pictures with that many, and registers suffice.
const TWICE: [usize; 3] = [40, 64, 80];

/// Blocks for each multiprocessor from which on 32 queries a warp are better than twice as many blocks.
const ENOUGH: usize = 2;

/// Columns of a head that a warp of `attention_any.ptx` does.
const SLICE: usize = 128;

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    let once = WIDTHS.iter().flat_map(|width| [false, true].map(|causal| Tiles::new(*width, causal, 1)));
    let twice = TWICE.iter().map(|width| Tiles::new(*width, false, 2));
    let tiled = once.chain(twice).map(|tiles| tiles.variant());
    let grouped = GROUPED.iter().map(|grouped| grouped.variant());
    tiled.chain([false, true].map(any_variant)).chain(grouped).collect()
}

/// Whether there is a variant of `attention_wgmma.ptx` for these sizes.
pub(in crate::gpu) fn by_wgmma(width: usize, queries: usize, keys: usize, causal: bool) -> bool {
    Grouped::of(width, causal, queries, keys).is_some()
}

fn any_variant(causal: bool) -> Variant {
    Variant::new("attention_any", &[("CAUSAL", causal.into())])
}

/// How `attention.ptx` divides the work.
struct Tiles {
    /// Room for a head's width.
    width: usize,
    causal: bool,
    /// 16 queries each, of a warp.
    groups: usize,
    /// Of a block.
    queries: usize,
    /// Of a tile.
    keys: usize,
    /// Warps that share queries.
    split: usize,
}

impl Tiles {
    fn new(width: usize, causal: bool, groups: usize) -> Self {
        // Of 512 values, 64 keys or queries would be more than shared memory has; of 80, with 32 queries a warp, the scores of
        // 64 keys would be more than registers hold.
        let (queries, keys, split) = match (width, groups) {
            (161.., _) => (32, 32, 4),
            (80.., 2) => (128, 32, 1),
            _ => (64 * groups, 64, 1),
        };
        Self { width, causal, groups, queries, keys, split }
    }

    /// Those for heads of this width on so many multiprocessors, if there are any; `heads` of all images.
    fn of(multiprocessors: usize, width: usize, causal: bool, queries: usize, heads: usize) -> Option<Self> {
        let room = WIDTHS.into_iter().find(|room| *room >= width && width.is_multiple_of(8))?;
        let blocks = queries.div_ceil(128) * heads;
        let twice = TWICE.contains(&room) && !causal && queries > 64 && blocks >= ENOUGH * multiprocessors;
        Some(Self::new(room, causal, 1 + usize::from(twice)))
    }

    fn variant(&self) -> Variant {
        let constants = [
            ("D", self.width as i64),
            ("CAUSAL", self.causal.into()),
            ("M", self.groups as i64),
            ("BM", self.queries as i64),
            ("BN", self.keys as i64),
            ("SPLIT", self.split as i64),
        ];
        Variant::new("attention", &constants).with_shared(self.shared())
    }

    fn threads(&self) -> usize {
        32 * self.queries / (16 * self.groups) * self.split
    }

    /// Bytes of shared memory, as the head of `attention.ptx` has them.
    fn shared(&self) -> usize {
        let rows = (self.keys + self.keys.max(self.queries)) * (2 * self.width.next_multiple_of(16) + 16);
        let exchanged = self.queries * (2 * self.keys + 16 + 4 * self.split);
        rows + if self.split > 1 { exchanged } else { 0 }
    }
}

/// How `attention_wgmma.ptx` divides the work.
struct Grouped {
    /// Room for a head's width.
    width: usize,
    /// Warp groups that compute, with 64 queries each.
    groups: usize,
    /// Of a tile.
    keys: usize,
}

/// By the width of heads. Wider ones leave registers for fewer groups, and shared memory for fewer keys.
const GROUPED: [Grouped; 5] = [
    Grouped { width: 40, groups: 3, keys: 128 },
    Grouped { width: 64, groups: 3, keys: 128 },
    Grouped { width: 80, groups: 2, keys: 128 },
    Grouped { width: 128, groups: 2, keys: 128 },
    Grouped { width: 160, groups: 2, keys: 64 },
];

impl Grouped {
    /// The narrowest that has room for heads of this width, proven or not.
    fn with_room(width: usize) -> Option<&'static Self> {
        GROUPED.iter().find(|grouped| width.is_multiple_of(8) && grouped.width >= width)
    }

    /// Those for heads of this width, if there are any. Few queries or keys, as a prompt's, would leave most of a tile empty.
    fn of(width: usize, causal: bool, queries: usize, keys: usize) -> Option<&'static Self> {
        let fits = width > 32 && !causal && queries >= 128 && keys >= 128;
        Self::with_room(width).filter(|grouped| fits && grouped.has_whole_atoms())
    }

    /// Whether the columns of v, N of the second product, fill atoms of 128 swizzled bytes. No library has wgmma read a part of
    /// an atom there, and until a device has shown that it does so as the interpreter has it, attention goes without. (That q and
    /// k do not fill theirs is common: their columns are K, which takes 16 at a time.)
    fn has_whole_atoms(&self) -> bool {
        self.width.is_multiple_of(64)
    }

    fn variant(&self) -> Variant {
        let constants = [("D", self.width), ("GROUPS", self.groups), ("BN", self.keys)];
        let constants = constants.map(|(name, value)| (name, value as i64));
        Variant::new("attention_wgmma", &constants).with_shared(self.shared())
    }

    fn queries(&self) -> usize {
        64 * self.groups
    }

    /// Bytes of shared memory, as the head of `attention_wgmma.ptx` has them.
    fn shared(&self) -> usize {
        let row = self.width.div_ceil(64) * 128;
        // Up to the first multiple of 1024, tiles, nine mbarriers.
        1024 + (self.queries() + 4 * self.keys) * row + 9 * 8
    }

    fn run<D: Device>(
        &self,
        gpu: &GpuBackend<D>,
        [q, k, v]: [&GpuTensor<D>; 3],
        heads: usize,
        out: &GpuTensor<D>,
    ) -> Result<()> {
        let [n, _, queries, features] = q.shape;
        let (keys, width) = (k.shape[2], features / heads);
        let map = |x: &'_ GpuTensor<D>, rows: usize| {
            let bytes = [width, features, x.shape[2] * features].map(|values| 2 * values as u64);
            let dimensions = [width, heads, x.shape[2], n].map(|side| side as u64);
            (dimensions, bytes, [64, 1, rows as u32, 1])
        };
        let mut args = Vec::new();
        for (x, rows) in [(q, self.queries()), (k, self.keys), (v, self.keys)] {
            let (dimensions, strides, shape) = map(x, rows);
            args.push(Arg::Map(TensorMap { buffer: &*x.buffer, dimensions, strides, shape }));
        }
        args.push(out.arg());
        let tiles = queries.div_ceil(self.queries());
        let sizes = [queries * features, features, queries, keys, heads, width, tiles];
        args.extend(sizes.map(|size| Arg::U32(size as u32)));
        args.push(Arg::F32(scale(width)));
        let (variant, block) = (self.variant(), 128 * (1 + self.groups as u32));
        let launch = Launch { grid: [(n * heads * tiles) as u32, 1, 1], block, shared: variant.shared };
        gpu.launch(&variant, "attention", launch, &args)
    }
}

/// What scores are multiplied with: the exponentials are of base 2.
fn scale(width: usize) -> f32 {
    std::f32::consts::LOG2_E / (width as f32).sqrt()
}

impl<D: Device> GpuBackend<D> {
    /// [`Backend::attention`] without a mask by `wgmma`, also at widths of heads where that does without for want of proof on
    /// a device: for examining one.
    ///
    /// # Errors
    /// Those of [`Backend::attention`]; [`Error::Device`] where the device was opened without `wgmma`, or there is no variant for
    /// the width.
    pub fn attention_by_warp_groups(
        &self,
        q: &GpuTensor<D>,
        k: &GpuTensor<D>,
        v: &GpuTensor<D>,
        heads: usize,
    ) -> Result<GpuTensor<D>> {
        checks::attention(q.shape, k.shape, v.shape, heads)?;
        let refused = |what: String| Error::Device { device: self.name().to_owned(), what, lost: false };
        if !self.device.wgmma() {
            return Err(refused("opened without wgmma".into()));
        }
        let width = q.shape[3] / heads;
        let grouped = Grouped::with_room(width)
            .ok_or_else(|| refused(format!("attention by wgmma has no variant for heads of {width}")))?;
        let out = self.empty(q.shape)?;
        grouped.run(self, [q, k, v], heads, &out)?;
        Ok(out)
    }
}

/// `softmax(q kᵀ / √d + mask) v` by heads; shapes fit.
pub(in crate::gpu) fn attention<D: Device>(
    gpu: &GpuBackend<D>,
    [q, k, v]: [&GpuTensor<D>; 3],
    heads: usize,
    mask: Mask,
) -> Result<GpuTensor<D>> {
    let [n, _, queries, features] = q.shape;
    let (keys, width) = (k.shape[2], features / heads);
    let causal = mask == Mask::Causal;
    let out = gpu.empty(q.shape)?;
    if let Some(grouped) = Grouped::of(width, causal, queries, keys).filter(|_| gpu.device.wgmma()) {
        grouped.run(gpu, [q, k, v], heads, &out)?;
        return Ok(out);
    }
    let tiles = Tiles::of(gpu.device.multiprocessors(), width, causal, queries, n * heads);

    // Queries of a block, or columns of a warp, are what blocks, or warps, of a head are counted by.
    let parts = tiles.as_ref().map_or(width.div_ceil(SLICE), |tiles| queries.div_ceil(tiles.queries));
    let warps = n * heads * queries * parts;
    let mut args = vec![q.arg(), k.arg(), v.arg(), out.arg()];
    let images = [q, k, v, &out].map(|x| x.shape[2] * features);
    let sizes = images.into_iter().chain([features; 4]).chain([queries, keys, heads, width, parts]);
    args.extend(sizes.map(|size| Arg::U32(size as u32)));
    if tiles.is_none() {
        args.push(Arg::U32(warps as u32));
    }
    args.push(Arg::F32(scale(width)));

    let (variant, launch) = match tiles {
        Some(tiles) => {
            let (variant, block) = (tiles.variant(), tiles.threads() as u32);
            let launch = Launch { grid: [(n * heads * parts) as u32, 1, 1], block, shared: variant.shared };
            (variant, launch)
        }
        None => (any_variant(causal), Launch { grid: [blocks(warps, 4), 1, 1], block: 128, shared: 0 }),
    };
    gpu.launch(&variant, "attention", launch, &args)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4096 queries of 8 heads are 256 blocks of 128: enough for twice as many queries a warp where that leaves two blocks for
    /// each multiprocessor.
    #[test]
    fn queries_of_a_warp_are_for_the_device() {
        let groups = |multiprocessors, queries, heads| {
            Tiles::of(multiprocessors, 40, false, queries, heads).map(|tiles| tiles.groups)
        };
        assert_eq!(
            [46, 80, 108, 132].map(|device| groups(device, 4096, 8)),
            [Some(2), Some(2), Some(2), Some(1)]
        );
        assert_eq!(
            [46, 80, 108, 132].map(|device| groups(device, 1024, 16)),
            [Some(2), Some(1), Some(1), Some(1)]
        );
        assert_eq!(groups(132, 4096, 16), Some(2));
        assert_eq!(groups(1, 64, 1000), Some(1), "32 queries a warp would be half empty");
    }

    #[test]
    fn warp_groups_do_heads_that_fill_whole_atoms() {
        let width = |width| Grouped::of(width, false, 1024, 1024).map(|grouped| grouped.width);
        for (heads, taken) in [(48, 64), (56, 64), (64, 64), (88, 128), (96, 128), (128, 128)] {
            assert_eq!(width(heads), Some(taken), "{heads}");
        }
        for heads in [8, 32, 40, 60, 72, 80, 136, 160, 168, 512] {
            assert_eq!(width(heads), None, "{heads}");
        }
        // The others are there for whoever asks for them.
        assert_eq!(
            [40, 72, 80, 160].map(|width| Grouped::with_room(width).unwrap().width),
            [40, 80, 80, 160]
        );
        assert!(Grouped::of(64, true, 1024, 1024).is_none() && Grouped::of(64, false, 1024, 77).is_none());
    }
}
