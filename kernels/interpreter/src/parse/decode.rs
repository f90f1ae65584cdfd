//! From an instruction's name with its suffixes to what the machine does.

use crate::instruction::{Binary, Compare, Op, Operand, Rounding, Shuffle, Space, Type, Unary};

pub fn decode(name: &str, operands: &[Operand]) -> Result<Op, String> {
    let parts: Vec<&str> = name.split('.').collect();
    let types: Vec<Type> = parts[1..].iter().filter_map(|part| Type::parse(part)).collect();
    let has = |suffix: &str| parts[1..].contains(&suffix);
    let first = || types.first().copied().ok_or_else(|| format!("{name} has no type"));
    let unknown = || format!("{name} is not known to the interpreter");
    let binary = |op| Ok(Op::Binary(op, first()?));
    let unary = |op| Ok(Op::Unary(op, first()?));
    let space = || {
        [("param", Space::Param), ("global", Space::Global), ("shared", Space::Shared)]
            .iter()
            .find(|(suffix, _)| has(suffix))
            .map(|(_, space)| *space)
            .ok_or_else(|| format!("{name}: which memory? (.param, .global, .shared)"))
    };
    match parts[0] {
        "mov" => Ok(Op::Mov(first()?)),
        "cvta" => Ok(Op::Mov(Type::Unsigned(64))),
        "add" => binary(Binary::Add),
        "sub" => binary(Binary::Sub),
        "mul" if has("wide") => binary(Binary::MulWide),
        "mul" if has("hi") => binary(Binary::MulHi),
        "mul" => binary(Binary::MulLo),
        "div" => binary(Binary::Div),
        "rem" => binary(Binary::Rem),
        "min" => binary(Binary::Min),
        "max" => binary(Binary::Max),
        "and" => binary(Binary::And),
        "or" => binary(Binary::Or),
        "xor" => binary(Binary::Xor),
        "shl" => binary(Binary::Shl),
        "shr" => binary(Binary::Shr),
        "mad" if has("wide") => Ok(Op::Mad(Binary::MulWide, first()?)),
        "mad" | "fma" if !has("hi") => Ok(Op::Mad(Binary::MulLo, first()?)),
        "neg" => unary(Unary::Neg),
        "abs" => unary(Unary::Abs),
        "not" => unary(Unary::Not),
        "sqrt" => unary(Unary::Sqrt),
        "rsqrt" => unary(Unary::Rsqrt),
        "rcp" => unary(Unary::Rcp),
        "ex2" => unary(Unary::Ex2),
        "lg2" => unary(Unary::Lg2),
        "tanh" => unary(Unary::Tanh),
        "sin" => unary(Unary::Sin),
        "cos" => unary(Unary::Cos),
        "setp" => {
            let compare = match parts.get(1).copied().unwrap_or_default() {
                "eq" => Compare::Eq,
                "ne" => Compare::Ne,
                "lt" | "lo" => Compare::Lt,
                "le" | "ls" => Compare::Le,
                "gt" | "hi" => Compare::Gt,
                "ge" | "hs" => Compare::Ge,
                _ => return Err(unknown()),
            };
            let with = match parts.get(2).copied().unwrap_or_default() {
                "and" => Some(Binary::And),
                "or" => Some(Binary::Or),
                "xor" => Some(Binary::Xor),
                _ => None,
            };
            Ok(Op::Setp(compare, first()?, with))
        }
        "selp" => Ok(Op::Selp(first()?)),
        "cvt" if has("f16x2") => Ok(Op::CvtF16x2),
        "cvt" => {
            let [to, from] = types[..] else { return Err(format!("{name}: two types are needed")) };
            let rounding = parts[1..].iter().find_map(|part| match *part {
                "rn" | "rni" => Some(Rounding::Nearest),
                "rz" | "rzi" => Some(Rounding::Zero),
                "rm" | "rmi" => Some(Rounding::Down),
                "rp" | "rpi" => Some(Rounding::Up),
                _ => None,
            });
            Ok(Op::Cvt { to, from, rounding: rounding.unwrap_or(Rounding::Nearest), saturate: has("sat") })
        }
        "ld" | "ldu" => Ok(Op::Ld(space()?, first()?)),
        "st" => Ok(Op::St(space()?, first()?)),
        "bra" => Ok(Op::Bra(has("uni"))),
        "ret" | "exit" => Ok(Op::Ret),
        "bar" | "barrier" if has("warp") => Ok(Op::WarpBarrier),
        "bar" | "barrier" if has("sync") => match operands {
            [Operand::Immediate(0)] => Ok(Op::Barrier),
            [_, _] => Ok(Op::NamedBarrier),
            _ => Err(format!("{name}: barrier 0 of all threads, or one with a number of threads")),
        },
        "shfl" => Ok(Op::Shfl(match parts[1..].iter().find(|part| **part != "sync").copied() {
            Some("up") => Shuffle::Up,
            Some("down") => Shuffle::Down,
            Some("bfly") => Shuffle::Butterfly,
            Some("idx") => Shuffle::Index,
            _ => return Err(unknown()),
        })),
        "mma" if name == "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" => Ok(Op::Mma),
        "ldmatrix" => {
            let count = [("x1", 1), ("x2", 2), ("x4", 4)].iter().find(|(suffix, _)| has(suffix));
            match count {
                Some((_, count)) if has("m8n8") && has("shared") && has("b16") => {
                    Ok(Op::Ldmatrix(*count, has("trans")))
                }
                _ => Err(unknown()),
            }
        }
        "cp" if has("async") && has("commit_group") => Ok(Op::CpAsyncCommit),
        "cp" if has("async") && has("wait_all") => Ok(Op::CpAsyncWait(0)),
        "cp" if has("async") && has("wait_group") => match operands {
            [Operand::Immediate(groups)] => Ok(Op::CpAsyncWait(*groups as usize)),
            _ => Err(format!("{name}: how many groups?")),
        },
        "cp" if has("async") && has("bulk") => {
            let form = ["tensor", "shared::cluster", "global", "mbarrier::complete_tx::bytes"];
            let dimensions = parts.iter().find_map(|part| part.strip_suffix('d')?.parse().ok());
            match dimensions {
                Some(dimensions @ 1..=5) if form.iter().all(|part| has(part)) => {
                    Ok(Op::BulkTensor(dimensions))
                }
                _ => Err(unknown()),
            }
        }
        "cp" if has("async") => match operands.get(2) {
            Some(Operand::Immediate(bytes @ (4 | 8 | 16))) => Ok(Op::CpAsync(*bytes as usize)),
            _ => Err(format!("{name} copies 4, 8 or 16 bytes")),
        },
        "atom" | "red" => {
            let op = [("add", Binary::Add), ("min", Binary::Min), ("max", Binary::Max)];
            let op = op.iter().find(|(suffix, _)| has(suffix)).ok_or_else(unknown)?;
            Ok(Op::Atomic(space()?, op.1, first()?, parts[0] == "atom"))
        }
        "prmt" => Ok(Op::Prmt),
        "lop3" => Ok(Op::Lop3),
        "membar" | "fence" => Ok(Op::Fence),
        "mbarrier" if has("init") => Ok(Op::MbarrierInit),
        "mbarrier" if has("arrive") => Ok(Op::MbarrierArrive(has("expect_tx"))),
        "mbarrier" if has("try_wait") && has("parity") => Ok(Op::MbarrierTryWait),
        "wgmma" if has("fence") => Ok(Op::WgmmaFence),
        "wgmma" if has("commit_group") => Ok(Op::WgmmaCommit),
        "wgmma" if has("wait_group") => match operands {
            [Operand::Immediate(groups)] => Ok(Op::WgmmaWait(*groups as usize)),
            _ => Err(format!("{name}: how many groups?")),
        },
        "wgmma" if name.ends_with(".f32.f16.f16") => {
            let shape =
                parts.iter().find_map(|part| part.strip_prefix("m64n")?.strip_suffix("k16")?.parse().ok());
            match shape {
                Some(n @ 8..=256) if n % 8 == 0 => {
                    Ok(Op::Wgmma(n, matches!(operands.get(1), Some(Operand::Vector(_)))))
                }
                _ => Err(unknown()),
            }
        }
        "setmaxnreg" => Ok(Op::SetMaxNReg),
        _ => Err(unknown()),
    }
}
