//! Instructions as the machine runs them.

/// A type suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Bits or an unsigned integer of 8, 16, 32 or 64 bits.
    Unsigned(u8),
    /// A signed integer.
    Signed(u8),
    F16,
    F16x2,
    F32,
    F64,
    Pred,
}

impl Type {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => {
                let bits = name.get(1..)?.parse().ok().filter(|bits| matches!(bits, 8 | 16 | 32 | 64))?;
                match name.as_bytes()[0] {
                    b'b' | b'u' => Self::Unsigned(bits),
                    b's' => Self::Signed(bits),
                    _ => return None,
                }
            }
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::Unsigned(bits) | Self::Signed(bits) => usize::from(bits) / 8,
            Self::F16 => 2,
            Self::F16x2 | Self::F32 => 4,
            Self::F64 => 8,
            Self::Pred => 1,
        }
    }

    /// The bits that a value of it can have.
    pub fn mask(self) -> u64 {
        if self == Self::Pred { 1 } else { u64::MAX >> (64 - 8 * self.bytes()) }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F16x2 | Self::F32 | Self::F64)
    }
}

/// A register by its number among the kernel's.
pub type Reg = u32;

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Reg(Reg),
    /// The bits as they stand in the text: an integer, or a float of the width that its prefix says.
    Immediate(u64),
    Special(Special),
    /// The address of a shared variable.
    Shared(u64),
    Vector(Vec<Operand>),
    /// `[base + offset]`.
    Address(Box<Operand>, i64),
    /// The byte of the parameter block.
    Param(usize),
    /// The address of that byte.
    ParamAddress(usize),
    /// `[map, {coordinates}]`, the innermost first.
    Tensor(Box<Operand>, Vec<Operand>),
    Label(usize),
    /// `_`: the value is dropped.
    Sink,
}

/// A special register; those with a dimension have x, y, z as 0, 1, 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Param,
    Global,
    Shared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    Neg,
    Abs,
    Not,
    Sqrt,
    Rsqrt,
    Rcp,
    Ex2,
    Lg2,
    Tanh,
    Sin,
    Cos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// How a float becomes an integer, or a narrower float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Mov(Type),
    Binary(Binary, Type),
    /// `mad.lo`, `mad.wide`, and `fma`: by the multiplication, and whether it is of floats.
    Mad(Binary, Type),
    Unary(Unary, Type),
    /// `dst = condition (op other)`.
    Setp(Compare, Type, Option<Binary>),
    Selp(Type),
    Cvt {
        to: Type,
        from: Type,
        rounding: Rounding,
        saturate: bool,
    },
    /// Two floats to the halves of a register, the first to the upper one.
    CvtF16x2,
    Ld(Space, Type),
    St(Space, Type),
    /// Whether all threads that are there must agree: `bra.uni`.
    Bra(bool),
    Ret,
    /// Of the whole block.
    Barrier,
    /// By number, of as many threads as are said.
    NamedBarrier,
    WarpBarrier,
    Shfl(Shuffle),
    /// m16n8k16, fp16 in, fp32 accumulated.
    Mma,
    /// Matrices, and whether they are transposed.
    Ldmatrix(usize, bool),
    /// Bytes; the fourth operand may say how many of them come from memory.
    CpAsync(usize),
    CpAsyncCommit,
    /// Groups that may stay in flight.
    CpAsyncWait(usize),
    /// The operation, and whether the old value is returned.
    Atomic(Space, Binary, Type, bool),
    /// `dst = bytes of a and b that c selects`.
    Prmt,
    Lop3,
    Fence,
    /// `mbarrier.init` of so many arrivals.
    MbarrierInit,
    /// `mbarrier.arrive`, and whether it says how many bytes are to come.
    MbarrierArrive(bool),
    /// `mbarrier.try_wait.parity`.
    MbarrierTryWait,
    /// `cp.async.bulk.tensor` to shared memory, by dimensions.
    BulkTensor(usize),
    /// m64nNk16 by its N, fp16 in, fp32 accumulated; and whether the first operand is in registers.
    Wgmma(usize, bool),
    WgmmaFence,
    WgmmaCommit,
    /// Groups that may stay in flight.
    WgmmaWait(usize),
    /// How many registers the threads of a warp group have from here on, which are unlimited here.
    SetMaxNReg,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    pub line: usize,
    /// The predicate, and whether it is negated.
    pub guard: Option<(Reg, bool)>,
    pub op: Op,
    pub operands: Vec<Operand>,
    /// Subnormal numbers count as zero.
    pub flush: bool,
}
