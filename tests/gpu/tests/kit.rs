//! The kit as far as a machine without a GPU shows it: the questions on the emulated driver, and the schedule of stages.
#![cfg(target_os = "linux")]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output},
};

fn ask(words: &[&str]) -> Output {
    let emulator = std::env::current_exe().unwrap().with_file_name("libreverie_cuda_emulator.so");
    assert!(emulator.exists(), "built with this test");
    let kit = env!("CARGO_BIN_EXE_reverie-gpu-kit");
    Command::new(kit).args(words).env("LD_PRELOAD", emulator).output().unwrap()
}

/// What it says, where it ends well.
#[track_caller]
fn answer(words: &[&str]) -> String {
    let out = ask(words);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

/// The cells of a table, of which all rows have as many.
fn table(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
    rows
}

#[test]
fn the_device_is_described_and_answers() {
    assert!(answer(&["environment"]).contains("compute capability 9.0"));
    assert!(answer(&["ping"]).ends_with(" ms\n"));
}

#[test]
fn speeds_go_into_tables() {
    let folder = tempfile::tempdir().unwrap();
    let [out, ceilings] = ["speeds.tsv", "ceilings.tsv"].map(|name| folder.path().join(name));
    let files = ["--out", out.to_str().unwrap(), "--ceilings", ceilings.to_str().unwrap()];
    let text = answer(&[&["speeds", "--small"], &files[..]].concat());
    let rows = table(&out);
    assert_eq!(rows[0][..4], ["operation", "case", "path", "ms"]);
    // Once by `mma`, and what `wgmma` can do once more.
    let paths: Vec<_> =
        rows.iter().filter(|row| row[1] == "1 130x150 1x64").map(|row| row[2].as_str()).collect();
    assert_eq!(paths, ["mma", "wgmma"]);
    assert_eq!(rows.iter().filter(|row| row[1] == "1 33x20 2x40").count(), 1);
    assert_eq!(table(&ceilings).len(), 3);
    assert!(text.ends_with(&format!("{} operations\n", rows.len() - 1)), "{text}");
}

#[test]
fn checks_go_into_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("checks.tsv");
    let text = answer(&["check", "small", "--out", out.to_str().unwrap(), "linear"]);
    let rows = table(&out);
    assert!(rows.len() > 1 && text.ends_with(&format!("{} checks, all right\n", rows.len() - 1)), "{text}");
    for row in &rows[1..] {
        assert_eq!((row[0].as_str(), row[6].as_str()), ("small", "right"), "{row:?}");
        let [worst, allowed] = [&row[4], &row[5]].map(|cell| cell.parse::<f64>().unwrap());
        assert!(worst <= allowed && allowed > 0.0, "{row:?}");
    }
}

/// The stages at real shapes are parts of the list: together they are all of it.
#[test]
fn every_operation_has_a_stage_at_real_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("checks.tsv");
    answer(&["check", "small", "--out", out.to_str().unwrap()]);
    let text =
        "from kit.stages import REAL; print(*(part for parts in REAL.values() for part in parts), sep='\\n')";
    let mut python = Command::new("python3");
    python.args(["-B", "-c", text]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let Ok(parts) = python.output() else {
        let _ = writeln!(std::io::stderr(), "skipped: no python3");
        return;
    };
    let parts = String::from_utf8(parts.stdout).unwrap();
    assert!(parts.lines().count() > 10, "{parts}");
    for row in &table(&out)[1..] {
        let name = format!("{} {} {}", row[1], row[2], row[3]);
        // The device's own duties are not operations; they are asked for without filters.
        let of_the_device = ["memory", "recording", "transfers", "lanes"].contains(&row[1].as_str());
        assert!(of_the_device || parts.lines().any(|part| name.contains(part)), "{name}");
    }
}

#[test]
fn a_width_is_probed_by_itself() {
    assert_eq!(answer(&["probe", "64"]), "2 checks, all right\n");
    assert_eq!(ask(&["probe", "wide"]).status.code(), Some(1));
}

#[test]
fn every_kernel_goes_into_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("modules.tsv");
    answer(&["modules", "--out", out.to_str().unwrap()]);
    let rows = table(&out);
    assert!(rows.iter().any(|row| row[1] == "products" && row[6] == "256"), "{rows:?}");
    assert!(rows[1..].iter().all(|row| row[3].parse::<u32>().unwrap() > 0 && row[8].is_empty()), "{rows:?}");
}

#[test]
fn a_profiler_sees_what_it_asks_for() {
    assert_eq!(answer(&["once", "--small", "linear 70"]), "linear 70 40->48\n");
    assert_eq!(answer(&["once", "--small", "--wgmma", "130x150"]), "attention 1 130x150 1x64\n");
}

#[test]
fn a_question_that_there_is_not_is_refused() {
    assert_eq!(ask(&["what"]).status.code(), Some(2));
    assert_eq!(ask(&["speeds", "--no-such-option"]).status.code(), Some(2));
}

#[test]
fn without_a_gpu_there_is_nothing_to_ask() {
    let kit = env!("CARGO_BIN_EXE_reverie-gpu-kit");
    let out = Command::new(kit).arg("ping").env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    assert_eq!(out.status.code(), Some(77));
    assert!(String::from_utf8(out.stdout).unwrap().starts_with("skipped: "));
}

#[test]
fn whatever_a_stage_does_the_run_goes_on() {
    let mut python = Command::new("python3");
    python.args(["-m", "unittest", "test_kit"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let Ok(out) = python.output() else {
        // Not by `eprintln!`, which is shown for tests that fail only.
        let _ = writeln!(std::io::stderr(), "skipped: no python3");
        return;
    };
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && text.contains("\nOK"), "{text}");
}
