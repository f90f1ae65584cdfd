//! Random numbers as PyTorch's CPU generator gives them, so that a seed names the same picture here and there.
//!
//! The bits of [`Generator::randn`] are those of `torch.randn(..., generator=torch.Generator("cpu").manual_seed(seed))`
//! in float32 where PyTorch runs its AVX2 kernels: on every x86-64 machine that has AVX2 (with AVX-512 it uses the same
//! kernel for this). Elsewhere (`ATEN_CPU_CAPABILITY=default`, ARM) PyTorch takes sine, cosine and logarithm from the C
//! library, and the last one or two bits of some values differ from these.

/// A generator with the state of `torch.Generator("cpu")`: MT19937 (Matsumoto and Nishimura 1998) and a normal value kept
/// for the next call.
#[derive(Debug, Clone)]
pub struct Generator {
    state: Box<[u32; STATE]>,
    /// The word of `state` that comes next; [`STATE`] when all are used up.
    next: usize,
    /// The second value of the last Box-Muller pair, if only one was asked for.
    next_double_normal_sample: Option<f64>,
}

const STATE: usize = 624;
const SHIFT: usize = 397;

/// Tensors of at least this many values are filled by blocks of as many; smaller ones value by value.
const BLOCK: usize = 16;

impl Generator {
    /// The generator after `manual_seed(seed)`. As in PyTorch, only the lower 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        let mut state = Box::new([0; STATE]);
        state[0] = seed as u32;
        for i in 1..STATE {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: STATE, next_double_normal_sample: None }
    }

    /// `len` values of the standard normal distribution: `torch.randn(shape, generator=self)` for any shape of `len`
    /// elements, in row-major order.
    ///
    /// The values depend on `len`: 16 values or more are drawn otherwise than fewer are, and the last 16 are drawn anew
    /// where `len` is not a multiple of 16. So two calls are not one of the length of both.
    pub fn randn(&mut self, len: usize) -> Vec<f32> {
        if len < BLOCK {
            return (0..len).map(|_| self.normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..len).map(|_| self.uniform()).collect();
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if !rest.is_empty() {
            let mut last = std::array::from_fn(|_| self.uniform());
            box_muller(&mut last);
            values[len - BLOCK..].copy_from_slice(&last);
        }
        values
    }

    /// A float of the interval [0, 1), a multiple of 2⁻²⁴.
    fn uniform(&mut self) -> f32 {
        (self.random() & 0xff_ffff) as f32 / (1 << 24) as f32
    }

    /// A double of the interval [0, 1), a multiple of 2⁻⁵³.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.random());
        let low = u64::from(self.random());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// One value of the standard normal distribution, in double precision.
    fn normal(&mut self) -> f64 {
        if let Some(kept) = self.next_double_normal_sample.take() {
            return kept;
        }
        let u1 = self.uniform_f64();
        let u2 = self.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.next_double_normal_sample = Some(radius * theta.sin());
        radius * theta.cos()
    }

    /// The next 32 bits of MT19937.
    fn random(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        let state = &mut self.state;
        for i in 0..STATE {
            let mixed = (state[i] & 0x8000_0000) | (state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            state[i] = state[(i + SHIFT) % STATE] ^ (mixed >> 1) ^ odd;
        }
    }
}

/// The noise of a batch: `diffusers.utils.torch_utils.randn_tensor` with a list of generators, one for each entry. An
/// entry of a batch then has the noise that it has alone.
///
/// `len` is the number of values of one entry; the entries follow one another.
pub fn randn_batch(generators: &mut [Generator], len: usize) -> Vec<f32> {
    generators.iter_mut().flat_map(|generator| generator.randn(len)).collect()
}

/// Turns uniform values into normal ones (Box and Muller 1958): the first eight give the radii, the others the angles;
/// the cosines go to the first half and the sines to the second.
fn box_muller(values: &mut [f32; BLOCK]) {
    const HALF: usize = BLOCK / 2;
    for i in 0..HALF {
        let u1 = 1.0 - values[i];
        let u2 = values[i + HALF];
        let radius = (-2.0 * ln(u1)).sqrt();
        let (sin, cos) = sin_cos(2.0 * std::f32::consts::PI * u2);
        // PyTorch computes `value * std + mean`: adding the mean makes a positive zero of a negative one.
        values[i] = radius * cos + 0.0;
        values[i + HALF] = radius * sin + 0.0;
    }
}

/// The natural logarithm of a normal number in (0, 1], as PyTorch's AVX2 kernel computes it (avx_mathfun, by Pommier and
/// Garberoglio): Cephes' `logf` (Moshier 1992) with the products and sums that the compiler joined to fused ones. Every `mul_add` is one there, too; which sums
/// are fused decides on the last bit.
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    // x = mantissa * 2^exponent, with the mantissa in [√½, √2).
    let mut mantissa = f32::from_bits((bits & 0x007f_ffff) | 0.5f32.to_bits());
    let mut exponent = (bits >> 23) as f32 - 126.0;
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        mantissa += mantissa;
        exponent -= 1.0;
    }
    let x = mantissa - 1.0;
    let square = x * x;
    let y = polynomial(
        x,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_84e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_4e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    );
    // ln 2 in two parts, the larger one with few bits.
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LN_2_HIGH: f32 = 0.693_359_4;
    let y = (y * x).mul_add(square, exponent * LN_2_LOW);
    let y = (-square).mul_add(0.5, y);
    exponent.mul_add(LN_2_HIGH, x + y)
}

/// Sine and cosine of an angle in [0, 2π), as PyTorch's AVX2 kernel computes them: Cephes' `sinf` and `cosf`, with the
/// fused sums of the compiled kernel (see [`ln`]).
fn sin_cos(angle: f32) -> (f32, f32) {
    // The octant, rounded up to an even number: the angle is then reduced to [-π/4, π/4] around a multiple of π/2.
    let octant = ((angle * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
    let y = octant as f32;
    // π/4 in three parts, so that the reduction is exact to more than the precision of f32.
    let x = y.mul_add(-0.785_156_25, angle);
    let x = y.mul_add(-2.418_756_5e-4, x);
    let x = y.mul_add(-3.774_895e-8, x);
    let square = x * x;

    let cos = polynomial(square, [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]);
    let cos = (cos * square).mul_add(square, -(square * 0.5)) + 1.0;
    let sin = polynomial(square, [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
    let sin = (sin * square).mul_add(x, x);

    let (sin, cos) = if octant & 2 == 0 { (sin, cos) } else { (cos, sin) };
    let signed = |value: f32, negative: bool| if negative { -value } else { value };
    (signed(sin, octant & 4 != 0), signed(cos, (octant - 2) & 4 == 0))
}

/// Horner's scheme, from the highest power down.
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    coefficients.into_iter().reduce(|sum, c| sum.mul_add(x, c)).unwrap_or(0.0)
}
