//! What a process that crashed has left: which signal ended it, and which jobs are to be blamed.

use std::{fs, io, path::Path};

use uuid::Uuid;

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    pub signal: i32,
    /// The process that sent the signal; none of a fault of its own.
    pub sent_by: Option<i32>,
    /// Whether the jobs were on the device when one of its threads died, and were not what the thread worked for.
    pub on_device: bool,
    /// Those that are at fault.
    pub jobs: Vec<Uuid>,
}

impl Crash {
    /// The signal's name.
    pub fn signal(&self) -> String {
        match self.signal {
            4 => "SIGILL".into(),
            6 => "SIGABRT".into(),
            7 => "SIGBUS".into(),
            8 => "SIGFPE".into(),
            11 => "SIGSEGV".into(),
            other => format!("signal {other}"),
        }
    }
}

/// The crashes that a file tells of, oldest first; none where there is no file. What was cut off by the end is read as far as it
/// goes.
///
/// # Errors
/// That the file can't be read.
pub fn read(path: &Path) -> io::Result<Vec<Crash>> {
    match fs::read(path) {
        Ok(content) => Ok(parse(&String::from_utf8_lossy(&content))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Lines of a word and what belongs to it: `signal N` begins a crash; `sent PID`, `device` and `job ID` tell of it.
fn parse(text: &str) -> Vec<Crash> {
    let mut crashes: Vec<Crash> = Vec::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let ("signal", Ok(signal)) = (word, rest.parse()) {
            crashes.push(Crash { signal, sent_by: None, on_device: false, jobs: Vec::new() });
        }
        let Some(crash) = crashes.last_mut() else { continue };
        match word {
            "sent" => crash.sent_by = rest.parse().ok(),
            "device" => crash.on_device = true,
            "job" => crash.jobs.extend(Uuid::parse_str(rest)),
            _ => {}
        }
    }
    crashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_or_strange_is_left_out() {
        let [a, b] = [1, 2].map(Uuid::from_u128);
        let text = format!(
            "job {b}\nsignal 11\ndevice\njob {a}\nnoise\nsignal 6\nsent 77\nsignal 7\njob {b}\njob 0000"
        );
        let crash = |signal, sent_by, on_device, jobs| Crash { signal, sent_by, on_device, jobs };
        let all = [
            crash(11, None, true, vec![a]),
            crash(6, Some(77), false, vec![]),
            crash(7, None, false, vec![b]),
        ];
        assert_eq!(parse(&text), all);
        assert_eq!(all[0].signal(), "SIGSEGV");
        for cut in 0..text.len() {
            parse(&text[..cut]);
        }
    }
}
