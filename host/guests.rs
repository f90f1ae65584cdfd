//! Builds guest components from a build script: a nested cargo with a target folder of its own, so that `cargo run` and
//! `cargo test` need no separate step and pick up every change of a plugin's source.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "guest";

/// What cargo tells build scripts about the outer build, which must not reach the nested one.
const OUTER: &[&str] = &[
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "MAKEFLAGS",
    "MFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "DEBUG",
];

/// Builds packages of the workspace and returns the folder of the components. `examples`: their examples too.
pub fn build(packages: &[&str], examples: bool) -> PathBuf {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    for watched in ["wit", "plugins", "tests/guests", "Cargo.toml", "host/guests.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    add_target();
    let target = target_dir();
    let mut cargo = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo
        .current_dir(&root)
        .args(["build", "--target", TARGET, "--profile", PROFILE])
        .arg("--target-dir")
        .arg(&target);
    for package in packages {
        cargo.args(["-p", package]);
    }
    if examples {
        cargo.args(["--lib", "--examples"]);
    }
    for name in OUTER {
        cargo.env_remove(name);
    }
    let output = cargo.output().expect("cargo runs");
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        panic!(
            "building {} for {TARGET} failed; is the target installed? (rustup target add {TARGET})",
            packages.join(", ")
        );
    }
    target.join(TARGET).join(PROFILE)
}

/// Installs the target where it is missing: rustup does so by `rust-toolchain.toml` only together with the toolchain, not
/// into one that is already there. A failure shows itself in the build that follows.
fn add_target() {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let libraries = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let there = libraries.is_ok_and(|out| Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir());
    if !there {
        let _ = Command::new("rustup").args(["target", "add", TARGET]).output();
    }
}

/// `guests` in the outer target folder, shared by all profiles.
fn target_dir() -> PathBuf {
    let out = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    // target/PROFILE/build/PACKAGE-HASH/out, or target/TRIPLE/PROFILE/…
    let profile = out.ancestors().nth(3).expect("cargo's layout");
    profile.parent().unwrap_or(Path::new("target")).join("guests")
}
