//! Group and layer normalisation.

use super::blocks;
use crate::backend::{Shape, Unary};
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

/// The most threads of a block that a window is split among.
const THREADS: usize = 256;

/// The rounds of a warp that layer norm has variants for, of 256 values each; rows of other widths have 0.
const ROUNDS: [usize; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16];

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    let functions = [Unary::Identity, Unary::Relu, Unary::Silu, Unary::Gelu, Unary::QuickGelu, Unary::Tanh];
    let group_norms =
        functions.iter().flat_map(|act| [8, 4, 2, 1].map(|values| group_norm_variant(values, *act)));
    group_norms.chain([0].into_iter().chain(ROUNDS).map(layer_norm_variant)).collect()
}

/// With so many channels a thread.
fn group_norm_variant(values: usize, act: Unary) -> Variant {
    Variant::new("group_norm", &[("VALUES", values as i64), ("ACT", act as i64)])
}

fn layer_norm_variant(rounds: usize) -> Variant {
    Variant::new("layer_norm", &[("ROUNDS", rounds as i64)])
}

/// `act(group_norm(x))`; `parameters` are weight and bias.
pub(in crate::gpu) fn group_norm<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    groups: usize,
    parameters: [&GpuTensor<D>; 2],
    eps: f32,
    act: Unary,
) -> Result<GpuTensor<D>> {
    /// Vectors of a thread of `one_group`, at most: reading twice as many takes about as long as two more launches.
    const TURNS: usize = 6;
    /// The most threads of a block of `one_group`.
    const BLOCK: usize = 512;

    let [n, c, h, w] = x.shape;
    let width = c / groups;
    let values = [8, 4, 2].into_iter().find(|values| width.is_multiple_of(*values)).unwrap_or(1);
    let vectors = h * w * (width / values);
    if vectors > TURNS * BLOCK {
        return large_group_norm(gpu, x, groups, parameters, eps, act);
    }
    let out = gpu.empty(x.shape)?;
    let launch = Launch {
        grid: [(n * groups) as u32, 1, 1],
        block: vectors.next_multiple_of(32).min(BLOCK) as u32,
        shared: 0,
    };
    let [weight, bias] = parameters;
    let args = [
        x.arg(),
        weight.arg(),
        bias.arg(),
        out.arg(),
        Arg::U32(c as u32),
        Arg::U32((h * w) as u32),
        Arg::U32(width as u32),
        Arg::U32(groups as u32),
        Arg::F32(eps),
    ];
    gpu.launch(&group_norm_variant(values, act), "one_group", launch, &args)?;
    Ok(out)
}

/// Channels of a thread, and groups of a window. A window that starts at a multiple of so many groups starts at a whole vector.
fn window(channels: usize, groups: usize) -> (usize, usize) {
    let width = channels / groups;
    if channels.is_multiple_of(8) {
        // The least power of two of groups that 8 divides the channels of.
        let step = [1, 2, 4].into_iter().find(|step| (step * width).is_multiple_of(8)).unwrap_or(8);
        let span = 8 * THREADS / width / step * step;
        if span > 0 || step == 1 {
            return (8, span.clamp(1, groups));
        }
    }
    (1, (THREADS / width).clamp(1, groups))
}

/// How the pixels of images are split among blocks.
struct Slices {
    /// Of an image.
    count: usize,
    /// Pixels of each but the last.
    pixels: usize,
    launch: Launch,
}

impl Slices {
    /// For windows of so many `columns`. A thread has `least` pixels or more, unless the image has fewer; past that there are
    /// about `blocks`.
    fn new([n, _, h, w]: Shape, columns: usize, windows: usize, least: usize, blocks: usize) -> Self {
        let rows = (THREADS / columns).max(1);
        let most = (blocks / (n * windows)).max(1);
        let pixels = (h * w).div_ceil((h * w).div_ceil(rows * least).min(most));
        let count = (h * w).div_ceil(pixels);
        let block = (rows * columns).next_multiple_of(32).min(THREADS) as u32;
        let launch = Launch { grid: [(n * count) as u32, windows as u32, 1], block, shared: 0 };
        Self { count, pixels, launch }
    }
}

/// Where a block for each group would be too few, or have too much to do.
fn large_group_norm<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    groups: usize,
    [weight, bias]: [&GpuTensor<D>; 2],
    eps: f32,
    act: Unary,
) -> Result<GpuTensor<D>> {
    let [n, c, h, w] = x.shape;
    let width = c / groups;
    let (values, span) = window(c, groups);
    let variant = group_norm_variant(values, act);
    let [channels, pixels, width_arg, groups_arg] =
        [c, h * w, width, groups].map(|value| Arg::U32(value as u32));

    // A multiprocessor holds 6 blocks of 40 registers a thread: with fewer, too few reads are under way. 8 pixels are a few times
    // the work of adding a block's sums up.
    let multiprocessors = gpu.device.multiprocessors();
    let (columns, windows) = (span * width / values, groups.div_ceil(span));
    let slices = Slices::new(x.shape, columns, windows, 8, 6 * multiprocessors);
    let [count, each] = [slices.count, slices.pixels].map(|value| Arg::U32(value as u32));
    let partials = gpu.allocate(8 * n * groups * slices.count)?;
    let args = [
        x.arg(),
        Arg::Buffer(&partials),
        channels,
        pixels,
        width_arg,
        groups_arg,
        Arg::U32(span as u32),
        count,
        each,
    ];
    gpu.launch(&variant, "partial", slices.launch, &args)?;

    let statistics = gpu.allocate(8 * n * groups)?;
    let launch = Launch { grid: [blocks(n * groups, 8), 1, 1], block: 256, shared: 0 };
    let args = [
        Arg::Buffer(&partials),
        Arg::Buffer(&statistics),
        Arg::U32((h * w) as u32),
        Arg::U32(width as u32),
        Arg::U32(slices.count as u32),
        Arg::U32(slices.pixels as u32),
        Arg::U32((n * groups) as u32),
        Arg::F32(eps),
    ];
    gpu.launch(&variant, "finish", launch, &args)?;

    // A thread's beginning is about as much work as 2 pixels. Several waves of blocks hide it behind each other.
    let columns = (c / values).min(THREADS);
    let slices = Slices::new(x.shape, columns, (c / values).div_ceil(columns), 4, 32 * multiprocessors);
    let out = gpu.empty(x.shape)?;
    let args = [
        x.arg(),
        Arg::Buffer(&statistics),
        weight.arg(),
        bias.arg(),
        out.arg(),
        Arg::U32(c as u32),
        Arg::U32((h * w) as u32),
        Arg::U32(width as u32),
        Arg::U32(groups as u32),
        Arg::U32(columns as u32),
        Arg::U32(slices.count as u32),
        Arg::U32(slices.pixels as u32),
    ];
    gpu.launch(&variant, "apply", slices.launch, &args)?;
    Ok(out)
}

/// Over the last axis.
pub(in crate::gpu) fn layer_norm<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    [weight, bias]: [&GpuTensor<D>; 2],
    eps: f32,
) -> Result<GpuTensor<D>> {
    let width = x.shape[3];
    let rows = x.len() / width;
    let needed = width.div_ceil(256);
    let rounds = ROUNDS.into_iter().find(|rounds| *rounds >= needed && width.is_multiple_of(8));
    let out = gpu.empty(x.shape)?;
    let args = [
        x.arg(),
        weight.arg(),
        bias.arg(),
        out.arg(),
        Arg::U32(width as u32),
        Arg::U32(rows as u32),
        Arg::F32(eps),
    ];
    let launch = Launch { grid: [blocks(rows, 4), 1, 1], block: 128, shared: 0 };
    gpu.launch(&layer_norm_variant(rounds.unwrap_or(0)), "layer_norm", launch, &args)?;
    Ok(out)
}
