//! Keeps the server's folders out of what callers are told: of a path in an error they see what lies in the folder.

use std::path::Path;

use crate::{config::Config, error::Error};

/// The folders that are nobody's business, longest first, each with a slash at its end.
#[derive(Debug, Default)]
pub struct Hidden(Vec<String>);

impl Hidden {
    /// Those that a configuration names, and the one where the server was started.
    pub fn of(config: &Config) -> Self {
        let beside = |file: &Path| file.parent().map(Path::to_owned);
        let named = [
            &config.execution.models_dir,
            &config.diffusion.dir,
            &config.diffusion.loras_dir,
            &config.diffusion.embedded_dir,
            &config.plugin_runtime.dir,
            &config.plugin_runtime.cache_dir,
            &config.server.ui_dir,
        ];
        let storage = Some(Path::new(&config.storage.location).to_owned());
        let of_modes = config
            .modes
            .values()
            .flat_map(|mode| [beside(&mode.model), mode.vae.as_deref().and_then(beside)]);
        let of_plugins = config.plugins.values().map(|plugin| plugin.folder.clone());
        let files = [&config.jobs.ledger, &config.scoring.model, &config.server.keys_file];
        let all = named.into_iter().cloned().map(Some).chain(files.map(|file| beside(file)));
        let here = std::env::current_dir().ok();
        Self::new(all.chain(of_modes).chain(of_plugins).chain([storage, here]).flatten())
    }

    fn new(folders: impl IntoIterator<Item = std::path::PathBuf>) -> Self {
        let spellings = |folder: std::path::PathBuf| {
            let absolute = std::path::absolute(&folder).ok();
            let real = folder.canonicalize().ok();
            [absolute, real].into_iter().flatten()
        };
        let folders = folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()).flat_map(spellings);
        let mut folders: Vec<String> = folders
            .map(|folder| format!("{}/", folder.display().to_string().trim_end_matches('/')))
            .collect();
        // The root would take away every slash.
        folders.retain(|folder| folder != "/");
        folders.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        folders.dedup();
        Self(folders)
    }

    /// A text without those folders; none where it names none.
    pub fn without(&self, text: &str) -> Option<String> {
        let named: Vec<&String> = self.0.iter().filter(|folder| text.contains(folder.as_str())).collect();
        let (first, rest) = named.split_first()?;
        Some(
            rest.iter()
                .fold(text.replace(first.as_str(), ""), |text, folder| text.replace(folder.as_str(), "")),
        )
    }

    /// An error without them.
    pub fn from_error(&self, error: Error) -> Error {
        match self.without(&error.message) {
            Some(message) => Error { message, ..error },
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_left_out_and_names_stay() {
        let hidden = Hidden::new(["/srv/x".into(), "/srv/x/models/".into(), "/".into(), "".into()]);
        for (text, without) in [
            ("model '/srv/x/models/a/unet.safetensors': broken", Some("model 'a/unet.safetensors': broken")),
            ("/srv/x/log and /srv/x/models/b", Some("log and b")),
            ("POST /v1/jobs is /srv/xy", None),
        ] {
            assert_eq!(hidden.without(text).as_deref(), without);
        }
        let error = hidden.from_error(Error::invalid("mode: /srv/x/m"));
        assert_eq!(error.message, "mode: m");
    }

    #[test]
    fn what_a_configuration_names_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let set = vec![format!("diffusion.dir={}", at("c")), format!("storage.location={}", at("s"))];
        let sources = crate::config::Sources { file: None, env: Vec::new(), set };
        let hidden = Hidden::of(&crate::config::load(&sources).unwrap());
        let here = std::env::current_dir().unwrap().join("reverie-data/x");
        for (path, shown) in [(at("c/m"), "m"), (at("s/k"), "k"), (here.display().to_string(), "x")] {
            let shown_now = hidden.without(&path);
            assert!(
                shown_now.as_deref().is_some_and(|now| now.ends_with(shown) && !now.starts_with('/')),
                "{path}"
            );
        }
    }
}
