//! Every variant goes through NVIDIA's assembler for each architecture that it is meant for.
//!
//! `PTXAS` names the assembler; else it is looked for in `PATH`. It comes with the CUDA toolkit, and by itself in the PyPI
//! package `nvidia-cuda-nvcc`.

use std::{io::Write as _, process::Command};

use reverie_kernels::gpu::{Variant, variants};

use crate::tested;

const ARCHITECTURES: [&str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90"];

/// What `ptxas -v` says of a variant; panics where it refuses or warns.
fn assemble(ptxas: &str, variant: &Variant, architecture: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("kernel.ptx");
    std::fs::write(&source, variant.ptx().unwrap()).unwrap();
    let out = Command::new(ptxas)
        .args(["-v", "--warning-as-error", "-arch", architecture, "-o"])
        .arg(folder.path().join("kernel.cubin"))
        .arg(&source)
        .output()
        .unwrap();
    let report = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    // ptxas only informs where it has one wgmma wait for another.
    let fine = !report.contains("warning") && !report.contains("Performance Loss");
    assert!(out.status.success() && fine, "{variant:?} for {architecture}:\n{report}");
    report
}

#[test]
fn every_variant_assembles_without_spills() {
    if !tested::is_interpreter() {
        return;
    }
    let ptxas = std::env::var("PTXAS").unwrap_or_else(|_| "ptxas".into());
    if Command::new(&ptxas).arg("--version").output().is_err() {
        // Not by `eprintln!`, which is shown for tests that fail only.
        let mut shown = std::io::stderr();
        let _ = writeln!(
            shown,
            "skipped: no ptxas to assemble with (set PTXAS, or pip install nvidia-cuda-nvcc)"
        );
        return;
    }
    let variants = variants();
    let architectures = |variant: &Variant| match variant.needs_sm_90a() {
        true => &["sm_90a"][..],
        false => &ARCHITECTURES[..],
    };
    let all: Vec<_> = variants
        .iter()
        .flat_map(|variant| architectures(variant).iter().map(move |architecture| (variant, *architecture)))
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((variant, architecture)) =
                    all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let report = assemble(&ptxas, variant, architecture);
                    for line in report.lines().filter(|line| line.contains("spill")) {
                        assert!(
                            line.contains("0 bytes spill stores, 0 bytes spill loads"),
                            "{variant:?} for {architecture}:\n{report}"
                        );
                    }
                }
            });
        }
    });
    println!("{} variants for {ARCHITECTURES:?}", variants.len());
}
