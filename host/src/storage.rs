//! The store of outputs: keys are paths of plain segments, and no key leads out of the store.

mod content;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutPayload, local::LocalFileSystem, memory::InMemory, path::Path,
};
use uuid::Uuid;

use crate::{
    config,
    error::{Error, ErrorKind},
};

pub use content::Stored;

/// The prefix of plugins' own state, which is not served over HTTP.
pub const STATE_PREFIX: &str = "state/";

/// The prefix of what belongs to tenants: `keys/TENANT/`.
pub const TENANTS_PREFIX: &str = "keys/";

/// The location that keeps nothing after the end of the process.
pub const MEMORY: &str = "memory:";

const MAX_KEY_BYTES: usize = 512;

/// Extension and media type of what the store serves inline. Anything else goes out as bytes to download, so that nothing
/// stored can run as a page of this origin.
const MEDIA_TYPES: &[(&str, &str)] = &[
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("bmp", "image/bmp"),
    ("tiff", "image/tiff"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("wav", "audio/wav"),
    ("mp3", "audio/mpeg"),
    ("json", "application/json"),
    ("txt", "text/plain; charset=utf-8"),
];

/// Stored outputs and plugin state, over any `object_store`.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    location: String,
}

impl Storage {
    /// Opens the store; a folder is made when it is missing.
    ///
    /// # Errors
    /// A message that names the location.
    pub fn open(config: &config::Storage) -> Result<Self, String> {
        let location = config.location.clone();
        let store: Arc<dyn ObjectStore> = if location == MEMORY {
            Arc::new(InMemory::new())
        } else {
            std::fs::create_dir_all(&location).map_err(|e| format!("storage.location '{location}': {e}"))?;
            let folder = LocalFileSystem::new_with_prefix(&location);
            let folder = folder.map_err(|e| format!("storage.location '{location}': {e}"))?;
            // What was stored has to outlast a loss of power: jobs are done by it.
            Arc::new(folder.with_fsync(true))
        };
        Ok(Self { store, location })
    }

    /// Its name, without the folders that it lies in.
    pub fn name(&self) -> &str {
        std::path::Path::new(&self.location)
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or(&self.location)
    }

    /// A key that nothing has yet: `PREFIX-UUID.EXT`.
    pub fn new_key(prefix: &str, media_type: &str) -> String {
        format!("{prefix}-{}.{}", Uuid::new_v4().simple(), extension(media_type))
    }

    /// Stores bytes under a key, replacing what was there. They survive a loss of power when this returns.
    ///
    /// # Errors
    /// `InvalidInput` for a bad key, `Unavailable` when the store fails.
    pub async fn put(&self, key: &str, content: Bytes) -> Result<(), Error> {
        let path = parse(key)?;
        self.store.put(&path, PutPayload::from_bytes(content)).await.map_err(|e| failed("write", key, &e))?;
        Ok(())
    }

    /// The same where nothing is stored under the key yet.
    ///
    /// # Errors
    /// `Conflict` where something is.
    pub async fn create(&self, key: &str, content: Bytes) -> Result<(), Error> {
        let path = parse(key)?;
        let created =
            self.store.put_opts(&path, PutPayload::from_bytes(content), PutMode::Create.into()).await;
        match created {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => Err(taken(key)),
            Err(error) => Err(failed("write", key, &error)),
        }
    }

    /// Whether something is stored under a key.
    ///
    /// # Errors
    /// `InvalidInput` for a bad key, `Unavailable` when the store fails.
    pub async fn exists(&self, key: &str) -> Result<bool, Error> {
        match self.store.head(&parse(key)?).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("read", key, &error)),
        }
    }

    /// The bytes of all that belongs to a tenant.
    ///
    /// # Errors
    /// `Unavailable` when the store fails.
    pub async fn bytes_of(&self, tenant: &str) -> Result<u64, Error> {
        let folder = format!("{TENANTS_PREFIX}{tenant}");
        let path = parse(&folder)?;
        let objects = self.store.list(Some(&path));
        let sum = objects.try_fold(0, |sum, object| std::future::ready(Ok(sum + object.size)));
        sum.await.map_err(|e| failed("list", &folder, &e))
    }

    /// Reads what is stored under a key.
    ///
    /// # Errors
    /// `InvalidInput` for a bad key, `NotFound`, or `Unavailable` when the store fails.
    pub async fn get(&self, key: &str) -> Result<Bytes, Error> {
        let path = parse(key)?;
        let found = self.store.get(&path).await.map_err(|e| failed("read", key, &e))?;
        found.bytes().await.map_err(|e| failed("read", key, &e))
    }

    /// The same, into memory that `room` grants for so many bytes before any is read.
    ///
    /// # Errors
    /// Those of [`Storage::get`], and of `room`.
    pub async fn get_into<T>(
        &self,
        key: &str,
        room: impl FnOnce(u64) -> Result<T, Error>,
    ) -> Result<(Bytes, T), Error> {
        let path = parse(key)?;
        let found = self.store.get(&path).await.map_err(|e| failed("read", key, &e))?;
        let granted = room(found.meta.size)?;
        Ok((found.bytes().await.map_err(|e| failed("read", key, &e))?, granted))
    }

    /// The bytes under a key; none where there is nothing.
    ///
    /// # Errors
    /// Those of [`Storage::get`].
    pub async fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.store.head(&parse(key)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read", key, &error)),
        }
    }

    /// Calls `see` with each key and the bytes under it.
    ///
    /// # Errors
    /// Those of [`Storage::get`].
    pub async fn each(&self, mut see: impl FnMut(&str, u64) + Send) -> Result<(), Error> {
        let mut found = self.store.list(None);
        while let Some(object) = found.next().await {
            let object = object.map_err(|e| failed("list", "", &e))?;
            see(object.location.as_ref(), object.size);
        }
        Ok(())
    }

    /// Opens what is stored under a key, to be read piece by piece.
    ///
    /// # Errors
    /// Those of [`Storage::get`].
    pub async fn open_object(&self, key: &str) -> Result<Stored, Error> {
        let path = parse(key)?;
        let found = self.store.get(&path).await.map_err(|e| failed("read", key, &e))?;
        Ok(Stored::new(found))
    }

    /// Deletes what is stored under a key, if anything is, and what a crash has left of it. It stays deleted after a loss of power.
    ///
    /// # Errors
    /// What the store said.
    pub async fn delete(&self, key: &str) -> Result<(), String> {
        let path = parse(key).map_err(|error| error.message)?;
        if self.location != MEMORY {
            // As the store names a file until it is complete.
            for number in 1..=3 {
                let _ = tokio::fs::remove_file(format!("{}/{key}#{number}", self.location)).await;
            }
        }
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        match self.location.as_str() {
            MEMORY => Ok(()),
            location => sync_folder(std::path::Path::new(location).join(key)).await,
        }
    }

    /// Writes, reads and deletes a small object.
    ///
    /// # Errors
    /// What the store said.
    pub async fn check(&self) -> Result<(), Error> {
        let key = format!("{STATE_PREFIX}health/{}", Uuid::new_v4().simple());
        self.put(&key, Bytes::from_static(b"ok")).await?;
        let read = self.get(&key).await;
        self.store.delete(&parse(&key)?).await.map_err(|e| failed("delete", &key, &e))?;
        match read?.as_ref() {
            b"ok" => Ok(()),
            _ => Err(Error::new(ErrorKind::Unavailable, "storage returned other bytes than it was given")),
        }
    }
}

/// Makes what was done to the names beside a file survive a loss of power, which the store does for files alone.
async fn sync_folder(file: std::path::PathBuf) -> Result<(), String> {
    let sync = move || match file.parent() {
        Some(folder) if cfg!(unix) => match std::fs::File::open(folder) {
            Ok(folder) => folder.sync_all(),
            // With the folder, the file is gone too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
        _ => Ok(()),
    };
    let synced = tokio::task::spawn_blocking(sync).await;
    synced.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// The extension that stands for a media type; `bin` when there is none.
pub fn extension(media_type: &str) -> &'static str {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let known = MEDIA_TYPES.iter().find(|(_, m)| m.split(';').next() == Some(essence));
    known.map_or("bin", |(extension, _)| extension)
}

/// The media type that a key's extension stands for; `application/octet-stream` when there is none.
pub fn media_type(key: &str) -> &'static str {
    let extension = key.rsplit_once('.').map_or("", |(_, e)| e);
    let known = MEDIA_TYPES.iter().find(|(e, _)| e.eq_ignore_ascii_case(extension));
    known.map_or("application/octet-stream", |(_, media_type)| media_type)
}

/// Where what a tenant calls `key` lies; without a tenant the key itself.
pub fn key_of(tenant: Option<&str>, key: &str) -> String {
    let Some(tenant) = tenant else { return key.to_owned() };
    let own = format!("{TENANTS_PREFIX}{tenant}/");
    if key.starts_with(&own) { key.to_owned() } else { own + key }
}

/// That something else is stored under a key.
pub fn taken(key: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("something is stored under '{key}' already: take another key"))
}

/// Whether something may be stored under a key.
///
/// # Errors
/// `InvalidInput` with what is accepted.
pub fn check_key(key: &str) -> Result<(), Error> {
    parse(key).map(drop)
}

fn parse(key: &str) -> Result<Path, Error> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    if key.len() > MAX_KEY_BYTES || !key.split('/').all(plain) {
        return Err(Error::invalid(format!(
            "storage key {:?} is not valid: accepted are segments of letters, digits, '-', '_', ':' and '.', not starting with \
             '.', separated by '/', {MAX_KEY_BYTES} bytes at most",
            key.chars().take(80).collect::<String>()
        )));
    }
    Path::parse(key).map_err(|e| Error::invalid(format!("storage key '{key}': {e}")))
}

fn failed(what: &str, key: &str, error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::not_found(format!("nothing is stored under '{key}'")),
        error => {
            tracing::error!(key, %error, "storage: cannot {what}");
            let why = reason(error).map_or_else(String::new, |why| format!(": {why}"));
            Error::new(ErrorKind::Unavailable, format!("storage cannot {what} '{key}'{why}"))
        }
    }
}

/// What the file system said, without the paths that the whole error names.
fn reason(error: &object_store::Error) -> Option<std::io::ErrorKind> {
    let mut error: &dyn std::error::Error = error;
    loop {
        match error.downcast_ref::<std::io::Error>() {
            Some(found) => return Some(found.kind()),
            None => error = error.source()?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_cannot_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let location = dir.path().join("store").display().to_string();
        let storage = Storage::open(&config::Storage { location, max_put_bytes: 1, retry_s: 0.0 }).unwrap();
        for key in [
            "../evil",
            "a/../../evil",
            "/etc/passwd",
            "a//b",
            "",
            ".",
            "a/.hidden",
            "a\\b",
            "%2e%2e/x",
            "a\0b",
        ] {
            let error = storage.put(key, Bytes::from_static(b"x")).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput, "{key}");
        }
        assert!(!dir.path().join("evil").exists());
        storage.put("a/b-1.png", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(storage.get("a/b-1.png").await.unwrap(), "x");
        assert_eq!(storage.get("a/b-2.png").await.unwrap_err().kind, ErrorKind::NotFound);
        storage.put("lcm_image:6ba7b810", Bytes::from_static(b"y")).await.unwrap();
        assert_eq!(storage.get("lcm_image:6ba7b810").await.unwrap(), "y");
        storage.check().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_there_is_not_replaced_and_tenants_are_apart() {
        let dir = tempfile::tempdir().unwrap();
        for location in [MEMORY.to_owned(), dir.path().join("store").display().to_string()] {
            let storage =
                Storage::open(&config::Storage { location, max_put_bytes: 1, retry_s: 0.0 }).unwrap();
            storage.create("a.txt", Bytes::from_static(b"one")).await.unwrap();
            let again = storage.create("a.txt", Bytes::from_static(b"two")).await.unwrap_err();
            assert_eq!(
                (again.kind, storage.get("a.txt").await.unwrap()),
                (ErrorKind::Conflict, "one".into())
            );
            assert!(storage.exists("a.txt").await.unwrap() && !storage.exists("b.txt").await.unwrap());
            for (tenant, bytes) in [("alice", 5), ("bob", 0), ("ali", 0)] {
                if bytes > 0 {
                    storage.put(&key_of(Some(tenant), "x/a.txt"), Bytes::from(vec![0; bytes])).await.unwrap();
                }
                assert_eq!(storage.bytes_of(tenant).await.unwrap(), bytes as u64, "{tenant}");
            }
        }
        assert_eq!(key_of(None, "a"), "a");
        let own = key_of(Some("alice"), "a");
        assert_eq!((own.as_str(), key_of(Some("alice"), &own)), ("keys/alice/a", own.clone()));
        assert_eq!(key_of(Some("bob"), &own), "keys/bob/keys/alice/a");
    }

    #[test]
    fn pages_are_never_served_as_pages() {
        assert_eq!(media_type("x.html"), "application/octet-stream");
        assert_eq!(media_type("x.svg"), "application/octet-stream");
        assert_eq!(media_type("x.PNG"), "image/png");
        assert_eq!(extension("image/jpeg"), "jpg");
        assert_eq!(extension("text/html"), "bin");
    }
}
