//! Values that are the same on every machine.

/// Values in -1..1 from a linear congruential generator (Knuth, MMIX).
pub fn uniform(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// Values in -`scale`..`scale` that fp16 holds exactly: what differs then is the arithmetic.
pub fn halves(len: usize, scale: f32, seed: u64) -> Vec<f32> {
    let round = |value| half::f16::from_f32(value * scale).to_f32();
    uniform(len, seed).into_iter().map(round).collect()
}
