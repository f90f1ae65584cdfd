//! What is stored under a key, read piece by piece.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{GetResult, GetResultPayload};

/// Bytes that are read from a file at once.
const PIECE: usize = 256 * 1024;

/// A stored object, opened: what is put in its place later does not change it.
pub struct Stored {
    /// Bytes.
    pub size: u64,
    pub created: SystemTime,
    /// Differs from that of any other content that was or will be under the key; in quotes, as HTTP has it.
    pub tag: Option<String>,
    payload: GetResultPayload,
}

impl Stored {
    pub(super) fn new(found: GetResult) -> Self {
        let meta = found.meta;
        Self { size: meta.size, created: meta.last_modified.into(), tag: meta.e_tag, payload: found.payload }
    }

    /// The bytes of a range, which must lie within its size. The stream ends with an error where the store fails.
    pub fn stream(self, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        match self.payload {
            GetResultPayload::File(file, _) => from_file(file, range).boxed(),
            GetResultPayload::Stream(pieces) => {
                let pieces = pieces.map(|piece| piece.map_err(io::Error::other));
                within(pieces.boxed(), range).boxed()
            }
        }
    }
}

fn from_file(file: File, range: Range<u64>) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((file, range), |(mut file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let read = move || {
            let mut piece = vec![0; (range.end - range.start).min(PIECE as u64) as usize];
            file.seek(SeekFrom::Start(range.start))?;
            file.read_exact(&mut piece)?;
            let rest = range.start + piece.len() as u64..range.end;
            Ok(Some((Bytes::from(piece), (file, rest))))
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    })
}

/// The part of a stream that lies within a range.
fn within(
    pieces: BoxStream<'static, io::Result<Bytes>>,
    range: Range<u64>,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((pieces, 0), move |(mut pieces, mut at)| {
        let range = range.clone();
        async move {
            while at < range.end {
                let Some(piece) = pieces.next().await.transpose()? else {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                };
                let (from, to) = (at, at + piece.len() as u64);
                at = to;
                let (from, to) = (range.start.clamp(from, to) - from, range.end.clamp(from, to) - from);
                if from < to {
                    return Ok(Some((piece.slice(from as usize..to as usize), (pieces, at))));
                }
            }
            Ok(None)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, storage::Storage};

    async fn read(stored: Stored, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut pieces = stored.stream(range);
        while let Some(piece) = pieces.next().await {
            content.extend_from_slice(&piece?);
        }
        Ok(content)
    }

    #[tokio::test]
    async fn ranges_are_read_from_every_store() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..PIECE as u32 * 3 + 5).map(|i| (i % 251) as u8).collect();
        for location in [dir.path().display().to_string(), crate::storage::MEMORY.to_owned()] {
            let storage =
                Storage::open(&config::Storage { location, max_put_bytes: 1, retry_s: 0.0 }).unwrap();
            storage.put("a", content.clone().into()).await.unwrap();
            let size = content.len() as u64;
            for range in [0..size, 0..1, size - 1..size, PIECE as u64 - 1..PIECE as u64 * 2 + 1, 7..7] {
                let stored = storage.open_object("a").await.unwrap();
                assert_eq!(stored.size, size);
                let part = &content[range.start as usize..range.end as usize];
                assert!(read(stored, range.clone()).await.unwrap() == part, "{range:?}");
            }
            let (before, tag) =
                (storage.open_object("a").await.unwrap(), storage.open_object("a").await.unwrap().tag);
            assert!(tag.is_some() && before.tag == tag);
            storage.put("a", Bytes::from_static(b"another")).await.unwrap();
            assert_ne!(storage.open_object("a").await.unwrap().tag, tag);
            assert!(read(before, 0..size).await.unwrap() == content, "what was opened stays");
        }
        let file = dir.path().join("a");
        let storage =
            config::Storage { location: dir.path().display().to_string(), max_put_bytes: 1, retry_s: 0.0 };
        let stored = Storage::open(&storage).unwrap().open_object("a").await.unwrap();
        File::options().write(true).open(file).unwrap().set_len(3).unwrap();
        let error = read(stored, 0..7).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "a file that became shorter");
    }
}
