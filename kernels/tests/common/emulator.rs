//! The emulated driver, in the place of NVIDIA's.

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Puts the emulator into this process as its `libcuda.so`.
pub fn emulate() {
    static EMULATOR: OnceLock<Library> = OnceLock::new();
    EMULATOR.get_or_init(|| {
        let path = std::env::current_exe().unwrap().with_file_name("libreverie_cuda_emulator.so");
        // SAFETY: the library has no initialisers with preconditions.
        unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }.expect("built with this test")
    });
}
