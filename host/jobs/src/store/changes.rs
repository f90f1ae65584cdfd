//! What changes in a store.

use super::Record;

/// An output that a job has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key in the storage.
    pub key: String,
    /// The job, by its place.
    pub n: u64,
    /// Which attempt stored it.
    pub attempt: u32,
    pub bytes: u64,
}

#[derive(Debug, Clone)]
pub enum Change {
    /// A job is this now.
    Job(Box<Record>),
    /// Jobs are gone, and these outputs of them are to be deleted.
    Remove { jobs: Vec<u64>, objects: Vec<Object> },
    /// A job is about to store an output.
    Object(Object),
    /// These outputs are to be deleted.
    Doom(Vec<Object>),
    /// These outputs have been deleted.
    Forget(Vec<String>),
    /// Seconds that servers have run on this store.
    Served(f64),
    /// As much as jobs need, to see whether the store has room: where a disk is full, a small change may be made all the same.
    Probe,
    /// What that has left goes.
    Probed,
}
