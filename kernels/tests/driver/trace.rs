//! The time of each launch.

use reverie_kernels::{
    Backend, Unary,
    gpu::{GpuBackend, cuda::Cuda},
};

use crate::emulator::emulate;

#[test]
fn each_launch_of_this_thread_and_lane_is_traced() {
    emulate();
    let cuda = Cuda::new(0, None, false).unwrap();
    let gpu = GpuBackend::new(cuda.clone());
    let other = gpu.lane().unwrap();
    let x = gpu.tensor(vec![0.5; 64], [1, 1, 8, 8]).unwrap();
    let mut out = None;
    let traced = cuda.trace(|| {
        other.unary(&x, Unary::Relu)?;
        std::thread::scope(|scope| scope.spawn(|| gpu.unary(&x, Unary::Silu)).join().unwrap())?;
        out = Some(gpu.unary(&gpu.add(&x, &x)?, Unary::Tanh)?);
        Ok(())
    });
    let traced = traced.unwrap();
    let names: Vec<_> = traced.iter().map(|launch| (launch.variant.file, launch.entry)).collect();
    assert_eq!(names, [("elementwise", "scale_add"), ("elementwise", "unary5")]);
    // The emulator runs what was launched when it is waited for: it takes some time then.
    assert!(
        traced.iter().all(|launch| launch.milliseconds > 0.0 && launch.launch.block == 256),
        "{traced:?}"
    );
    assert!((gpu.to_vec(&out.unwrap()).unwrap()[0] - 1f32.tanh()).abs() < 1e-3);
}

#[test]
fn repeated_work_is_traced_at_its_first_time_and_an_error_ends_it() {
    emulate();
    let cuda = Cuda::new(0, None, false).unwrap();
    let gpu = GpuBackend::new(cuda.clone());
    let x = gpu.tensor(vec![0.5; 64], [1, 1, 8, 8]).unwrap();
    let repeated = gpu.repeated();
    let mut counts = [(); 3].map(|()| {
        let run = || gpu.repeat(&repeated, &[&x], &mut |xs| Ok(vec![gpu.add(&xs[0], &xs[0])?])).map(drop);
        cuda.trace(run).unwrap().len()
    });
    assert_eq!(counts, [1, 0, 0], "done, recorded, replayed");
    assert!(cuda.trace(|| gpu.add(&x, &gpu.tensor(vec![0.0], [1; 4])?).map(drop)).is_err());
    counts[0] = cuda.trace(|| gpu.add(&x, &x).map(drop)).unwrap().len();
    assert_eq!(counts[0], 1, "nothing is left of the one that failed");
}
