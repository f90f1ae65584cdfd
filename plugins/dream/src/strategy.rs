//! Where the next candidate is looked for.

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    genes::{Blend, Genes},
    random::Rng,
};

/// Candidates from one seed to the next of a walk, and on a side of a grid.
const WALK_STEPS: u32 = 12;
const GRID_SIDE: u32 = 5;

/// How often `evolve` looks somewhere else, so that it does not stay with what it has.
const IMMIGRANTS: f32 = 0.15;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// A seed of its own each time.
    Random,
    /// From seed to seed along great circles of noise space.
    LinearWalk,
    /// The crossings of a grid over the plane of noise that three seeds span; then another plane.
    Grid,
    /// Neighbours of the best.
    Evolve,
}

/// How far a walk or a grid has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    step: u32,
    /// Where the walk comes from and goes to, or the corners of the grid.
    seeds: Vec<u64>,
    words: Vec<String>,
}

/// What the next candidate depends on.
pub struct Search<'a> {
    pub config: &'a Config,
    pub strategy: Strategy,
    pub temperature: f32,
    /// The best so far, best first.
    pub best: Vec<&'a Genes>,
    /// What there shall be more of.
    pub focus: Option<&'a Genes>,
}

impl Search<'_> {
    /// The next candidate.
    pub fn next(&self, rng: &mut Rng, position: &mut Position) -> Genes {
        if let Some(focus) = self.focus {
            return focus.mutated(rng, self.config, self.temperature);
        }
        match self.strategy {
            Strategy::Random => self.random(rng),
            Strategy::LinearWalk => self.walk(rng, position),
            Strategy::Grid => self.grid(rng, position),
            Strategy::Evolve => self.evolve(rng),
        }
    }

    fn random(&self, rng: &mut Rng) -> Genes {
        Genes::random(rng, self.config, self.temperature)
    }

    fn walk(&self, rng: &mut Rng, position: &mut Position) -> Genes {
        if position.seeds.len() != 2 || position.step >= WALK_STEPS {
            // On from where the walk stands.
            let from = position.seeds.get(1).copied().unwrap_or_else(|| rng.seed());
            let words = self.random(rng).words;
            *position = Position { step: 0, seeds: vec![from, rng.seed()], words };
        }
        let amount = position.step as f32 / WALK_STEPS as f32;
        position.step += 1;
        let blends = if amount > 0.0 { vec![Blend { seed: position.seeds[1], amount }] } else { Vec::new() };
        Genes { seed: position.seeds[0], blends, words: position.words.clone() }
    }

    fn grid(&self, rng: &mut Rng, position: &mut Position) -> Genes {
        if position.seeds.len() != 3 || position.step >= GRID_SIDE * GRID_SIDE {
            let words = self.random(rng).words;
            *position = Position { step: 0, seeds: (0..3).map(|_| rng.seed()).collect(), words };
        }
        let along = [position.step % GRID_SIDE, position.step / GRID_SIDE];
        position.step += 1;
        let towards = position.seeds[1..].iter().zip(along);
        let blends = towards
            .map(|(&seed, at)| Blend { seed, amount: at as f32 / GRID_SIDE as f32 })
            .filter(|blend| blend.amount > 0.0)
            .collect();
        Genes { seed: position.seeds[0], blends, words: position.words.clone() }
    }

    fn evolve(&self, rng: &mut Rng) -> Genes {
        if self.best.is_empty() || rng.unit() < IMMIGRANTS {
            return self.random(rng);
        }
        // The square favours the first.
        let rank = (rng.unit().powi(2) * self.best.len() as f32) as usize;
        self.best[rank.min(self.best.len() - 1)].mutated(rng, self.config, self.temperature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(config: &Config, strategy: Strategy) -> Search<'_> {
        Search { config, strategy, temperature: 0.5, best: Vec::new(), focus: None }
    }

    #[test]
    fn a_walk_goes_from_seed_to_seed_without_a_jump() {
        let (config, mut rng, mut position) = (Config::default(), Rng(1), Position::default());
        let search = search(&config, Strategy::LinearWalk);
        let walk: Vec<Genes> =
            (0..WALK_STEPS * 2 + 1).map(|_| search.next(&mut rng, &mut position)).collect();
        let half = &walk[WALK_STEPS as usize / 2];
        assert!(walk[0].blends.is_empty() && (half.blends[0].amount - 0.5).abs() < 1e-6);
        // What was walked to is where the next leg begins.
        let legs = [&walk[WALK_STEPS as usize], &walk[WALK_STEPS as usize * 2]];
        assert_eq!(legs[0].seed, walk[1].blends[0].seed);
        assert_eq!(legs[1].seed, walk[WALK_STEPS as usize + 1].blends[0].seed);
        assert!(legs.iter().all(|genes| genes.blends.is_empty()));
    }

    #[test]
    fn a_grid_has_each_crossing_once() {
        let (config, mut rng, mut position) = (Config::default(), Rng(1), Position::default());
        let search = search(&config, Strategy::Grid);
        let plane: Vec<Genes> =
            (0..GRID_SIDE * GRID_SIDE).map(|_| search.next(&mut rng, &mut position)).collect();
        assert!(plane.iter().all(|genes| genes.seed == plane[0].seed && genes.blends.len() <= 2));
        for (i, genes) in plane.iter().enumerate() {
            assert!(!plane[..i].contains(genes), "crossing {i}");
        }
        assert_ne!(search.next(&mut rng, &mut position).seed, plane[0].seed);
    }

    #[test]
    fn evolution_stays_near_the_best_but_not_always() {
        let (config, mut rng, mut position) = (Config::default(), Rng(3), Position::default());
        let parents: Vec<Genes> = (0..10).map(|seed| Genes { seed, ..Genes::default() }).collect();
        let mut search = search(&config, Strategy::Evolve);
        assert!(search.next(&mut rng, &mut position).blends.is_empty(), "nothing to go by yet");
        search.best = parents.iter().collect();
        let children: Vec<Genes> = (0..1000).map(|_| search.next(&mut rng, &mut position)).collect();
        let of = |seeds: std::ops::Range<u64>| {
            children.iter().filter(|g| seeds.contains(&g.seed) && g.blends.len() == 1).count()
        };
        assert!((800..900).contains(&of(0..10)) && of(0..3) > of(7..10), "{} {}", of(0..10), of(0..3));
        let focus = Genes { seed: 42, ..Genes::default() };
        search.focus = Some(&focus);
        assert!((0..20).all(|_| search.next(&mut rng, &mut position).seed == 42));
    }
}
