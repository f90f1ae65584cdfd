//! The small files of a model: JSON and text, of bounded size.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    config::Limited,
    error::{Error, Result},
};

/// The largest configuration, which parsed into [`Value`]s takes up to twenty times as much.
pub(crate) const CONFIG: u64 = 1 << 20;
/// The largest list of what is in which file.
pub(crate) const INDEX: u64 = 16 << 20;
/// The largest file of a vocabulary.
pub(crate) const VOCABULARY: u64 = 32 << 20;

/// A file as text, of at most so many bytes.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn text(path: &Path, most: u64) -> Result<String> {
    let failed = |reason: String| Error::File { file: path.display().to_string(), reason };
    // To open a pipe would wait for whoever writes into it.
    if !fs::metadata(path).map_err(|e| failed(e.to_string()))?.is_file() {
        return Err(failed("is not a file".into()));
    }
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    if text.len() as u64 > most {
        return Err(failed(format!("is larger than the {most} bytes that are accepted")));
    }
    Ok(text)
}

/// What a JSON file of at most so many bytes holds.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn read<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T> {
    let parsed = serde_json::from_str(&text(path, most)?);
    parsed.map_err(|e| Error::File { file: path.display().to_string(), reason: e.to_string() })
}

/// The fields of a configuration, of which those that it lacks have their defaults, within their limits. `file` is where they are
/// from.
///
/// # Errors
/// [`Error::File`] for a value of another type, naming its key; [`Error::Unsupported`] for one that is beyond its limits.
pub(crate) fn config<C>(file: &str, fields: Map<String, Value>) -> Result<C>
where
    C: DeserializeOwned + Serialize + Default + Limited,
{
    let config = parse(fields);
    let config: C = config.map_err(|reason| Error::File { file: file.to_owned(), reason })?;
    config.check_limits(file)?;
    Ok(config)
}

/// The fields of a configuration, or the first that is of another type than it should be.
fn parse<C: DeserializeOwned + Serialize + Default>(fields: Map<String, Value>) -> Result<C, String> {
    let from = |fields| serde_json::from_value::<C>(Value::Object(fields));
    let error = match from(fields.clone()) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    let wrong = fields.into_iter().find_map(|(key, value)| {
        let error = from(Map::from_iter([(key.clone(), value.clone())])).err()?;
        Some((key, value, error))
    });
    let Some((key, value, error)) = wrong else { return Err(error.to_string()) };
    let known = serde_json::to_value(C::default()).unwrap_or_default();
    Err(format!("'{key}' is {}: {error}; accepted is a value as {}", shortened(&value), known[&key]))
}

/// The beginning of a value, as much as a message can have.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
