//! From measures to one score.

use reverie_plugin_sdk::scoring::Aesthetics;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The sharpness at which a picture gets half of what sharpness can give.
const HALF_SHARPNESS: f32 = 300.0;
/// "Extremely colourful" in Hasler and Süsstrunk's scale.
const FULL_COLOURFULNESS: f32 = 109.0;
/// The contrast of a picture of which half is black and half white.
const FULL_CONTRAST: f32 = 0.5;

/// The parts of a score; all but `cosine` from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Of the picture's and the prompt's vectors.
    pub cosine: f32,
    pub similarity: f32,
    pub aesthetic: f32,
    pub sharpness: f32,
    pub colourfulness: f32,
    pub contrast: f32,
}

impl Parts {
    pub fn new(cosine: f32, measured: &Aesthetics, config: &Config) -> Self {
        let sharpness = measured.sharpness / (measured.sharpness + HALF_SHARPNESS);
        let colourfulness = (measured.colourfulness / FULL_COLOURFULNESS).min(1.0);
        let contrast = (measured.contrast / FULL_CONTRAST).min(1.0);
        let aesthetic = (sharpness + colourfulness + contrast) / 3.0;
        Self { cosine, similarity: similarity(cosine, config), aesthetic, sharpness, colourfulness, contrast }
    }

    /// The same against another prompt.
    pub fn with_cosine(self, cosine: f32, config: &Config) -> Self {
        Self { cosine, similarity: similarity(cosine, config), ..self }
    }

    /// All parts as one, 0 to 1.
    pub fn score(&self, config: &Config) -> f32 {
        (1.0 - config.aesthetic_weight) * self.similarity + config.aesthetic_weight * self.aesthetic
    }
}

/// CLIPScore (Hessel et al. 2021): the cosine, scaled, and nothing below 0.
fn similarity(cosine: f32, config: &Config) -> f32 {
    (config.similarity_scale * cosine).clamp(0.0, 1.0)
}

/// Of vectors of length 1.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean; none of nothing.
pub fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), x| (sum + x, count + 1));
    (count > 0).then(|| sum / count as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_blend_that_the_operator_set() {
        let config = Config { aesthetic_weight: 0.25, similarity_scale: 2.5, ..Config::default() };
        let measured = Aesthetics { sharpness: 300.0, colourfulness: 109.0, contrast: 0.25 };
        let parts = Parts::new(0.28, &measured, &config);
        assert!(
            (parts.similarity - 0.7).abs() < 1e-6 && (parts.aesthetic - 2.0 / 3.0).abs() < 1e-6,
            "{parts:?}"
        );
        assert!((parts.score(&config) - (0.75 * 0.7 + 0.25 * 2.0 / 3.0)).abs() < 1e-6);
        assert_eq!(parts.with_cosine(-0.3, &config).similarity, 0.0);
        assert_eq!(parts.with_cosine(0.9, &config).similarity, 1.0);
    }
}
