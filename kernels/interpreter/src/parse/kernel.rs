//! A kernel as it was read.

use crate::instruction::{Instruction, Type};

/// An `.entry`, ready to run.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) parameter_bytes: usize,
    /// The type of each register.
    pub(crate) registers: Vec<Type>,
    pub(crate) shared_bytes: usize,
    /// Whether it takes what a launch gives it beyond `shared_bytes`.
    pub(crate) dynamic_shared: bool,
    /// Threads of a block that `.reqntid` wants.
    pub(crate) required_block: Option<[u32; 3]>,
    /// Threads of a block that `.maxntid` allows.
    pub(crate) largest_block: Option<u32>,
    pub(crate) code: Vec<Instruction>,
}

#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub name: String,
    pub offset: usize,
    pub bytes: usize,
}

impl Kernel {
    /// Bytes of each parameter.
    pub fn parameter_sizes(&self) -> impl Iterator<Item = usize> {
        self.parameters.iter().map(|parameter| parameter.bytes)
    }

    /// Bytes of a block's shared memory that it declares.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// Threads of a block that `.maxntid` allows, or `.reqntid` wants.
    pub fn largest_block(&self) -> Option<u32> {
        self.required_block.map(|sides| sides.into_iter().fold(1, u32::saturating_mul)).or(self.largest_block)
    }
}
