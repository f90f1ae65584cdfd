//! Jobs that were never accepted: clients got an id for each, and may ask what became of it.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::Snapshot;

/// How many are kept; a flood of bad requests costs no memory, and no other job its place.
const KEPT: usize = 1000;

/// The last ones that were refused.
#[derive(Default)]
pub struct Refused(VecDeque<Snapshot>);

impl Refused {
    pub fn keep(&mut self, snapshot: Snapshot) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(snapshot);
    }

    pub fn get(&self, id: Uuid) -> Option<Snapshot> {
        self.0.iter().rev().find(|snapshot| snapshot.id == id).cloned()
    }
}
