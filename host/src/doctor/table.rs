//! The examination of a GPU as one table.

use reverie_examine::{
    correctness::{Check, Verdict},
    speed::Speed,
};

use super::Examination;

const HEAD: [&str; 7] = ["operation", "case", "path", "result", "ms", "rate", "share"];

/// One line: a check, the speed of the same case, or both.
struct Row<'a> {
    operation: &'a str,
    case: &'a str,
    path: &'a str,
    check: Option<&'a Check>,
    speed: Option<&'a Speed>,
}

/// What was compiled, what the device can do, and each operation: right or not, and how fast.
pub fn render(examination: &Examination) -> String {
    let mut text = format!("{}\n", examination.device);
    let modules = &examination.modules;
    if !modules.is_empty() {
        let refused = modules.iter().filter(|module| module.error.is_some()).count();
        let spilling = modules.iter().filter(|module| module.local_bytes > 0).count();
        let slowest = modules.iter().max_by(|a, b| a.compile_ms.total_cmp(&b.compile_ms));
        text += &format!(
            "{} kernels compiled, {refused} refused, {spilling} with local memory",
            modules.len() - refused
        );
        if let Some(module) = slowest {
            text +=
                &format!("; the slowest to compile took {:.0} ms ({})", module.compile_ms, module.variant);
        }
        text.push('\n');
    }
    if let Some(ceilings) = &examination.ceilings {
        text += &format!(
            "at best: {:.0} GB/s copied, {:.1} TFLOP/s of fp16 products (share is of these)\n",
            ceilings.copy_gb_s, ceilings.product_tflop_s
        );
    }
    let rows = rows(&examination.checks, &examination.speeds);
    if rows.is_empty() {
        return text;
    }
    text.push('\n');
    let cells: Vec<[String; 7]> = rows.iter().map(Row::cells).collect();
    let mut widths = HEAD.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    line(&mut text, &HEAD.map(str::to_owned), widths);
    for (row, cells) in rows.iter().zip(&cells) {
        line(&mut text, cells, widths);
        for detail in row.detail().lines() {
            text += &format!("    {detail}\n");
        }
    }
    text
}

fn line(text: &mut String, cells: &[String; 7], widths: [usize; 7]) {
    let mut line = String::new();
    for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
        // Numbers stand at the right of their columns.
        line += &if i < 4 { format!("{cell:width$}  ") } else { format!("{cell:>width$}  ") };
    }
    *text += line.trim_end();
    text.push('\n');
}

fn rows<'a>(checks: &'a [Check], speeds: &'a [Speed]) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for check in checks {
        let Check { operation, case, path, .. } = check;
        rows.push(Row { operation, case, path, check: Some(check), speed: None });
    }
    for speed in speeds {
        let Speed { operation, case, path, .. } = speed;
        let same = |row: &&mut Row<'_>| {
            row.speed.is_none() && (row.operation, row.case, row.path) == (*operation, case.as_str(), *path)
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.speed = Some(speed),
            None => rows.push(Row { operation, case, path, check: None, speed: Some(speed) }),
        }
    }
    rows
}

impl Row<'_> {
    fn cells(&self) -> [String; 7] {
        let result = self.check.map_or(String::new(), |check| match &check.verdict {
            // Where nothing is allowed, values are the same or there are none.
            Verdict::Right if check.allowed == 0.0 => "right".into(),
            Verdict::Right => format!("right ({:.1e} of {:.0e})", check.worst, check.allowed),
            Verdict::Differs(_) => format!("DIFFERS ({:.1e} of {:.0e})", check.worst, check.allowed),
            Verdict::Failed(_) => "FAILED".into(),
            Verdict::Skipped(_) => "skipped".into(),
        });
        let [ms, rate, share] = match self.speed {
            Some(Speed { ms, rate, unit, share, .. }) => {
                [format!("{ms:.3}"), format!("{rate:.1} {unit}"), format!("{:.0} %", share * 100.0)]
            }
            None => [const { String::new() }; 3],
        };
        [self.operation.into(), self.case.into(), self.path.into(), result, ms, rate, share]
    }

    /// What else is to be said, on lines of its own.
    fn detail(&self) -> &str {
        match self.check.map(|check| &check.verdict) {
            Some(Verdict::Differs(text) | Verdict::Failed(text) | Verdict::Skipped(text)) => text,
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use reverie_examine::{modules::Module, speed::Ceilings};

    use super::*;

    #[test]
    fn a_case_has_one_line_with_its_result_and_speed() {
        let check = |operation, path, worst, verdict| Check {
            operation,
            case: "1x64".into(),
            path,
            worst,
            allowed: 2e-3,
            verdict,
        };
        let speed = |operation, case: &str, path| Speed {
            operation,
            case: case.into(),
            path,
            ms: 0.25,
            rate: 312.04,
            unit: "TFLOP/s",
            share: 0.5,
        };
        let module = Module {
            variant: "gemm BM=128".into(),
            entry: "gemm".into(),
            compile_ms: 41.6,
            registers: 96,
            local_bytes: 8,
            shared_bytes: 0,
            threads: 256,
            blocks_per_multiprocessor: 2,
            error: None,
        };
        let examination = Examination {
            device: "a GPU".into(),
            modules: vec![
                module.clone(),
                Module { error: Some("no".into()), compile_ms: 0.0, local_bytes: 0, ..module },
            ],
            checks: vec![
                check("attention", "mma", 3.1e-4, Verdict::Right),
                check("attention", "wgmma", 0.7, Verdict::Differs("7 of 64\nrow 3".into())),
                check("memory", "", 0.0, Verdict::Failed("gone".into())),
                check("linear", "", 0.0, Verdict::Skipped("too large".into())),
            ],
            ceilings: Some(Ceilings { copy_gb_s: 2900.4, product_tflop_s: 661.23 }),
            speeds: vec![speed("attention", "1x64", "wgmma"), speed("linear", "4096x320", "")],
        };
        let expected = "\
a GPU
1 kernels compiled, 1 refused, 1 with local memory; the slowest to compile took 42 ms (gemm BM=128)
at best: 2900 GB/s copied, 661.2 TFLOP/s of fp16 products (share is of these)

operation  case      path   result                     ms           rate  share
attention  1x64      mma    right (3.1e-4 of 2e-3)
attention  1x64      wgmma  DIFFERS (7.0e-1 of 2e-3)  0.250  312.0 TFLOP/s   50 %
    7 of 64
    row 3
memory     1x64             FAILED
    gone
linear     1x64             skipped
    too large
linear     4096x320                                   0.250  312.0 TFLOP/s   50 %
";
        assert_eq!(render(&examination).lines().count(), expected.lines().count());
        for (line, expected) in render(&examination).lines().zip(expected.lines()) {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(line), words(expected));
        }
        // The columns are aligned.
        let text = render(&examination);
        let ends: Vec<usize> = text.lines().filter(|line| line.ends_with('%')).map(str::len).collect();
        assert!(ends.len() == 2 && ends[0] == ends[1], "{text}");
    }
}
