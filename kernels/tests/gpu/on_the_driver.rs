//! Tests of this suite, run once more on the emulated driver, as they are on a GPU.

use std::process::Command;

use crate::tested;

/// Of every kind: through the backend, by launches of their own, with `wgmma`, and such as are for the interpreter only.
const TESTS: [&str; 6] = [
    "attention::warp_groups",
    "embedding::rows_plus_positions",
    "gemm::every_variant",
    "layout::",
    "repeated::a_full_device_is_an_error_that_passes",
    "timesteps::",
];

#[test]
fn the_suite_runs_on_the_driver_that_is_asked_for() {
    if !tested::is_interpreter() {
        return;
    }
    let test = std::env::current_exe().unwrap();
    let run = |device: &str| {
        Command::new(&test)
            .args(TESTS)
            .env("REVERIE_TEST_DEVICE", device)
            .env("LD_PRELOAD", test.with_file_name("libreverie_cuda_emulator.so"))
            .output()
            .unwrap()
    };
    let out = run("cuda:0");
    let [text, errors] = [&out.stdout, &out.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(out.status.success(), "{text}{errors}");
    assert!(text.contains("test gemm::every_variant ... ok"), "{text}");
    // It was not the interpreter.
    let skipped = "skipped: repeated::a_full_device_is_an_error_that_passes: only for the interpreter";
    assert!(errors.contains(skipped), "{errors}");
    // What is asked for and is not there is no reason to pass.
    for device in ["cuda:7", "gpu"] {
        assert!(!run(device).status.success(), "{device}");
    }
}
