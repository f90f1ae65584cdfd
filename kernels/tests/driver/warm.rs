//! Compilation ahead of time.

use std::time::Instant;

use reverie_kernels::{
    Backend,
    gpu::{GpuBackend, cuda::Cuda, variants},
};

use crate::emulator::emulate;

#[test]
fn variants_are_compiled_while_others_compute() {
    emulate();
    let cuda = Cuda::new(0, None, true).unwrap();
    let gpu = GpuBackend::new(cuda.clone());
    let warming = cuda.warm(variants(), 2);
    let x = gpu.tensor(vec![1.5; 64], [1, 1, 8, 8]).unwrap();
    assert_eq!(gpu.to_vec(&gpu.add(&x, &x).unwrap()).unwrap(), [3.0; 64]);
    warming.finish();
    // What was compiled ahead is what is launched: describing it compiles nothing.
    for variant in variants() {
        let [first, second] = [(); 2].map(|()| cuda.compile(&variant).unwrap());
        assert!(first.milliseconds > 0.0 && first == second);
    }
}

#[test]
fn warming_that_is_dropped_leaves_the_rest() {
    emulate();
    let cuda = Cuda::new(0, None, false).unwrap();
    let time = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let dropped = time(&|| drop(cuda.warm(variants(), 1)));
    let rest = time(&|| cuda.warm(variants(), 1).finish());
    assert!(dropped < rest, "{dropped:?}, and {rest:?} for what it left");
    let gpu = GpuBackend::new(cuda);
    let x = gpu.tensor(vec![1.5; 64], [1, 1, 8, 8]).unwrap();
    assert_eq!(gpu.to_vec(&gpu.add(&x, &x).unwrap()).unwrap(), [3.0; 64]);
}
