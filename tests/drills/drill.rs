//! What each drill has: a seed, a time, and a last line that says what was seen.

use std::{
    fmt::Display,
    io::Write as _,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// One run of a drill.
pub struct Drill {
    name: &'static str,
    pub dice: Dice,
    began: Instant,
    lasts: Duration,
    /// What must not be, each a sentence.
    faults: Vec<String>,
}

impl Drill {
    /// One that lasts so many seconds, or as many as the variable `REVERIE_DRILL_SECONDS` says; with the seed that
    /// `REVERIE_DRILL_SEED` says, else a new one.
    pub fn begin(name: &'static str, seconds: u64) -> Self {
        let given = |name: &str| std::env::var(name).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        let seed = given("REVERIE_DRILL_SEED").unwrap_or_else(|| now() % 1_000_000);
        let lasts = Duration::from_secs(given("REVERIE_DRILL_SECONDS").unwrap_or(seconds));
        let drill = Self { name, dice: Dice::new(seed), began: Instant::now(), lasts, faults: Vec::new() };
        drill.say(format_args!("seed {seed} (REVERIE_DRILL_SEED), {} s", lasts.as_secs()));
        drill
    }

    /// Whether its time is not over.
    pub fn goes_on(&self) -> bool {
        self.began.elapsed() < self.lasts
    }

    /// Tells whoever watches; not by `println!`, which is shown for drills that fail only.
    pub fn say(&self, what: impl Display) {
        let _ = writeln!(std::io::stderr(), "{}: {what}", self.name);
    }

    pub fn fault(&mut self, what: String) {
        self.say(format_args!("FAULT: {what}"));
        self.faults.push(what);
    }

    pub fn faults(&mut self, what: Vec<String>) {
        for what in what {
            self.fault(what);
        }
    }

    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fault(what());
        }
    }

    /// The last line; fails where there were faults.
    pub fn end(self, summary: impl Display) {
        let seconds = self.began.elapsed().as_secs_f64();
        let faults = self.faults.len();
        self.say(format_args!("{summary}; {faults} fault(s) in {seconds:.0} s"));
        assert!(self.faults.is_empty(), "{}: {:#?}", self.name, self.faults);
    }
}

/// Random numbers that a seed repeats (SplitMix64). What the threads of a server and its clients make of them it does not.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Asks until it holds, at most so long; whether it came to hold.
pub fn becomes(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}
