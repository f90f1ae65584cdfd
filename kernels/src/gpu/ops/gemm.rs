//! Matrix products, and convolutions as such.

use super::{blocks, packing::Packing};
use crate::backend::Shape;
use crate::error::{Error, Result};
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};
use crate::weight::Weight;

/// What a block computes; see `gemm.ptx`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tile {
    rows: usize,
    columns: usize,
    /// Of a warp.
    warp: [usize; 2],
    stages: usize,
    /// Whether blocks may share a sum.
    splits: bool,
    /// How long a product takes, compared to what tensor cores do: what goes through shared memory, at 128 bytes a cycle.
    cost: f64,
}

const fn tile(sides: [usize; 2], warp: [usize; 2], stages: usize, splits: bool, cost: f64) -> Tile {
    Tile { rows: sides[0], columns: sides[1], warp, stages, splits, cost }
}

/// The stages are as many as 48 KiB hold, up to 4.
const TILES: [Tile; 4] = [
    tile([128, 128], [64, 64], 3, true, 1.0),
    tile([128, 64], [64, 32], 4, false, 1.15),
    tile([64, 64], [32, 32], 4, true, 1.5),
    tile([128, 32], [32, 32], 4, false, 1.65),
];

/// The one for tensors whose channels 8 does not divide.
const NARROW: Tile = TILES[2];

/// Values of a sum that a block adds at a time.
const STEP: usize = 32;

impl Tile {
    fn variant(&self, window: bool, wide: bool, split: bool) -> Variant {
        let constants = [
            ("BM", self.rows as i64),
            ("BN", self.columns as i64),
            ("WM", self.warp[0] as i64),
            ("WN", self.warp[1] as i64),
            ("STAGES", self.stages as i64),
            ("CONV", window.into()),
            ("WIDE", wide.into()),
            ("SPLIT", split.into()),
        ];
        Variant::new("gemm", &constants)
    }

    fn threads(&self) -> u32 {
        (32 * (self.rows / self.warp[0]) * (self.columns / self.warp[1])) as u32
    }

    fn count(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }
}

fn sum_variant() -> Variant {
    Variant::new("gemm_sum", &[])
}

/// Those of convolutions (`window`), or else those of linear layers with what both need.
pub(super) fn variants(window: bool) -> Vec<Variant> {
    let mut all: Vec<_> = TILES.iter().map(|tile| tile.variant(window, true, false)).collect();
    all.extend(TILES.iter().filter(|tile| tile.splits).map(|tile| tile.variant(window, true, true)));
    all.push(NARROW.variant(window, false, false));
    if !window {
        all.push(sum_variant());
    }
    all
}

/// How a product is spread over blocks.
#[derive(Debug, PartialEq)]
struct Plan {
    tile: Tile,
    /// Of [`STEP`] values, that one block adds up.
    steps: usize,
    splits: usize,
}

impl Plan {
    /// The plan that should be fastest on so many multiprocessors, in cycles of an A100's, which does 1024 products a cycle.
    fn new(multiprocessors: usize, [rows, columns, depth]: [usize; 3]) -> Self {
        let all = depth.div_ceil(STEP);
        let mut best = (f64::INFINITY, Self { tile: NARROW, steps: all, splits: 1 });
        for tile in TILES {
            let most = if tile.splits && columns.is_multiple_of(8) { 16.min(all) } else { 1 };
            for wanted in 1..=most {
                let steps = all.div_ceil(wanted);
                let splits = all.div_ceil(steps);
                // Blocks of the multiprocessor that has the most of them.
                let turns = (tile.count(rows, columns) * splits).div_ceil(multiprocessors) as f64;
                let work = tile.cost * (tile.rows * tile.columns * STEP / 1024) as f64;
                // A step takes no less than memory's latency, some 700 cycles, shared among the tiles on their way. To begin and
                // to end takes as long as 8 steps or so.
                let step = (work * turns).max(700.0 / (tile.stages - 1) as f64);
                let mut time = (steps + 8) as f64 * step;
                if splits > 1 {
                    // Another launch, and the parts go through the L2 cache twice, at some 2 KiB a cycle.
                    time += 4000.0 + (rows * columns * splits * 8) as f64 / 2048.0;
                }
                if time < best.0 {
                    best = (time, Self { tile, steps, splits });
                }
            }
        }
        best.1
    }
}

/// Where a convolution finds its inputs.
pub(super) struct Window {
    /// Of the input.
    pub height: usize,
    pub width: usize,
    /// Of the output.
    pub out_height: usize,
    pub out_width: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

/// A matrix on the device, with what is done to its products.
pub(super) struct Matrix<D: Device> {
    outputs: usize,
    channels: usize,
    /// Values of a row: the channels, rounded up to vectors, for each tap.
    depth: usize,
    taps: usize,
    /// fp16.
    weight: D::Buffer,
    /// fp32, rounded up to vectors.
    bias: D::Buffer,
    slopes: D::Buffer,
}

impl<D: Device> Matrix<D> {
    /// `weight` is in out, in, tap order. Negative outputs are multiplied by their slope, of which there is one for all or one
    /// for each.
    pub fn new(
        gpu: &GpuBackend<D>,
        [outputs, channels, taps]: [usize; 3],
        weight: Weight<'_>,
        bias: Option<&[f32]>,
        slopes: &[f32],
    ) -> Result<Self> {
        let padded = channels.next_multiple_of(8);
        let depth = taps * padded;
        if depth.checked_mul(outputs).is_none_or(|values| values > i32::MAX as usize) {
            return Err(Error::InvalidShape { shape: [1, taps, outputs, channels] });
        }
        let packing = Packing { weight, channels, taps, padded };
        let vectors = |value: &dyn Fn(usize) -> f32| {
            let values = (0..outputs.next_multiple_of(8)).map(|o| if o < outputs { value(o) } else { 0.0 });
            gpu.floats(&values.collect::<Vec<_>>())
        };
        Ok(Self {
            outputs,
            channels,
            depth,
            taps,
            weight: gpu.written(2 * outputs * depth, |first, out| packing.write(first, out))?,
            bias: vectors(&|output| bias.map_or(0.0, |bias| bias[output]))?,
            slopes: vectors(&|output| slopes[if slopes.len() == 1 { 0 } else { output }])?,
        })
    }

    /// The product with the rows of `x`, or with what a window sees of it, to a tensor of `shape`; times a factor plus a residual
    /// of that shape, where there is one.
    pub fn run(
        &self,
        gpu: &GpuBackend<D>,
        x: &GpuTensor<D>,
        window: Option<&Window>,
        residual: Option<(f32, &GpuTensor<D>)>,
        shape: Shape,
    ) -> Result<GpuTensor<D>> {
        let out = gpu.empty(shape)?;
        let rows = out.len() / self.outputs;
        let wide = self.channels.is_multiple_of(8);
        let plan = if wide {
            Plan::new(gpu.device.multiprocessors(), [rows, self.outputs, self.depth])
        } else {
            Plan { tile: NARROW, steps: self.depth.div_ceil(STEP), splits: 1 }
        };
        let split = plan.splits > 1;
        let parts = if split { Some(gpu.allocate(4 * plan.splits * out.len())?) } else { None };

        let number = |value: usize| Arg::U32(value as u32);
        let (alpha, residual) =
            residual.map_or((1.0, Arg::Null), |(alpha, residual)| (alpha, residual.arg()));
        let finish = [Arg::Buffer(&self.bias), Arg::Buffer(&self.slopes), residual, Arg::F32(alpha)];
        let mut args = vec![
            x.arg(),
            Arg::Buffer(&self.weight),
            parts.as_ref().map_or(out.arg(), Arg::Buffer),
            number(rows),
            number(self.outputs),
            number(self.channels),
            number(self.depth),
        ];
        if let Some(window) = window {
            let padded = self.depth / self.taps;
            let taps = STEP / padded;
            args.extend(
                [
                    padded,
                    window.height,
                    window.width,
                    window.out_height * window.out_width,
                    window.out_width,
                    window.kernel,
                    window.stride,
                    window.padding,
                    taps % window.kernel,
                    taps / window.kernel,
                    STEP % padded,
                ]
                .map(number),
            );
        }
        let tiles = plan.tile.count(rows, self.outputs) as u32;
        let launch = Launch { grid: [tiles, plan.splits as u32, 1], block: plan.tile.threads(), shared: 0 };
        let variant = plan.tile.variant(window.is_some(), wide, split);
        let Some(parts) = &parts else {
            args.extend(finish);
            args.push(number(plan.steps));
            gpu.launch(&variant, "gemm", launch, &args)?;
            return Ok(out);
        };
        args.push(number(plan.steps));
        gpu.launch(&variant, "gemm", launch, &args)?;

        let mut args =
            vec![Arg::Buffer(parts), out.arg(), number(rows), number(self.outputs), number(plan.splits)];
        args.extend(finish);
        let launch = Launch { grid: [blocks(out.len(), 8 * 128), 1, 1], block: 128, shared: 0 };
        gpu.launch(&sum_variant(), "sum", launch, &args)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, TILES};

    /// Of an RTX 4070, an RTX 4080 Super, an A100 and an H100.
    const DEVICES: [usize; 4] = [46, 80, 108, 132];

    fn plan(multiprocessors: usize, sizes: [usize; 3]) -> ([usize; 2], usize) {
        let plan = Plan::new(multiprocessors, sizes);
        ([plan.tile.rows, plan.tile.columns], plan.splits)
    }

    /// Shapes of Stable Diffusion and of upscalers that are alike on all.
    #[test]
    fn plans() {
        for device in DEVICES {
            let tile = |rows, columns, depth| plan(device, [rows, columns, depth]);
            // A picture's size: no sum is split.
            assert_eq!(tile(1 << 18, 64, 576), ([128, 64], 1));
            assert_eq!(tile(1 << 18, 3, 1152), ([128, 32], 1));
            assert_eq!(tile(2048, 10240, 1280), ([128, 128], 1));
            // Few outputs and long sums.
            assert!(tile(128, 1280, 11520).1 > 2);
            // Short sums.
            assert_eq!(tile(128, 320, 320).1, 1);
            assert_eq!(tile(1, 1280, 320), ([64, 64], 1));
        }
    }

    /// What is even on one device leaves much of another without work.
    #[test]
    fn plans_are_for_the_device() {
        let plans = |sizes| DEVICES.map(|device| plan(device, sizes));
        let [large, half] = [[128, 128], [128, 64]];
        // 40 large tiles are one turn of 46; more multiprocessors have something to do only with 80 smaller ones.
        assert_eq!(plans([512, 1280, 1280]), [(large, 1), (half, 1), (half, 1), (half, 1)]);
        // 160 large tiles are two turns of 108 or 132, the second one of which is half empty: 320 smaller ones are three.
        assert_eq!(plans([2048, 1280, 1280]), [(large, 1), (large, 1), (half, 1), (half, 1)]);
        // 96 large tiles are one turn of 108 and two of 46 and 80.
        assert_eq!(plans([4096, 320, 2880]), [(half, 1), (half, 1), (large, 1), (large, 1)]);
        // Long sums are split into whole turns: 40, 80, 200 and 120 blocks.
        assert_eq!(plans([512, 1280, 23040]), [(large, 1), (large, 2), (large, 5), (large, 3)]);
    }

    #[test]
    fn tiles_fit() {
        for tile in TILES {
            assert!(tile.stages * (tile.rows + tile.columns) * 64 <= 48 << 10, "{tile:?}");
        }
    }
}
