//! Whatever is cut from, flipped in or taken from a ledger: it opens, says what it could not read, and has every job whose
//! bytes nobody touched. `REVERIE_DAMAGE_CASES` and `REVERIE_DAMAGE_SEED` choose how many cases are tried, and which.

#[path = "damage/case.rs"]
mod case;
mod common;
#[path = "damage/harm.rs"]
mod harm;
#[path = "damage/template.rs"]
mod template;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use case::{Case, Tally};
use common::Random;
use harm::Harm;
use parking_lot::Mutex;
use template::{Template, Which};

const CASES: usize = 1000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn every_job_whose_bytes_are_untouched_is_there() {
    let seed = number("REVERIE_DAMAGE_SEED").unwrap_or_else(rand_seed);
    let cases = number("REVERIE_DAMAGE_CASES").map_or(CASES, |cases| cases as usize);
    println!("REVERIE_DAMAGE_SEED={seed} REVERIE_DAMAGE_CASES={cases}");
    let templates: Vec<Template> = (0..template::SHAPES).map(Template::new).collect();
    let (next, tally, failed) = (AtomicU64::new(0), Mutex::new(Tally::default()), Mutex::new(None));
    let work = || {
        let mut own = Tally::default();
        while failed.lock().is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= cases as u64 {
                break;
            }
            let seed = seed.wrapping_add(number);
            if let Err(why) = one(&templates, seed, &mut own) {
                *failed.lock() = Some(format!("REVERIE_DAMAGE_SEED={seed} REVERIE_DAMAGE_CASES=1: {why}"));
            }
        }
        tally.lock().add(&own);
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some(failed) = failed.into_inner() {
        panic!("{failed}");
    }
    let tally = tally.into_inner();
    println!("{tally:?}");
    // Nothing was tried if all went well everywhere, or nothing did.
    assert!(cases < CASES || tally.lost_jobs > 0 && tally.kept_aside > 0 && tally.recovered_from_damage > 0);
}

/// The case of a seed.
fn one(templates: &[Template], seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut random = Random(seed);
    // The last ones are large, and take long.
    let chosen = [(); 3].map(|()| random.below(templates.len())).into_iter().min().expect("three");
    let case = Case::new(&templates[chosen], &mut random);
    let result = catch_unwind(AssertUnwindSafe(|| case.run(tally)));
    let result = result.unwrap_or_else(|_| Err("it panicked".into()));
    result.map_err(|why| format!("{} {:?}: {why}", case.template.name, case.harm))
}

/// Byte 18 of a file names the version of the format that is needed to write it.
#[test]
fn a_head_that_forbids_writing_is_damage() {
    let one = Template::new(1);
    let both = Template::new(4);
    let others = vec![(18, 4), (79, 2), (18126, 0), (2185, 6)];
    for (template, bits) in
        [(&one, others), (&one, vec![(18, 0)]), (&both, vec![(18, 0)]), (&both, vec![(18, 7)])]
    {
        let case = Case::of(template, vec![Harm::Flip(Which::File, bits)]);
        let result = case.run(&mut Tally::default());
        assert!(result.is_ok(), "{} {:?}: {}", template.name, case.harm, result.unwrap_err());
    }
}

fn rand_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
