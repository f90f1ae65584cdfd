//! What leaves nothing of the device to others, or loses it to its process.

use std::process::Command;

use parking_lot::Mutex;
use reverie_examine::{
    correctness::{self, Check, Sizes, Verdict},
    noise,
};
use reverie_kernels::{
    Backend, Error, Result,
    gpu::{Arg, Device, GpuBackend, Launch, cuda::Cuda, variants},
};

use crate::cuda;

/// Held by the one that runs.
static TURN: Mutex<()> = Mutex::new(());

/// Runs an ignored test of this module in a process of its own, after those that came before. It must say that it was done.
fn alone(name: &str) {
    let _turn = TURN.lock();
    if cuda(None).is_none() {
        return;
    }
    // The crate's name does not count as part of a test's.
    let module = module_path!().split_once("::").map_or("", |(_, module)| module);
    let args = ["--exact", &format!("{module}::{name}"), "--ignored", "--nocapture"];
    let out = Command::new(std::env::current_exe().unwrap()).args(args).output().unwrap();
    let [text, errors] = [&out.stdout, &out.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(out.status.success() && text.contains("as expected"), "{text}{errors}");
}

#[test]
#[ignore = "started by an_impossible_request_is_an_error_that_passes"]
fn impossible() {
    let Some(cuda) = cuda(Some(u64::MAX)) else { return };
    assert!(matches!(cuda.allocate(1 << 46), Err(Error::OutOfMemory { .. })));
    cuda.allocate(1 << 20).unwrap();
    println!("refused as expected");
}

#[test]
fn an_impossible_request_is_an_error_that_passes() {
    alone("impossible");
}

/// Takes all that the driver has.
#[test]
#[ignore = "started by what_is_kept_makes_room_for_the_driver"]
fn full() {
    let Some(cuda) = cuda(Some(u64::MAX)) else { return };
    let gpu = GpuBackend::new(cuda.clone());
    let values = noise::halves(32, 1.0, 1);
    let x = gpu.tensor(values.clone(), [1, 8, 2, 2]).unwrap();
    let mut all = Vec::new();
    let mut bytes = 1 << 30;
    while bytes >= 512 {
        match cuda.allocate(bytes) {
            Ok(buffer) => all.push(buffer),
            Err(Error::OutOfMemory { .. }) => bytes /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    let twice = || gpu.to_vec(&gpu.add(&x, &x)?);
    // Enough for the results, so that a driver that has nothing left misses it when it compiles.
    all.truncate(all.len() - 4);
    let first = twice();
    assert!(matches!(first, Ok(_) | Err(Error::OutOfMemory { .. })), "{first:?}");
    drop(all);
    let held = cuda.memory().held;
    let expected: Vec<f32> = values.into_iter().map(|value| 2.0 * value).collect();
    assert_eq!(twice().unwrap(), expected);
    println!("{first:?} with all taken, then {held} bytes held, as expected");
}

#[test]
fn what_is_kept_makes_room_for_the_driver() {
    alone("full");
}

/// The device is lost to the whole process.
#[test]
#[ignore = "started by a_fault_loses_the_device"]
fn fault() {
    let Some(cuda) = cuda(None) else { return };
    let variant = variants().into_iter().find(|variant| variant.file == "elementwise").unwrap();
    let launch = Launch { grid: [1, 1, 1], block: 256, shared: 0 };
    let buffer = cuda.allocate(4096).unwrap();
    let args = [Arg::Null, Arg::Null, Arg::Null, Arg::F32(1.0), Arg::U32(2048)];
    // SAFETY: none: no buffer is there. The device refuses address 0, and is lost, which is what this is about.
    unsafe { cuda.launch(&variant, "scale_add", launch, &args) }.unwrap();
    assert_eq!(cuda.lost(), None, "nobody has asked it yet");
    let lost = |result: Result<()>| matches!(result, Err(Error::Device { lost: true, .. }));
    let first = cuda.synchronise();
    assert!(lost(first.clone()), "{first:?}");
    assert!(cuda.lost().is_some());
    assert_eq!(cuda.upload(&buffer, &[0; 4]), first, "the same at each call");
    assert_eq!(cuda.allocate(1 << 30).map(drop), first);
    assert_eq!(cuda.download(&buffer, &mut [0; 4]), first);
    examinations_say_so(&cuda);
    drop(buffer);
    drop(cuda);
    println!("lost as expected");
}

/// An examination of a lost device goes to its end, and nothing is right.
fn examinations_say_so(cuda: &Cuda) {
    let mut count = 0;
    let mut each = |_: &Check| count += 1;
    let mut checks = correctness::operations(cuda, None, Sizes::Small, &["unary".into()], &mut each);
    checks.extend(correctness::device(cuda, &mut each));
    assert_eq!(count, checks.len());
    assert!(checks.len() > 10);
    for check in checks {
        assert!(matches!(check.verdict, Verdict::Failed(_)), "{check:?}");
    }
}

#[test]
fn a_fault_loses_the_device() {
    alone("fault");
}
