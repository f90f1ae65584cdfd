//! The names of parameters: their own, others that clients know them by, and those that nobody knows.

use std::collections::BTreeMap;

use reverie_plugin_sdk::Error;
use serde_json::{Map, Value};

use crate::foreign;

/// Other names of parameters.
pub const ALIASES: [(&str, &str); 6] = [
    ("steps", "num_inference_steps"),
    ("cfg", "guidance_scale"),
    ("sampler", "scheduler"),
    ("scheduler_id", "scheduler"),
    ("init_image_ref", "image"),
    ("denoise_strength", "strength"),
];

/// Parameters under their own names.
#[derive(Default)]
pub struct Named {
    pub values: Map<String, Value>,
    /// The names that the client gave them, by their own.
    pub spelt: BTreeMap<String, String>,
}

/// Parameters of which an empty text is as good as none.
const EMPTY_IS_NOTHING: &[&str] = &["image", "mask", "mode", "scheduler", "schedule_type"];

impl Named {
    /// A null is as good as nothing.
    ///
    /// # Errors
    /// `invalid-input` for two names of one parameter side by side with different values.
    pub fn read(fields: Map<String, Value>) -> Result<Self, Error> {
        let mut named = Self::default();
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
            let own = alias.map_or(name.as_str(), |(_, own)| own).to_owned();
            // Forms send what was left empty.
            if value == "" && EMPTY_IS_NOTHING.contains(&own.as_str()) {
                continue;
            }
            let other = named.values.insert(own.clone(), value);
            if other.is_some_and(|other| other != named.values[&own]) {
                let both = [named.spelt[&own].as_str(), &name];
                let [first, second] = both;
                return Err(Error::invalid_input(format!(
                    "{first} and {second} are the same: give one of them"
                )));
            }
            named.spelt.insert(own, name);
        }
        Ok(named)
    }

    /// Adds those that are not there yet.
    pub fn or(&mut self, others: Self) {
        for (own, value) in others.values {
            if !self.values.contains_key(&own) {
                self.spelt.insert(own.clone(), others.spelt[&own].clone());
                self.values.insert(own, value);
            }
        }
    }
}

/// What a client is told of parameters that nobody knows, one text for each.
pub fn unknown<'a>(given: impl Iterator<Item = &'a String>, known: &Map<String, Value>) -> Vec<String> {
    given
        .filter(|name| !known.contains_key(*name))
        .map(|name| {
            if let Some(told) = foreign::told(name) {
                return told;
            }
            let meant = near(name, known).map(|near| format!("; did you mean '{near}'?"));
            format!("'{name}' is not known to generate and was ignored{}", meant.unwrap_or_default())
        })
        .collect()
}

/// The known name that is spelt most alike, where that is near enough: capitals, `_` and `-` do not count, and one letter in four
/// may be wrong.
fn near<'a>(name: &str, known: &'a Map<String, Value>) -> Option<&'a str> {
    let plain = |name: &str| -> Vec<char> {
        name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).take(64).collect()
    };
    let asked = plain(name);
    let distances = known.keys().map(|other| (edits(&asked, &plain(other)), other.as_str()));
    let (distance, other) = distances.min()?;
    (distance * 4 <= asked.len().max(4)).then_some(other)
}

/// How many letters have to be put in, left out, changed or swapped with their neighbour to make `b` of `a` (optimal string
/// alignment).
fn edits(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) | (_, 0) => i + j,
                _ => {
                    let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        least = least.min(rows[i - 2][j - 2] + 1);
                    }
                    least
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_told_with_what_may_be_meant() {
        let known: Map<String, Value> =
            ["prompt", "negative_prompt", "guidance_scale", "seed", "size", "cfg"]
                .map(|name| (name.into(), Value::Null))
                .into_iter()
                .collect();
        let told = |name: &str| unknown([name.to_owned()].iter(), &known);
        assert!(told("seed").is_empty());
        assert_eq!(
            told("promt"),
            ["'promt' is not known to generate and was ignored; did you mean 'prompt'?"]
        );
        for (typo, meant) in [
            ("negativePrompt", "negative_prompt"),
            ("Seed", "seed"),
            ("seeed", "seed"),
            ("szie", "size"),
            ("guidence-scale", "guidance_scale"),
        ] {
            assert!(told(typo)[0].ends_with(&format!("did you mean '{meant}'?")), "{:?}", told(typo));
        }
        assert_eq!(told("width"), ["'width' of diffusers was ignored: it is 'size' here"]);
        for other in ["frobnicate", "", "x"] {
            assert!(told(other)[0].ends_with("was ignored"), "{:?}", told(other));
        }
    }
}
