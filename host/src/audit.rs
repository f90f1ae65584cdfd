//! The log of who did what: the target `audit`, a line for each. What callers choose is escaped.

use std::net::IpAddr;

use reverie_access::Caller;

/// Characters of an object that are written down.
const MAX_OBJECT: usize = 200;

/// Writes down that a caller does something to an object.
pub fn done(caller: &Caller, address: Option<IpAddr>, action: &str, object: &str) {
    let (key, address) = (caller.name(), shown(address));
    tracing::info!(target: "audit", key, address, action, object = escaped(object), "done");
}

/// Writes down that somebody may not.
pub fn refused(key: &str, address: Option<IpAddr>, action: &str, object: &str, why: &str) {
    let address = shown(address);
    tracing::warn!(target: "audit", key, address, action, object = escaped(object), why, "refused");
}

fn shown(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "-".into(), |address| address.to_string())
}

/// A text of somebody else's as it may go to a terminal: without control characters, and of bounded length.
pub fn escaped(text: &str) -> String {
    plain(&text.chars().take(MAX_OBJECT).collect::<String>())
}

/// The same of any length. Line breaks and tabs stay readable as escapes.
pub fn plain(text: &str) -> String {
    let odd = |c: char| {
        // Those that turn the direction of what follows make a text look like another.
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    if !text.contains(odd) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if odd(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(plain("a\x1b[2Jb\r\n\tc\u{9b}d"), "a\\u{1b}[2Jb\\r\\n\\tc\\u{9b}d");
        assert_eq!(plain("\u{202e}gnp.exe"), "\\u{202e}gnp.exe");
        assert_eq!(plain("räksmörgås 🦀"), "räksmörgås 🦀");
        assert_eq!(escaped(&"x".repeat(1000)).len(), MAX_OBJECT);
    }
}
