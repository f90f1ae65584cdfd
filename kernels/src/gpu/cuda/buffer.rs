//! Memory of the device, and the lanes that use it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Lane, Memory, allocator, graph::Private};
use crate::error::Result;

pub type Block = allocator::Block<Memory>;

/// Where a buffer's memory goes.
pub enum Home {
    /// To whatever its lane needs next.
    Lane(Arc<Lane>),
    /// To the graph that writes it at every replay.
    Graph(Arc<Private>),
}

pub struct Held {
    pub home: Home,
    /// Taken when it is dropped.
    block: Option<Block>,
    /// What was asked for.
    bytes: usize,
    /// Lanes other than its own that ever used it.
    guests: Mutex<Vec<Arc<Lane>>>,
}

impl Held {
    pub fn lane(&self) -> &Arc<Lane> {
        match &self.home {
            Home::Lane(lane) => lane,
            Home::Graph(private) => private.lane(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        let guests = std::mem::take(self.guests.get_mut());
        for guest in guests {
            // What uses the block next comes after what the guest did with it. Where neither goes, the device is lost.
            if self.lane().stream.follow(&guest.stream).is_err() {
                let _ = guest.stream.synchronise();
            }
        }
        match &self.home {
            // To its lane.
            Home::Lane(_) => drop(block),
            Home::Graph(private) => private.free(block),
        }
    }
}

/// Memory of a [`Cuda`](super::Cuda), which it keeps alive. Graphs that use it share it.
pub struct CudaBuffer(pub(super) Arc<Held>);

impl CudaBuffer {
    pub(super) fn new(home: Home, block: Block, bytes: usize) -> Self {
        Self(Arc::new(Held { home, block: Some(block), bytes, guests: Mutex::default() }))
    }

    pub(super) fn address(&self) -> u64 {
        self.0.block.as_ref().map_or(0, Block::address)
    }
}

impl Lane {
    /// Refuses transfers past a buffer's end, and buffers of another device.
    pub fn check(&self, buffer: &CudaBuffer, bytes: usize) -> Result<()> {
        let context = &self.gpu.context;
        if !Arc::ptr_eq(&self.gpu, &buffer.0.lane().gpu) {
            return Err(context.error("a buffer of another device".into()));
        }
        if bytes > buffer.0.bytes {
            return Err(context.error(format!("{bytes} bytes, in a buffer of {}", buffer.0.bytes)));
        }
        Ok(())
    }

    /// Has what it launches from now on run after what other lanes launched so far that use these buffers.
    pub fn join<'a>(self: &Arc<Self>, buffers: impl IntoIterator<Item = &'a Arc<Held>>) -> Result<()> {
        let among =
            |lanes: &[Arc<Lane>], lane: &Arc<Lane>| lanes.iter().any(|other| Arc::ptr_eq(other, lane));
        let mut others: Vec<Arc<Lane>> = Vec::new();
        for buffer in buffers {
            let own = buffer.lane();
            let mut guests = buffer.guests.lock();
            if !Arc::ptr_eq(own, self) && !among(&guests, self) {
                guests.push(self.clone());
            }
            for lane in guests.iter().chain([own]) {
                if !Arc::ptr_eq(lane, self) && !among(&others, lane) {
                    others.push(lane.clone());
                }
            }
        }
        others.iter().try_for_each(|other| self.stream.follow(&other.stream))
    }
}
