//! Whether `wgmma` reads its operands where the kernel has put them, at every width of heads that there is a variant for.
//!
//! The weights of attention are made one-hot: a query's is 1 for one key, which a permutation names, and 0 for all others. v says
//! where each of its values lies, first its row and then its column, in numbers that fp16 holds exactly. So each value of the result
//! names the place that it came from, and where that is the wrong one, which swizzle, stride or fragment is wrong can be read from
//! the two.

mod moved;

use reverie_kernels::{
    Backend, Error, Mask, Result, Shape,
    cpu::CpuBackend,
    gpu::{GpuBackend, cuda::Cuda},
};

use crate::{
    correctness::{Check, Verdict},
    mismatch::{Layout, compare_and_dump, dump},
    noise,
};

/// Widths of heads: those that attention does by `wgmma`, then those that it does by `mma` until this is right on a device.
pub const WIDTHS: [usize; 5] = [64, 128, 40, 80, 160];

/// Images, heads, queries and keys: each of them more than one tile, with rests.
const IMAGES: usize = 2;
const HEADS: usize = 2;
const QUERIES: usize = 200;
const KEYS: usize = 300;

/// Bits that tell keys from one another.
const BITS: usize = 9;

/// What a matching feature adds to a score, before scaling. A key that differs in one bit has a score so much lower that its weight is
/// 0 in fp16.
const SHARP: f32 = 64.0;

/// Of the largest value: weights and results are rounded to fp16.
const ALLOWED: f32 = 2e-3;

/// Runs `attention_wgmma.ptx` at each of [`WIDTHS`], one-hot and on noise. The device is to be opened with `wgmma`. Calls `each` as soon
/// as a check is done. Inputs and results of what differs are written to the folder that [`DUMP`](crate::mismatch::DUMP) names.
///
/// Does not panic and does not stop: errors are [`Verdict::Failed`].
pub fn warp_groups(cuda: &Cuda, each: &mut dyn FnMut(&Check)) -> Vec<Check> {
    WIDTHS.into_iter().flat_map(|width| at_width(cuda, width, each)).collect()
}

/// [`warp_groups`] at one of the [`WIDTHS`]: in a process of its own, so that a hang at one keeps none of the others from being
/// looked at.
pub fn at_width(cuda: &Cuda, width: usize, each: &mut dyn FnMut(&Check)) -> Vec<Check> {
    let gpu = GpuBackend::new(cuda.clone());
    let checks = [one_hot, on_noise].map(|probe| {
        let check = probe(&gpu, width);
        each(&check);
        check
    });
    checks.into()
}

fn check(case: String, worst: f32, allowed: f32, verdict: Result<Option<String>>) -> Check {
    let verdict = match verdict {
        Ok(None) => Verdict::Right,
        Ok(Some(text)) => Verdict::Differs(text),
        Err(error) => Verdict::Failed(error.to_string()),
    };
    Check { path: "wgmma", worst, allowed, ..Check::plain("wgmma_probe", case, verdict) }
}

/// What of v a result is made of, and what tells its values apart.
struct Named {
    what: &'static str,
    /// Of an image, a head, a row and a column of the head; an integer of at most 2048, which fp16 holds, and not 0.
    name: fn(usize, usize, usize, usize) -> usize,
}

const ROWS: Named =
    Named { what: "row", name: |image, head, row, _| image * HEADS * 512 + head * 512 + row + 1 };

const COLUMNS: Named = Named { what: "column", name: |_, _, _, column| column + 1 };

/// The key that a query's weight is for.
fn target(image: usize, head: usize, query: usize) -> usize {
    (query * 7 + 13 * head + 29 * image + 3) % KEYS
}

/// Values of (IMAGES, 1, rows, HEADS * width).
fn fill(rows: usize, width: usize, value: impl Fn(usize, usize, usize, usize) -> f32) -> Vec<f32> {
    let all = 0..IMAGES * rows * HEADS * width;
    let place = |i: usize| {
        let (image, row) = (i / (HEADS * width) / rows, i / (HEADS * width) % rows);
        (image, i / width % HEADS, row, i % width)
    };
    all.map(|i| {
        let (image, head, row, column) = place(i);
        value(image, head, row, column)
    })
    .collect()
}

/// 1 or -1 by the bit of a key's number that this feature has.
fn code(key: usize, feature: usize) -> f32 {
    if key >> (feature % BITS) & 1 == 1 { 1.0 } else { -1.0 }
}

struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    shapes: [Shape; 3],
}

impl Inputs {
    fn one_hot(width: usize) -> Self {
        let [q, k] = [QUERIES, KEYS].map(|rows| [IMAGES, 1, rows, HEADS * width]);
        Self {
            q: fill(QUERIES, width, |image, head, query, i| SHARP * code(target(image, head, query), i)),
            k: fill(KEYS, width, |_, _, key, i| code(key, i)),
            shapes: [q, k, k],
        }
    }

    fn run(&self, gpu: &GpuBackend<Cuda>, v: &[f32]) -> Result<Vec<f32>> {
        let tensor = |data: &[f32], shape| gpu.tensor(data.to_vec(), shape);
        let [q, k, v] =
            [tensor(&self.q, self.shapes[0])?, tensor(&self.k, self.shapes[1])?, tensor(v, self.shapes[2])?];
        gpu.to_vec(&gpu.attention_by_warp_groups(&q, &k, &v, HEADS)?)
    }
}

fn one_hot(gpu: &GpuBackend<Cuda>, width: usize) -> Check {
    let inputs = Inputs::one_hot(width);
    let mut wrong = None;
    let found = [ROWS, COLUMNS].map(|named| {
        let v = fill(KEYS, width, |image, head, key, i| (named.name)(image, head, key, i) as f32);
        let expected = fill(QUERIES, width, |image, head, query, i| {
            (named.name)(image, head, target(image, head, query), i) as f32
        });
        let actual = inputs.run(gpu, &v)?;
        if actual != expected {
            let what = format!("wgmma_probe {width} {}", named.what);
            let files = dump(
                &what,
                &[
                    ("actual", &actual),
                    ("expected", &expected),
                    ("q", &inputs.q),
                    ("k", &inputs.k),
                    ("v", &v),
                ],
            );
            wrong.get_or_insert_with(String::new).push_str(&files);
        }
        Ok(actual)
    });
    let [rows, columns] = found;
    let verdict = rows.and_then(|rows| {
        let moved = moved::describe(width, &rows, &columns?);
        Ok(moved.map(|moved| moved + &wrong.unwrap_or_default()))
    });
    let worst = if matches!(verdict, Ok(Some(_))) { f32::INFINITY } else { 0.0 };
    check(format!("{width} one-hot"), worst, 0.0, verdict)
}

/// Noise of which a few keys count for most.
fn on_noise(gpu: &GpuBackend<Cuda>, width: usize) -> Check {
    let shapes = Inputs::one_hot(width).shapes;
    let values = |i: usize, scale| noise::halves(shapes[i].iter().product(), scale, i as u64 + 1);
    let (inputs, v) = (Inputs { q: values(0, 6.0), k: values(1, 1.0), shapes }, values(2, 1.0));
    let expected = || -> Result<Vec<f32>, Error> {
        let cpu = CpuBackend::new(0);
        let tensor = |data: &[f32], shape| cpu.tensor(data.to_vec(), shape);
        let [q, k, v] =
            [tensor(&inputs.q, shapes[0])?, tensor(&inputs.k, shapes[1])?, tensor(&v, shapes[2])?];
        cpu.to_vec(&cpu.attention(&q, &k, &v, HEADS, Mask::None)?)
    };
    let case = format!("{width} noise");
    let (actual, expected) = match (inputs.run(gpu, &v), expected()) {
        (Ok(actual), Ok(expected)) => (actual, expected),
        (Err(error), _) | (_, Err(error)) => return check(case, 0.0, ALLOWED, Err(error)),
    };
    let layout = Layout { shape: shapes[0], heads: HEADS };
    let named: [(&str, &[f32]); 3] = [("q", &inputs.q), ("k", &inputs.k), ("v", &v)];
    let what = format!("wgmma_probe {case}");
    let found = compare_and_dump(&what, &actual, &expected, layout, ALLOWED, &named);
    check(case, found.worst, ALLOWED, Ok(found.mismatch))
}
