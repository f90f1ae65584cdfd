//! Arithmetic on bits, by type.

use half::f16;

use crate::instruction::{Binary, Compare, Rounding, Type, Unary};

type Answer<T> = Result<T, String>;

/// The value of an integer's bits.
fn integer(kind: Type, bits: u64) -> i128 {
    match kind {
        Type::Signed(8) => i128::from(bits as i8),
        Type::Signed(16) => i128::from(bits as i16),
        Type::Signed(32) => i128::from(bits as i32),
        Type::Signed(_) => i128::from(bits as i64),
        kind => i128::from(bits & kind.mask()),
    }
}

/// Subnormal numbers as zeros of the same sign, where `.ftz` says so.
fn flushed(x: f32, flush: bool) -> f32 {
    if flush && x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn f16_of(bits: u64) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

/// f32 holds products and sums of fp16 well enough that rounding twice gives what rounding once does.
fn f16_bits(x: f32) -> u64 {
    f16::from_f32(x).to_bits().into()
}

/// Applies an operation to the halves of registers.
fn halves(parts: [u64; 3], each: impl Fn([u64; 3]) -> Answer<u64>) -> Answer<u64> {
    let low = each(parts.map(|bits| bits & 0xffff))?;
    Ok(low | each(parts.map(|bits| bits >> 16 & 0xffff))? << 16)
}

/// Two operands.
pub fn binary(op: Binary, kind: Type, a: u64, b: u64, flush: bool) -> Answer<u64> {
    match kind {
        Type::F32 => {
            let (a, b) = (flushed(f32_of(a), flush), flushed(f32_of(b), flush));
            Ok(flushed(float(op, a, b)?, flush).to_bits().into())
        }
        Type::F16 => Ok(f16_bits(float(op, f16_of(a), f16_of(b))?)),
        Type::F16x2 => halves([a, b, 0], |[a, b, _]| binary(op, Type::F16, a, b, flush)),
        Type::F64 => {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            let value = match op {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::MulLo => a * b,
                Binary::Div => a / b,
                _ => return Err(format!("{op:?} of doubles is not known")),
            };
            Ok(value.to_bits())
        }
        Type::Pred | Type::Unsigned(_) | Type::Signed(_) => whole(op, kind, a, b),
    }
}

fn float(op: Binary, a: f32, b: f32) -> Answer<f32> {
    Ok(match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::MulLo => a * b,
        Binary::Div => a / b,
        // Of a number and no number it is the number.
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        _ => return Err(format!("{op:?} of floats is not known")),
    })
}

fn whole(op: Binary, kind: Type, a: u64, b: u64) -> Answer<u64> {
    let bits = 8 * kind.bytes() as u32;
    let (x, y) = (integer(kind, a), integer(kind, b));
    let value = match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::MulLo => x.wrapping_mul(y),
        Binary::MulWide => return Ok((x * y) as u64),
        Binary::MulHi => x.wrapping_mul(y) >> bits,
        Binary::Div | Binary::Rem if y == 0 => return Err("divides by zero".into()),
        Binary::Div => x / y,
        Binary::Rem => x % y,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::And => return Ok(a & b & kind.mask()),
        Binary::Or => return Ok((a | b) & kind.mask()),
        Binary::Xor => return Ok((a ^ b) & kind.mask()),
        // Shifts by more than there are bits are as by all.
        Binary::Shl => match b as u32 {
            by if by >= bits => 0,
            by => ((a << by) & kind.mask()) as i128,
        },
        Binary::Shr => x >> (b as u32).min(bits),
    };
    Ok(value as u64 & kind.mask())
}

/// `a * b + c`.
pub fn mad(product: Binary, kind: Type, [a, b, c]: [u64; 3], flush: bool) -> Answer<u64> {
    match kind {
        Type::F32 => {
            let [a, b, c] = [a, b, c].map(|bits| flushed(f32_of(bits), flush));
            Ok(flushed(a.mul_add(b, c), flush).to_bits().into())
        }
        Type::F16 => {
            let [a, b, c] = [a, b, c].map(|bits| f64::from(f16_of(bits)));
            Ok(f16::from_f64(a.mul_add(b, c)).to_bits().into())
        }
        Type::F16x2 => halves([a, b, c], |parts| mad(product, Type::F16, parts, flush)),
        Type::F64 => Ok(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()),
        kind => Ok(whole(product, kind, a, b)?.wrapping_add(c)),
    }
}

pub fn unary(op: Unary, kind: Type, a: u64, flush: bool) -> Answer<u64> {
    match kind {
        Type::F32 => {
            let x = flushed(f32_of(a), flush);
            let value = match op {
                Unary::Neg => -x,
                Unary::Abs => x.abs(),
                Unary::Sqrt => x.sqrt(),
                Unary::Rsqrt => (1.0 / f64::from(x).sqrt()) as f32,
                Unary::Rcp => 1.0 / x,
                Unary::Ex2 => f64::from(x).exp2() as f32,
                Unary::Lg2 => f64::from(x).log2() as f32,
                Unary::Tanh => f64::from(x).tanh() as f32,
                Unary::Sin => f64::from(x).sin() as f32,
                Unary::Cos => f64::from(x).cos() as f32,
                Unary::Not => return Err("not of a float".into()),
            };
            Ok(flushed(value, flush).to_bits().into())
        }
        Type::F16 => match op {
            Unary::Neg => Ok(a ^ 0x8000),
            Unary::Abs => Ok(a & 0x7fff),
            op => Ok(f16_bits(f32_of(unary(op, Type::F32, f16_of(a).to_bits().into(), false)?))),
        },
        Type::F16x2 => halves([a, 0, 0], |[a, ..]| unary(op, Type::F16, a, flush)),
        Type::F64 => Err(format!("{op:?} of doubles is not known")),
        kind => {
            let x = integer(kind, a);
            let value = match op {
                Unary::Neg => -x,
                Unary::Abs => x.abs(),
                Unary::Not => return Ok(!a & kind.mask()),
                _ => return Err(format!("{op:?} of integers is not known")),
            };
            Ok(value as u64 & kind.mask())
        }
    }
}

/// A comparison with no number is false, but for `ne`.
pub fn compare(op: Compare, kind: Type, a: u64, b: u64, flush: bool) -> Answer<bool> {
    let order = match kind {
        Type::F32 => flushed(f32_of(a), flush).partial_cmp(&flushed(f32_of(b), flush)),
        Type::F16 => f16_of(a).partial_cmp(&f16_of(b)),
        Type::F64 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        Type::F16x2 => return Err("a comparison of two halves at once is not known".into()),
        kind => Some(integer(kind, a).cmp(&integer(kind, b))),
    };
    Ok(match op {
        Compare::Eq => order.is_some_and(|o| o.is_eq()),
        Compare::Ne => order.is_some_and(|o| o.is_ne()),
        Compare::Lt => order.is_some_and(|o| o.is_lt()),
        Compare::Le => order.is_some_and(|o| o.is_le()),
        Compare::Gt => order.is_some_and(|o| o.is_gt()),
        Compare::Ge => order.is_some_and(|o| o.is_ge()),
    })
}

/// `cvt`: between integers, between floats, and from one to the other. Floats beyond an integer's range become its nearest
/// value, no number becomes 0.
pub fn convert(to: Type, from: Type, rounding: Rounding, saturate: bool, bits: u64) -> Answer<u64> {
    if !from.is_float() && !to.is_float() {
        let value = integer(from, bits);
        let (least, most) = range(to);
        return Ok(if saturate { value.clamp(least, most) } else { value } as u64 & to.mask());
    }
    let value = match from {
        Type::F16 => f64::from(f16_of(bits)),
        Type::F32 => f64::from(f32_of(bits)),
        Type::F64 => f64::from_bits(bits),
        Type::F16x2 => return Err("a conversion from two halves is not known".into()),
        from => integer(from, bits) as f64,
    };
    let round = |x: f64| match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    };
    if !to.is_float() {
        let (least, most) = range(to);
        return Ok((round(value) as i128).clamp(least, most) as u64 & to.mask());
    }
    // To the same type it rounds to a whole number.
    let value = if from == to && from.is_float() { round(value) } else { value };
    let value = if saturate { value.clamp(0.0, 1.0) } else { value };
    let wider = to.bytes() >= from.bytes() && from.is_float();
    if !wider && rounding != Rounding::Nearest {
        return Err("floats are made narrower to the nearest value only".into());
    }
    match to {
        Type::F16 => Ok(f16::from_f64(value).to_bits().into()),
        Type::F32 => Ok((value as f32).to_bits().into()),
        Type::F64 => Ok(value.to_bits()),
        _ => Err("a conversion to two halves is not known".into()),
    }
}

fn range(kind: Type) -> (i128, i128) {
    match kind {
        Type::Signed(bits) => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        kind => (0, i128::from(kind.mask())),
    }
}

/// The table of `lop3`, bit by bit.
pub fn lop3(a: u64, b: u64, c: u64, table: u64) -> u64 {
    (0..32).fold(0, |value, bit| {
        let at = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1);
        value | (table >> at & 1) << bit
    })
}

/// `prmt` in its default mode: four bytes of eight, each chosen by four bits, of which the highest repeats its sign.
pub fn prmt(a: u64, b: u64, choice: u64) -> u64 {
    let bytes = (b & 0xffff_ffff) << 32 | (a & 0xffff_ffff);
    (0..4).fold(0, |value, at| {
        let chosen = choice >> (4 * at) & 0xf;
        let byte = bytes >> (8 * (chosen & 7)) & 0xff;
        let byte = match chosen & 8 {
            0 => byte,
            _ if byte & 0x80 != 0 => 0xff,
            _ => 0,
        };
        value | byte << (8 * at)
    })
}
