//! Every variant of `gemm.ptx`, each on a small product: which of them the backend would take depends on sizes that take the
//! interpreter too long.

use reverie_kernels::{
    Activation, Conv2dDesc,
    gpu::{Arg, Device, Launch, Variant, variants},
};

use crate::{
    Plain, common, halves, noise,
    tested::{self, Buffer, Tested},
};

/// Rows and columns that no tile divides, and sums of more steps than there are stages.
const PIXELS: [usize; 3] = [2, 6, 11];
const OUTPUTS: usize = 136;
const ALPHA: f32 = 0.5;

struct Problem {
    desc: Conv2dDesc,
    /// Channels in memory: for weights, multiples of 8.
    padded: usize,
    expected: Plain,
    x: Buffer,
    weight: Buffer,
    bias: Buffer,
    slopes: Buffer,
    residual: Buffer,
}

fn filled(device: &Tested, bytes: Vec<u8>) -> Buffer {
    let buffer = device.allocate(bytes.len()).unwrap();
    device.upload(&buffer, &bytes).unwrap();
    buffer
}

fn floats(device: &Tested, values: &[f32]) -> Buffer {
    filled(device, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// N, H, W, C in fp16, where channels from the last on are zeros.
fn last(x: &Plain, channels: usize) -> Vec<u8> {
    let [n, c, h, w] = x.shape;
    let values = (0..n * h * w * channels).map(|at| {
        let (pixel, channel) = (at / channels, at % channels);
        let value = if channel < c { x.at(pixel / (h * w), channel, pixel / w % h, pixel % w) } else { 0.0 };
        half::f16::from_f64(value).to_le_bytes()
    });
    values.flatten().collect()
}

fn problem(device: &Tested, kernel: usize, channels: usize) -> Problem {
    let desc = Conv2dDesc::same(channels, OUTPUTS, kernel);
    let [n, h, w] = PIXELS;
    let x = noise([n, channels, h, w], 1);
    let weight = noise([OUTPUTS, channels, kernel, kernel], 2);
    let (bias, slopes) = (common::noise(OUTPUTS, 3), common::noise(OUTPUTS, 4));
    let mut residual = noise([n, OUTPUTS, h, w], 5);
    residual.data.iter_mut().for_each(|x| *x *= 8.0);
    let product = common::conv2d(&x, desc, &weight.data, &bias, &Activation::PRelu(slopes.clone()));
    let expected = Plain::from_fn(product.shape, |n, c, y, x| {
        product.at(n, c, y, x) * f64::from(ALPHA) + residual.at(n, c, y, x)
    });
    let padded = channels.next_multiple_of(8);
    Problem {
        desc,
        padded,
        expected,
        x: filled(device, last(&x, channels)),
        weight: filled(device, last(&weight, padded)),
        bias: floats(device, &bias),
        slopes: floats(device, &slopes),
        residual: filled(device, last(&residual, OUTPUTS)),
    }
}

fn run(device: &Tested, variant: &Variant) {
    let constant = |name| variant.constants.iter().find(|(known, _)| *known == name).unwrap().1 as usize;
    let [rows_of, columns_of] = ["BM", "BN"].map(constant);
    let [conv, wide, split] = ["CONV", "WIDE", "SPLIT"].map(|name| constant(name) == 1);
    let kernel = if conv { 3 } else { 1 };
    let channels = match (conv, wide) {
        (true, true) => 24,
        (true, false) => 21,
        (false, true) => 232,
        (false, false) => 227,
    };
    let problem = problem(device, kernel, channels);
    let [n, h, w] = PIXELS;
    let (rows, depth) = (n * h * w, kernel * kernel * problem.padded);
    // Three parts, the last of which is shorter.
    let all = depth.div_ceil(32);
    let steps = if split { all.div_ceil(3) } else { all };
    let splits = all.div_ceil(steps);
    let out = device.allocate(2 * rows * OUTPUTS).unwrap();
    let parts = device.allocate(4 * splits * rows * OUTPUTS).unwrap();

    let number = |value: usize| Arg::U32(value as u32);
    let target = Arg::Buffer(if split { &parts } else { &out });
    let mut args = vec![Arg::Buffer(&problem.x), Arg::Buffer(&problem.weight), target];
    args.extend([rows, OUTPUTS, channels, depth].map(number));
    if conv {
        let (taps, rest) = (32 / problem.padded, 32 % problem.padded);
        let padding = problem.desc.padding;
        let window = [problem.padded, h, w, h * w, w, kernel, 1, padding, taps % kernel, taps / kernel, rest];
        args.extend(window.map(number));
    }
    let finish = || {
        let Problem { bias, slopes, residual, .. } = &problem;
        [Arg::Buffer(bias), Arg::Buffer(slopes), Arg::Buffer(residual), Arg::F32(ALPHA)]
    };
    if !split {
        args.extend(finish());
    }
    args.push(number(steps));
    let tiles = (rows.div_ceil(rows_of) * OUTPUTS.div_ceil(columns_of)) as u32;
    let threads = 32 * (rows_of / constant("WM")) * (columns_of / constant("WN"));
    let launch = Launch { grid: [tiles, splits as u32, 1], block: threads as u32, shared: 0 };
    // SAFETY: buffers are as large as the sizes say, and the grid covers no more.
    unsafe { device.launch(variant, "gemm", launch, &args) }.unwrap();
    if split {
        let mut args = vec![Arg::Buffer(&parts), Arg::Buffer(&out)];
        args.extend([rows, OUTPUTS, splits].map(number));
        args.extend(finish());
        let grid = [(rows * OUTPUTS).div_ceil(8 * 128) as u32, 1, 1];
        let sum = Variant { file: "gemm_sum", constants: vec![], shared: 0 };
        // SAFETY: as above.
        unsafe { device.launch(&sum, "sum", Launch { grid, block: 128, shared: 0 }, &args) }.unwrap();
    }

    let mut bytes = vec![0; 2 * rows * OUTPUTS];
    device.download(&out, &mut bytes).unwrap();
    let actual: Vec<f32> =
        bytes.as_chunks::<2>().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect();
    let order = last(&problem.expected, OUTPUTS);
    let expected = Plain {
        data: order.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        shape: [1, 1, rows, OUTPUTS],
    };
    // Both are rounded to fp16.
    common::assert_close(&actual, &halves(expected), 1.1e-3, &format!("{variant:?}"));
}

#[test]
fn every_variant() {
    let device = tested::device();
    let all = variants().into_iter().filter(|variant| variant.file == "gemm");
    assert!(all.map(|variant| run(&device, &variant)).count() > 10);
}
