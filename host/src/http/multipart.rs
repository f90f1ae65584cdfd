//! Multipart forms, read piece by piece. What a form says beside its parts' content is bounded, as nothing of it is asked for.

use std::{
    error::Error as StdError,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use multer::{Field, Multipart, parse_boundary};
use warp::{Filter, Rejection};

use super::error::{of_body, reject};
use crate::error::{Error, ErrorKind};

/// Parts of one form.
const MAX_PARTS: usize = 64;
/// Bytes of a part's name, of its file's name and of its content type.
const MAX_NAME: usize = 256;
const MAX_FILE_NAME: usize = 1024;
const MAX_TYPE: usize = 256;
/// Bytes that may come before something of them can be handed on: of a part's headers, and what has come with them.
const MAX_HEAD: usize = 256 * 1024;

/// A form of any length: who reads it limits what its parts hold.
pub fn form() -> impl Filter<Extract = (FormData,), Error = Rejection> + Clone {
    warp::header::<String>("content-type").and(warp::body::stream()).and_then(
        |content_type: String, body| async move {
            let boundary = parse_boundary(&content_type).map_err(|_| {
                let error = "the header 'content-type' is not valid here: accepted is 'multipart/form-data; boundary=TEXT'";
                reject(Error::new(ErrorKind::BadRequest, error))
            })?;
            Ok::<_, Rejection>(FormData::new(body, boundary))
        },
    )
}

/// A form that is arriving.
pub struct FormData {
    parts: Multipart<'static>,
    count: usize,
    unread: Arc<AtomicUsize>,
}

/// A part that is arriving.
pub struct Part {
    field: Field<'static>,
    unread: Arc<AtomicUsize>,
}

impl FormData {
    fn new<B: Buf, E: StdError + Send + Sync + 'static>(
        body: impl Stream<Item = Result<B, E>> + Send + 'static,
        boundary: String,
    ) -> Self {
        let unread = Arc::new(AtomicUsize::new(0));
        let fed = unread.clone();
        let body = body.map(move |piece| {
            let mut piece = piece?;
            let piece = piece.copy_to_bytes(piece.remaining());
            // A piece itself is bounded by the connection's buffer.
            match fed.fetch_add(piece.len(), Relaxed) {
                before if before > MAX_HEAD => Err(HeadTooLong.into()),
                _ => Ok::<Bytes, Box<dyn StdError + Send + Sync>>(piece),
            }
        });
        Self { parts: Multipart::new(body, boundary), count: 0, unread }
    }

    /// The next part. The one before must have been dropped.
    ///
    /// # Errors
    /// `BadRequest` for a form that is broken or breaks off, `TooLarge` for one that has more parts, or longer headers of
    /// them, than is accepted.
    pub async fn next(&mut self) -> Option<Result<Part, Error>> {
        self.next_part().await.transpose()
    }

    async fn next_part(&mut self) -> Result<Option<Part>, Error> {
        let Some(field) = self.parts.next_field().await.map_err(|error| broken(&error))? else {
            return Ok(None);
        };
        self.unread.store(0, Relaxed);
        self.count += 1;
        if self.count > MAX_PARTS {
            let error = format!("the form has more than {MAX_PARTS} parts");
            return Err(Error::new(ErrorKind::TooLarge, error));
        }
        for (what, length, limit) in [
            ("name", field.name().map_or(0, str::len), MAX_NAME),
            ("file's name", field.file_name().map_or(0, str::len), MAX_FILE_NAME),
            ("content type", field.content_type().map_or(0, |kind| kind.as_ref().len()), MAX_TYPE),
        ] {
            if length > limit {
                let error = format!("the {what} of part {} of the form is over {limit} bytes", self.count);
                return Err(Error::new(ErrorKind::BadRequest, error));
            }
        }
        if field.name().or(field.file_name()).is_none() {
            let error = format!("part {} of the form has no name", self.count);
            return Err(Error::new(ErrorKind::BadRequest, error));
        }
        Ok(Some(Part { field, unread: self.unread.clone() }))
    }
}

impl Part {
    /// Its name; of a part without one its file's.
    pub fn name(&self) -> &str {
        self.field.name().or(self.field.file_name()).unwrap_or_default()
    }

    pub fn content_type(&self) -> Option<&str> {
        self.field.content_type().map(AsRef::as_ref)
    }

    /// The next piece of its content.
    ///
    /// # Errors
    /// `BadRequest` when the form breaks off.
    pub async fn data(&mut self) -> Option<Result<Bytes, Error>> {
        let piece = self.field.next().await?;
        self.unread.store(0, Relaxed);
        Some(piece.map_err(|error| broken(&error)))
    }
}

/// More came than a part's headers may have.
#[derive(Debug)]
struct HeadTooLong;

impl fmt::Display for HeadTooLong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the headers of a part of the form are over {MAX_HEAD} bytes")
    }
}

impl StdError for HeadTooLong {}

fn broken(error: &multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(cause) if cause.is::<HeadTooLong>() => {
            Error::new(ErrorKind::TooLarge, cause.to_string())
        }
        multer::Error::StreamReadFailed(cause) => of_body(cause.as_ref(), "the multipart form broke off"),
        _ => Error::new(ErrorKind::BadRequest, "the multipart form is broken or broke off"),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    /// Reads a form that comes in pieces of 4 KiB; how many bytes its parts held.
    async fn read(content: Vec<u8>) -> Result<Vec<usize>, Error> {
        let pieces: Vec<_> =
            content.chunks(4096).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece))).collect();
        let mut form = FormData::new(paced(pieces), "x".into());
        let mut lengths = Vec::new();
        while let Some(part) = form.next().await {
            let (mut part, mut length) = (part?, 0);
            while let Some(piece) = part.data().await {
                length += piece?.len();
            }
            lengths.push(length);
        }
        Ok(lengths)
    }

    /// As a connection hands them on: one, and then whoever reads has to wait.
    fn paced<T: Send + 'static>(pieces: Vec<T>) -> impl Stream<Item = T> + Send {
        stream::unfold(pieces.into_iter(), |mut pieces| async move {
            tokio::task::yield_now().await;
            Some((pieces.next()?, pieces))
        })
    }

    fn part(head: &str, content: &str) -> String {
        format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    }

    async fn error(content: String) -> (ErrorKind, String) {
        let error = read(content.into_bytes()).await.unwrap_err();
        (error.kind, error.message)
    }

    #[tokio::test]
    async fn content_may_be_long_and_what_names_it_not() {
        let long = "y".repeat(3 << 20);
        let form = part("name=\"a\"", &long) + &part("name=\"b\"; filename=\"c\"", "") + "--x--\r\n";
        assert_eq!(read(form.into_bytes()).await.unwrap(), [3 << 20, 0]);
        for (head, what) in [
            (format!("name=\"{}\"", &long[..300]), "name of part 1"),
            (format!("name=\"a\"; filename=\"{}\"", &long[..2000]), "file's name of part 1"),
            (format!("name=\"a\"\r\nContent-Type: text/{}", &long[..300]), "content type of part 1"),
            ("filename*=x".to_owned(), "part 1 of the form has no name"),
        ] {
            let (kind, message) = error(part(&head, "")).await;
            assert!(kind == ErrorKind::BadRequest && message.contains(what), "{message}");
        }
    }

    #[tokio::test]
    async fn headers_and_parts_are_bounded() {
        let long = "y".repeat(3 << 20);
        // A header without an end, and what is no form at all.
        for form in [part(&format!("name=\"{long}"), ""), long] {
            let (kind, message) = error(form).await;
            assert!(kind == ErrorKind::TooLarge && message.contains("headers of a part"), "{message}");
        }
        let (kind, message) = error(part("name=\"a\"", "").repeat(65)).await;
        assert!(kind == ErrorKind::TooLarge && message.contains("more than 64 parts"), "{message}");
        assert_eq!(error(part("name=\"a\"", "")).await.0, ErrorKind::BadRequest, "it breaks off");
    }
}
