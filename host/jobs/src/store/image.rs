//! A file as SQLite reads it with its log, in memory: for when the disk does not let SQLite open it.

use rusqlite::Connection;

use super::{log::Log, pages::PAGE};

/// Opens what the file held when the last transaction of the log was done.
///
/// # Errors
/// What SQLite said.
pub fn open(file: &[u8], log: &[u8]) -> rusqlite::Result<Connection> {
    let image = image(file, log);
    let mut connection = Connection::open_in_memory()?;
    connection.deserialize_read_exact("main", &image[..], image.len(), true)?;
    Ok(connection)
}

fn image(file: &[u8], log: &[u8]) -> Vec<u8> {
    let mut image = file.to_vec();
    let log = Log::of(log);
    let frames = &log.frames[..log.read];
    for frame in frames {
        let start = (frame.page as usize).saturating_sub(1) * PAGE;
        if image.len() < start + PAGE {
            image.resize(start + PAGE, 0);
        }
        image[start..start + PAGE].copy_from_slice(frame.image);
    }
    if let Some(last) = frames.last() {
        image.resize(last.pages as usize * PAGE, 0);
    }
    // There is no log beside it any more.
    if let Some(versions) = image.get_mut(18..20) {
        versions.fill(1);
    }
    image
}
