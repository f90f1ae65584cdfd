//! What is held of a budget.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use bytes::Bytes;

use crate::{Budget, Refused, Use};

/// Memory that was granted, until this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    of: Use,
    bytes: usize,
}

impl Held {
    pub(crate) fn new(budget: Arc<Budget>, of: Use, bytes: usize) -> Self {
        Self { budget, of, bytes }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Holds so many bytes more.
    ///
    /// # Errors
    /// When they are not free; what was held before still is.
    pub fn grow(&mut self, more: usize) -> Result<(), Refused> {
        self.budget.take(self.of, more)?;
        self.bytes += more;
        Ok(())
    }

    /// Gives so many bytes back, at most those it has.
    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.budget.give_back(self.of, less);
        self.bytes -= less;
    }

    /// Holds this many bytes from now on.
    ///
    /// # Errors
    /// When what is missing is not free; what was held before still is.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Refused> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.bytes - bytes);
                Ok(())
            }
        }
    }

    /// Holds this many bytes from now on, whatever is free: of what is there already.
    pub fn resize_anyway(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => {
                self.budget.add(self.of, more);
                self.bytes = bytes;
            }
            None => self.shrink(self.bytes - bytes),
        }
    }

    /// These bytes, which hold the memory as long as any part of any copy of them is there.
    pub fn with_bytes(self, content: Vec<u8>) -> Bytes {
        if content.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Content { content, _held: self })
    }

    /// A value, and this memory for as long as it is there.
    pub fn with<T>(self, value: T) -> Kept<T> {
        Kept { value, held: self }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.of, self.bytes);
    }
}

struct Content {
    content: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

/// A value with the memory that it takes.
#[derive(Debug)]
pub struct Kept<T> {
    // In this order: the value goes before its memory is given back.
    value: T,
    pub held: Held,
}

impl<T> Kept<T> {
    /// The value made from this one, in the same memory.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Kept<U> {
        Kept { value: make(self.value), held: self.held }
    }

    /// Both, apart.
    pub fn apart(self) -> (T, Held) {
        (self.value, self.held)
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
