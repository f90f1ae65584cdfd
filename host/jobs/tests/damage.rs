//! Whatever is cut from, flipped in or taken from a ledger: it opens, says what it could not read, and has every job whose
//! bytes nobody touched. `REVERIE_DAMAGE_CASES` and `REVERIE_DAMAGE_SEED` choose how many cases are tried, and which.

#[path = "damage/case.rs"]
mod case;
mod common;
#[path = "damage/harm.rs"]
mod harm;
#[path = "damage/template.rs"]
mod template;

use std::panic::{AssertUnwindSafe, catch_unwind};

use case::{Case, Tally};
use common::Random;
use harm::Harm;
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
    let mut tally = Tally::default();
    for number in 0..cases as u64 {
        let seed = seed.wrapping_add(number);
        let mut random = Random(seed);
        // The last ones are large.
        let template = &templates[random.below(templates.len()).min(random.below(templates.len()))];
        let case = Case::new(template, &mut random);
        let result = catch_unwind(AssertUnwindSafe(|| case.run(&mut tally)));
        let failed = match result {
            Ok(Ok(())) => continue,
            Ok(Err(why)) => why,
            Err(_) => "it panicked".into(),
        };
        panic!(
            "REVERIE_DAMAGE_SEED={seed} REVERIE_DAMAGE_CASES=1: {} {:?}: {failed}",
            template.name, case.harm
        );
    }
    println!("{tally:?}");
    // Nothing was tried if all went well everywhere, or nothing did.
    assert!(cases < CASES || tally.lost_jobs > 0 && tally.kept_aside > 0 && tally.recovered_from_damage > 0);
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
