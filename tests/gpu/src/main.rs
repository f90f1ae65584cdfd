//! What the kit for GPU machines asks of a device, a question for each process: `tests/gpu/kit/stages.py` runs them.
//!
//! ```text
//! reverie-gpu-kit environment                              what the devices are
//! reverie-gpu-kit ping                                     whether the first one computes
//! reverie-gpu-kit modules [--out FILE]                     what the driver makes of every kernel
//! reverie-gpu-kit check small|real [--out FILE] [FILTER…]  operations and the device's own duties, against the CPU
//! reverie-gpu-kit probe [WIDTH…] [--out FILE]              where wgmma reads its operands
//! reverie-gpu-kit speeds [--small] [--out FILE] [--ceilings FILE] [FILTER…]
//! reverie-gpu-kit once [--wgmma] [FILTER…]                 operations of `speeds`, once, for a profiler
//! ```
//!
//! Tables are separated by tabs, and grow as things become known. The exit code is 0, 1 where something is wrong, 2 where the question
//! is, and 77 where there is nothing to ask: the last line says why.

mod checks;
mod questions;
mod table;

use std::{path::PathBuf, process::ExitCode};

/// Of what has nothing to do here, as Automake has it.
const SKIPPED: u8 = 77;

/// How an answer ends.
pub enum End {
    Right,
    Wrong(String),
    Skipped(String),
}

/// What was asked.
#[derive(Default)]
pub struct Asked {
    pub words: Vec<String>,
    pub small: bool,
    pub wgmma: bool,
    pub out: Option<PathBuf>,
    pub ceilings: Option<PathBuf>,
}

fn read(words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut words = words;
    while let Some(word) = words.next() {
        let mut file = || words.next().map(PathBuf::from).ok_or(format!("a file after {word}"));
        match word.as_str() {
            "--small" => asked.small = true,
            "--wgmma" => asked.wgmma = true,
            "--out" => asked.out = Some(file()?),
            "--ceilings" => asked.ceilings = Some(file()?),
            option if option.starts_with("--") => return Err(format!("unknown option {option}")),
            _ => asked.words.push(word),
        }
    }
    Ok(asked)
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let question = words.next().unwrap_or_default();
    let ended = read(words).and_then(|asked| {
        Ok(match question.as_str() {
            "environment" => questions::environment(),
            "ping" => questions::ping(),
            "modules" => questions::modules(&asked),

            "check" => checks::check(&asked),
            "probe" => checks::probe(&asked),
            "speeds" => questions::speeds(&asked),
            "once" => questions::once(&asked),
            _ => return Err(format!("unknown question {question:?}; see the head of main.rs")),
        })
    });
    match ended {
        Err(what) => {
            eprintln!("{what}");
            ExitCode::from(2)
        }
        Ok(Ok(End::Right)) => ExitCode::SUCCESS,
        Ok(Ok(End::Wrong(what))) => {
            println!("{what}");
            ExitCode::FAILURE
        }
        Ok(Ok(End::Skipped(why))) => {
            println!("skipped: {why}");
            ExitCode::from(SKIPPED)
        }
        Ok(Err(error)) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
