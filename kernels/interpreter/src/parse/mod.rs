//! From text to kernels.

mod decode;
mod kernel;
mod lex;

use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    instruction::{Instruction, Operand, Reg, Special, Type},
};
use decode::decode;
pub use kernel::Kernel;
use kernel::Parameter;
use lex::{Statement, Token, statements};

/// The kernels of a file.
#[derive(Debug, Clone)]
pub struct Module {
    kernels: HashMap<String, Kernel>,
}

impl Module {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Syntax`], with the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut kernels = HashMap::new();
        let mut externals = HashMap::new();
        let all = statements(text)?;
        let mut at = 0;
        while let Some(statement) = all.get(at) {
            at += 1;
            let words = &statement.tokens;
            if let Some(position) = words.iter().position(|token| token.is(".entry")) {
                if !all.get(at).is_some_and(|next| next.tokens == [Token::Mark('{')]) {
                    return Err(statement.error("an .entry without a body"));
                }
                let length = all[at..].iter().position(|s| s.tokens == [Token::Mark('}')]);
                let end = at + length.ok_or_else(|| statement.error("an .entry without an end"))?;
                let kernel = Builder::new(&externals).kernel(statement, position, &all[at + 1..end])?;
                kernels.insert(kernel.name.clone(), kernel);
                at = end + 1;
            } else if words.first().is_some_and(|token| token.is(".extern")) {
                // `.extern .shared .align 16 .b8 name[]`: what the launch gives, after all other shared memory.
                let name = words.iter().rev().find_map(Token::word).unwrap_or_default();
                externals.insert(name.to_owned(), ());
            } else if !words
                .first()
                .and_then(Token::word)
                .is_some_and(|word| matches!(word, ".version" | ".target" | ".address_size"))
            {
                return Err(statement.error("what is this outside of an .entry?"));
            }
        }
        Ok(Self { kernels })
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// [`Error::Launch`], with the names that there are.
    pub fn kernel(&self, name: &str) -> Result<&Kernel> {
        self.kernels.get(name).ok_or_else(|| {
            Error::Launch(format!("there is no kernel '{name}'; there are: {}", self.names().join(", ")))
        })
    }

    /// The names of all kernels, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// More than any number in a declaration is: threads, registers, bytes.
const LARGEST: u64 = 1 << 24;
/// More registers than any kernel has.
const REGISTERS: usize = 1 << 16;

/// What is known while a kernel is read.
struct Builder<'a> {
    externals: &'a HashMap<String, ()>,
    parameters: Vec<Parameter>,
    registers: Vec<Type>,
    register_names: HashMap<String, Reg>,
    shared: HashMap<String, usize>,
    shared_bytes: usize,
    dynamic_shared: bool,
    labels: HashMap<String, usize>,
}

impl<'a> Builder<'a> {
    fn new(externals: &'a HashMap<String, ()>) -> Self {
        Self {
            externals,
            parameters: Vec::new(),
            registers: Vec::new(),
            register_names: HashMap::new(),
            shared: HashMap::new(),
            shared_bytes: 0,
            dynamic_shared: false,
            labels: HashMap::new(),
        }
    }

    fn kernel(mut self, head: &Statement, entry: usize, body: &[Statement]) -> Result<Kernel> {
        let name = head.tokens.get(entry + 1).and_then(Token::word);
        let name = name.ok_or_else(|| head.error("an .entry without a name"))?.to_owned();
        let end = self.read_parameters(head, entry + 2)?;
        let (mut required_block, mut largest_block) = (None, None);
        let mut rest =
            head.tokens[end..].split(|token| matches!(token, Token::Word(w) if w.starts_with('.')));
        rest.next();
        let names = head.tokens[end..].iter().filter_map(Token::word).filter(|word| word.starts_with('.'));
        for (directive, values) in names.zip(rest) {
            let values: Vec<u32> =
                values.iter().filter_map(Token::integer).map(|v| v.min(LARGEST) as u32).collect();
            let side = |i: usize| values.get(i).copied().unwrap_or(1);
            match directive {
                ".reqntid" => required_block = Some([side(0), side(1), side(2)]),
                ".maxntid" => {
                    let threads = [1, 2].iter().fold(side(0), |all, i| all.saturating_mul(side(*i)));
                    largest_block = Some(threads);
                }
                ".minnctapersm" | ".maxnreg" => {}
                other => return Err(head.error(format!("{other} is not known"))),
            }
        }

        // Declarations first, and where each label points.
        let mut count = 0;
        let mut code = Vec::new();
        for statement in body {
            match statement.tokens.as_slice() {
                [Token::Word(label), Token::Mark(':')] => {
                    if self.labels.insert(label.clone(), count).is_some() {
                        return Err(statement.error(format!("{label} is there twice")));
                    }
                }
                [first, ..] if first.is(".reg") => self.declare_registers(statement)?,
                [first, ..] if first.is(".shared") => self.declare_shared(statement)?,
                [Token::Word(first), ..] if first == ".pragma" || first == ".loc" => {}
                _ => {
                    count += 1;
                    code.push(statement);
                }
            }
        }
        self.shared_bytes = self.shared_bytes.next_multiple_of(16);
        let code = code.into_iter().map(|statement| self.instruction(statement));
        let code = code.collect::<Result<Vec<_>>>()?;
        if code.is_empty() {
            return Err(head.error("a kernel without instructions"));
        }
        let parameter_bytes = self.parameters.last().map_or(0, |last| last.offset + last.bytes);
        Ok(Kernel {
            name,
            parameters: self.parameters,
            parameter_bytes,
            registers: self.registers,
            shared_bytes: self.shared_bytes,
            dynamic_shared: self.dynamic_shared,
            required_block,
            largest_block,
            code,
        })
    }

    /// `(.param .u64 name, .param .f32 name)`. Returns where it ends.
    fn read_parameters(&mut self, head: &Statement, from: usize) -> Result<usize> {
        if head.tokens.get(from) != Some(&Token::Mark('(')) {
            return Ok(from);
        }
        let length = head.tokens[from..].iter().position(|token| *token == Token::Mark(')'));
        let end = from + length.ok_or_else(|| head.error("parameters without an end"))?;
        let mut offset: usize = 0;
        let list = head.tokens[from + 1..end].split(|token| *token == Token::Mark(','));
        for parameter in list.filter(|parameter| !parameter.is_empty()) {
            // `.param .u32 name`, `.param .align 64 .b8 name[128]`
            let words: Vec<&str> = parameter.iter().filter_map(Token::word).collect();
            let numbers: Vec<usize> =
                parameter.iter().filter_map(Token::integer).map(|number| number as usize).collect();
            if numbers.iter().any(|number| *number as u64 > LARGEST) {
                return Err(head.error("a parameter that is too large"));
            }
            let (kind, name, align, count) = match (&words[..], &numbers[..]) {
                ([".param", kind, name], []) => (kind, name, 1, 1),
                ([".param", ".align", kind, name], [align, count]) => (kind, name, *align, *count),
                _ => return Err(head.error(format!("a parameter is .param .TYPE NAME, not {words:?}"))),
            };
            let kind = kind.strip_prefix('.').and_then(Type::parse);
            let size = kind.ok_or_else(|| head.error(format!("{name}: an unknown type")))?.bytes();
            let bytes = size * count;
            offset = offset.next_multiple_of(align.max(size));
            self.parameters.push(Parameter { name: (*name).to_owned(), offset, bytes });
            offset += bytes;
        }
        Ok(end + 1)
    }

    /// `.reg .f32 %a, %b;` and `.reg .f32 %a<8>;`
    fn declare_registers(&mut self, statement: &Statement) -> Result<()> {
        let kind = statement.tokens.get(1).and_then(Token::word).and_then(|word| word.strip_prefix('.'));
        let kind = kind.and_then(Type::parse).ok_or_else(|| statement.error(".reg without a type"))?;
        for declared in statement.tokens[2..].split(|token| *token == Token::Mark(',')) {
            let name =
                declared.first().and_then(Token::word).ok_or_else(|| statement.error("a register's name"))?;
            if special(name).or_else(|| special(&format!("{name}.x"))).is_some() {
                return Err(statement.error(format!("{name} would hide the special register")));
            }
            match declared.get(1..) {
                Some([]) => self.register(name.to_owned(), kind),
                Some([Token::Mark('<'), count, Token::Mark('>')]) => {
                    let count = count.integer().ok_or_else(|| statement.error("how many registers?"))?;
                    if count > (REGISTERS - self.registers.len().min(REGISTERS)) as u64 {
                        return Err(statement.error(format!("more than {REGISTERS} registers")));
                    }
                    (0..count).for_each(|i| self.register(format!("{name}{i}"), kind));
                }
                _ => return Err(statement.error("a declaration of registers that is not understood")),
            }
        }
        Ok(())
    }

    fn register(&mut self, name: String, kind: Type) {
        self.register_names.insert(name, self.registers.len() as Reg);
        self.registers.push(kind);
    }

    /// `.shared .align 16 .b8 name[4096];`
    fn declare_shared(&mut self, statement: &Statement) -> Result<()> {
        let unclear = || statement.error("shared memory is .shared .align N .TYPE NAME[COUNT];");
        let (align, rest) = match &statement.tokens[1..] {
            [first, align, rest @ ..] if first.is(".align") => {
                (align.integer().ok_or_else(unclear)? as usize, rest)
            }
            rest => (1, rest),
        };
        let [Token::Word(kind), Token::Word(name), rest @ ..] = rest else { return Err(unclear()) };
        let bytes = kind.strip_prefix('.').and_then(Type::parse).ok_or_else(unclear)?.bytes();
        let count = match rest {
            [] => 1,
            [Token::Mark('['), count, Token::Mark(']')] => count.integer().ok_or_else(unclear)? as usize,
            _ => return Err(unclear()),
        };
        if align.max(count).max(self.shared_bytes) as u64 > LARGEST {
            return Err(statement.error("shared memory that is too large"));
        }
        let offset = self.shared_bytes.next_multiple_of(align.max(bytes));
        self.shared.insert(name.clone(), offset);
        self.shared_bytes = offset + bytes * count;
        Ok(())
    }

    fn instruction(&mut self, statement: &Statement) -> Result<Instruction> {
        let mut tokens = statement.tokens.as_slice();
        let mut guard = None;
        if let [Token::Mark('@'), rest @ ..] = tokens {
            let (negated, rest) = match rest {
                [Token::Mark('!'), rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let [Token::Word(name), rest @ ..] = rest else {
                return Err(statement.error("@ without a predicate"));
            };
            match self.register_names.get(name) {
                Some(&reg) if self.registers[reg as usize] == Type::Pred => guard = Some((reg, negated)),
                _ => return Err(statement.error(format!("{name} is no predicate"))),
            }
            tokens = rest;
        }
        let [Token::Word(name), rest @ ..] = tokens else { return Err(statement.error("no instruction")) };
        let operands = split(rest).into_iter().map(|tokens| self.operand(statement, tokens));
        let operands = operands.collect::<Result<Vec<_>>>()?;
        let flush = name.split('.').any(|part| part == "ftz");
        let op = decode(name, &operands).map_err(|what| statement.error(what))?;
        Ok(Instruction { line: statement.line, guard, op, operands, flush })
    }

    fn operand(&mut self, statement: &Statement, tokens: &[Token]) -> Result<Operand> {
        match tokens {
            [Token::Number(bits)] => Ok(Operand::Immediate(*bits)),
            [Token::Mark('-'), Token::Number(bits)] => Ok(Operand::Immediate(bits.wrapping_neg())),
            [Token::Word(name)] => self.named(statement, name),
            // A predicate's second result, `p|q`, is not used by any kernel here.
            [Token::Mark('{'), inner @ .., Token::Mark('}')] => {
                let parts = split(inner).into_iter().map(|part| self.operand(statement, part));
                Ok(Operand::Vector(parts.collect::<Result<_>>()?))
            }
            [
                Token::Mark('['),
                map,
                Token::Mark(','),
                Token::Mark('{'),
                inner @ ..,
                Token::Mark('}'),
                Token::Mark(']'),
            ] => {
                let map = self.operand(statement, std::slice::from_ref(map))?;
                let coordinates = split(inner).into_iter().map(|part| self.operand(statement, part));
                Ok(Operand::Tensor(Box::new(map), coordinates.collect::<Result<_>>()?))
            }
            [Token::Mark('['), inner @ .., Token::Mark(']')] => {
                let (base, offset) = match inner {
                    [base, Token::Mark('+'), Token::Number(offset)] => (base, *offset as i64),
                    [base, Token::Mark('+'), Token::Mark('-'), Token::Number(offset)] => {
                        (base, -(*offset as i64))
                    }
                    [base, Token::Mark('-'), Token::Number(offset)] => (base, -(*offset as i64)),
                    [base] => (base, 0),
                    _ => return Err(statement.error("an address that is not understood")),
                };
                if let Some(name) = base.word()
                    && let Some(parameter) = self.parameters.iter().find(|parameter| parameter.name == name)
                {
                    return Ok(Operand::Param((parameter.offset as i64 + offset) as usize));
                }
                let base = self.operand(statement, std::slice::from_ref(base))?;
                Ok(Operand::Address(Box::new(base), offset))
            }
            _ => Err(statement.error("an operand that is not understood")),
        }
    }

    fn named(&mut self, statement: &Statement, name: &str) -> Result<Operand> {
        if let Some(&reg) = self.register_names.get(name) {
            return Ok(Operand::Reg(reg));
        }
        if let Some(special) = special(name) {
            return Ok(Operand::Special(special));
        }
        if let Some(&offset) = self.shared.get(name) {
            return Ok(Operand::Shared(offset as u64));
        }
        if self.externals.contains_key(name) {
            self.dynamic_shared = true;
            return Ok(Operand::Shared(self.shared_bytes as u64));
        }
        if let Some(&label) = self.labels.get(name) {
            return Ok(Operand::Label(label));
        }
        if let Some(parameter) = self.parameters.iter().find(|parameter| parameter.name == name) {
            return Ok(Operand::ParamAddress(parameter.offset));
        }
        if name == "_" {
            return Ok(Operand::Sink);
        }
        Err(statement.error(format!("{name} is not declared")))
    }
}

/// At the commas that are in no brackets.
fn split(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('{' | '[') => depth += 1,
            Token::Mark('}' | ']') => depth -= 1,
            Token::Mark(',') if depth == 0 => {
                parts.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < tokens.len() {
        parts.push(&tokens[start..]);
    }
    parts
}

fn special(name: &str) -> Option<Special> {
    let (name, dimension) = name.split_once('.').unwrap_or((name, ""));
    let side = "xyz".find(dimension).filter(|_| dimension.len() == 1);
    Some(match (name, side) {
        ("%tid", Some(side)) => Special::Tid(side),
        ("%ntid", Some(side)) => Special::Ntid(side),
        ("%ctaid", Some(side)) => Special::Ctaid(side),
        ("%nctaid", Some(side)) => Special::Nctaid(side),
        ("%laneid", None) => Special::Lane,
        ("%warpid", None) => Special::Warp,
        _ => return None,
    })
}
