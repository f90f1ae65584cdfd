//! Folders: whether they take files, and how much room they have.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// Below so many bytes a disk is said to be nearly full.
const LITTLE: u64 = 1 << 30;

/// The folder, or the nearest one above it that exists: where it would be made.
pub fn nearest(folder: &Path) -> PathBuf {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let found = folder.ancestors().find(|folder| folder.symlink_metadata().is_ok());
    found.map_or_else(|| folder.clone(), Path::to_owned)
}

/// Writes a small file into the folder, or into the nearest one above it that exists, reads it and removes it.
///
/// # Errors
/// What the system said.
pub fn try_writing(folder: &Path) -> io::Result<()> {
    let path = nearest(folder).join(format!(".reverie-doctor-{}", Uuid::new_v4().simple()));
    let written = fs::write(&path, b"written").and_then(|()| fs::read(&path));
    let removed = fs::remove_file(&path);
    match written? == b"written" {
        true => removed,
        false => Err(io::Error::other("other bytes were read than were written")),
    }
}

/// Bytes that a user may still write in a folder, or the nearest one above it; none where the system does not say.
#[cfg(unix)]
pub fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(nearest(folder)).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

#[cfg(not(unix))]
pub fn free(_: &Path) -> Option<u64> {
    None
}

/// Whether little is left.
pub fn is_nearly_full(free: u64) -> bool {
    free < LITTLE
}

/// A number of bytes in words.
pub fn bytes(count: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (count.max(1).ilog2() / 10).min(4) as usize;
    match unit {
        0 => format!("{count} bytes"),
        _ => format!("{:.1} {}", count as f64 / f64::from(1u32 << 10).powi(unit as i32), units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_tried_where_it_would_be_made() {
        let dir = tempfile::tempdir().unwrap();
        try_writing(&dir.path().join("a/b")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays");
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(try_writing(&file.join("a")).is_err());
        assert!(cfg!(not(unix)) || free(&dir.path().join("a")).is_some_and(|free| free > 0));
    }

    #[test]
    fn bytes_have_units() {
        for (count, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
            (1 << 52, "4096.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
