//! Work on inputs of many shapes, as batches of pictures are.

use reverie_kernels::{
    Backend, Shape,
    gpu::{Device, GpuBackend},
};

use super::{BYTES, Small, Worker};

/// Does the work for each of these shapes in turn, so many times. In which rounds it was done itself, once or more.
fn calls(gpu: &GpuBackend<Small>, rounds: usize, shapes: &mut dyn FnMut() -> Shape) -> Vec<usize> {
    let repeated = gpu.repeated();
    let mut calls = Vec::new();
    for round in 0..rounds {
        let shape = shapes();
        let x = gpu.tensor(vec![1.5; shape.iter().product()], shape).unwrap();
        let out = gpu.repeat(&repeated, &[&x], &mut |xs| {
            calls.push(round);
            Ok(vec![gpu.add(&xs[0], &xs[0])?])
        });
        assert_eq!(gpu.to_vec(&out.unwrap()[0]).unwrap(), vec![3.0; shape.iter().product()]);
    }
    calls
}

/// Numbers that are as good as random, below `below`.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

/// Pictures that come and go: batches of 1 to 4, each with and without guidance, of two sizes.
#[test]
fn mixed_batches_are_recorded_once_each() {
    let gpu = GpuBackend::new(Small::new(1 << 24));
    let mut number = numbers(1);
    let mut shapes = || [number(4) + 1, 4, 2, 4 * (number(2) + 1)];
    let done = calls(&gpu, 600, &mut shapes);
    assert_eq!(done.len(), 2 * 8, "each once to compile, and once to record");
    let mut number = numbers(2);
    let mut shapes = || [number(8) + 1, 4, 2, 4 * (number(2) + 1)];
    let done = calls(&gpu, 1200, &mut shapes);
    assert_eq!(done.len(), 2 * 16);
}

/// More shapes than recordings are kept for: the work itself is done for what is not recorded, and none takes another one's place
/// again and again.
#[test]
fn more_shapes_than_recordings_do_not_record_for_ever() {
    let gpu = GpuBackend::new(Small::new(1 << 24));
    let mut number = numbers(3);
    let records = || gpu.device().records();
    calls(&gpu, 2000, &mut || [number(20) + 1, 4, 2, 2]);
    let first = records();
    assert!((16..24).contains(&first), "{first}");
    // In turn, which is the worst that can come to whoever keeps what was used last.
    let mut turn = 0;
    calls(&gpu, 1000, &mut || {
        turn += 1;
        [turn % 20 + 1, 4, 2, 2]
    });
    assert_eq!(records() - first, 16);
}

/// What is used much takes the place of what is not any more.
#[test]
fn other_shapes_are_recorded_in_time() {
    let gpu = GpuBackend::new(Small::new(1 << 24));
    let mut round = 0;
    let done = calls(&gpu, 1000, &mut || {
        round += 1;
        // 16 shapes for a long time, and then one of another size.
        [if round <= 800 { round % 16 + 1 } else { 1 }, 4, 2, if round <= 800 { 2 } else { 4 }]
    });
    let late = done.iter().filter(|round| **round >= 800).count();
    assert_eq!(done.len() - late, 32);
    assert!(late <= 64, "{late} of 200");
}

#[test]
fn the_recording_used_longest_ago_gives_its_memory_first() {
    let gpu = GpuBackend::new(Small::new(1 << 20));
    let mut workers = [(); 3].map(|()| Worker::new(gpu.lane().unwrap()));
    let xs = workers.each_ref().map(|worker| worker.input(7.0));
    for (worker, x) in workers.iter_mut().zip(&xs) {
        assert_eq!([(); 3].map(|()| worker.run(x, 7.0)), [true, true, false]);
    }
    assert!(!workers[0].run(&xs[0], 7.0));
    let free = || *gpu.device().left.lock();
    let rest = gpu.device().allocate(free()).unwrap();
    // Twice and once its bytes, for which one recording of three times as many is enough.
    drop(gpu.tensor(vec![1.0; super::LEN], [1, 1, 16, 16]).unwrap());
    assert_eq!(free(), 3 * BYTES);
    drop(rest);
    let again: Vec<_> = workers.iter_mut().zip(&xs).map(|(worker, x)| worker.run(x, 7.0)).collect();
    assert_eq!(again, [false, true, false]);
}

/// As many recordings as are asked for: with fewer than there are shapes, the others are done each time.
#[test]
fn as_many_are_kept_as_are_asked_for() {
    for (kept, expected) in [(2, 2), (4, 4), (8, 4)] {
        let gpu = GpuBackend::new(Small::new(1 << 24)).keeping(kept);
        let mut next = 0;
        let mut shapes = || {
            next += 1;
            [next % 4 + 1, 4, 2, 4]
        };
        let calls = calls(&gpu, 40, &mut shapes);
        let late = calls.iter().filter(|round| **round >= 8).count();
        assert_eq!(late, (4 - expected) * 8, "{kept} are kept");
    }
}
