//! The measuring of speeds: that it runs what it says, as often and by the way that it says. The figures themselves are those of
//! an interpreter.

use reverie_examine::{
    correctness::Sizes,
    speed::{Ceilings, ceilings, speeds},
};
use reverie_kernels::gpu::cuda::Cuda;

use crate::emulate;

fn measured(wgmma: bool, filters: &[&str]) -> Vec<(String, &'static str, &'static str)> {
    emulate();
    let cuda = Cuda::new(0, None, wgmma).unwrap();
    let best = Ceilings { copy_gb_s: 1.0, product_tflop_s: 2e-6 };
    let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let mut told = Vec::new();
    let all =
        speeds(&cuda, &best, Sizes::Small, &filters, &mut |speed| told.push(speed.case.clone())).unwrap();
    assert_eq!(cuda.memory().used, 0, "nothing is left in use");
    assert_eq!(all.iter().map(|speed| &speed.case).collect::<Vec<_>>(), told.iter().collect::<Vec<_>>());
    for speed in &all {
        assert!(speed.ms > 0.0 && speed.rate > 0.0 && speed.share > 0.0, "{speed:?}");
        if speed.unit == "TFLOP/s" {
            assert!((speed.share - speed.rate / best.product_tflop_s).abs() < 1e-9, "{speed:?}");
        }
    }
    all.into_iter()
        .map(|speed| (format!("{} {}", speed.operation, speed.case), speed.path, speed.unit))
        .collect()
}

#[test]
fn ceilings_are_measured() {
    emulate();
    let best = ceilings(&Cuda::new(0, None, false).unwrap(), Sizes::Small).unwrap();
    assert!(best.copy_gb_s > 0.0 && best.product_tflop_s > 0.0, "{best:?}");
}

#[test]
fn each_operation_is_measured_by_its_path() {
    let all = measured(false, &[]);
    let names: Vec<_> = all.iter().map(|(name, path, unit)| (name.as_str(), *path, *unit)).collect();
    for expected in [
        ("attention 1 130x150 1x64", "mma", "TFLOP/s"),
        ("attention 1 33x20 2x40", "mma", "TFLOP/s"),
        ("linear 70 40->48", "", "TFLOP/s"),
        ("conv 1 3x3/1 8->16 9", "", "TFLOP/s"),
        ("upsample 1 3 8 2 nearest", "", "GB/s"),
        ("upsample 1 3 8 2 lanczos", "", "GB/s"),
    ] {
        assert!(names.contains(&expected), "{expected:?} in {names:?}");
    }
}

#[test]
fn filters_and_wgmma() {
    let all = measured(true, &["attention"]);
    assert_eq!(
        all,
        [
            ("attention 1 130x150 1x64".to_owned(), "wgmma", "TFLOP/s"),
            // Too few queries for it.
            ("attention 1 33x20 2x40".to_owned(), "mma", "TFLOP/s"),
        ]
    );
    assert_eq!(measured(false, &["no such name"]), []);
}
