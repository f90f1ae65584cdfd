//! The interpreter's parser of PTX.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverie_ptx::Module;

fuzz_target!(|text: &str| {
    let _ = Module::parse(text);
});
