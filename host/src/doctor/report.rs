//! Findings, and how they are shown.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Devices, Examination, table};

/// The version of the JSON document's shape: it grows when a key is renamed or goes.
const FORMAT: u32 = 1;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, and can be better, or is to be known.
    Note,
    /// Works, but hardly as meant.
    Warning,
    /// Does not work.
    Error,
}

impl Level {
    const ALL: [Self; 4] = [Self::Ok, Self::Note, Self::Warning, Self::Error];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub area: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do about it: none only where all is well.
    pub remedy: Option<String>,
}

/// All that was found.
#[derive(Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub devices: Option<Devices>,
    /// None without a GPU that can be used, and where it was left out.
    pub examination: Option<Examination>,
}

/// Takes the findings of one area.
pub struct Area<'a> {
    name: &'static str,
    findings: &'a mut Vec<Finding>,
}

impl Area<'_> {
    pub fn ok(&mut self, found: impl Into<String>) {
        self.add(Level::Ok, found, None);
    }

    pub fn note(&mut self, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Note, found, Some(remedy.into()));
    }

    pub fn warning(&mut self, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warning, found, Some(remedy.into()));
    }

    pub fn error(&mut self, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Error, found, Some(remedy.into()));
    }

    fn add(&mut self, level: Level, found: impl Into<String>, remedy: Option<String>) {
        self.findings.push(Finding { area: self.name, level, found: found.into(), remedy });
    }
}

impl Report {
    /// An area to report findings to.
    pub fn area(&mut self, name: &'static str) -> Area<'_> {
        Area { name, findings: &mut self.findings }
    }

    /// How many findings are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// The document of `--json`:
    ///
    /// - `format`: the version of this shape; `version`: Reverie's.
    /// - `ok`, `note`, `warning`, `error`: how many findings are of each level.
    /// - `findings`: in order, each with `area`, `level`, `found` and `remedy` (null where the level is `ok`).
    /// - `devices`: [`Devices`], or null where that failed.
    /// - `examination`: [`Examination`], or null where no GPU was examined.
    pub fn to_json(&self) -> Value {
        let mut document = json!({
            "format": FORMAT,
            "version": env!("CARGO_PKG_VERSION"),
            "findings": self.findings,
            "devices": self.devices,
            "examination": self.examination,
        });
        for level in Level::ALL {
            document[level.as_str()] = self.count(level).into();
        }
        document
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut area = "";
        for finding in &self.findings {
            if finding.area != area {
                area = finding.area;
                writeln!(f, "{area}")?;
            }
            writeln!(f, "  {:9}{}", finding.level.as_str(), indented(&finding.found))?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "  {:9}-> {}", "", indented(remedy))?;
            }
        }
        if let Some(examination) = &self.examination {
            write!(f, "\n{}", table::render(examination))?;
        }
        let counts = Level::ALL.map(|level| (self.count(level), level.as_str()));
        let [(ok, _), others @ ..] = counts;
        let others =
            others.map(|(count, name)| format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        writeln!(f, "\n{ok} ok, {}", others.join(", "))
    }
}

/// Further lines stand below the first.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', &format!("\n{:11}", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_under_their_areas_and_are_counted() {
        let mut report = Report::default();
        let mut area = report.area("ledger");
        area.ok("well");
        area.error("line 3\nis torn", "move it");
        report.area("ports").warning("taken", "another one");
        let text = report.to_string();
        let expected = "ledger\n  ok       well\n  error    line 3\n           is torn\n           -> move it\n\
                        ports\n  warning  taken\n           -> another one\n\n1 ok, 0 notes, 1 warning, 1 error\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_document_has_its_keys() {
        let mut report = Report::default();
        report.area("ports").error("taken", "another one");
        let document = report.to_json();
        assert_eq!(document["format"], 1);
        assert_eq!((&document["error"], &document["ok"]), (&json!(1), &json!(0)));
        let finding = json!({"area": "ports", "level": "error", "found": "taken", "remedy": "another one"});
        assert_eq!(document["findings"], json!([finding]));
        assert!(document["devices"].is_null() && document["examination"].is_null());
    }
}
