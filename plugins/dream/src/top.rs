//! The dreams that are kept: the best, and the last.

use std::collections::{BTreeMap, VecDeque};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::{config::Config, genes::Genes, score::Parts};

/// Dreams that `dream:recent` can tell of.
const RECENT: usize = 100;

/// A kept candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dream {
    pub id: u64,
    pub score: f32,
    pub parts: Parts,
    /// The session's prompt with the candidate's words.
    pub prompt: String,
    pub genes: Genes,
    /// The perceptual hash.
    pub hash: u64,
    #[serde(with = "packed")]
    pub embedding: Vec<f32>,
    /// A JPEG in base64.
    pub thumbnail: String,
    /// Seconds that the session had dreamt.
    pub at_s: f64,
    /// When it was kept, in unix seconds; 0 in states of earlier versions.
    #[serde(default)]
    pub timestamp: f64,
    /// The storage key of the full picture.
    pub key: Option<String>,
}

impl Dream {
    /// As clients see it.
    pub fn describe(&self, thumbnail: bool) -> Value {
        let mut described = json!({
            "id": self.id,
            "score": rounded(self.score),
            "similarity": rounded(self.parts.similarity),
            "cosine": rounded(self.parts.cosine),
            "aesthetic": rounded(self.parts.aesthetic),
            "sharpness": rounded(self.parts.sharpness),
            "colourfulness": rounded(self.parts.colourfulness),
            "contrast": rounded(self.parts.contrast),
            "prompt": self.prompt,
            "seed": self.genes.seed,
            "blends": self.genes.blends.iter().map(|b| json!({"seed": b.seed, "amount": rounded(b.amount)})).collect::<Vec<_>>(),
            "hash": format!("{:016x}", self.hash),
            "at_s": self.at_s,
            "timestamp": self.timestamp,
            "rendered": self.key.is_some(),
            "url": self.key.as_ref().map(|key| format!("/storage/{key}")),
            "key": self.key,
        });
        if thumbnail {
            described["thumbnail"] = format!("data:image/jpeg;base64,{}", self.thumbnail).into();
        }
        described
    }
}

/// Without the digits that an `f32` has only as an `f64`.
pub fn rounded(x: f32) -> f64 {
    (f64::from(x) * 1e6).round() / 1e6
}

/// What became of a candidate.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is among the kept; whether it is the best of all.
    New { best: bool },
    /// One that looks alike is kept, and is no worse.
    Duplicate,
    /// It is not among the best `k`.
    TooLow,
}

/// The best dreams, best first, and the last kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Top {
    dreams: BTreeMap<u64, Dream>,
    best: Vec<u64>,
    recent: VecDeque<u64>,
}

impl Top {
    pub fn best(&self) -> impl Iterator<Item = &Dream> {
        self.best.iter().map(|id| &self.dreams[id])
    }

    /// The last kept first.
    pub fn recent(&self) -> impl Iterator<Item = &Dream> {
        self.recent.iter().rev().map(|id| &self.dreams[id])
    }

    pub fn get(&self, id: u64) -> Option<&Dream> {
        self.dreams.get(&id)
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Dream> {
        self.dreams.get_mut(&id)
    }

    /// Offers a dream: it is kept where none that looks alike (at most `distance` bits of the hash apart) is as good, and
    /// where it is among the best `k`.
    pub fn offer(&mut self, dream: Dream, k: usize, distance: u32) -> Kept {
        let alike: Vec<u64> = self
            .best()
            .filter(|other| (other.hash ^ dream.hash).count_ones() <= distance)
            .map(|other| other.id)
            .collect();
        if alike.iter().any(|id| self.dreams[id].score >= dream.score) {
            return Kept::Duplicate;
        }
        let worst = self.best.last().map(|id| self.dreams[id].score);
        if alike.is_empty() && self.best.len() >= k && worst.is_some_and(|worst| dream.score <= worst) {
            return Kept::TooLow;
        }
        self.best.retain(|id| !alike.contains(id));
        let id = dream.id;
        self.best.push(id);
        self.recent.push_back(id);
        self.dreams.insert(id, dream);
        self.sort();
        self.best.truncate(k.max(1));
        while self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.dreams.retain(|id, _| self.best.contains(id) || self.recent.contains(id));
        Kept::New { best: self.best.first() == Some(&id) }
    }

    /// Scores all anew, each by its vector.
    pub fn rescore(&mut self, config: &Config, cosine: impl Fn(&[f32]) -> f32) {
        for dream in self.dreams.values_mut() {
            dream.parts = dream.parts.with_cosine(cosine(&dream.embedding), config);
            dream.score = dream.parts.score(config);
        }
        self.sort();
    }

    fn sort(&mut self) {
        // The older of equals first.
        self.best.sort_by(|a, b| self.dreams[b].score.total_cmp(&self.dreams[a].score).then(a.cmp(b)));
    }
}

/// Vectors as base64 of their bytes: a third of what their digits take.
pub mod packed {
    use super::*;

    pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dream(id: u64, score: f32, hash: u64) -> Dream {
        Dream {
            id,
            score,
            parts: Parts::default(),
            prompt: String::new(),
            genes: Genes::default(),
            hash,
            embedding: vec![score, 1.0 - score],
            thumbnail: String::new(),
            at_s: 0.0,
            timestamp: 0.0,
            key: None,
        }
    }

    fn ids<'a>(dreams: impl Iterator<Item = &'a Dream>) -> Vec<u64> {
        dreams.map(|dream| dream.id).collect()
    }

    /// Hashes far apart.
    fn far(i: u64) -> u64 {
        0xff << (8 * i)
    }

    #[test]
    fn the_best_are_kept_in_order_and_the_last_besides() {
        let mut top = Top::default();
        for (id, score) in [(1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6)] {
            let kept = top.offer(dream(id, score, far(id)), 3, 6);
            assert_eq!(kept, Kept::New { best: id <= 2 }, "{id}");
        }
        assert_eq!(top.offer(dream(5, 0.55, far(5)), 3, 6), Kept::TooLow);
        assert_eq!(ids(top.best()), [2, 3, 4]);
        assert_eq!(ids(top.recent()), [4, 3, 2, 1], "one that fell out of the best is still a recent one");
    }

    #[test]
    fn of_those_that_look_alike_the_best_stays() {
        let mut top = Top::default();
        top.offer(dream(1, 0.5, 0b111), 3, 2);
        assert_eq!(top.offer(dream(2, 0.4, 0b101), 3, 2), Kept::Duplicate);
        assert_eq!(top.offer(dream(3, 0.6, 0b001), 3, 2), Kept::New { best: true });
        assert_eq!(top.offer(dream(4, 0.4, 0b11000), 3, 2), Kept::New { best: false });
        assert_eq!(ids(top.best()), [3, 4]);
    }

    #[test]
    fn another_prompt_changes_the_order() {
        let mut top = Top::default();
        top.offer(dream(1, 0.9, far(1)), 3, 6);
        top.offer(dream(2, 0.1, far(2)), 3, 6);
        let config = Config { similarity_scale: 1.0, aesthetic_weight: 0.0, ..Config::default() };
        top.rescore(&config, |embedding| embedding[1]);
        assert_eq!(ids(top.best()), [2, 1]);
        let text = serde_json::to_string(&top).unwrap();
        assert_eq!(serde_json::from_str::<Top>(&text).unwrap(), top);
    }
}
