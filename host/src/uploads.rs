//! Files that clients upload for a job: in memory, for some minutes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Instant,
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    config::{self, seconds},
    error::{Error, ErrorKind},
};

/// An uploaded file.
#[derive(Debug, Clone)]
pub struct Upload {
    pub content: Bytes,
    /// The media type that the client declared; `application/octet-stream` when it did not.
    pub media_type: String,
}

/// The uploads of all clients. The bytes in memory, arriving ones included, never exceed `uploads.max_total_bytes`.
pub struct Uploads {
    config: config::Uploads,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: HashMap<Uuid, (Upload, Instant)>,
    bytes: usize,
}

impl Uploads {
    /// Starts the sweep, which ends when the returned value is dropped. Needs a tokio runtime.
    pub fn new(config: config::Uploads) -> Arc<Self> {
        let sweep = seconds(config.sweep_s);
        let uploads = Arc::new(Self { config, state: Mutex::default() });
        let weak: Weak<Self> = Arc::downgrade(&uploads);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(sweep).await;
                let Some(uploads) = weak.upgrade() else { return };
                uploads.sweep();
            }
        });
        uploads
    }

    /// Begins to take in one file.
    pub fn begin(self: &Arc<Self>) -> Incoming {
        Incoming { uploads: self.clone(), content: Vec::new(), reserved: 0 }
    }

    /// Finds an upload by `fileRef:UUID` or a bare UUID.
    ///
    /// # Errors
    /// `NotFound` when it is unknown, malformed or older than `uploads.ttl_s`.
    pub fn resolve(&self, file_ref: &str) -> Result<Upload, Error> {
        let id = file_ref.strip_prefix("fileRef:").unwrap_or(file_ref);
        let found = Uuid::parse_str(id).ok().and_then(|id| {
            let state = self.state.lock().unwrap();
            let (upload, at) = state.files.get(&id)?;
            (at.elapsed() < seconds(self.config.ttl_s)).then(|| upload.clone())
        });
        found.ok_or_else(|| Error::not_found(format!("fileRef '{id}' not found or expired")))
    }

    /// How many files are kept, and the bytes of all, arriving ones included.
    pub fn figures(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.files.len(), state.bytes)
    }

    fn sweep(&self) {
        let ttl = seconds(self.config.ttl_s);
        let mut state = self.state.lock().unwrap();
        let before = state.files.len();
        let mut freed = 0;
        state.files.retain(|_, (upload, at)| {
            let keep = at.elapsed() < ttl;
            freed += if keep { 0 } else { upload.content.len() };
            keep
        });
        state.bytes -= freed;
        if state.files.len() < before {
            tracing::debug!(expired = before - state.files.len(), freed, "uploads swept");
        }
    }
}

/// A file that is arriving. Dropping it unfinished gives its memory back.
pub struct Incoming {
    uploads: Arc<Uploads>,
    content: Vec<u8>,
    reserved: usize,
}

impl Incoming {
    /// Adds bytes.
    ///
    /// # Errors
    /// `TooLarge` over `uploads.max_file_bytes`, `Unavailable` when all uploads together are over
    /// `uploads.max_total_bytes`.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let config = &self.uploads.config;
        if self.content.len() + chunk.len() > config.max_file_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the file is over the limit of {} bytes", config.max_file_bytes),
            ));
        }
        let mut state = self.uploads.state.lock().unwrap();
        if state.bytes + chunk.len() > config.max_total_bytes {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the server's memory for uploads ({} bytes) is full; try again in some minutes",
                    config.max_total_bytes
                ),
            ));
        }
        state.bytes += chunk.len();
        self.reserved += chunk.len();
        drop(state);
        self.content.extend_from_slice(chunk);
        Ok(())
    }

    /// Keeps the file and returns its `fileRef:UUID`.
    ///
    /// # Errors
    /// `BadRequest` when it is empty.
    pub fn finish(mut self, media_type: Option<&str>) -> Result<String, Error> {
        if self.content.is_empty() {
            return Err(Error::new(ErrorKind::BadRequest, "the uploaded file is empty"));
        }
        let id = Uuid::new_v4();
        let upload = Upload {
            content: std::mem::take(&mut self.content).into(),
            media_type: media_type.unwrap_or("application/octet-stream").to_owned(),
        };
        self.reserved = 0;
        self.uploads.state.lock().unwrap().files.insert(id, (upload, Instant::now()));
        Ok(format!("fileRef:{id}"))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.uploads.state.lock().unwrap().bytes -= self.reserved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads(ttl_s: f64) -> Arc<Uploads> {
        Uploads::new(config::Uploads { max_file_bytes: 10, max_total_bytes: 15, ttl_s, sweep_s: 0.05 })
    }

    #[tokio::test]
    async fn the_prefix_is_optional() {
        let uploads = uploads(60.0);
        let mut incoming = uploads.begin();
        incoming.push(b"abc").unwrap();
        let file_ref = incoming.finish(Some("image/png")).unwrap();
        assert_eq!(uploads.resolve(&file_ref).unwrap().content, "abc");
        assert_eq!(
            uploads.resolve(file_ref.strip_prefix("fileRef:").unwrap()).unwrap().media_type,
            "image/png"
        );
        assert_eq!(
            uploads.resolve("fileRef:nope").unwrap_err().message,
            "fileRef 'nope' not found or expired"
        );
    }

    #[tokio::test]
    async fn memory_is_bounded_and_given_back() {
        let uploads = uploads(60.0);
        let mut first = uploads.begin();
        first.push(&[1; 9]).unwrap();
        assert_eq!(first.push(&[1; 2]).unwrap_err().kind, ErrorKind::TooLarge);
        let mut second = uploads.begin();
        assert_eq!(second.push(&[1; 7]).unwrap_err().kind, ErrorKind::Unavailable);
        drop(first);
        second.push(&[1; 7]).unwrap();
        assert_eq!(uploads.begin().finish(None).unwrap_err().kind, ErrorKind::BadRequest);
        drop(second);
        assert_eq!(uploads.figures(), (0, 0));
    }

    #[tokio::test]
    async fn files_expire_and_are_swept() {
        let uploads = uploads(0.1);
        let mut incoming = uploads.begin();
        incoming.push(b"abc").unwrap();
        let file_ref = incoming.finish(None).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(uploads.resolve(&file_ref).unwrap_err().message.ends_with("not found or expired"));
        assert_eq!(uploads.figures(), (0, 0));
    }
}
