//! The cases of `reverie-examine` at the sizes of real models: one test for some operations, which run at the same time in lanes of one
//! device.

use std::{io::Write as _, sync::OnceLock};

use reverie_examine::{
    correctness::{self, Check, Sizes, Verdict},
    probe,
};
use reverie_kernels::gpu::{Device, cuda::Cuda};

use crate::{cuda, open};

/// The first GPU, and the same with `wgmma` where it has that: one each for all tests.
fn devices() -> Option<&'static (Cuda, Option<Cuda>)> {
    static DEVICES: OnceLock<Option<(Cuda, Option<Cuda>)>> = OnceLock::new();
    DEVICES.get_or_init(|| cuda(None).map(|cuda| (cuda, open(None, true)))).as_ref()
}

/// Says what is wrong of all.
#[track_caller]
fn assert_right(checks: &[Check]) {
    assert!(!checks.is_empty(), "nothing was examined");
    let mut wrong = String::new();
    for check in checks {
        match &check.verdict {
            Verdict::Right => {}
            Verdict::Differs(text) | Verdict::Failed(text) => wrong += &format!("{}: {text}\n", check.name()),
            Verdict::Skipped(why) => {
                let _ = writeln!(std::io::stderr(), "skipped {}: {why}", check.name());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[track_caller]
fn run(filters: &[&str]) {
    let Some((mma, wgmma)) = devices() else { return };
    let lane = mma.lane().unwrap();
    let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
    assert_right(&correctness::operations(&lane, wgmma.as_ref(), Sizes::Real, &filters, &mut |_| {}));
}

#[test]
fn convolutions() {
    run(&["conv2d"]);
}

#[test]
fn linear_layers() {
    run(&["linear ", "linear_"]);
}

#[test]
fn attention() {
    run(&["attention"]);
}

#[test]
fn normalisations() {
    run(&["norm"]);
}

#[test]
fn values_by_themselves() {
    run(&["unary", "scale_add", "clamp", "blend", "prelu ", "add_channels", "combine", "geglu"]);
}

#[test]
fn pictures() {
    run(&["resize", "pixel_shuffle", "pad ", "concat", "stack", "images", "tokens"]);
}

#[test]
fn lookups() {
    run(&["embedding", "pixels"]);
}

#[test]
fn wgmma_reads_its_operands_where_they_are() {
    let Some((_, Some(wgmma))) = devices() else { return };
    assert_right(&probe::warp_groups(&wgmma.lane().unwrap(), &mut |_| {}));
}
