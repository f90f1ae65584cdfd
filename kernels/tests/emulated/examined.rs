//! An examination of the emulated device: all is right there, and what is asked for is done.

use std::collections::BTreeSet;

use reverie_examine::{
    correctness::{self, Check, Sizes, Verdict},
    probe,
};
use reverie_kernels::gpu::cuda::Cuda;

use crate::{cuda, emulate};

fn with_wgmma() -> Cuda {
    emulate();
    Cuda::new(0, None, true).unwrap()
}

#[track_caller]
fn assert_right(checks: &[Check]) {
    for check in checks {
        assert!(matches!(check.verdict, Verdict::Right), "{}: {:?}", check.name(), check.verdict);
        assert!(check.worst <= check.allowed, "{check:?}");
    }
}

/// Every operation of the backend that computes something.
const OPERATIONS: [&str; 27] = [
    "add_channels",
    "attention",
    "blend",
    "clamp",
    "combine",
    "concat",
    "conv2d",
    "conv2d_residual",
    "embedding",
    "from_pixels",
    "geglu",
    "group_norm",
    "images",
    "layer_norm",
    "linear",
    "linear_residual",
    "pad",
    "pixel_shuffle",
    "pixel_shuffle_add_nearest",
    "prelu",
    "resize",
    "scale_add",
    "stack",
    "timestep_embedding",
    "to_pixels",
    "tokens",
    "unary",
];

#[test]
fn every_operation_is_right() {
    let mma = cuda(None).unwrap();
    let mut names = Vec::new();
    let mut each = |check: &Check| names.push(check.name());
    let checks = correctness::operations(&mma, Some(&with_wgmma()), Sizes::Small, &[], &mut each);
    assert_right(&checks);
    let operations: BTreeSet<_> = checks.iter().map(|check| check.operation).collect();
    assert_eq!(operations.into_iter().collect::<Vec<_>>(), OPERATIONS);
    // Each is told once, in order, and by a name of its own.
    assert_eq!(names, checks.iter().map(Check::name).collect::<Vec<_>>());
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert!(names.iter().any(|name| name.starts_with("attention") && name.ends_with(" wgmma")), "{names:?}");
}

#[test]
fn what_is_asked_for_is_done() {
    let mma = cuda(None).unwrap();
    let filters = ["geglu".to_owned(), "64 wgmma".to_owned()];
    let checks = correctness::operations(&mma, None, Sizes::Small, &filters, &mut |_| {});
    let names: Vec<String> = checks.iter().map(Check::name).collect();
    assert_eq!(names, ["attention 2 130x150 1x64 wgmma", "geglu 2x1x13x80"]);
    assert!(matches!(checks[0].verdict, Verdict::Skipped(_)), "{:?}", checks[0]);
    assert_right(&checks[1..]);
}

#[test]
fn the_device_keeps_what_it_must() {
    let cuda = cuda(Some(64 << 20)).unwrap();
    let checks = correctness::device(&cuda, &mut |_| {});
    assert_right(&checks);
    assert_eq!(checks.len(), 6);
    assert_eq!(cuda.memory().used, 0);
}

#[test]
fn wgmma_reads_its_operands_where_they_are() {
    let checks = probe::warp_groups(&with_wgmma(), &mut |_| {});
    assert_right(&checks);
    assert_eq!(checks.len(), 2 * probe::WIDTHS.len());
}

#[test]
fn the_probe_needs_wgmma() {
    for check in probe::warp_groups(&cuda(None).unwrap(), &mut |_| {}) {
        assert!(
            matches!(&check.verdict, Verdict::Failed(text) if text.contains("without wgmma")),
            "{check:?}"
        );
    }
}
