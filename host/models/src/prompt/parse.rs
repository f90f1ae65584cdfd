//! The weights of a prompt's words, in the notation of A1111's web UI.

use crate::error::{Error, Result};

/// What a round bracket multiplies the weight by, and a square one divides it by.
const BRACKET: f64 = 1.1;
/// How many brackets may be open at once.
const DEEPEST: usize = 100;
/// Begins a new chunk of tokens, where it stands as a word.
const BREAK: &str = "BREAK";

/// A piece of text whose words have one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Without brackets and escapes.
    pub text: String,
    /// 1 where nothing is said.
    pub weight: f32,
}

/// A prompt by its weights.
///
/// `(word)` weighs 1.1 times as much, `(word:1.3)` 1.3 times, `[word]` 1/1.1 times; brackets nest. `\(`, `\)`, `\[`, `\]`
/// and `\\` stand for the characters themselves, and so does a bracket that nothing opened. One that is never closed
/// reaches to the end. `BREAK` begins a new chunk of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The parts between the BREAKs, at least one; each has at least one span.
    pub parts: Vec<Vec<Span>>,
}

impl Prompt {
    /// Reads the brackets of `text`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where brackets nest deeper than 100, or a weight is beyond all bounds.
    pub fn parse(text: &str) -> Result<Self> {
        let pieces = merge(Parser::default().parse(text)?);
        if let Some((text, _)) = pieces.iter().find(|(_, weight)| !(*weight as f32).is_finite()) {
            return Err(Error::Invalid(format!("prompt: the weight of '{}' is too large", text.trim())));
        }
        let mut parts = vec![Vec::new()];
        for (text, weight) in &pieces {
            for (i, part) in split_at_breaks(text).into_iter().enumerate() {
                if i > 0 {
                    parts.push(Vec::new());
                }
                if let Some(spans) = parts.last_mut().filter(|_| !part.is_empty()) {
                    spans.push(Span { text: part.to_owned(), weight: *weight as f32 });
                }
            }
        }
        for part in parts.iter_mut().filter(|part| part.is_empty()) {
            part.push(Span { text: String::new(), weight: 1.0 });
        }
        Ok(Self { parts })
    }

    /// `text` as it is: brackets and BREAK are words like others.
    pub fn plain(text: &str) -> Self {
        Self { parts: vec![vec![Span { text: text.to_owned(), weight: 1.0 }]] }
    }
}

/// The pieces so far, and the brackets that are open.
#[derive(Default)]
struct Parser {
    pieces: Vec<(String, f64)>,
    /// For each its character, and how many pieces there were before it.
    open: Vec<(char, usize)>,
}

impl Parser {
    fn parse(mut self, text: &str) -> Result<Vec<(String, f64)>> {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = match c {
                '\\' => match after.chars().next().filter(|next| r"()[]\".contains(*next)) {
                    Some(escaped) => {
                        self.text(escaped);
                        &after[1..]
                    }
                    None => {
                        self.text(c);
                        after
                    }
                },
                '(' | '[' if self.open.len() == DEEPEST => {
                    return Err(Error::Invalid(format!("prompt: brackets nest deeper than {DEEPEST}")));
                }
                '(' | '[' => {
                    self.open.push((c, self.pieces.len()));
                    // What follows must not join the text before the bracket.
                    self.pieces.push((String::new(), 1.0));
                    after
                }
                ':' if self.is_open('(') => match closing_weight(after) {
                    Some((weight, after)) => {
                        self.close('(', weight);
                        after
                    }
                    None => {
                        self.text(c);
                        after
                    }
                },
                ')' if self.is_open('(') => {
                    self.close('(', BRACKET);
                    after
                }
                ']' if self.is_open('[') => {
                    self.close('[', 1.0 / BRACKET);
                    after
                }
                _ => {
                    self.text(c);
                    after
                }
            };
        }
        while let Some(&(bracket, _)) = self.open.last() {
            self.close(bracket, if bracket == '(' { BRACKET } else { 1.0 / BRACKET });
        }
        Ok(self.pieces)
    }

    fn is_open(&self, bracket: char) -> bool {
        self.open.iter().any(|&(open, _)| open == bracket)
    }

    fn text(&mut self, c: char) {
        match self.pieces.last_mut() {
            Some((text, _)) => text.push(c),
            None => self.pieces.push((c.to_string(), 1.0)),
        }
    }

    /// Multiplies what the innermost `bracket` encloses. Brackets of the two kinds may cross.
    fn close(&mut self, bracket: char, factor: f64) {
        if let Some(innermost) = self.open.iter().rposition(|&(open, _)| open == bracket) {
            let (_, first) = self.open.remove(innermost);
            self.pieces[first..].iter_mut().for_each(|(_, weight)| *weight *= factor);
            self.pieces.push((String::new(), 1.0));
        }
    }
}

/// The number and what follows the bracket in `1.3) …`.
fn closing_weight(text: &str) -> Option<(f64, &str)> {
    let (number, after) = text.split_once(')')?;
    let number = number.trim();
    // Not everything that Rust takes for a number: neither inf nor 1e3.
    let accepted = number.chars().all(|c| c.is_ascii_digit() || "+-.".contains(c));
    Some((number.parse().ok().filter(|_| accepted)?, after))
}

/// Without empty pieces; neighbours of equal weight are one, so that a bracket without effect does not cut a word.
fn merge(pieces: Vec<(String, f64)>) -> Vec<(String, f64)> {
    let mut merged: Vec<(String, f64)> = Vec::new();
    for (text, weight) in pieces.into_iter().filter(|(text, _)| !text.is_empty()) {
        match merged.last_mut() {
            Some((before, same)) if *same == weight => before.push_str(&text),
            _ => merged.push((text, weight)),
        }
    }
    merged
}

/// What is between the words BREAK, without the white space around them.
fn split_at_breaks(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut parts = Vec::new();
    let (mut rest, mut searched) = (text, 0);
    while let Some(at) = rest[searched..].find(BREAK).map(|at| searched + at) {
        let (before, after) = (&rest[..at], &rest[at + BREAK.len()..]);
        if before.ends_with(is_word) || after.starts_with(is_word) {
            searched = at + BREAK.len();
            continue;
        }
        parts.push(before.trim_end());
        (rest, searched) = (after.trim_start(), 0);
    }
    parts.push(rest);
    parts
}
