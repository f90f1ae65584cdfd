//! Modes, and what they accept.

use std::{collections::BTreeMap, path::PathBuf};

use reverie_models::schedulers::{SchedulerConfig, sampler_ids};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, parse_size};

/// A named model with adapters, defaults, and what it accepts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    pub model: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<ModeLora>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native_size: Option<String>,
    /// The network or resampler that enlarges pictures of `native_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enlarge: Option<String>,
    /// A name of `resolution_sets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution_set: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_inference_steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_schedulers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub negative_prompt_templates: BTreeMap<String, String>,
    /// None: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_custom_negative_prompt: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// Those of `resolution_set`, once it has been looked up; empty: all sizes.
    #[serde(skip)]
    pub resolutions: Vec<Resolution>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModeLora {
    pub name: String,
    #[serde(default = "one")]
    pub strength: f64,
}

fn one() -> f64 {
    1.0
}

/// A size of a resolution set: `"512x768"`, or a table with the ratio of its sides as pages show it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(from = "Written")]
pub struct Resolution {
    pub size: String,
    pub aspect_ratio: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Written {
    Size(String),
    Table(Table),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    size: String,
    aspect_ratio: Option<String>,
}

impl From<String> for Resolution {
    fn from(size: String) -> Self {
        Written::Size(size).into()
    }
}

impl From<Written> for Resolution {
    fn from(written: Written) -> Self {
        let (size, aspect_ratio) = match written {
            Written::Size(size) => (size, None),
            Written::Table(Table { size, aspect_ratio }) => (size, aspect_ratio),
        };
        let aspect_ratio = aspect_ratio.unwrap_or_else(|| parse_size(&size).map_or(String::new(), ratio));
        Self { size, aspect_ratio }
    }
}

/// `2:3`, in the smallest numbers.
fn ratio((width, height): (u32, u32)) -> String {
    let (mut a, mut b) = (width, height);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    format!("{}:{}", width / a, height / a)
}

impl Mode {
    /// The scheduler of a request that names none, where it is not the model's own: the first of those that are allowed, unless
    /// the mode names one.
    pub fn default_scheduler(&self) -> Option<&str> {
        self.scheduler.as_deref().or_else(|| self.allowed_schedulers.first().map(String::as_str))
    }

    /// The size of a request that names none, where it is not the model's own.
    pub fn default_size(&self) -> Option<(u32, u32)> {
        let listed = self.resolutions.first().map(|resolution| &resolution.size);
        let sizes = [self.size.as_ref(), self.recommended_size.as_ref(), listed, self.native_size.as_ref()];
        sizes.into_iter().flatten().find_map(|size| parse_size(size))
    }
}

/// The id of a scheduler by any of its names, as far as that can be told without a model.
///
/// # Errors
/// An unknown name, with all that are known.
pub fn scheduler_id(name: &str) -> Result<Option<&'static str>, String> {
    let any = SchedulerConfig::from_json(r#"{"_class_name": "EulerDiscreteScheduler"}"#);
    let any = any.map_err(|e| e.to_string())?;
    let named = any.with_name(name).map_err(|e| e.to_string())?;
    Ok(named.sampler_id(&any))
}

impl Config {
    /// Checks what the types can't say. The message names the key and what is accepted.
    pub(super) fn check_modes(&self) -> Result<(), String> {
        for (name, set) in &self.resolution_sets {
            if set.is_empty() {
                return Err(format!("resolution_sets.{name}: must have a size, such as \"512x512\""));
            }
            for Resolution { size, .. } in set {
                check_size(&format!("resolution_sets.{name}"), size)?;
            }
        }
        for (name, mode) in &self.modes {
            self.check_mode(mode).map_err(|error| format!("modes.{name}.{error}"))?;
        }
        Ok(())
    }

    fn check_mode(&self, mode: &Mode) -> Result<(), String> {
        let set = match &mode.resolution_set {
            None => None,
            Some(set) => Some(self.resolution_sets.get(set).ok_or_else(|| {
                let known: Vec<&str> = self.resolution_sets.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                format!(
                    "resolution_set = '{set}': there is no such set in [resolution_sets]; there are: {known}"
                )
            })?),
        };
        let sizes = [("size", &mode.size), ("recommended_size", &mode.recommended_size)];
        for (key, size) in sizes {
            let Some(size) = size else { continue };
            check_size(key, size)?;
            if set.is_some_and(|set| !set.iter().any(|other| parse_size(&other.size) == parse_size(size))) {
                return Err(format!("{key} = '{size}': is not in the mode's resolution_set"));
            }
        }
        if let Some(size) = &mode.native_size {
            check_size("native_size", size)?;
        }
        if mode.enlarge.is_some() && mode.native_size.is_none() {
            return Err("enlarge: has no effect without native_size".into());
        }
        if mode.num_inference_steps.is_some_and(|steps| !(1..=1000).contains(&steps)) {
            return Err("num_inference_steps: must be from 1 to 1000".into());
        }
        for id in &mode.allowed_schedulers {
            if !sampler_ids().any(|known| known == id) {
                let known: Vec<_> = sampler_ids().collect();
                return Err(format!("allowed_schedulers: '{id}' is none of {}", known.join(", ")));
            }
        }
        if let Some(scheduler) = &mode.scheduler {
            let id = scheduler_id(scheduler).map_err(|error| format!("scheduler: {error}"))?;
            let allowed = &mode.allowed_schedulers;
            if !allowed.is_empty() && !id.is_some_and(|id| allowed.iter().any(|other| other == id)) {
                return Err(format!("scheduler = '{scheduler}': is not in the mode's allowed_schedulers"));
            }
        }
        Ok(())
    }
}

fn check_size(key: &str, size: &str) -> Result<(), String> {
    match parse_size(size) {
        Some(_) => Ok(()),
        None => Err(format!("{key} = '{size}': must be WIDTHxHEIGHT, such as 512x512")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn with(set: &[&str]) -> Result<Config, String> {
        let set = set.iter().map(|assignment| (*assignment).to_owned()).collect();
        load(&Sources { set, ..Sources::default() })
    }

    #[test]
    fn sets_have_sizes_with_their_ratios() {
        let sizes = r#"resolution_sets.sd=["512x768", {size = "1024x576", aspect_ratio = "wide"}]"#;
        let config = with(&[sizes]).unwrap();
        let resolution =
            |size: &str, ratio: &str| Resolution { size: size.into(), aspect_ratio: ratio.into() };
        assert_eq!(
            config.resolution_sets["sd"],
            [resolution("512x768", "2:3"), resolution("1024x576", "wide")]
        );
    }

    #[test]
    fn what_can_not_be_is_named() {
        let set = r#"resolution_sets.sd=["512x768"]"#;
        for (settings, parts) in [
            (&["resolution_sets.sd=[]"][..], &["resolution_sets.sd", "512x512"][..]),
            (&[r#"resolution_sets.sd=["big"]"#], &["resolution_sets.sd", "'big'"]),
            (&[r#"resolution_sets.sd=[{sice = "1x1"}]"#], &["resolution_sets"]),
            (&[set, "modes.m.resolution_set=hd"], &["modes.m.resolution_set", "'hd'", "there are: sd"]),
            (&[set, "modes.m.resolution_set=sd", "modes.m.size=64x64"], &["modes.m.size", "'64x64'"]),
            (&["modes.m.recommended_size=big"], &["modes.m.recommended_size", "512x512"]),
            (&["modes.m.enlarge=lanczos3"], &["modes.m.enlarge", "native_size"]),
            (&["modes.m.scheduler=nope"], &["modes.m.scheduler", "'nope'", "euler_a"]),
            (&[r#"modes.m.allowed_schedulers=["LCM"]"#], &["modes.m.allowed_schedulers", "'LCM'", "lcm"]),
            (
                &[r#"modes.m.allowed_schedulers=["lcm"]"#, "modes.m.scheduler=Euler a"],
                &["modes.m.scheduler", "'Euler a'", "allowed_schedulers"],
            ),
        ] {
            let model = if settings.iter().any(|set| set.starts_with("modes.")) {
                &["modes.m.model=x"][..]
            } else {
                &[]
            };
            let error = with(&[settings, model].concat()).expect_err("accepted");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let allowed = r#"modes.m.allowed_schedulers=["lcm", "dpmpp_2m_karras"]"#;
        let named = with(&["modes.m.model=x", allowed, "modes.m.scheduler=DPM++ 2M Karras"]).unwrap();
        assert_eq!(named.modes["m"].default_scheduler(), Some("DPM++ 2M Karras"));
        assert_eq!(with(&["modes.m.model=x", allowed]).unwrap().modes["m"].default_scheduler(), Some("lcm"));
    }
}
