//! Modes: the names under which models are asked for, from the configuration and from the folder of models.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, Mode, Resolution},
    embedded::{EMOJI, Embedded},
    error::{Error, ErrorKind},
    models::DEFAULT_UPSCALER,
};

/// The modes there are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Modes {
    modes: BTreeMap<String, Mode>,
    /// Those of the configuration, which come first.
    configured: Vec<String>,
    /// The name of the embedded one, which comes last.
    embedded: Option<&'static str>,
    default: Option<String>,
    /// What stands in place of the default.
    switched: Option<String>,
    dir: PathBuf,
    resolution_sets: BTreeMap<String, Vec<Resolution>>,
}

impl Modes {
    /// Those of `config`, one for each model of its folder, and the embedded one; the first to have a name keeps it.
    pub fn read(config: &Config, embedded: Option<&Embedded>) -> Self {
        let dir = absolute(&config.diffusion.dir);
        let mut modes = config.modes.clone();
        for mode in modes.values_mut() {
            mode.model = dir.join(&mode.model);
            mode.vae = mode.vae.as_ref().map(|vae| dir.join(vae));
            let set = mode.resolution_set.as_ref().and_then(|set| config.resolution_sets.get(set));
            mode.resolutions = set.cloned().unwrap_or_default();
        }
        let configured: Vec<String> = modes.keys().cloned().collect();
        for model in models(&dir) {
            modes.entry(name(&model)).or_insert_with(|| Mode { model, ..Mode::default() });
        }
        let embedded = embedded.filter(|_| !modes.contains_key(EMOJI)).map(|embedded| {
            modes.insert(EMOJI.to_owned(), emoji(embedded));
            EMOJI
        });
        let default = Some(config.diffusion.default_mode.clone()).filter(|name| !name.is_empty());
        let resolution_sets = config.resolution_sets.clone();
        Self { modes, configured, embedded, default, switched: None, dir, resolution_sets }
    }

    /// The default mode's name; none when there are no modes.
    pub fn default_name(&self) -> Option<&str> {
        let default = self.switched.as_ref().or(self.default.as_ref()).or(self.configured.first());
        let mut found = self.modes.keys().map(String::as_str).filter(|name| Some(*name) != self.embedded);
        default.map(String::as_str).or_else(|| found.next()).or(self.embedded)
    }

    /// Makes another mode the default for as long as the server runs and the mode exists.
    ///
    /// # Errors
    /// Those of [`Modes::get`].
    pub fn switch(&mut self, name: &str) -> Result<(), Error> {
        let (name, _) = self.get(name)?;
        self.switched = Some(name.to_owned());
        Ok(())
    }

    /// The same with the default mode that `old` was switched to.
    pub fn switched_as(mut self, old: &Self) -> Self {
        self.switched = old.switched.clone().filter(|name| self.modes.contains_key(name));
        self
    }

    /// A mode by its name; the default one for an empty name.
    ///
    /// # Errors
    /// `Unavailable` where there is none at all, with what to do; `InvalidInput` for an unknown name.
    pub fn get(&self, name: &str) -> Result<(&str, &Mode), Error> {
        let Some(default) = self.default_name() else { return Err(self.none()) };
        let name = if name.is_empty() { default } else { name };
        self.modes.get_key_value(name).map(|(name, mode)| (name.as_str(), mode)).ok_or_else(|| {
            let known: Vec<&str> = self.names().collect();
            Error::invalid(format!("mode: there is no '{name}'; there are: {}", known.join(", ")))
        })
    }

    /// Named lists of sizes.
    pub fn resolution_sets(&self) -> &BTreeMap<String, Vec<Resolution>> {
        &self.resolution_sets
    }

    /// The error of a server without a model.
    fn none(&self) -> Error {
        let dir = self.dir.display();
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "no text-to-image model is there: put a diffusers folder or a single-file checkpoint (*.safetensors; \
                 Stable Diffusion 1.x, 2.x, XL) into '{dir}', or name one in the configuration ([modes.NAME] model)"
            ),
        )
    }

    /// All names, the default one first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        // The configuration may name one that is not there.
        let default = self.default_name().filter(|name| self.modes.contains_key(*name));
        default
            .into_iter()
            .chain(self.modes.keys().map(String::as_str).filter(move |name| Some(*name) != default))
    }

    /// Names and modes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Mode)> {
        self.modes.iter().map(|(name, mode)| (name.as_str(), mode))
    }
}

/// The mode of the embedded model, which was trained at one size and for few steps.
fn emoji(embedded: &Embedded) -> Mode {
    Mode {
        model: embedded.model(),
        native_size: Some("128x128".into()),
        num_inference_steps: Some(4),
        guidance_scale: Some(1.5),
        // Its own: so nothing has to be written to a folder to be told of it.
        scheduler: Some("lcm".into()),
        ..Mode::default()
    }
}

/// The network or resampler that enlarges a mode's pictures.
pub fn enlarges_with(mode: &Mode) -> &str {
    mode.enlarge.as_deref().unwrap_or(DEFAULT_UPSCALER)
}

/// A model's name: its file or folder without the extension.
pub fn name(model: &Path) -> String {
    let file = model.extension().is_some_and(|extension| extension == "safetensors");
    let name = if file { model.file_stem() } else { model.file_name() };
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The files and folders of `dir` that look like models.
fn models(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_model = |path: &PathBuf| {
        path.join("model_index.json").is_file()
            || path.extension().is_some_and(|e| e == "safetensors" || e == "ckpt") && path.is_file()
    };
    let mut models: Vec<PathBuf> = entries.filter(is_model).collect();
    models.sort();
    models
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
