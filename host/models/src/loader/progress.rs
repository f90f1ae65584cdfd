//! How far the loading of a model is.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{error::Result, weights::Weights};

/// Is told the part of the weights that are there, 0 to 1; where it returns an error, loading ends with that.
pub type Tell<'a> = &'a (dyn Fn(f32) -> Result<()> + Sync);

/// Counts the layers that are there by their weights.
pub struct Progress<'a> {
    total: u64,
    done: AtomicU64,
    tell: Tell<'a>,
}

impl<'a> Progress<'a> {
    /// Of a model that is made of all of these.
    pub(crate) fn new<'w>(all: impl IntoIterator<Item = &'w Weights>, tell: Tell<'a>) -> Self {
        let of = |weights: &Weights| weights.names().map(|name| values(weights, name)).sum::<u64>();
        let total = all.into_iter().map(of).sum::<u64>().max(1);
        Self { total, done: AtomicU64::new(0), tell }
    }

    /// The layer or the tensor `name` is there. Told is every hundredth.
    ///
    /// # Errors
    /// Whoever is told wants no more of it.
    pub(super) fn loaded(&self, weights: &Weights, name: &str) -> Result<()> {
        let parts = [name.to_owned(), format!("{name}.weight"), format!("{name}.bias")];
        let more = parts.iter().map(|name| values(weights, name)).sum::<u64>();
        let before = self.done.fetch_add(more, Ordering::Relaxed);
        let hundredth = |done: u64| (done * 100 / self.total).min(100);
        match hundredth(before + more) {
            now if now > hundredth(before) => (self.tell)(now as f32 / 100.0),
            _ => Ok(()),
        }
    }
}

fn values(weights: &Weights, name: &str) -> u64 {
    weights.shape(name).map_or(0, |shape| shape.iter().product::<usize>() as u64)
}
