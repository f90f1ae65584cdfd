//! Raw values on disk, for looking at them elsewhere.

use std::{fs, io, path::Path};

/// The environment variable that names the folder where values of what is wrong are written; none are where it is not set.
pub const DUMP: &str = "REVERIE_DUMP";

/// Values of a tensor that are written at most, the first of it: 16 MiB.
const MOST: usize = 4 << 20;

/// Writes values as little-endian `f32` into [`DUMP`]'s folder, a file each. Gives a line that names the files or says why there are
/// none, or nothing where no folder is named.
pub fn dump(what: &str, values: &[(&str, &[f32])]) -> String {
    match std::env::var_os(DUMP) {
        Some(folder) => match write(Path::new(&folder), what, values) {
            Ok(file) => format!("  dumped: {file}\n"),
            Err(error) => format!("  not dumped to {}: {error}\n", Path::new(&folder).display()),
        },
        None => String::new(),
    }
}

/// The files' name, with * for what differs.
pub(super) fn write(folder: &Path, what: &str, values: &[(&str, &[f32])]) -> io::Result<String> {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-.,".contains(c) { c } else { '_' };
    let mut name: String = what.chars().take(120).map(safe).collect();
    fs::create_dir_all(folder)?;
    // Names may be the same where what is cut off differs.
    let mut number = 1;
    let base = name.clone();
    while values.first().is_some_and(|(kind, _)| folder.join(format!("{name}.{kind}.f32")).exists()) {
        number += 1;
        name = format!("{base}-{number}");
    }
    for (kind, values) in values {
        let bytes: Vec<u8> = values.iter().take(MOST).flat_map(|value| value.to_le_bytes()).collect();
        fs::write(folder.join(format!("{name}.{kind}.f32")), bytes)?;
    }
    Ok(folder.join(format!("{name}.*.f32")).display().to_string())
}
