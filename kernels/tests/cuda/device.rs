//! Memory, transfers, recordings and errors.

use reverie_examine::noise::halves as noise;
use reverie_kernels::{
    Backend, Error,
    gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, cuda::Cuda, variants},
};

use crate::{LONG, common::len, cuda};

/// Bytes without a period that a wrong offset could hide behind.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    crate::common::noise(len, seed).into_iter().map(|value| (value * 127.0) as i8 as u8).collect()
}

#[test]
fn transfers_arrive_whatever_their_size() {
    let Some(cuda) = cuda(None) else { return };
    let mut buffers = Vec::new();
    // Some larger than the pinned memory, and together many times as large.
    for (i, len) in
        [1, 3, 300, 4 << 20, (9 << 20) + 5, 70_000, (4 << 20) + 1, 17].iter().cycle().take(32).enumerate()
    {
        let content = bytes(*len, i as u64);
        let buffer = cuda.allocate(*len).unwrap();
        cuda.upload(&buffer, &content).unwrap();
        buffers.push((buffer, content));
    }
    for (buffer, content) in &buffers {
        let copy = cuda.allocate(content.len()).unwrap();
        cuda.copy(buffer, &copy, content.len()).unwrap();
        let mut back = vec![0; content.len()];
        cuda.download(&copy, &mut back).unwrap();
        assert!(back == *content, "{} bytes", content.len());
    }
}

#[test]
fn a_budget_is_kept() {
    let Some(cuda) = cuda(Some(1 << 20)) else { return };
    let a = cuda.allocate(600 << 10).unwrap();
    let error = cuda.allocate(600 << 10).err().unwrap();
    let Error::OutOfMemory { what, budget, .. } = error else { panic!("{error}") };
    assert_eq!((what, budget), (format!("{} bytes", 600 << 10), 1 << 20));
    drop(a);
    let b = cuda.allocate(1 << 20).unwrap();
    assert_eq!(cuda.memory().held, 1 << 20, "what was kept made room");
    drop(b);
    cuda.trim().unwrap();
    assert_eq!(cuda.memory().held, 0);
    assert!(matches!(cuda.allocate(usize::MAX / 2), Err(Error::OutOfMemory { .. })));
}

#[test]
fn repeated_work_takes_no_more_memory() {
    let Some(cuda) = cuda(None) else { return };
    let gpu = GpuBackend::new(cuda.clone());
    let x = gpu.tensor(noise(320 * 64, 1.0, 1), [1, 320, 8, 8]).unwrap();
    let base = cuda.memory().used;
    let round = || {
        let sum = gpu.add(&gpu.scale_add(&x, 0.5, &x).unwrap(), &x).unwrap();
        gpu.to_vec(&gpu.scale_add(&sum, -1.0, &sum).unwrap()).unwrap()
    };
    let first = round();
    let held = cuda.memory().held;
    for _ in 0..100 {
        assert_eq!(round(), first);
    }
    assert_eq!((cuda.memory().held, cuda.memory().used), (held, base));
}

#[test]
fn recorded_work_gives_what_it_gave() {
    let Some(cuda) = cuda(None) else { return };
    let gpu = GpuBackend::new(cuda.clone());
    let shape = [1, 40, 5, 7];
    let tensor = |seed| gpu.tensor(noise(len(shape), 1.0, seed), shape).unwrap();
    let slopes = noise(40, 1.0, 100);
    let inputs: Vec<_> = (0..6).map(tensor).collect();
    let base = cuda.memory().used;
    let added = tensor(200);
    // With an upload, and with buffers that are dropped and used again.
    let work = |x: &GpuTensor<Cuda>| {
        let a = gpu.scale_add(&gpu.prelu(x, &slopes)?, 0.5, &added)?;
        let b = gpu.add(&gpu.scale_add(&a, 2.0, x)?, &a)?;
        let c = gpu.add(&gpu.scale_add(&b, 2.0, x)?, &a)?;
        Ok(vec![c, a])
    };
    let values = |xs: &[GpuTensor<Cuda>]| xs.iter().map(|x| gpu.to_vec(x).unwrap()).collect::<Vec<_>>();
    let expected: Vec<_> = inputs.iter().map(|x| values(&work(x).unwrap())).collect();
    let repeated = gpu.repeated();
    let mut calls = 0;
    let mut run = |x: &GpuTensor<Cuda>| {
        gpu.repeat(&repeated, &[x], &mut |xs| {
            calls += 1;
            work(&xs[0])
        })
    };
    let outputs: Vec<_> = inputs.iter().map(|x| run(x).unwrap()).collect();
    // Afterwards, so that the results must have outlived the replays in between.
    for (i, output) in outputs.iter().enumerate() {
        assert!(values(output) == expected[i], "{i}");
    }
    let mut again = || assert!(values(&run(&inputs[3]).unwrap()) == expected[3]);
    again();
    let held = cuda.memory().held;
    (0..20).for_each(|_| again());
    assert_eq!(cuda.memory().held, held);
    assert_eq!(calls, 2, "once to compile, once to record");
    drop((outputs, repeated));
    drop(added);
    assert_eq!(cuda.memory().used, base, "the recording gave all back");
}

#[test]
fn what_cannot_be_recorded_is_done_each_time() {
    let Some(cuda) = cuda(None) else { return };
    let gpu = GpuBackend::new(cuda);
    let repeated = gpu.repeated();
    let mut calls = 0;
    for seed in 0..4 {
        let x = gpu.tensor(noise(100, 1.0, seed), [1, 1, 10, 10]).unwrap();
        // What it does depends on values, which a recording does not have.
        let work = |x: &GpuTensor<Cuda>| Ok(vec![gpu.scale_add(x, gpu.to_vec(x)?[0], x)?]);
        let out = gpu.repeat(&repeated, &[&x], &mut |xs| {
            calls += 1;
            work(&xs[0])
        });
        let expected = work(&x).unwrap();
        assert_eq!(gpu.to_vec(&out.unwrap()[0]).unwrap(), gpu.to_vec(&expected[0]).unwrap());
    }
    assert_eq!(calls, 5, "each time, and once in vain");
}

/// A tensor and what `rounds` of x -> 0.5 x + y make of it; long enough that other lanes' work comes in between.
fn halved(
    gpu: &GpuBackend<Cuda>,
    x: &GpuTensor<Cuda>,
    y: &GpuTensor<Cuda>,
    rounds: usize,
) -> GpuTensor<Cuda> {
    (0..rounds).fold(x.clone(), |x, _| gpu.scale_add(&x, 0.5, y).unwrap())
}

#[test]
fn two_lanes_compute_at_once() {
    let Some(cuda) = cuda(None) else { return };
    let gpu = GpuBackend::new(cuda.clone());
    let (shape, rounds) = LONG;
    let base = cuda.memory().used;
    let tensor = |gpu: &GpuBackend<Cuda>, seed| gpu.tensor(noise(len(shape), 1.0, seed), shape).unwrap();
    let expected = [1, 2].map(|seed| {
        let [x, y] = [tensor(&gpu, seed), tensor(&gpu, seed + 10)];
        gpu.to_vec(&halved(&gpu, &x, &y, rounds)).unwrap()
    });
    std::thread::scope(|scope| {
        for (seed, expected) in [1, 2].into_iter().zip(&expected) {
            let lane = gpu.lane().unwrap();
            scope.spawn(move || {
                let [x, y] = [tensor(&lane, seed), tensor(&lane, seed + 10)];
                let repeated = lane.repeated();
                for round in 0..10 {
                    assert!(lane.to_vec(&halved(&lane, &x, &y, rounds)).unwrap() == *expected, "{round}");
                    // From the third round on a replay of this lane's recording.
                    let out =
                        lane.repeat(&repeated, &[&x], &mut |xs| Ok(vec![halved(&lane, &xs[0], &y, rounds)]));
                    assert!(lane.to_vec(&out.unwrap()[0]).unwrap() == *expected, "recorded, {round}");
                }
            });
        }
    });
    assert_eq!(cuda.memory().used, base, "lanes give back what they had");
}

#[test]
fn transfers_of_lanes_keep_their_order() {
    const LEN: usize = 1 << 20;
    // For three buffers, so that lanes must take one another's.
    let Some(a) = cuda(Some(3 << 20)) else { return };
    let b = a.lane().unwrap();
    for round in 0..20 {
        let content = [1, 2].map(|seed| bytes(LEN, 2 * round + seed));
        let [x, y] = [&a, &b].map(|lane| lane.allocate(LEN).unwrap());
        a.upload(&x, &content[0]).unwrap();
        b.copy(&x, &y, LEN).unwrap();
        // Its own lane takes its memory for something else, while the other may still read.
        drop(x);
        let z = a.allocate(LEN).unwrap();
        a.upload(&z, &content[1]).unwrap();
        // Once in its own lane, and once in a buffer of which the other has just freed the memory.
        let copies = [(&b, &y), (&b, &z)].map(|(lane, from)| {
            let copy = lane.allocate(LEN).unwrap();
            lane.copy(from, &copy, LEN).unwrap();
            let mut back = vec![0; LEN];
            lane.download(&copy, &mut back).unwrap();
            back
        });
        assert!(copies == content, "{round}");
        drop(y);
        let w = a.allocate(LEN).unwrap();
        a.upload(&w, &content[0]).unwrap();
        let mut back = vec![0; LEN];
        b.download(&w, &mut back).unwrap();
        assert!(back == content[0], "{round}");
        assert!(a.memory().held <= 3 << 20);
    }
    assert_eq!(a.memory().used, 0);
}

#[test]
fn a_buffer_of_one_lane_is_used_in_another() {
    let Some(cuda) = cuda(None) else { return };
    let [a, b] = [GpuBackend::new(cuda.clone()), GpuBackend::new(cuda.lane().unwrap())];
    let (shape, rounds) = LONG;
    let values = |seed| noise(len(shape), 1.0, seed);
    let y = a.tensor(values(2), shape).unwrap();
    let expected = a.to_vec(&halved(&a, &a.tensor(values(1), shape).unwrap(), &y, rounds)).unwrap();
    for round in 0..10 {
        // Written in one lane and read in the other, with nothing that waits in between.
        let x = a.tensor(values(1), shape).unwrap();
        let out = halved(&b, &x, &y, rounds);
        // Its own lane takes its memory for something else, while the other may still read.
        drop(x);
        let other = a.tensor(values(3), shape).unwrap();
        // In either order, so that each is once the first to run where nothing else decides.
        let other_is_right = || a.to_vec(&other).unwrap() == values(3);
        let out_is_right = || b.to_vec(&out).unwrap() == expected;
        let mut checks: [&dyn Fn() -> bool; 2] = [&out_is_right, &other_is_right];
        checks.rotate_left(round % 2);
        assert!(checks.iter().all(|is_right| is_right()), "{round}");
    }
}

#[test]
fn memory_that_one_lane_freed_is_used_by_another() {
    let (shape, rounds) = LONG;
    // For three tensors and an upload of one, which is twice as large.
    let Some(cuda) = cuda(Some(5 * 2 * len(shape) as u64)) else { return };
    let [a, b] = [GpuBackend::new(cuda.clone()), GpuBackend::new(cuda.lane().unwrap())];
    let values = |seed| noise(len(shape), 1.0, seed);
    let expected = {
        let x = a.tensor(values(1), shape).unwrap();
        a.to_vec(&halved(&a, &x, &x, rounds)).unwrap()
    };
    for round in 0..10 {
        let x = a.tensor(values(1), shape).unwrap();
        let out = halved(&a, &x, &x, rounds);
        // Its memory, and that of what came in between, while all of it may still be in use.
        drop(x);
        let others = [3, 4].map(|seed| b.tensor(values(seed), shape).unwrap());
        let out_is_right = || a.to_vec(&out).unwrap() == expected;
        let others_are_right =
            || others.iter().zip([3, 4]).all(|(other, seed)| b.to_vec(other).unwrap() == values(seed));
        // Twice, as what runs late may overwrite what was right before.
        let mut checks: [&dyn Fn() -> bool; 3] = [&others_are_right, &out_is_right, &others_are_right];
        checks.rotate_left(round % 2);
        assert!(checks.iter().all(|is_right| is_right()), "{round}");
        let memory = cuda.memory();
        assert!(memory.held <= 5 * 2 * len(shape), "{memory:?}");
    }
}

#[test]
fn a_replay_comes_after_what_other_lanes_wrote() {
    let Some(a) = cuda(None) else { return };
    let b = a.lane().unwrap();
    let [from, to] = [(); 2].map(|()| a.allocate(1000).unwrap());
    a.upload(&from, &bytes(1000, 0)).unwrap();
    let copied = b.record(&mut || b.copy(&from, &to, 1000)).unwrap().unwrap();
    for round in 1..5 {
        a.upload(&from, &bytes(1000, round)).unwrap();
        copied.replay().unwrap();
        let mut back = vec![0; 1000];
        a.download(&to, &mut back).unwrap();
        assert!(back == bytes(1000, round), "{round}");
    }
}

#[test]
fn a_recording_keeps_what_it_uses_and_may_be_dropped_while_it_runs() {
    let Some(cuda) = cuda(None) else { return };
    let gpu = GpuBackend::new(cuda.clone());
    let shape = [1, 40, 5, 7];
    let tensor = |seed| gpu.tensor(noise(len(shape), 1.0, seed), shape).unwrap();
    let x = tensor(1);
    let mut added = Some(tensor(2));
    let expected = gpu.to_vec(&gpu.add(&x, added.as_ref().unwrap()).unwrap()).unwrap();
    let repeated = gpu.repeated();
    let run = |added: Option<&GpuTensor<Cuda>>| {
        let out = gpu.repeat(&repeated, &[&x], &mut |xs| Ok(vec![gpu.add(&xs[0], added.unwrap())?]));
        out.unwrap().remove(0)
    };
    for _ in 0..2 {
        assert!(gpu.to_vec(&run(added.as_ref())).unwrap() == expected);
    }
    drop(added.take());
    let others: Vec<_> = (3..9).map(tensor).collect();
    let last = run(None);
    drop(repeated);
    assert!(gpu.to_vec(&last).unwrap() == expected);
    drop(others);
}

#[test]
fn memory_is_given_back_once_nothing_uses_it() {
    let Some(cuda) = cuda(None) else { return };
    let (shape, rounds) = LONG;
    let values = noise(len(shape), 1.0, 1);
    let out = {
        let gpu = GpuBackend::new(cuda.lane().unwrap());
        let x = gpu.tensor(values.clone(), shape).unwrap();
        let out = halved(&gpu, &x, &x, rounds);
        drop(x);
        // All but the result, while the lane is at work.
        cuda.trim().unwrap();
        out
    };
    let gpu = GpuBackend::new(cuda.clone());
    let x = gpu.tensor(values, shape).unwrap();
    assert!(gpu.to_vec(&out).unwrap() == gpu.to_vec(&halved(&gpu, &x, &x, rounds)).unwrap());
    // A lane goes while it copies from its pinned memory.
    let (lane, buffer) = (cuda.lane().unwrap(), cuda.allocate(1000).unwrap());
    lane.upload(&buffer, &bytes(1000, 1)).unwrap();
    drop((lane, buffer));
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let Some(device) = cuda(None) else { return };
    let Some(other) = cuda(None) else { return };
    let buffer = device.allocate(100).unwrap();
    let variant = variants().into_iter().find(|variant| variant.file == "elementwise").unwrap();
    let launch = Launch { grid: [1, 1, 1], block: 256, shared: 0 };
    let errors = [
        device.upload(&buffer, &[0; 101]),
        device.download(&buffer, &mut [0; 101]),
        device.copy(&buffer, &device.allocate(99).unwrap(), 100),
        other.upload(&buffer, &[0; 100]),
        // SAFETY: neither is launched: one lacks parameters, and there is none of the other's name.
        unsafe { device.launch(&variant, "scale_add", launch, &[Arg::Buffer(&buffer)]) },
        // SAFETY: as above.
        unsafe { device.launch(&variant, "no_such_entry", launch, &[]) },
        Cuda::new(Cuda::count().unwrap(), None, false).map(drop),
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::Device { lost: false, .. })), "{error:?}");
    }
    device.upload(&buffer, &[0; 100]).unwrap();
}
