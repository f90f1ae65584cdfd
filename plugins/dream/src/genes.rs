//! The few numbers and words that a candidate can be made from again.

use std::f32::consts::FRAC_PI_2;

use reverie_plugin_sdk::diffusion;
use serde::{Deserialize, Serialize};

use crate::{config::Config, random::Rng};

/// Blends that a candidate may have; more are folded.
const MAX_BLENDS: usize = 8;

/// A candidate: its noise, and the words that vary the session's prompt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Genes {
    pub seed: u64,
    pub blends: Vec<Blend>,
    pub words: Vec<String>,
}

/// A step of the noise towards that of another seed, along the great circle.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Blend {
    pub seed: u64,
    pub amount: f32,
}

impl Genes {
    /// A seed of its own, with a variation.
    pub fn random(rng: &mut Rng, config: &Config, temperature: f32) -> Self {
        Self { seed: rng.seed(), blends: Vec::new(), words: words(rng, config, temperature) }
    }

    /// A neighbour: a step in noise space, which is longer when it is hot, and a word that may change.
    pub fn mutated(&self, rng: &mut Rng, config: &Config, temperature: f32) -> Self {
        let amount = (0.1 + 0.4 * temperature) * (0.5 + 0.5 * rng.unit());
        let mut child = self.clone();
        child.blends.push(Blend { seed: rng.seed(), amount });
        child.fold();
        if rng.unit() < temperature {
            child.words = words(rng, config, temperature);
        }
        child
    }

    /// Drops the seeds that count least until the list is short. The noise of seeds is all but orthogonal, so that a blend by
    /// `amount` weighs what was there by cos(amount · π/2) and the new seed by its sine; the others keep their weights.
    fn fold(&mut self) {
        if self.blends.len() <= MAX_BLENDS {
            return;
        }
        let mut parts = vec![(self.seed, 1.0f32)];
        for blend in &self.blends {
            let (sin, cos) = (blend.amount * FRAC_PI_2).sin_cos();
            parts.iter_mut().for_each(|(_, weight)| *weight *= cos);
            parts.push((blend.seed, sin));
        }
        while parts.len() > MAX_BLENDS + 1 {
            let least = (0..parts.len()).min_by(|&a, &b| parts[a].1.total_cmp(&parts[b].1)).unwrap_or(0);
            parts.remove(least);
        }
        self.seed = parts[0].0;
        let mut length = parts[0].1;
        self.blends.clear();
        for &(seed, weight) in &parts[1..] {
            length = length.hypot(weight);
            self.blends.push(Blend { seed, amount: (weight / length).clamp(0.0, 1.0).asin() / FRAC_PI_2 });
        }
    }

    /// The session's prompt with the words.
    pub fn prompt(&self, base: &str) -> String {
        let mut prompt = base.to_owned();
        for word in &self.words {
            prompt.push_str(", ");
            prompt.push_str(word);
        }
        prompt
    }

    /// As the host takes them.
    pub fn noise(&self) -> Vec<diffusion::Blend> {
        self.blends.iter().map(|blend| diffusion::Blend { seed: blend.seed, amount: blend.amount }).collect()
    }
}

/// Of each kind of words at most one, each with the probability `temperature`: at 0 the prompt stays as it is.
fn words(rng: &mut Rng, config: &Config, temperature: f32) -> Vec<String> {
    let mut words = Vec::new();
    for kind in config.variations.values().filter(|kind| !kind.is_empty()) {
        if rng.unit() < temperature {
            words.push(kind[rng.below(kind.len())].clone());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let kinds =
            [("moods", vec!["calm".to_owned(), "wild".to_owned()]), ("styles", vec!["ink".to_owned()])];
        Config { variations: kinds.map(|(kind, words)| (kind.to_owned(), words)).into(), ..Config::default() }
    }

    #[test]
    fn temperature_says_how_much_of_the_prompt_varies() {
        let (mut rng, config) = (Rng(1), config());
        let mut count = |temperature: f32| -> usize {
            (0..400).map(|_| Genes::random(&mut rng, &config, temperature).words.len()).sum()
        };
        assert_eq!(count(0.0), 0);
        assert_eq!(count(1.0), 800);
        assert!((320..480).contains(&count(0.5)), "half of 800");
        let genes = Genes { words: vec!["calm".into(), "ink".into()], ..Genes::default() };
        assert_eq!(genes.prompt("a cat"), "a cat, calm, ink");
        assert_eq!(Genes::default().prompt("a cat"), "a cat");
    }

    #[test]
    fn long_lists_fold_and_keep_their_weights() {
        let blends =
            (1..=10).map(|seed| Blend { seed, amount: if seed == 4 { 0.01 } else { 0.3 } }).collect();
        let mut genes = Genes { seed: 0, blends, words: Vec::new() };
        // The weights before, by the same model of orthogonal noise.
        let weight = |genes: &Genes, seed: u64| {
            let at = genes.blends.iter().position(|blend| blend.seed == seed);
            let own = at.map_or(1.0, |at| (genes.blends[at].amount * FRAC_PI_2).sin());
            let later = genes.blends.iter().skip(at.map_or(0, |at| at + 1));
            own * later.map(|blend| (blend.amount * FRAC_PI_2).cos()).product::<f32>()
        };
        let before = [weight(&genes, 10), weight(&genes, 9)];
        genes.fold();
        assert_eq!(genes.blends.len(), MAX_BLENDS);
        assert!(genes.blends.iter().all(|blend| blend.seed != 4), "the least goes first");
        let after = [weight(&genes, 10), weight(&genes, 9)];
        assert!((before[0] / before[1] - after[0] / after[1]).abs() < 1e-3, "{before:?} {after:?}");
    }

    #[test]
    fn a_neighbour_is_near() {
        let (mut rng, config) = (Rng(2), config());
        let parent = Genes { seed: 7, ..Genes::default() };
        let child = parent.mutated(&mut rng, &config, 0.0);
        assert!(child.seed == 7 && child.words.is_empty());
        assert!((0.05..=0.1).contains(&child.blends[0].amount), "{child:?}");
        let hot = parent.mutated(&mut rng, &config, 1.0);
        assert!((0.25..=0.5).contains(&hot.blends[0].amount), "{hot:?}");
    }
}
