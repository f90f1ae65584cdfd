//! The contents of inputs: each is in the file once, as long as a job needs it.

use std::collections::HashMap;

use super::Record;

/// Which contents are in the file, and which jobs need them.
#[derive(Default)]
pub struct Contents {
    /// By SHA-256.
    pub rows: HashMap<String, i64>,
    /// SHA-256 of a job's inputs, which are not all in the file for certain.
    needed: HashMap<u64, Vec<String>>,
    /// How many jobs need it, by SHA-256.
    users: HashMap<String, usize>,
}

/// SHA-256 of the contents that a job needs, each once.
pub fn needed(record: &Record) -> Vec<String> {
    let mut needed: Vec<String> = record.inputs.iter().map(|input| input.sha256.clone()).collect();
    needed.sort_unstable();
    needed.dedup();
    needed
}

impl Contents {
    /// Takes note of what a job needs.
    pub fn need(&mut self, n: u64, needed: Vec<String>) {
        for sha256 in &needed {
            *self.users.entry(sha256.clone()).or_default() += 1;
        }
        for sha256 in self.needed.remove(&n).unwrap_or_default() {
            match self.users.get_mut(&sha256) {
                Some(users) if *users > 1 => *users -= 1,
                _ => drop(self.users.remove(&sha256)),
            }
        }
        if !needed.is_empty() {
            self.needed.insert(n, needed);
        }
    }

    /// Whether a job in the file needs any.
    pub fn are_needed_by(&self, n: u64) -> bool {
        self.needed.contains_key(&n)
    }

    /// Those that no job needs any more after `changed` jobs need others than before.
    pub fn unneeded(
        &self,
        changed: &HashMap<u64, Vec<String>>,
        added: &[(String, i64)],
    ) -> Vec<(String, i64)> {
        let before = changed.keys().filter_map(|n| self.needed.get(n)).flatten();
        let mut candidates: Vec<&String> = before.chain(added.iter().map(|(sha256, _)| sha256)).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let needs = |list: Option<&Vec<String>>, sha256| list.is_some_and(|list| list.contains(sha256));
        let mut unneeded = Vec::new();
        for sha256 in candidates {
            let leaving = changed.keys().filter(|n| needs(self.needed.get(n), sha256)).count();
            let coming = changed.values().filter(|list| needs(Some(list), sha256)).count();
            let users = self.users.get(sha256).map_or(0, |users| *users);
            let added = || added.iter().find(|(other, _)| other == sha256).map(|(_, row)| *row);
            if users + coming == leaving
                && let Some(row) = self.rows.get(sha256).copied().or_else(added)
            {
                unneeded.push((sha256.clone(), row));
            }
        }
        unneeded
    }

    pub fn take_over(
        &mut self,
        changed: HashMap<u64, Vec<String>>,
        added: Vec<(String, i64)>,
        unneeded: Vec<(String, i64)>,
    ) {
        self.rows.extend(added);
        for (n, needed) in changed {
            self.need(n, needed);
        }
        for (sha256, _) in unneeded {
            self.rows.remove(&sha256);
        }
    }
}
