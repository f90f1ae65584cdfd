//! The first value that is no number is named, and nothing is said of others.

#[path = "gpu/interpreted.rs"]
#[allow(dead_code, reason = "written for all operations")]
mod interpreted;

use reverie_kernels::{
    Activation, Backend, Conv2dDesc, Error, NotFinite, Numerics, Result, Unary, cpu::CpuBackend,
};

fn not_finite(error: Error) -> NotFinite {
    let Error::NotFinite(found) = error else { panic!("{error}") };
    *found
}

#[test]
fn what_passes_fp16_is_named() {
    let gpu = Numerics::new(interpreted::gpu(), true);
    let shape = [2, 8, 3, 5];
    let [n, c, h, w] = shape;
    let values = n * c * h * w;
    let mut data = vec![1.0; values];
    // Of the second image, in channel 3 at (2, 1) and in channel 6 at (0, 4).
    let at = |[n, c, y, x]: [usize; 4]| ((n * shape[1] + c) * shape[2] + y) * shape[3] + x;
    data[at([1, 3, 2, 1])] = 40_000.0;
    data[at([1, 6, 0, 4])] = -40_000.0;
    let x = gpu.tensor(data, shape).unwrap();
    let expected = |operation, first, infinite| {
        let (inputs, nan) = (vec![shape, shape], 0);
        let (largest_input, largest) = (40_000.0, 65_504.0);
        NotFinite { operation, inputs, shape, nan, infinite, first, largest_input, largest }
    };
    let found = |result: Result<_>| result.err().map(not_finite);
    assert_eq!(found(gpu.add(&x, &x)), Some(expected("add", [1, 3, 2, 1], 2)));
    assert_eq!(gpu.scale_add(&x, -1.0, &x).err(), None);
    assert_eq!(found(gpu.combine(&[(1.0, &x), (1.0, &x)])), Some(expected("combine", [1, 3, 2, 1], 2)));

    let desc = Conv2dDesc::same(c, c, 1);
    let mut weight = vec![0.0; c * c];
    // Channel 7 is twice channel 6.
    weight[7 * c + 6] = 2.0;
    let conv = gpu.prepare_conv2d(desc, &weight, None, Activation::None).unwrap();
    let doubled = gpu.conv2d_residual(&x, &conv, 1.0, &x);
    assert_eq!(found(doubled), Some(expected("conv2d_residual", [1, 7, 0, 4], 1)));
    assert_eq!(gpu.conv2d_residual(&x, &conv, 0.5, &x).err(), None);
}

#[test]
fn what_was_no_number_to_begin_with_is_named() {
    let gpu = Numerics::new(interpreted::gpu(), true);
    let error = gpu.tensor(vec![1.0, f32::NAN, -1e6, f32::NAN], [1, 2, 1, 2]).err();
    let expected = NotFinite {
        operation: "tensor",
        inputs: vec![],
        shape: [1, 2, 1, 2],
        nan: 2,
        infinite: 1,
        first: [0, 0, 0, 1],
        largest_input: 1e6,
        largest: 65_504.0,
    };
    assert_eq!(error.map(not_finite), Some(expected));
}

#[test]
fn the_cpu_can_be_checked_too() {
    let cpu = Numerics::new(CpuBackend::new(1), true);
    let x = cpu.tensor(vec![1e30, 2.0], [1, 1, 1, 2]).unwrap();
    assert_eq!(cpu.unary(&x, Unary::Silu).err(), None);
    let error = cpu.scale_add(&x, 1e30, &x).err().unwrap();
    let message = error.to_string();
    assert!(
        matches!(not_finite(error), NotFinite { infinite: 1, nan: 0, largest: f32::MAX, .. }),
        "{message}"
    );
    assert!(
        message.starts_with("scale_add of [[1, 1, 1, 2], [1, 1, 1, 2]] to [1, 1, 1, 2]: 0 values are NaN")
    );
}

#[test]
fn unasked_it_says_nothing() {
    let gpu = Numerics::new(interpreted::gpu(), false);
    let x = gpu.tensor(vec![60_000.0; 8], [1, 8, 1, 1]).unwrap();
    let sum = gpu.add(&x, &x).unwrap();
    assert!(gpu.to_vec(&sum).unwrap().iter().all(|x| x.is_infinite()));
}

/// A device that records would replay without a look at what comes out.
#[test]
fn work_is_done_each_time() {
    let gpu = Numerics::new(interpreted::gpu(), true);
    let (repeated, mut calls) = (gpu.repeated(), 0);
    let [small, large] = [1.0, 60_000.0].map(|x| gpu.tensor(vec![x; 8], [1, 8, 1, 1]).unwrap());
    for x in [&small, &small, &small, &large] {
        let done = gpu.repeat(&repeated, &[x], &mut |x| {
            calls += 1;
            Ok(vec![gpu.add(&x[0], &x[0])?])
        });
        assert_eq!(done.is_err(), std::ptr::eq(x, &large));
    }
    assert_eq!(calls, 4);
}

#[test]
fn lanes_are_checked_as_well() {
    for checks in [false, true] {
        let lane = Numerics::new(interpreted::gpu(), checks).lane().unwrap();
        assert_eq!(lane.checks(), checks);
        assert_eq!(lane.tensor(vec![1e6], [1, 1, 1, 1]).is_err(), checks);
    }
}
