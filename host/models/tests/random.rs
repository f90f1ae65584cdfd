//! Random numbers against PyTorch's, bit for bit. The files come from tests/oracles/diffusion/make_random_goldens.py.

use std::{fs, path::PathBuf};

use reverie_models::{
    noise::{Blend, blend},
    random::{Generator, randn_batch},
};
use safetensors::SafeTensors;
use serde_json::Value;

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/random");
    fs::read(folder.join(name)).unwrap()
}

fn description() -> Value {
    serde_json::from_slice(&fixture("randn.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn stored_bits(tensors: &SafeTensors, name: &str) -> Vec<u32> {
    let (words, _) = tensors.tensor(name).unwrap().data().as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// 64-bit FNV-1a, a word at a time.
fn checksum(values: &[f32]) -> String {
    let sum = bits(values).into_iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, word| {
        (sum ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{sum:016x}")
}

#[test]
fn draws_in_a_row_are_pytorchs() {
    let (description, file) = (description(), fixture("randn.safetensors"));
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let lengths = numbers(&description["lengths"]);
    for case in description["seeds"].as_array().unwrap() {
        let seed = case["seed"].as_u64().unwrap();
        let mut generator = Generator::new(seed);
        for (i, &len) in lengths.iter().enumerate() {
            let draw = generator.randn(len as usize);
            let name = format!("{seed}/{i}");
            if tensors.tensor(&name).is_ok() {
                assert_eq!(bits(&draw), stored_bits(&tensors, &name), "seed {seed}, {len} values, {draw:?}");
            }
            assert_eq!(checksum(&draw), case["draws"][i].as_str().unwrap(), "seed {seed}, {len} values");
        }
    }
}

#[test]
fn a_million_values_are_pytorchs() {
    let description = description();
    let len = description["long"].as_u64().unwrap() as usize;
    for case in description["seeds"].as_array().unwrap() {
        let seed = case["seed"].as_u64().unwrap();
        let draw = Generator::new(seed).randn(len);
        assert_eq!(checksum(&draw), case["long"].as_str().unwrap(), "seed {seed}");
    }
}

#[test]
fn an_entry_of_a_batch_has_its_own_noise() {
    let (description, file) = (description(), fixture("randn.safetensors"));
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let seeds = numbers(&description["batch_seeds"]);
    let mut generators: Vec<_> = seeds.iter().map(|&seed| Generator::new(seed)).collect();
    let len = stored_bits(&tensors, "batch").len() / seeds.len();
    let noise = randn_batch(&mut generators, len);
    assert_eq!(bits(&noise), stored_bits(&tensors, "batch"));
    assert_eq!(noise[len..2 * len], Generator::new(seeds[1]).randn(len));
}

#[test]
fn no_values_leave_the_generator_as_it_was() {
    let (mut generator, mut other) = (Generator::new(3), Generator::new(3));
    assert!(generator.randn(0).is_empty());
    assert_eq!(generator.randn(20), other.randn(20));
}

#[test]
fn blends_are_those_of_shoemakes_formula() {
    let file = fixture("slerp.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let blends = [Blend { seed: 2, amount: 0.3 }, Blend { seed: 3, amount: 0.85 }];
    for (name, count) in [("once", 1), ("twice", 2)] {
        let made = blend(Generator::new(1).randn(256), &blends[..count]);
        let expected = stored_bits(&tensors, name).into_iter().map(f32::from_bits);
        let off = made.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-6, "{name}: {off}");
    }
}
