//! What the tests share.

use reverie_ptx::{Arg, Error, Launch, Memory, Module, Result};

/// A kernel called `test` around a body.
pub fn module(parameters: &str, body: &str) -> Module {
    let text = format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry test({parameters})\n{{\n{body}\n}}\n"
    );
    Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Runs it as one block.
#[allow(dead_code, reason = "not every test file runs so little")]
pub fn run(module: &Module, threads: u32, memory: &Memory, args: &[Arg]) -> Result<()> {
    let launch = Launch { kernel: "test", grid: [1, 1, 1], block: [threads, 1, 1], dynamic_shared: 0 };
    launch.run(module, memory, args).map(drop)
}

/// The message of a fault.
#[allow(dead_code, reason = "not every test file looks for faults")]
pub fn fault(ran: Result<()>) -> String {
    match ran {
        Err(Error::Fault { what, .. }) => what,
        other => panic!("no fault: {other:?}"),
    }
}
