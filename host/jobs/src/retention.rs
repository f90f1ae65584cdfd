//! Which jobs that have ended are kept, and which outputs go with those that are not.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use crate::{Config, Object};

/// Seconds for which a job that has ended is kept whatever the numbers say.
const GRACE_S: f64 = 60.0;

/// Jobs that have ended, and the outputs of all.
#[derive(Default)]
pub struct Retention {
    ended: BTreeMap<u64, Ended>,
    /// The jobs of each owner; those without one share a name that no client has.
    by_owner: BTreeMap<String, BTreeSet<u64>>,
    objects: HashMap<u64, Vec<Object>>,
    /// Bytes of the outputs of jobs that have ended.
    bytes: u64,
    /// Bytes that these jobs take in memory.
    weight: usize,
}

struct Ended {
    /// By the store's clock.
    at: f64,
    owner: String,
    weight: usize,
}

impl Retention {
    pub fn ended(&mut self, n: u64, owner: Option<&str>, at: f64, weight: usize) {
        let owner = owner.unwrap_or_default().to_owned();
        self.by_owner.entry(owner.clone()).or_default().insert(n);
        self.weight += weight;
        match self.ended.insert(n, Ended { at, owner, weight }) {
            None => self.bytes += self.bytes_of(n),
            Some(before) => self.weight -= before.weight,
        }
    }

    /// Takes note of an output.
    pub fn stored(&mut self, object: Object) {
        if self.ended.contains_key(&object.n) {
            self.bytes += object.bytes;
        }
        self.objects.entry(object.n).or_default().push(object);
    }

    /// Outputs of a job, to be deleted: those that `delete` chooses.
    pub fn take_objects(&mut self, n: u64, mut delete: impl FnMut(&Object) -> bool) -> Vec<Object> {
        let Some(objects) = self.objects.get_mut(&n) else { return Vec::new() };
        let (gone, kept) = std::mem::take(objects).into_iter().partition(|object| delete(object));
        *objects = kept;
        let gone: Vec<Object> = gone;
        if self.ended.contains_key(&n) {
            self.bytes -= gone.iter().map(|object| object.bytes).sum::<u64>();
        }
        if self.objects[&n].is_empty() {
            self.objects.remove(&n);
        }
        gone
    }

    /// Takes a job that has ended out, with its outputs.
    pub fn remove(&mut self, n: u64) -> Vec<Object> {
        let objects = self.take_objects(n, |_| true);
        if let Some(Ended { owner, weight, .. }) = self.ended.remove(&n) {
            self.weight -= weight;
            let jobs = self.by_owner.get_mut(&owner).expect("of an owner");
            jobs.remove(&n);
            if jobs.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        objects
    }

    /// Takes out the jobs that are over what the configuration keeps: of each owner and of all, by age, by the memory they take, and
    /// by the bytes of their outputs; and returns them with these.
    pub fn excess(&mut self, config: &Config, now: f64) -> (Vec<u64>, Vec<Object>) {
        let mut jobs = Vec::new();
        let mut objects = Vec::new();
        while let Some(n) = self.next_excess(config, now) {
            objects.extend(self.remove(n));
            jobs.push(n);
        }
        (jobs, objects)
    }

    fn next_excess(&self, config: &Config, now: f64) -> Option<u64> {
        let oldest = now - config.keep_finished_hours * 3600.0;
        if let Some((n, _)) = self.ended.iter().find(|(_, ended)| ended.at < oldest) {
            return Some(*n);
        }
        // Whoever waits for a job gets what it made, also where little is kept.
        let settled = |n: &u64| self.ended[n].at <= now - GRACE_S;
        let oldest_of = |jobs: &BTreeSet<u64>| jobs.first().copied().filter(settled);
        let over = |jobs: &&BTreeSet<u64>| jobs.len() > config.keep_finished;
        if let Some(n) = self.by_owner.values().filter(over).find_map(oldest_of) {
            return Some(n);
        }
        if self.ended.len() > config.keep_finished_total {
            let candidates =
                self.by_owner.values().filter_map(|jobs| Some((jobs.len(), Reverse(oldest_of(jobs)?))));
            // Among owners with as many, whose oldest is the oldest of all.
            if let Some((_, Reverse(n))) = candidates.max() {
                return Some(n);
            }
        }
        if config.keep_records_mb > 0
            && self.weight > config.keep_records_mb.saturating_mul(1 << 20)
            && let Some(oldest) = self.ended.keys().next().filter(|n| settled(n))
        {
            return Some(*oldest);
        }
        let limit = config.keep_outputs_mb.saturating_mul(1 << 20);
        if config.keep_outputs_mb > 0 && self.bytes > limit {
            return self.ended.keys().find(|n| settled(n) && self.bytes_of(**n) > 0).copied();
        }
        None
    }

    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values().flatten()
    }

    fn bytes_of(&self, n: u64) -> u64 {
        self.objects.get(&n).map_or(0, |objects| objects.iter().map(|object| object.bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Ended { n: u64, owner: usize, weight: usize },
        Stored { n: u64, bytes: u64 },
        Removed(u64),
        Later(f64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = 0..20u64;
        prop_oneof![
            (n.clone(), 0..3usize, 0..1usize << 20).prop_map(|(n, owner, weight)| Step::Ended {
                n,
                owner,
                weight
            }),
            (n.clone(), 0..1u64 << 20).prop_map(|(n, bytes)| Step::Stored { n, bytes }),
            n.prop_map(Step::Removed),
            (0.0..100.0).prop_map(Step::Later),
        ]
    }

    fn config() -> Config {
        Config {
            default_type: String::new(),
            queue_limit: 1,
            max_params_bytes: 1,
            max_params_values: 1,
            concurrency: 1,
            background_limit: 1,
            background_concurrency: 1,
            max_attempts: 1,
            max_interruptions: 1,
            keep_finished: 4,
            keep_finished_total: 7,
            keep_finished_hours: 0.1,
            keep_records_mb: 2,
            keep_outputs_mb: 2,
            ledger: Default::default(),
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_within_the_limits(steps in proptest::collection::vec(step(), 1..80)) {
            let (config, mut retention, mut now) = (config(), Retention::default(), 0.0);
            for step in steps {
                match step {
                    Step::Ended { n, owner, weight } if !retention.ended.contains_key(&n) => {
                        retention.ended(n, [None, Some("a"), Some("b")][owner], now, weight);
                    }
                    Step::Ended { .. } => {}
                    Step::Stored { n, bytes } => {
                        let key = format!("{n}-{bytes}");
                        retention.stored(Object { key, n, attempt: 1, bytes });
                    }
                    Step::Removed(n) => drop(retention.remove(n)),
                    Step::Later(seconds) => now += seconds,
                }
                let young: Vec<u64> =
                    retention.ended.iter().filter(|(_, job)| job.at > now - GRACE_S).map(|(n, _)| *n).collect();
                let stored = retention.objects().count();
                let (gone, objects) = retention.excess(&config, now);
                // Nothing is forgotten: what went was told, with all that it had stored.
                prop_assert_eq!(retention.objects().count() + objects.len(), stored);
                prop_assert!(gone.iter().all(|n| !retention.ended.contains_key(n) && !young.contains(n)));
                let ended = || retention.ended.iter();
                prop_assert_eq!(retention.weight, ended().map(|(_, job)| job.weight).sum::<usize>());
                prop_assert_eq!(retention.bytes, ended().map(|(n, _)| retention.bytes_of(*n)).sum::<u64>());
                let owned: usize = retention.by_owner.values().map(BTreeSet::len).sum();
                prop_assert_eq!(owned, retention.ended.len());
                // What is over a limit all the same is in its first minute, or takes none of what there is too much of.
                let settled: Vec<u64> = ended().map(|(n, _)| *n).filter(|n| !young.contains(n)).collect();
                prop_assert!(settled.iter().all(|n| retention.ended[n].at >= now - 360.0));
                let first_is_young = |jobs: &BTreeSet<u64>| jobs.first().is_some_and(|n| young.contains(n));
                prop_assert!(retention.ended.len() <= 7 || retention.by_owner.values().all(first_is_young));
                prop_assert!(retention.by_owner.values().all(|jobs| jobs.len() <= 4 || first_is_young(jobs)));
                let first = retention.ended.keys().next();
                prop_assert!(retention.weight <= 2 << 20 || first.is_some_and(|n| young.contains(n)));
                prop_assert!(retention.bytes <= 2 << 20 || settled.iter().all(|n| retention.bytes_of(*n) == 0));
            }
        }
    }
}
