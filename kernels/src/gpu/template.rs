//! Turns a file of `kernels/ptx` into the PTX of one variant: constants by name, and blocks that are repeated.
//!
//! PTX has neither arithmetic on constants nor loops that are unrolled while it is assembled. A file may have, each on a
//! line of its own, so that it stays PTX to an editor:
//!
//! ```text
//! //: let TILES = BM / 16
//! //: for i in 0..TILES
//! mov.f32 %acc$(4 * i), 0f00000000;
//! //: end
//! //: if CAUSAL && D > 64
//! //: else
//! //: end
//! //: include load_halves TO=%weight FROM=%at
//! ```
//!
//! `$(expression)` and `$NAME` stand for their values, anywhere in a line. Expressions are of integers: `+ - * / %`,
//! `<< >> & |`, comparisons and `&& || !` (1 and 0), in C's order of precedence.
//!
//! `include` puts another file of `kernels/ptx` there, which sees the constants and leaves its own. Names that are given with
//! it, each a text without spaces, stand for that text within the file: `$TO` for a register's name, say.

use std::collections::HashMap;

/// Named constants of a variant.
pub type Constants<'a> = &'a [(&'a str, i64)];

/// Files by name, for `include`.
pub type Files<'a> = &'a [(&'a str, &'a str)];

/// The PTX of `text` with these constants.
///
/// # Errors
/// What is wrong, with the number of the template's line.
pub fn expand(text: &str, constants: Constants<'_>, files: Files<'_>) -> Result<String, String> {
    let lines: Vec<&str> = text.lines().collect();
    let names = constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let out = String::with_capacity(2 * text.len());
    let mut expansion = Expansion { files, lines: &lines, texts: HashMap::new(), names, out };
    expansion.whole()?;
    Ok(expansion.out)
}

struct Expansion<'a> {
    files: Files<'a>,
    lines: &'a [&'a str],
    /// What an included file was given.
    texts: HashMap<&'a str, &'a str>,
    names: HashMap<String, i64>,
    out: String,
}

impl Expansion<'_> {
    fn whole(&mut self) -> Result<(), String> {
        let end = self.block(0, true)?;
        if end < self.lines.len() { Err(format!("line {}: nothing to end here", end + 1)) } else { Ok(()) }
    }

    /// `NAME TEXT=… TEXT=…`
    fn include(&mut self, what: &str) -> Result<(), String> {
        let mut words = what.split_whitespace();
        let name = words.next().unwrap_or_default();
        let file = self.files.iter().find(|(file, _)| *file == name);
        let (_, text) = file.ok_or_else(|| format!("no file {name:?}"))?;
        let texts = words.map(|word| word.split_once('=')).collect::<Option<HashMap<_, _>>>();
        let mut inner = Expansion {
            files: self.files,
            lines: &text.lines().collect::<Vec<_>>(),
            texts: texts.ok_or("include FILE NAME=TEXT")?,
            names: std::mem::take(&mut self.names),
            out: std::mem::take(&mut self.out),
        };
        inner.whole().map_err(|what| format!("{name}, {what}"))?;
        (self.names, self.out) = (inner.names, inner.out);
        Ok(())
    }

    /// Goes through the lines from `at` to the `end` or `else` that closes the block, and returns its number; nothing of
    /// it counts unless it is `live`.
    fn block(&mut self, mut at: usize, live: bool) -> Result<usize, String> {
        while let Some(line) = self.lines.get(at) {
            let wrong = |what: String| format!("line {}: {what}", at + 1);
            let Some(directive) = line.trim_start().strip_prefix("//:") else {
                if live {
                    self.line(line).map_err(wrong)?;
                }
                at += 1;
                continue;
            };
            let (word, rest) = directive.trim().split_once(' ').unwrap_or((directive.trim(), ""));
            match word {
                "end" | "else" => return Ok(at),
                "let" => {
                    let (name, value) =
                        rest.split_once('=').ok_or_else(|| wrong("let NAME = EXPRESSION".into()))?;
                    if live {
                        let value = self.value(value).map_err(wrong)?;
                        self.names.insert(name.trim().to_owned(), value);
                    }
                    at += 1;
                }
                "if" => {
                    let holds = live && self.value(rest).map_err(wrong)? != 0;
                    let mut end = self.block(at + 1, holds)?;
                    if self.closes(end, "else") {
                        end = self.block(end + 1, live && !holds)?;
                    }
                    at = self.end_of(end, at)?;
                }
                "for" => at = self.repeat(at, rest, live)?,
                "include" => {
                    if live {
                        self.include(rest).map_err(wrong)?;
                    }
                    at += 1;
                }
                _ => return Err(wrong(format!("{word}: let, for, if, else, end or include?"))),
            }
        }
        Ok(at)
    }

    fn repeat(&mut self, at: usize, rest: &str, live: bool) -> Result<usize, String> {
        let wrong = |what: String| format!("line {}: {what}", at + 1);
        let parts = rest.split_once(" in ").and_then(|(name, range)| Some((name, range.split_once("..")?)));
        let (name, (from, to)) = parts.ok_or_else(|| wrong("for NAME in FROM..TO".into()))?;
        let (from, to) =
            if live { (self.value(from).map_err(wrong)?, self.value(to).map_err(wrong)?) } else { (0, 0) };
        let name = name.trim().to_owned();
        let before = self.names.get(&name).copied();
        for turn in from..to {
            self.names.insert(name.clone(), turn);
            self.block(at + 1, true)?;
        }
        match before {
            Some(value) => self.names.insert(name, value),
            None => self.names.remove(&name),
        };
        let end = self.block(at + 1, false)?;
        self.end_of(end, at)
    }

    fn closes(&self, at: usize, word: &str) -> bool {
        let directive = self.lines.get(at).and_then(|line| line.trim_start().strip_prefix("//:"));
        directive.is_some_and(|directive| directive.trim() == word)
    }

    fn end_of(&self, end: usize, from: usize) -> Result<usize, String> {
        if self.closes(end, "end") { Ok(end + 1) } else { Err(format!("line {}: has no end", from + 1)) }
    }

    /// A line of the output.
    fn line(&mut self, line: &str) -> Result<(), String> {
        // What a comment says about the template is no expression.
        let (code, comment) = match line.find("//") {
            Some(at) => line.split_at(at),
            None => (line, ""),
        };
        let mut rest = code;
        while let Some(at) = rest.find('$') {
            self.out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let length = if rest.starts_with('(') {
                closing(rest).ok_or("$( without )")?
            } else {
                rest.find(|c: char| !is_name(c)).unwrap_or(rest.len())
            };
            let (what, after) = rest.split_at(length);
            match self.texts.get(what) {
                Some(text) => self.out.push_str(text),
                None => self.out.push_str(&self.value(what)?.to_string()),
            }
            rest = after;
        }
        self.out.push_str(rest);
        self.out.push_str(comment);
        self.out.push('\n');
        Ok(())
    }

    fn value(&self, text: &str) -> Result<i64, String> {
        let mut expression = Expression { rest: text, names: &self.names };
        let value = expression.binary(0)?;
        if expression.rest.trim().is_empty() { Ok(value) } else { Err(format!("{text}: not an expression")) }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The length of what begins with a parenthesis, up to the one that closes it.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0;
    for (at, c) in text.char_indices() {
        open += i32::from(c == '(') - i32::from(c == ')');
        if open == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// Operators that bind alike, the loosest first; of those that begin alike the longer first.
const OPERATORS: [&[&str]; 8] = [
    &["||"],
    &["&&"],
    &["|"],
    &["&"],
    &["==", "!=", "<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

struct Expression<'a> {
    rest: &'a str,
    names: &'a HashMap<String, i64>,
}

impl Expression<'_> {
    fn binary(&mut self, level: usize) -> Result<i64, String> {
        let Some(operators) = OPERATORS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.operator(operators) {
            let right = self.binary(level + 1)?;
            left = match operator {
                "||" => i64::from(left != 0 || right != 0),
                "&&" => i64::from(left != 0 && right != 0),
                "|" => left | right,
                "&" => left & right,
                "==" => i64::from(left == right),
                "!=" => i64::from(left != right),
                "<=" => i64::from(left <= right),
                ">=" => i64::from(left >= right),
                "<" => i64::from(left < right),
                ">" => i64::from(left > right),
                "<<" => left << right,
                ">>" => left >> right,
                "+" => left + right,
                "-" => left - right,
                "*" => left * right,
                _ if right == 0 => return Err(format!("{left} {operator} 0")),
                "/" => left / right,
                _ => left % right,
            };
        }
        Ok(left)
    }

    fn operator(&mut self, operators: &[&'static str]) -> Option<&'static str> {
        self.rest = self.rest.trim_start();
        let found = operators.iter().find(|operator| self.rest.starts_with(**operator))?;
        // The first half of a longer one that binds otherwise.
        let next = self.rest[found.len()..].chars().next();
        if found.len() == 1 && next.is_some_and(|next| found.starts_with(next) && "|&<>".contains(next)) {
            return None;
        }
        self.rest = &self.rest[found.len()..];
        Some(found)
    }

    fn unary(&mut self) -> Result<i64, String> {
        self.rest = self.rest.trim_start();
        if let Some(rest) = self.rest.strip_prefix('!') {
            self.rest = rest;
            return Ok(i64::from(self.unary()? == 0));
        }
        if let Some(rest) = self.rest.strip_prefix('-') {
            self.rest = rest;
            return Ok(-self.unary()?);
        }
        if let Some(rest) = self.rest.strip_prefix('(') {
            self.rest = rest;
            let value = self.binary(0)?;
            self.rest = self.rest.trim_start().strip_prefix(')').ok_or("( without )")?;
            return Ok(value);
        }
        let length = self.rest.find(|c: char| !is_name(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        if word.is_empty() {
            return Err(format!("a value is missing before {rest:?}"));
        }
        let known = || self.names.get(word).copied().ok_or_else(|| format!("{word} has no value"));
        word.parse().or_else(|_| known())
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn constants_and_loops() {
        let text = "\
//: let N = D / 8
//: for i in 0..N
a$(2 * i + 1) $i;  // $i stays
//: if i % 2 == 1 && !(D > 16)
odd$D
//: else
//: for j in i..2
in$i$j
//: end
//: end
//: end
last $(N << 2 | 1)";
        let expected = "a1 0;  // $i stays\nin00\nin01\na3 1;  // $i stays\nodd16\nlast 9\n";
        assert_eq!(expand(text, &[("D", 16)], &[]).unwrap(), expected);
    }

    #[test]
    fn files_within_files() {
        let files = [("add", "//: for i in 0..N\nadd $TO$i, %b$(i + N);\n//: end\n//: let N = N + 1")];
        let text = "\
//: let N = 1
//: include add TO=%a
//: if N == 3
//: include missing
//: end
//: include add TO=%long
$N";
        let expected = "add %a0, %b1;\nadd %long0, %b2;\nadd %long1, %b3;\n3\n";
        assert_eq!(expand(text, &[], &files).unwrap(), expected);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, what) in [
            ("a\n$X", "line 2: X has no value"),
            ("//: for i in 0..2\n", "line 1: has no end"),
            ("//: end", "line 1: nothing to end here"),
            ("//: if 1 +\n//: end", "line 1: a value is missing before \"\""),
            ("$(1 / 0)", "line 1: 1 / 0"),
            ("//: loop", "line 1: loop: let, for, if, else, end or include?"),
            ("\n//: include b", "line 2: no file \"b\""),
            ("//: include a b", "line 1: include FILE NAME=TEXT"),
            ("\n//: include a TO=b", "line 2: a, line 2: X has no value"),
        ] {
            assert_eq!(expand(text, &[], &[("a", "$TO\n$X")]).unwrap_err(), what);
        }
    }
}
