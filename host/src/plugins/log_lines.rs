//! What plugins write to the server's log: plain text, and so many lines a minute.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::audit;

/// Characters of a line.
const MAX_CHARS: usize = 4096;

const MINUTE: Duration = Duration::from_secs(60);

/// The lines of each plugin within the last minute.
#[derive(Clone)]
pub struct LogLines {
    lines: Arc<Mutex<HashMap<Arc<str>, Lines>>>,
    minute: Duration,
}

impl Default for LogLines {
    fn default() -> Self {
        Self { lines: Arc::default(), minute: MINUTE }
    }
}

struct Lines {
    since: Instant,
    written: u32,
    dropped: u64,
}

impl LogLines {
    /// Whether a plugin may write a line more, where it may write `limit` a minute (0: any number). The first that is dropped
    /// makes one warning, at the end of the minute, of how many were. Needs a tokio runtime.
    pub fn admit(&self, plugin: &Arc<str>, limit: u32) -> bool {
        if limit == 0 {
            return true;
        }
        let mut all = self.lines.lock();
        let now = Instant::now();
        let lines = all.entry(plugin.clone()).or_insert(Lines { since: now, written: 0, dropped: 0 });
        if lines.dropped == 0 && now - lines.since >= self.minute {
            (lines.since, lines.written) = (now, 0);
        }
        if lines.written < limit {
            lines.written += 1;
            return true;
        }
        lines.dropped += 1;
        if lines.dropped == 1 {
            let left = self.minute.saturating_sub(now - lines.since);
            let (lines, plugin) = (self.clone(), plugin.clone());
            tokio::spawn(async move {
                tokio::time::sleep(left).await;
                let dropped = lines.begin(&plugin);
                tracing::warn!(
                    plugin = &*plugin,
                    "{dropped} lines of the plugin were dropped: it may write {limit} a minute \
                     (plugins.{plugin}.log_lines_per_minute)"
                );
            });
        }
        false
    }

    /// Begins a new minute; how many lines of the old one were dropped.
    fn begin(&self, plugin: &Arc<str>) -> u64 {
        let mut all = self.lines.lock();
        let old = all.insert(plugin.clone(), Lines { since: Instant::now(), written: 0, dropped: 0 });
        old.map_or(0, |lines| lines.dropped)
    }
}

/// A text of a plugin's as one line that shows what is in it: control characters, and those that turn the direction of what
/// follows, are escaped; what is over a line's length is cut.
pub fn plain(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        None => audit::plain(text),
        Some((end, _)) => format!("{}… ({} bytes cut)", audit::plain(&text[..end]), text.len() - end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_plain_and_end() {
        assert_eq!(plain("a\nb\r\x1b[31m\u{202e}ö 🙂"), "a\\nb\\r\\u{1b}[31m\\u{202e}ö 🙂");
        let line = plain(&"é".repeat(MAX_CHARS + 5));
        assert!(line.ends_with("é… (10 bytes cut)") && line.chars().count() < MAX_CHARS + 30, "{line}");
        assert_eq!(plain(&"x".repeat(MAX_CHARS)).len(), MAX_CHARS);
    }

    #[tokio::test]
    async fn a_plugin_writes_so_many_lines_a_minute() {
        let lines = LogLines { minute: Duration::from_millis(300), ..LogLines::default() };
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        let admitted = (0..10).filter(|_| lines.admit(&one, 3)).count();
        assert_eq!(admitted, 3);
        assert!(lines.admit(&other, 3) && (0..100).all(|_| lines.admit(&other, 0)));
        assert_eq!(lines.lines.lock()[&one].dropped, 7);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(lines.lines.lock()[&one].dropped, 0, "told");
        assert!(lines.admit(&one, 3));
    }
}
