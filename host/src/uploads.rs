//! Files that clients upload for a job: in memory, for some minutes.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use reverie_crash::vital;
use reverie_memory::{Budget, Buffer, Use};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    config::{self, seconds},
    error::{Error, ErrorKind},
    jobs::{Given, Input},
};

const MAX_MEDIA_TYPE: usize = 255;

/// Bytes that a kept text takes beside its content and key, about.
const TEXT_OVERHEAD: usize = 128;

/// An uploaded file.
#[derive(Debug, Clone)]
pub struct Upload {
    pub content: Bytes,
    /// The media type that the client declared; `application/octet-stream` when it did not.
    pub media_type: String,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
    /// The tenant that it belongs to; none where those are not told apart.
    pub tenant: Option<String>,
}

/// The uploads of all clients. The bytes in memory, arriving ones included, never exceed `uploads.max_total_bytes`.
pub struct Uploads {
    config: config::Uploads,
    memory: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: HashMap<Uuid, (Upload, Instant)>,
    texts: HashMap<String, (Text, Instant)>,
    bytes: usize,
}

/// A text that a client stored under a key of its own, for as long as an upload.
#[derive(Debug, Clone)]
pub struct Text {
    pub content: Bytes,
    pub created: SystemTime,
}

impl Uploads {
    /// Starts the sweep, which ends when the returned value is dropped. Needs a tokio runtime.
    pub fn new(config: config::Uploads, memory: Arc<Budget>) -> Arc<Self> {
        let sweep = seconds(config.sweep_s);
        let uploads = Arc::new(Self { config, memory, state: Mutex::default() });
        let weak: Weak<Self> = Arc::downgrade(&uploads);
        let work = async move {
            loop {
                tokio::time::sleep(sweep).await;
                let Some(uploads) = weak.upgrade() else { return };
                uploads.sweep();
            }
        };
        tokio::spawn(vital::task("sweep of uploads", work));
        uploads
    }

    /// What their memory is taken from.
    pub fn memory(&self) -> &Arc<Budget> {
        &self.memory
    }

    /// Begins to take in one file of a tenant.
    pub fn begin(self: &Arc<Self>, tenant: Option<&str>) -> Incoming {
        let content = Buffer::new(self.memory.nothing(Use::Uploads));
        let tenant = tenant.map(str::to_owned);
        Incoming { uploads: self.clone(), tenant, content, sha256: Sha256::new(), reserved: 0 }
    }

    /// Keeps a text under a key, in place of what was there.
    ///
    /// # Errors
    /// `Unavailable` when all uploads together are over `uploads.max_total_bytes`, or there is no memory for it.
    pub fn keep_text(&self, key: &str, text: String) -> Result<(), Error> {
        let held = self.memory.hold(Use::Uploads, text.capacity() + key.len() + TEXT_OVERHEAD)?;
        let content = held.with_bytes(text.into_bytes());
        let mut state = self.state.lock();
        let size = |key: &str, content: &Bytes| content.len() + key.len() + TEXT_OVERHEAD;
        let before = state.texts.get(key).map_or(0, |(text, _)| size(key, &text.content));
        let bytes = state.bytes - before + size(key, &content);
        if bytes > self.config.max_total_bytes {
            return Err(self.full());
        }
        state.bytes = bytes;
        let text = Text { content, created: SystemTime::now() };
        state.texts.insert(key.to_owned(), (text, Instant::now()));
        Ok(())
    }

    /// The text under a key, unless it is older than `uploads.ttl_s`.
    pub fn text(&self, key: &str) -> Option<Text> {
        let state = self.state.lock();
        let (text, at) = state.texts.get(key)?;
        (at.elapsed() < seconds(self.config.ttl_s)).then(|| text.clone())
    }

    fn full(&self) -> Error {
        let error = format!(
            "the server's memory for uploads ({} bytes) is full; try again in some minutes",
            self.config.max_total_bytes
        );
        Error::new(ErrorKind::Unavailable, error)
    }

    /// Finds an upload by its id, with any number of `fileRef:` in front: clients of the Python server add their own. A tenant
    /// finds its own alone.
    ///
    /// # Errors
    /// `NotFound` when it is unknown, malformed, another tenant's or older than `uploads.ttl_s`.
    pub fn resolve(&self, file_ref: &str, tenant: Option<&str>) -> Result<Upload, Error> {
        let found = id_of(file_ref).and_then(|id| {
            let state = self.state.lock();
            let (upload, at) = state.files.get(&id)?;
            let own = tenant.is_none() || upload.tenant.as_deref() == tenant;
            (own && at.elapsed() < seconds(self.config.ttl_s)).then(|| upload.clone())
        });
        found.ok_or_else(|| missing(file_ref))
    }

    /// The uploads that a job's parameters or a message of a tenant name, at whatever place: they are stored with the job.
    pub fn given(&self, parameters: &Value, tenant: Option<&str>) -> Vec<Given> {
        let mut given: Vec<Given> = Vec::new();
        let mut left = vec![parameters];
        while let Some(value) = left.pop() {
            match value {
                Value::String(text) => {
                    let Some(upload) = id_of(text).filter(|id| given.iter().all(|g| g.input.upload != *id))
                    else {
                        continue;
                    };
                    if let Ok(Upload { content, media_type, sha256, .. }) = self.resolve(text, tenant) {
                        given.push(Given { input: Input { upload, media_type, sha256 }, content });
                    }
                }
                Value::Array(values) => left.extend(values),
                Value::Object(fields) => left.extend(fields.values()),
                _ => {}
            }
        }
        given
    }

    /// Drops an upload.
    pub fn forget(&self, file_ref: &str) {
        let Ok(id) = Uuid::parse_str(file_ref) else { return };
        let mut state = self.state.lock();
        if let Some((upload, _)) = state.files.remove(&id) {
            state.bytes -= upload.content.len();
        }
    }

    /// How many files are kept, and the bytes of all, arriving ones included.
    pub fn figures(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.files.len(), state.bytes)
    }

    fn sweep(&self) {
        let ttl = seconds(self.config.ttl_s);
        let mut state = self.state.lock();
        let before = state.files.len();
        let mut freed = 0;
        state.files.retain(|_, (upload, at)| {
            let keep = at.elapsed() < ttl;
            freed += if keep { 0 } else { upload.content.len() };
            keep
        });
        state.texts.retain(|key, (text, at)| {
            let keep = at.elapsed() < ttl;
            freed += if keep { 0 } else { text.content.len() + key.len() + TEXT_OVERHEAD };
            keep
        });
        state.bytes -= freed;
        if state.files.len() < before {
            tracing::debug!(expired = before - state.files.len(), freed, "uploads swept");
        }
    }
}

/// The id that a `fileRef` says, with any number of `fileRef:` in front.
pub fn id_of(file_ref: &str) -> Option<Uuid> {
    Uuid::parse_str(file_ref.trim_start_matches("fileRef:")).ok()
}

/// What is said of one that is not there.
pub fn missing(file_ref: &str) -> Error {
    let id: String = file_ref.trim_start_matches("fileRef:").chars().take(80).collect();
    Error::not_found(format!("fileRef '{id}' not found or expired"))
}

/// A file that is arriving. Dropping it unfinished gives its memory back.
pub struct Incoming {
    uploads: Arc<Uploads>,
    tenant: Option<String>,
    content: Buffer,
    sha256: Sha256,
    reserved: usize,
}

impl Incoming {
    /// Adds bytes.
    ///
    /// # Errors
    /// `TooLarge` over `uploads.max_file_bytes`, `Unavailable` when all uploads together are over
    /// `uploads.max_total_bytes`, or there is no memory for it.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let config = &self.uploads.config;
        if self.content.len() + chunk.len() > config.max_file_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the file is over the limit of {} bytes", config.max_file_bytes),
            ));
        }
        let mut state = self.uploads.state.lock();
        if state.bytes + chunk.len() > config.max_total_bytes {
            return Err(self.uploads.full());
        }
        state.bytes += chunk.len();
        self.reserved += chunk.len();
        drop(state);
        self.content.push(chunk)?;
        self.sha256.update(chunk);
        Ok(())
    }

    /// Keeps the file and returns its id, 32 hexadecimal digits.
    ///
    /// # Errors
    /// `BadRequest` when it is empty, or its type too long.
    pub fn finish(mut self, media_type: Option<&str>) -> Result<String, Error> {
        if self.content.is_empty() {
            return Err(Error::new(ErrorKind::BadRequest, "the uploaded file is empty"));
        }
        let media_type = media_type.unwrap_or("application/octet-stream");
        if media_type.len() > MAX_MEDIA_TYPE {
            let error = format!("the file's Content-Type is over {MAX_MEDIA_TYPE} bytes");
            return Err(Error::new(ErrorKind::BadRequest, error));
        }
        let id = Uuid::new_v4();
        let nothing = Buffer::new(self.uploads.memory.nothing(Use::Uploads));
        let upload = Upload {
            content: std::mem::replace(&mut self.content, nothing).into_bytes(),
            media_type: media_type.to_owned(),
            sha256: std::mem::take(&mut self.sha256).finalize().iter().map(|b| format!("{b:02x}")).collect(),
            tenant: self.tenant.take(),
        };
        self.reserved = 0;
        self.uploads.state.lock().files.insert(id, (upload, Instant::now()));
        Ok(id.simple().to_string())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.uploads.state.lock().bytes -= self.reserved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads(ttl_s: f64) -> Arc<Uploads> {
        let config = config::Uploads { max_file_bytes: 10, max_total_bytes: 15, ttl_s, sweep_s: 0.05 };
        Uploads::new(config, Budget::unlimited())
    }

    #[tokio::test]
    async fn any_number_of_prefixes_is_taken() {
        let uploads = uploads(60.0);
        let mut incoming = uploads.begin(None);
        incoming.push(b"abc").unwrap();
        let id = incoming.finish(Some("image/png")).unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        for prefixes in 0..4 {
            let found = uploads.resolve(&format!("{}{id}", "fileRef:".repeat(prefixes)), None).unwrap();
            assert_eq!((&*found.content, &*found.media_type), (&b"abc"[..], "image/png"));
        }
        assert_eq!(
            uploads.resolve("fileRef:nope", None).unwrap_err().message,
            "fileRef 'nope' not found or expired"
        );
    }

    #[tokio::test]
    async fn a_tenant_finds_its_own_alone() {
        let uploads = uploads(60.0);
        let mut incoming = uploads.begin(Some("alice"));
        incoming.push(b"abc").unwrap();
        let id = incoming.finish(None).unwrap();
        for (tenant, found) in [(Some("alice"), true), (Some("bob"), false), (None, true)] {
            assert_eq!(uploads.resolve(&id, tenant).is_ok(), found, "{tenant:?}");
            let named = serde_json::json!({"a": [format!("fileRef:{id}")]});
            assert_eq!(uploads.given(&named, tenant).len(), usize::from(found), "{tenant:?}");
        }
    }

    #[tokio::test]
    async fn texts_are_replaced_and_expire() {
        let config = config::Uploads { max_file_bytes: 10, max_total_bytes: 400, ttl_s: 0.1, sweep_s: 0.05 };
        let uploads = Uploads::new(config, Budget::unlimited());
        for content in ["a text", "another"] {
            uploads.keep_text("key", content.to_owned()).unwrap();
            assert_eq!(uploads.text("key").unwrap().content, content);
        }
        assert_eq!(uploads.figures().1, "another".len() + "key".len() + TEXT_OVERHEAD);
        let error = uploads.keep_text("large", "x".repeat(400)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(uploads.text("key").is_none() && uploads.figures().1 == 0);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_given_back() {
        let uploads = uploads(60.0);
        let mut first = uploads.begin(None);
        first.push(&[1; 9]).unwrap();
        assert_eq!(first.push(&[1; 2]).unwrap_err().kind, ErrorKind::TooLarge);
        let mut second = uploads.begin(None);
        assert_eq!(second.push(&[1; 7]).unwrap_err().kind, ErrorKind::Unavailable);
        drop(first);
        second.push(&[1; 7]).unwrap();
        assert_eq!(uploads.begin(None).finish(None).unwrap_err().kind, ErrorKind::BadRequest);
        drop(second);
        assert_eq!(uploads.figures(), (0, 0));
        assert_eq!(uploads.memory().used(), 0);
    }

    #[tokio::test]
    async fn the_budget_has_uploads_until_nobody_reads_them() {
        let budget = Budget::new(4096);
        let config =
            config::Uploads { max_file_bytes: 5000, max_total_bytes: 9000, ttl_s: 60.0, sweep_s: 60.0 };
        let uploads = Uploads::new(config, budget.clone());
        let mut incoming = uploads.begin(None);
        incoming.push(&[1; 2000]).unwrap();
        let file_ref = incoming.finish(None).unwrap();
        assert_eq!(budget.used_for(Use::Uploads), 2000);
        let error = uploads.begin(None).push(&[1; 2000]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.message.contains("server.memory_mb"), "{}", error.message);
        assert_eq!(uploads.begin(None).push(&[1; 4000]).unwrap_err().kind, ErrorKind::TooLarge);
        assert_eq!(uploads.figures(), (1, 2000));
        let read = uploads.resolve(&file_ref, None).unwrap();
        uploads.forget(&file_ref);
        assert_eq!(budget.used(), 2000);
        drop(read);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn files_expire_and_are_swept() {
        let uploads = uploads(0.1);
        let mut incoming = uploads.begin(None);
        incoming.push(b"abc").unwrap();
        let file_ref = incoming.finish(None).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(uploads.resolve(&file_ref, None).unwrap_err().message.ends_with("not found or expired"));
        assert_eq!(uploads.figures(), (0, 0));
    }
}
