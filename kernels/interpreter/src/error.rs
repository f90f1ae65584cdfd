//! What can go wrong with a file and with a launch.

/// The result of parsing and of running.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file was refused or a launch stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not PTX, or uses what the interpreter does not know.
    #[error("line {line}: {what}")]
    Syntax {
        /// Of the file, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A launch that does not fit its kernel, or memory that the caller may not read.
    #[error("{0}")]
    Launch(String),
    /// A thread did what it must not.
    #[error("{kernel}, line {line}, block {block:?}, thread {thread:?}: {what}")]
    Fault {
        /// The entry that ran.
        kernel: String,
        /// Of the instruction.
        line: usize,
        /// `%ctaid`.
        block: [u32; 3],
        /// `%tid`.
        thread: [u32; 3],
        /// What it did.
        what: String,
    },
}
