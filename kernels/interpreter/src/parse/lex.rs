//! From text to statements: lists of tokens that a semicolon, a label's colon or a brace ends.

use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A name with its dots: an instruction with its suffixes, a directive, a register.
    Word(String),
    /// Its bits. Floats have the width of their prefix.
    Number(u64),
    Mark(char),
}

impl Token {
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }

    pub fn is(&self, word: &str) -> bool {
        self.word() == Some(word)
    }

    pub fn integer(&self) -> Option<u64> {
        match self {
            Self::Number(bits) => Some(*bits),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Statement {
    pub line: usize,
    pub tokens: Vec<Token>,
}

impl Statement {
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::Syntax { line: self.line, what: what.into() }
    }
}

pub fn statements(text: &str) -> Result<Vec<Statement>> {
    let mut found = Vec::new();
    let mut current = Statement { line: 0, tokens: Vec::new() };
    // Braces inside of a statement are vectors, others are bodies. A directive at the top ends with its line.
    let mut inside = 0;
    let mut finish = |current: &mut Statement| {
        if !current.tokens.is_empty() {
            let line = current.line;
            found.push(std::mem::replace(current, Statement { line, tokens: Vec::new() }));
        }
    };
    let mut comment = false;
    for (number, line) in text.lines().enumerate() {
        let line_number = number + 1;
        let mut rest = line;
        loop {
            if comment {
                let Some(end) = rest.find("*/") else { break };
                (rest, comment) = (&rest[end + 2..], false);
            }
            rest = rest.trim_start();
            if rest.is_empty() || rest.starts_with("//") {
                break;
            }
            if let Some(after) = rest.strip_prefix("/*") {
                (rest, comment) = (after, true);
                continue;
            }
            let (token, after) = token(rest)
                .ok_or_else(|| Error::Syntax { line: line_number, what: format!("what is {rest:?}?") })?;
            rest = after;
            if current.tokens.is_empty() {
                current.line = line_number;
            }
            let opens = matches!(token, Token::Mark('{'));
            let body = opens
                && (current.tokens.is_empty() || current.tokens.iter().any(|token| token.is(".entry")))
                && inside == 0;
            match token {
                Token::Mark(';') => finish(&mut current),
                Token::Mark('{') if body => {
                    finish(&mut current);
                    current.tokens.push(Token::Mark('{'));
                    finish(&mut current);
                }
                Token::Mark('}') if inside == 0 => {
                    finish(&mut current);
                    current.tokens.push(Token::Mark('}'));
                    finish(&mut current);
                }
                Token::Mark(':') => {
                    current.tokens.push(Token::Mark(':'));
                    finish(&mut current);
                }
                token => {
                    match token {
                        Token::Mark('{') => inside += 1,
                        Token::Mark('}') => inside -= 1,
                        _ => {}
                    }
                    current.tokens.push(token);
                }
            }
        }
        let heads = [".version", ".target", ".address_size"];
        if current.tokens.first().is_some_and(|token| heads.iter().any(|head| token.is(head))) {
            finish(&mut current);
        }
    }
    if !current.tokens.is_empty() {
        return Err(current.error("the file ends in the middle of a statement"));
    }
    Ok(found)
}

fn token(text: &str) -> Option<(Token, &str)> {
    let first = text.chars().next()?;
    if first.is_ascii_digit() {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(text.len());
        return Some((Token::Number(number(&text[..end])?), &text[end..]));
    }
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '%' | ':');
    if first.is_ascii_alphabetic() || matches!(first, '_' | '$' | '.' | '%') {
        let mut end = text.find(|c: char| !in_word(c)).unwrap_or(text.len());
        // `ld.global::L2` has colons inside, by twos; a label's single one is at the end.
        let mut from = 0;
        while let Some(colon) = text[from..end].find(':').map(|at| from + at) {
            if text[colon..].starts_with("::") {
                from = colon + 2;
            } else {
                end = colon;
            }
        }
        return Some((Token::Word(text[..end].to_owned()), &text[end..]));
    }
    "{}[](),;:<>@!+-|=".contains(first).then(|| (Token::Mark(first), &text[1..]))
}

/// Integers of base 10 and 16, and floats as `0f3F800000`, `0d...` and `1.5` (which is a double, as in PTX).
fn number(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    if let Some(bits) = lower.strip_prefix("0f").or_else(|| lower.strip_prefix("0d")) {
        return u64::from_str_radix(bits, 16).ok();
    }
    if let Some(digits) = lower.strip_prefix("0x") {
        return u64::from_str_radix(digits.trim_end_matches('u'), 16).ok();
    }
    if lower.contains('.') {
        return lower.parse::<f64>().ok().map(f64::to_bits);
    }
    lower.trim_end_matches('u').parse().ok()
}
