//! What the targets share: files that are quickly written, and inputs of several parts.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

/// A folder in memory where there is such a place.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// Writes a file, and makes it look old: one that was written just now is waited for by whoever loads models.
pub fn write(path: &Path, content: &[u8]) {
    write_with_hole(path, content, 0);
}

/// The same with so many zeros behind it, which take no space.
pub fn write_with_hole(path: &Path, content: &[u8], zeros: u64) {
    let mut file = File::create(path).expect("creates");
    file.write_all(content).expect("writes");
    file.set_len(content.len() as u64 + zeros).expect("a hole");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).expect("a time");
}

/// The parts of an input, between lines of `---`: as many as asked for, empty ones in place of those that it lacks.
pub fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = Some(input);
    std::array::from_fn(|_| {
        let Some(text) = rest.take() else { return &[][..] };
        const BETWEEN: &[u8] = b"\n---\n";
        match text.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
            Some(at) => {
                rest = Some(&text[at + BETWEEN.len()..]);
                &text[..at]
            }
            None => text,
        }
    })
}

/// A tensor's type and shape, by its name.
pub type Tensors = BTreeMap<String, (String, Vec<u64>)>;

/// Tensors that are listed one a line: name, type, and the sides of its shape. None for what is no such list.
pub fn listed(list: &str) -> Option<Tensors> {
    let mut tensors = Tensors::new();
    for line in list.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(dtype)) = (words.next(), words.next()) else { continue };
        let shape = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        tensors.insert(name.to_owned(), (dtype.to_owned(), shape));
    }
    Some(tensors)
}

/// Writes a safetensors file of these tensors. All values are zeros, in a hole of the file. None for more than `most` bytes of them.
pub fn checkpoint(path: &Path, tensors: &Tensors, most: u64) -> Option<()> {
    let mut header = serde_json::Map::new();
    let mut end = 0u64;
    for (name, (dtype, shape)) in tensors {
        let value = match dtype.as_str() {
            "F32" | "I32" => 4,
            "F16" | "BF16" => 2,
            "I64" => 8,
            _ => 1,
        };
        let len = shape.iter().try_fold(value, |len: u64, side| len.checked_mul(*side))?;
        let start = end;
        end = end.checked_add(len).filter(|end| *end <= most)?;
        let about = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), about);
    }
    let header = serde_json::Value::Object(header).to_string();
    let content = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    write_with_hole(path, &content, end);
    Some(())
}
