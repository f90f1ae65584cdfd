//! The kernel that measures the tensor cores multiplies what it says.

use half::f16;
use reverie_kernels::gpu::{Device as _, ceiling};

use crate::gpu;

/// The two halves of a lane's register.
fn halves(lane: u32, register: u32) -> [f64; 2] {
    let word = (64 * lane + 1 + register).wrapping_mul(0x9e37_79b1) & 0x83ff_83ff | 0x3c00_3c00;
    [word as u16, (word >> 16) as u16].map(|bits| f16::from_bits(bits).to_f64())
}

/// The 16 x 16 values of which each lane has four registers from the first on.
fn left(first: u32) -> [[f64; 16]; 16] {
    let mut matrix = [[0.0; 16]; 16];
    for lane in 0..32 {
        for register in 0..4 {
            let row = lane / 4 + 8 * (register % 2);
            let column = 2 * (lane % 4) + 8 * (register / 2);
            let [even, odd] = halves(lane, first + register);
            matrix[row as usize][column as usize] = even;
            matrix[row as usize][column as usize + 1] = odd;
        }
    }
    matrix
}

/// The 16 x 8 values of which each lane has two registers from the first on.
fn right(first: u32) -> [[f64; 8]; 16] {
    let mut matrix = [[0.0; 8]; 16];
    for lane in 0..32 {
        for register in 0..2 {
            let row = 2 * (lane % 4) + 8 * register;
            let [even, odd] = halves(lane, first + register);
            matrix[row as usize][lane as usize / 4] = even;
            matrix[row as usize + 1][lane as usize / 4] = odd;
        }
    }
    matrix
}

#[test]
fn every_thread_has_the_sum_of_its_products() {
    let gpu = gpu();
    let (blocks, rounds) = (2, 3);
    let out = ceiling::products(&gpu, blocks, rounds).unwrap();
    let mut bytes = vec![0; 4 * 256 * blocks as usize];
    gpu.device().download(&out, &mut bytes).unwrap();
    let (values, _) = bytes.as_chunks::<4>();
    let mut sums = [[0.0; 8]; 16];
    for chain in 0..8 {
        let (a, b) = (left(4 * (chain % 2)), right(8 + 2 * chain));
        for (row, sums) in a.iter().zip(&mut sums) {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum += (0..16).map(|k| row[k] * b[k][column]).sum::<f64>();
            }
        }
    }
    for (thread, value) in values.iter().enumerate() {
        let (row, column) = (thread % 32 / 4, 2 * (thread % 4));
        let own =
            sums[row][column] + sums[row][column + 1] + sums[row + 8][column] + sums[row + 8][column + 1];
        let (value, expected) = (f64::from(f32::from_le_bytes(*value)), f64::from(4 * rounds) * own);
        assert!((value - expected).abs() < 1e-2, "thread {thread}: {value}, not {expected}");
    }
    // A product has 2 * 16 * 8 * 16 operations.
    assert_eq!(ceiling::operations(blocks, rounds), 2 * 8 * 3 * 32 * 4096);
}
