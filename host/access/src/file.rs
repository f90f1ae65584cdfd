//! The file of keys that `reverie key` writes: `[[keys]]`, as the configuration has them. It holds no token.

use std::{
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Key, Keyring, Limits, Scope, token::Token};

const HEAD: &str =
    "# Keys of the server, written by `reverie key`. Tokens are not in here, only their SHA-256.\n\n";

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    keys: Vec<Key>,
}

/// A file of keys, which need not be there.
pub struct KeysFile {
    path: PathBuf,
}

impl KeysFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its keys; none where there is no file.
    ///
    /// # Errors
    /// A message that names the file.
    pub fn read(&self) -> Result<Vec<Key>, String> {
        if self.path.as_os_str().is_empty() {
            return Ok(Vec::new());
        }
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.told(error)),
        };
        let content: Content = toml::from_str(&text).map_err(|error| self.told(error))?;
        Keyring::new(content.keys.iter().cloned()).map_err(|error| self.told(error))?;
        Ok(content.keys)
    }

    /// Adds a key and returns its token, which is written nowhere.
    ///
    /// # Errors
    /// For a bad or known name, no scope, or a file that can't be read or written.
    pub fn add(
        &self,
        name: &str,
        owner: Option<String>,
        scopes: Vec<Scope>,
        limits: Limits,
    ) -> Result<Token, String> {
        let mut keys = self.read()?;
        let token = Token::random()?;
        let sha256 = Token::sha256(token.as_str());
        keys.push(Key { name: name.to_owned(), sha256, scopes, owner, limits });
        Keyring::new(keys.iter().cloned())?;
        self.write(keys)?;
        Ok(token)
    }

    /// Takes a key out.
    ///
    /// # Errors
    /// For an unknown name, or a file that can't be read or written.
    pub fn revoke(&self, name: &str) -> Result<(), String> {
        let mut keys = self.read()?;
        let before = keys.len();
        keys.retain(|key| key.name != name);
        if keys.len() == before {
            return Err(format!("there is no key '{name}' in {}", self.path.display()));
        }
        self.write(keys)
    }

    /// Whole or not at all, and for its owner's eyes.
    fn write(&self, keys: Vec<Key>) -> Result<(), String> {
        if self.path.as_os_str().is_empty() {
            return Err("server.keys_file is empty: name a file there".into());
        }
        let text = toml::to_string(&Content { keys }).map_err(|error| self.told(error))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|error| self.told(error))?;
        }
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let beside = PathBuf::from(name);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&beside).map_err(|error| self.told(error))?;
        let written = file.write_all(HEAD.as_bytes()).and_then(|()| file.write_all(text.as_bytes()));
        written.and_then(|()| file.sync_all()).map_err(|error| self.told(error))?;
        std::fs::rename(&beside, &self.path).map_err(|error| self.told(error))
    }

    fn told(&self, error: impl std::fmt::Display) -> String {
        format!("{}: {error}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_and_go_and_their_tokens_are_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeysFile::new(dir.path().join("data/keys.toml"));
        assert_eq!(file.read().unwrap(), []);
        let limits = Limits { requests_per_minute: 60, ..Limits::default() };
        let token = file.add("alice", None, vec![Scope::Submit, Scope::Read], limits.clone()).unwrap();
        file.add("bob", Some("alice".into()), vec![Scope::Read], Limits::default()).unwrap();
        let keys = file.read().unwrap();
        assert_eq!((keys[0].limits.clone(), keys[0].tenant(), keys[1].tenant()), (limits, "alice", "alice"));
        assert_eq!(Keyring::new(keys).unwrap().of_token(token.as_str()).unwrap().name, "alice");
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains(token.as_str()) && text.starts_with("# Keys"), "{text}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        }
        for (error, said) in [
            (file.add("alice", None, vec![Scope::Read], Limits::default()).err(), "two are named"),
            (file.add("carol", None, vec![], Limits::default()).err(), "at least one"),
            (file.revoke("carol").err(), "no key 'carol'"),
        ] {
            assert!(error.as_deref().is_some_and(|error| error.contains(said)), "{said}: {error:?}");
        }
        file.revoke("alice").unwrap();
        assert_eq!(file.read().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_says_more_than_it_may_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeysFile::new(dir.path().join("keys.toml"));
        let hash = "a".repeat(64);
        for text in [
            "[[keys]\n".to_owned(),
            format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\nscopes = [\"all\"]\n"),
            format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\nscopes = [\"read\"]\nconcurency = 1\n"),
            "[server]\n".to_owned(),
        ] {
            std::fs::write(file.path(), &text).unwrap();
            assert!(file.read().unwrap_err().contains("keys.toml"), "{text}");
        }
    }
}
