//! The text-to-image model and the dual encoder that the binary carries. The loaders map files, so these are written to a
//! folder when they are first used.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::error::Error;

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The name of the model and of its mode.
pub const EMOJI: &str = "emoji";
/// The folder of the dual encoder.
const SCORER: &str = "emoji-scorer";

/// Tells one version's files from another's.
static DIGEST: LazyLock<u32> = LazyLock::new(|| {
    let mut digest = crc32fast::Hasher::new();
    for (path, content) in FILES {
        digest.update(path.as_bytes());
        digest.update(content);
    }
    digest.finalize()
});

/// Where the embedded files lie once they are used.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    folder: PathBuf,
}

impl Embedded {
    /// In a folder of `dir` that is named after the files' content. Nothing is written yet.
    pub fn new(dir: &Path) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self { folder: dir.join(format!("{:08x}", *DIGEST)) }
    }

    /// The diffusers folder.
    pub fn model(&self) -> PathBuf {
        self.folder.join(EMOJI)
    }

    /// The folder of the CLIPModel.
    pub fn scorer(&self) -> PathBuf {
        self.folder.join(SCORER)
    }

    /// Whether all files are there.
    pub fn is_unpacked(&self) -> bool {
        FILES.iter().all(|(path, content)| {
            fs::metadata(self.folder.join(path)).is_ok_and(|file| file.len() == content.len() as u64)
        })
    }

    /// Writes the files, unless they are there. Other processes may do the same at the same time.
    ///
    /// # Errors
    /// `Internal`, with the folder and what the system says.
    pub fn unpack(&self) -> Result<(), Error> {
        if self.is_unpacked() {
            return Ok(());
        }
        self.write().map_err(|error| {
            let folder = self.folder.display();
            Error::internal(format!(
                "the embedded models could not be written to '{folder}': {error} (diffusion.embedded_dir)"
            ))
        })
    }

    fn write(&self) -> io::Result<()> {
        for (path, content) in FILES {
            let path = self.folder.join(path);
            let folder = path.parent().expect("a file in a folder");
            fs::create_dir_all(folder)?;
            // Whole or not at all, also where another process writes it or a loader has it open.
            let part = folder.join(format!(".{}.part", uuid::Uuid::new_v4()));
            let written = fs::write(&part, content).and_then(|()| fs::rename(&part, &path));
            if written.is_err() {
                let _ = fs::remove_file(&part);
            }
            written?;
        }
        tracing::info!(folder = %self.folder.display(), "embedded models unpacked");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_once_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::new(dir.path());
        embedded.unpack().unwrap();
        let file = embedded.model().join("unet/diffusion_pytorch_model.safetensors");
        let whole = fs::read(&file).unwrap();
        assert!(embedded.scorer().join("config.json").is_file());
        // A disk that was full leaves less.
        fs::write(&file, b"less").unwrap();
        embedded.unpack().unwrap();
        assert_eq!(fs::read(&file).unwrap(), whole);
        let parts = fs::read_dir(file.parent().unwrap()).unwrap().flatten();
        assert!(parts.into_iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".part")));
    }

    #[test]
    fn a_folder_that_takes_nothing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = Embedded::new(&file).unpack().unwrap_err();
        assert!(
            error.message.contains("file") && error.message.contains("embedded_dir"),
            "{}",
            error.message
        );
    }

    #[test]
    fn what_is_embedded_is_small() {
        let bytes: usize = FILES.iter().map(|(_, content)| content.len()).sum();
        assert!(bytes <= 25_000_000, "{bytes}");
    }
}
