//! Bytes that arrive piece by piece.

use bytes::Bytes;

use crate::{Held, Kept, Refused};

/// The least that is asked for.
const FIRST: usize = 1024;

/// Bytes that arrive piece by piece. Memory for them is asked for before it is allocated.
#[derive(Debug)]
pub struct Buffer {
    content: Vec<u8>,
    held: Held,
}

impl Buffer {
    /// An empty one, which adds to what `held` has.
    pub fn new(held: Held) -> Self {
        Self { content: Vec::new(), held }
    }

    pub fn len(&self) -> usize {
        self.content.len()
    }

    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// When there is no memory for it; what was there before still is.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Refused> {
        let capacity = self.content.capacity();
        let needed = self.content.len() + piece.len();
        if needed > capacity {
            let ample = needed.max(capacity.saturating_mul(2)).max(FIRST);
            let granted = match self.held.grow(ample - capacity) {
                Ok(()) => ample,
                // With little left, no more than what it takes.
                Err(_) => self.held.grow(needed - capacity).map(|()| needed)?,
            };
            self.content.reserve_exact(granted - self.content.len());
        }
        self.content.extend_from_slice(piece);
        Ok(())
    }

    /// All of it, in no more memory than it takes.
    pub fn into_kept(mut self) -> Kept<Vec<u8>> {
        let capacity = self.content.capacity();
        self.content.shrink_to_fit();
        self.held.shrink(capacity - self.content.capacity());
        self.held.with(self.content)
    }

    /// The same as [`Bytes`], which hold their memory to the last copy.
    pub fn into_bytes(self) -> Bytes {
        let (content, held) = self.into_kept().apart();
        held.with_bytes(content)
    }
}
