//! Questions whose answers are right or wrong.

use std::io;

use reverie_examine::{
    correctness::{self, Check, Sizes, Verdict},
    probe,
};

use crate::{
    Asked, End,
    questions::{Answer, open, or_end, ways},
    table::Table,
};

/// A table of checks, and what came of them.
struct Checks {
    table: Table,
    sizes: &'static str,
    done: usize,
    wrong: Vec<String>,
    written: io::Result<()>,
}

impl Checks {
    fn new(asked: &Asked, sizes: &'static str) -> io::Result<Self> {
        let columns = ["sizes", "operation", "case", "path", "worst", "allowed", "verdict", "text"];
        let table = Table::open(asked.out.as_deref(), &columns)?;
        Ok(Self { table, sizes, done: 0, wrong: Vec::new(), written: Ok(()) })
    }

    /// What is wrong is said at once, with all that there is to say.
    fn add(&mut self, check: &Check) {
        let (verdict, text) = match &check.verdict {
            Verdict::Right => ("right", ""),
            Verdict::Differs(text) => ("differs", text.as_str()),
            Verdict::Failed(text) => ("failed", text.as_str()),
            Verdict::Skipped(text) => ("skipped", text.as_str()),
        };
        if check.is_wrong() {
            println!("{} {verdict}:\n{text}", check.name());
            self.wrong.push(check.name());
        }
        self.done += 1;
        let first = text.lines().next().unwrap_or_default();
        let row = self.table.row(&[
            self.sizes.to_owned(),
            check.operation.to_owned(),
            check.case.clone(),
            check.path.to_owned(),
            format!("{:.2e}", check.worst),
            format!("{:.2e}", check.allowed),
            verdict.to_owned(),
            first.to_owned(),
        ]);
        if row.is_err() {
            self.written = row;
        }
    }

    fn end(self) -> Answer {
        self.written?;
        if self.wrong.is_empty() {
            println!("{} checks, all right", self.done);
            return Ok(End::Right);
        }
        let shown: Vec<&str> = self.wrong.iter().take(5).map(String::as_str).collect();
        Ok(End::Wrong(format!("{} of {} checks wrong: {}", self.wrong.len(), self.done, shown.join("; "))))
    }
}

/// Every operation, and the device's own duties.
pub fn check(asked: &Asked) -> Answer {
    let mut words = asked.words.iter();
    let (name, sizes) = match words.next().map(String::as_str) {
        Some("small") => ("small", Sizes::Small),
        Some("real") => ("real", Sizes::Real),
        _ => return Err("check small, or check real".into()),
    };
    let filters: Vec<String> = words.cloned().collect();
    let ways = or_end!(ways());
    let mut checks = Checks::new(asked, name)?;
    correctness::operations(&ways[0], ways.get(1), sizes, &filters, &mut |check| checks.add(check));
    if filters.is_empty() {
        correctness::device(&ways[0], &mut |check| checks.add(check));
    }
    checks.end()
}

/// One-hot probes of attention by `wgmma`, at these widths of heads or all.
pub fn probe(asked: &Asked) -> Answer {
    let widths = asked.words.iter().map(|word| word.parse()).collect::<Result<Vec<usize>, _>>()?;
    let cuda = or_end!(open(true));
    let mut checks = Checks::new(asked, "small")?;
    let widths = if widths.is_empty() { &probe::WIDTHS[..] } else { &widths };
    for width in widths {
        probe::at_width(&cuda, *width, &mut |check| checks.add(check));
    }
    checks.end()
}
