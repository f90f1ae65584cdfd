//! A session's whole state: what survives a restart of the server and a reload of this plugin.

use std::collections::VecDeque;

use reverie_plugin_sdk::{Blob, Error, ErrorKind, storage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    config::Config,
    genes::Genes,
    params::{Guide, Params},
    random::Rng,
    score::{cosine, mean},
    strategy::Position,
    top::{Top, packed, rounded},
};

/// The version of the file. A newer one is not read, and so not overwritten.
const VERSION: u64 = 1;

/// Candidates whose vectors are kept, to say what a guide has changed.
pub const TAIL: usize = 32;

/// Guides and rendered pictures that a session remembers.
const MEMORY: usize = 100;

/// What a change of the prompt did: the mean cosine to the new prompt of the last candidates before it, and of the first since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    pub prompt: String,
    pub at_s: f64,
    before: Option<f32>,
    after: f32,
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Dreaming,
    Paused,
    /// Its time was up.
    Finished,
    /// It was told to end.
    Stopped,
    Failed,
}

/// What became of the candidates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub candidates: u64,
    pub kept: u64,
    pub below_threshold: u64,
    pub duplicates: u64,
    pub too_low: u64,
    pub rendered: u64,
}

/// The vector of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vector(#[serde(with = "packed")] pub Vec<f32>);

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u64,
    /// The job that dreams it, or did.
    pub job: String,
    pub params: Params,
    pub status: Status,
    /// Milliseconds dreamt: pauses and times without a server do not count.
    pub elapsed_ms: f64,
    pub counts: Counts,
    pub rng: Rng,
    pub position: Position,
    pub focus: Option<Genes>,
    pub next_id: u64,
    pub top: Top,
    /// The dream to be rendered in full next.
    pub render_due: Option<u64>,
    /// Keys of the full pictures.
    pub rendered: VecDeque<String>,
    pub tail: VecDeque<Vector>,
    pub turns: VecDeque<Turn>,
    /// The prompt has changed, the scores not yet.
    pub rescore: bool,
    /// What ended it.
    pub error: Option<String>,
}

impl State {
    pub fn new(job: &str, params: Params, seed: u64) -> Self {
        Self {
            version: VERSION,
            job: job.to_owned(),
            params,
            status: Status::Dreaming,
            elapsed_ms: 0.0,
            counts: Counts::default(),
            rng: Rng(seed),
            position: Position::default(),
            focus: None,
            next_id: 1,
            top: Top::default(),
            render_due: None,
            rendered: VecDeque::new(),
            tail: VecDeque::new(),
            turns: VecDeque::new(),
            rescore: false,
            error: None,
        }
    }

    pub fn elapsed_s(&self) -> f64 {
        (self.elapsed_ms / 100.0).round() / 10.0
    }

    /// The share of its time that is over.
    pub fn fraction(&self) -> f64 {
        self.elapsed_ms / (self.params.duration_hours * 3.6e6)
    }

    /// Takes a guide in.
    pub fn guide(&mut self, guide: Guide) {
        if let Some(prompt) = guide.prompt.filter(|prompt| *prompt != self.params.prompt) {
            self.params.prompt = prompt;
            self.rescore = true;
        }
        self.params.temperature = guide.temperature.or(self.params.temperature);
        self.params.similarity_threshold = guide.similarity_threshold.or(self.params.similarity_threshold);
        if let Some(strategy) = guide.strategy.filter(|strategy| *strategy != self.params.strategy()) {
            self.params.strategy = Some(strategy);
            self.position = Position::default();
        }
        match guide.more_like {
            Some(Value::Bool(false)) => self.focus = None,
            Some(id) => {
                let dream = id.as_f64().and_then(|id| self.top.get(id as u64));
                self.focus = dream.map(|dream| dream.genes.clone()).or(self.focus.take());
            }
            None => {}
        }
    }

    /// Scores everything against the prompt, whose vector this is, after it has changed.
    pub fn turn_to(&mut self, prompt: &[f32], config: &Config) {
        self.top.rescore(config, |embedding| cosine(embedding, prompt));
        let before = mean(self.tail.iter().map(|vector| cosine(&vector.0, prompt)));
        let turn =
            Turn { prompt: self.params.prompt.clone(), at_s: self.elapsed_s(), before, after: 0.0, count: 0 };
        self.turns.push_back(turn);
        self.tail.clear();
        if self.turns.len() > MEMORY {
            self.turns.pop_front();
        }
        self.rescore = false;
    }

    /// Takes note of a candidate's vector and its cosine to the prompt.
    pub fn note(&mut self, embedding: Vec<f32>, cosine: f32) {
        if let Some(turn) = self.turns.back_mut()
            && turn.count < TAIL as u32
        {
            turn.after = (turn.after * turn.count as f32 + cosine) / (turn.count + 1) as f32;
            turn.count += 1;
        }
        self.tail.push_back(Vector(embedding));
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
    }

    /// Takes note of a full picture.
    pub fn note_rendered(&mut self, id: u64, key: &str) {
        self.counts.rendered += 1;
        self.rendered.push_back(key.to_owned());
        if self.rendered.len() > MEMORY {
            self.rendered.pop_front();
        }
        if let Some(dream) = self.top.get_mut(id) {
            dream.key = Some(key.to_owned());
        }
    }

    /// The figures that clients see.
    pub fn figures(&self, config: &Config) -> Value {
        let scores = || self.top.best().map(|dream| dream.score);
        let Counts { candidates, kept, below_threshold, duplicates, too_low, rendered } = self.counts;
        json!({
            "session": self.params.session,
            "status": self.status,
            "base_prompt": self.params.prompt,
            "strategy": self.params.strategy(),
            "temperature": rounded(self.params.temperature()),
            "similarity_threshold": rounded(self.params.similarity_threshold()),
            "render_interval": self.params.render_interval(),
            "top_k": self.params.top_k(config),
            "duration_hours": self.params.duration_hours,
            "elapsed_s": self.elapsed_s(),
            "candidates": candidates,
            "kept": kept,
            "below_threshold": below_threshold,
            "duplicates": duplicates,
            "too_low": too_low,
            "rendered": rendered,
            "best_score": scores().next().map(rounded),
            "mean_score": mean(scores()).map(rounded),
            "focused": self.focus.is_some(),
            "failure": self.error,
        })
    }

    /// What each change of the prompt did.
    pub fn turns(&self) -> Vec<Value> {
        let turns = self.turns.iter();
        turns
            .map(|turn| {
                json!({
                    "prompt": turn.prompt,
                    "at_s": turn.at_s,
                    "cosine_before": turn.before.map(rounded),
                    "cosine_after": (turn.count > 0).then(|| rounded(turn.after)),
                    "candidates_after": turn.count,
                })
            })
            .collect()
    }

    /// Stores it, in place of what was stored before, in one go.
    pub fn save(&self) -> Result<(), Error> {
        let text =
            serde_json::to_vec(self).map_err(|e| Error::internal(format!("the session's state: {e}")))?;
        storage::put_named(&file(&self.params.session), &Blob::new(&text, "application/json")).map(drop)
    }

    /// Reads a session's state; none where nothing is stored.
    pub fn load(session: &str) -> Result<Option<Self>, Error> {
        let key = format!("state/dream/{}", file(session));
        let blob = match storage::get(&key) {
            Ok(blob) => blob,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&blob.read(0, blob.len())).map(Some).map_err(|reason| {
            Error::internal(format!(
                "the state of the session '{session}' ({key} in the storage) {reason}; it was left as it is: move it away, or \
                 take another name for the session"
            ))
        })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|e| format!("can't be read: {e}"))?;
        match value["version"].as_u64() {
            Some(VERSION) => serde_json::from_value(value).map_err(|e| format!("can't be read: {e}")),
            Some(version) => Err(format!("has version {version}; this plugin reads {VERSION}")),
            None => Err("can't be read: it has no version".into()),
        }
    }
}

fn file(session: &str) -> String {
    format!("session-{session}.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Strategy;

    fn state() -> State {
        let params =
            serde_json::from_value(json!({"session": "default", "prompt": "a cat", "duration_hours": null}));
        State::new("job", params.unwrap(), 1)
    }

    #[test]
    fn what_is_stored_is_read_again_and_nothing_else() {
        let mut state = state();
        state.note(vec![0.6, 0.8], 0.5);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(State::parse(text.as_bytes()).unwrap(), state);
        let refused = |text: &str| State::parse(text.as_bytes()).unwrap_err();
        assert!(refused(&text.replace("\"version\":1", "\"version\":2")).contains("version 2"));
        assert!(refused(&text[..40]).contains("can't be read"));
        assert!(refused("{}").contains("no version"));
        assert!(refused("{\"version\": 1}").contains("missing field"));
    }

    #[test]
    fn a_guide_changes_what_it_names() {
        let mut state = state();
        assert_eq!((state.params.temperature(), state.params.render_interval()), (0.5, 100));
        state.guide(Guide { temperature: Some(0.1), ..Guide::default() });
        assert_eq!((state.params.temperature(), state.params.prompt.as_str()), (0.1, "a cat"));
        assert!(!state.rescore);
        state.note(vec![1.0, 0.0], 1.0);
        state.guide(Guide {
            prompt: Some("a dog".into()),
            strategy: Some(Strategy::Grid),
            ..Guide::default()
        });
        assert!(state.rescore && state.params.strategy() == Strategy::Grid);
        state.turn_to(&[0.0, 1.0], &Config::default());
        state.note(vec![0.6, 0.8], 0.8);
        state.note(vec![1.0, 0.0], 0.0);
        let turns = state.turns();
        assert_eq!((&turns[0]["cosine_before"], &turns[0]["cosine_after"]), (&json!(0.0), &json!(0.4)));
    }
}
