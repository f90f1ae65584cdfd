//! The one folder that an operator lets a plugin read.

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::super::{
    bindings::reverie::handler::{files, types},
    instance::CallState,
};
use crate::error::{Error, ErrorKind};

impl CallState {
    /// The plugin's folder and the limit on a file's size.
    fn folder(&self) -> Result<(PathBuf, u64), Error> {
        self.granted("files")?;
        let plugin = &self.plugin;
        let table = self.services.config.plugins.get(&**plugin);
        let folder =
            table.and_then(|table| table.folder.clone()).filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.ok_or_else(|| {
            let error = format!("plugin '{plugin}' has no folder: set [plugins.{plugin}] folder");
            Error::new(ErrorKind::Denied, error)
        })?;
        Ok((folder, self.services.config.limits(plugin).file_max_bytes))
    }
}

impl files::Host for CallState {
    async fn list(&mut self) -> wasmtime::Result<Result<Vec<files::Entry>, types::Error>> {
        let (folder, _) = match self.folder() {
            Ok(folder) => folder,
            Err(error) => return Ok(Err(error.into())),
        };
        let listed = self.blocking(move || list(&folder)).await;
        Ok(listed.map_err(|_| lost()).flatten().map_err(Into::into))
    }

    async fn read(&mut self, name: String) -> wasmtime::Result<Result<Vec<u8>, types::Error>> {
        let (folder, limit) = match self.folder() {
            Ok(folder) => folder,
            Err(error) => return Ok(Err(error.into())),
        };
        let memory = self.memory.clone();
        let room = move |bytes: u64| Ok(memory.check(usize::try_from(bytes).unwrap_or(usize::MAX))?);
        let read = self.blocking(move || read(&folder, &name, limit, room)).await;
        Ok(read.map_err(|_| lost()).flatten().map_err(Into::into))
    }
}

fn lost() -> Error {
    Error::internal("reading the folder failed (a fault of the server)")
}

fn list(folder: &Path) -> Result<Vec<files::Entry>, Error> {
    let failed = |e: std::io::Error| Error::internal(format!("folder '{}': {e}", folder.display()));
    let found = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(failed)?,
    };
    let mut entries = Vec::new();
    for name in found.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        // What goes away meanwhile, or is no file of the folder, is not of the list.
        let Ok(path) = inside(folder, &name) else { continue };
        let Ok(about) = path.metadata() else { continue };
        let modified = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ms = modified.map_or(0, |time| time.as_millis() as u64);
        entries.push(files::Entry { name, len: about.len(), modified_ms });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The content of a file, of which `room` is asked first.
fn read(
    folder: &Path,
    name: &str,
    limit: u64,
    room: impl FnOnce(u64) -> Result<(), Error>,
) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let path = inside(folder, name)?;
    let failed = |e: std::io::Error| Error::internal(format!("file '{name}': {e}"));
    let file = std::fs::File::open(path).map_err(failed)?;
    room(file.metadata().map_err(failed)?.len().min(limit))?;
    let mut content = Vec::new();
    // One byte more tells a file that is too long, though it may be growing.
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        let error = format!("file '{name}' is over the limit of {limit} bytes (file_max_bytes)");
        return Err(Error::new(ErrorKind::TooLarge, error));
    }
    Ok(content)
}

/// The path of a plain file of the folder. A link must lead to another one of it.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(Error::invalid(format!(
            "'{name}' is not the name of a file: accepted are names that the list has"
        )));
    }
    let missing = || Error::not_found(format!("there is no file '{name}' in the plugin's folder"));
    let folder = folder.canonicalize().map_err(|_| missing())?;
    let path = folder.join(name).canonicalize().map_err(|_| missing())?;
    match path.parent() == Some(&folder) && path.is_file() {
        true => Ok(path),
        false => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_the_folder_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("mine");
        assert_eq!(list(&folder).unwrap().len(), 0);
        std::fs::create_dir_all(folder.join("deeper")).unwrap();
        for (path, content) in
            [("mine/b.json", "{}"), ("mine/a.toml", "x=1"), ("secret", "s"), ("mine/.hidden", "h")]
        {
            std::fs::write(dir.path().join(path), content).unwrap();
        }
        std::fs::write(folder.join("deeper/c.json"), "{}").unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../secret", folder.join("out")).unwrap();
            std::os::unix::fs::symlink("b.json", folder.join("within.json")).unwrap();
            std::os::unix::fs::symlink("deeper/c.json", folder.join("c.json")).unwrap();
        }
        let names: Vec<String> = list(&folder).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a.toml", "b.json", "within.json"]);
        assert_eq!(read(&folder, "b.json", 2, |_| Ok(())).unwrap(), b"{}");
        assert_eq!(read(&folder, "a.toml", 2, |_| Ok(())).unwrap_err().kind, ErrorKind::TooLarge);
        for name in
            ["../secret", "out", "deeper", "deeper/c.json", ".hidden", "", "..", "/etc/passwd", "none"]
        {
            let kind = read(&folder, name, 100, |_| Ok(())).unwrap_err().kind;
            assert!(matches!(kind, ErrorKind::InvalidInput | ErrorKind::NotFound), "{name}");
        }
    }
}
