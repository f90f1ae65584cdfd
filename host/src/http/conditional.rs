//! Conditional requests and ranges (RFC 9110), for content that does not change while it is answered.

use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use warp::http::{HeaderMap, HeaderName, header};

/// What of the content is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Whole,
    /// These bytes, which are there.
    Part(Range<u64>),
    /// Nothing: the client has it.
    Nothing,
    /// None of the bytes are there.
    OutOfRange,
}

/// What the headers of a GET ask for, of content of `size` bytes with a strong `tag` that was stored at `modified`. Several
/// ranges at once, and what is no range, are answered with the whole.
pub fn asked(headers: &HeaderMap, size: u64, tag: Option<&str>, modified: SystemTime) -> Asked {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let has = match text(header::IF_NONE_MATCH) {
        Some(tags) => tags.trim() == "*" || tag.is_some_and(|tag| names(tags, tag)),
        None => {
            text(header::IF_MODIFIED_SINCE).and_then(parse_date).is_some_and(|since| whole(modified) <= since)
        }
    };
    if has {
        return Asked::Nothing;
    }
    let unchanged = text(header::IF_RANGE).is_none_or(|validator| match parse_date(validator) {
        // Strong comparison: the very second, and no weak tag.
        Some(date) => whole(modified) == date,
        None => tag == Some(validator.trim()),
    });
    match text(header::RANGE).filter(|_| unchanged).and_then(|range| parse_range(range, size)) {
        None => Asked::Whole,
        Some(range) if range.is_empty() => Asked::OutOfRange,
        Some(range) => Asked::Part(range),
    }
}

/// Whether a list of tags has one, by weak comparison.
fn names(tags: &str, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    tags.split(',').any(|one| opaque(one) == opaque(tag))
}

/// One range of bytes; empty where it lies behind the end.
fn parse_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // More than fits is behind any end.
        true => Some(text.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    let (first, last) = (first.trim(), last.trim());
    match (first.is_empty(), last.is_empty()) {
        (true, _) => Some(size.saturating_sub(number(last)?)..size),
        (false, true) => Some(number(first)?.min(size)..size),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

/// A date as HTTP has it.
pub fn date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

fn parse_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

/// A time without its part of a second, which HTTP's dates have not.
fn whole(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"abc\"";

    fn of(headers: &[(&'static str, &str)]) -> Asked {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        asked(&headers, 100, Some(TAG), UNIX_EPOCH + Duration::from_millis(1_000_000_700))
    }

    fn day(seconds: u64) -> String {
        date(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn ranges() {
        for (range, asked) in [
            ("bytes=0-9", Asked::Part(0..10)),
            ("bytes=90-", Asked::Part(90..100)),
            ("bytes=-5", Asked::Part(95..100)),
            ("bytes=-500", Asked::Part(0..100)),
            ("bytes=99-99999999999999999999999", Asked::Part(99..100)),
            ("bytes=100-", Asked::OutOfRange),
            ("bytes=100-200", Asked::OutOfRange),
            ("bytes=-0", Asked::OutOfRange),
            ("bytes=99999999999999999999999-", Asked::OutOfRange),
            ("bytes=9-0", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("lines=1-2", Asked::Whole),
        ] {
            assert_eq!(of(&[("range", range)]), asked, "{range}");
        }
        assert_eq!(
            super::asked(
                &HeaderMap::from_iter([(header::RANGE, "bytes=0-".parse().unwrap())]),
                0,
                None,
                UNIX_EPOCH
            ),
            Asked::OutOfRange
        );
    }

    #[test]
    fn conditions() {
        for (headers, asked) in [
            (&[("if-none-match", TAG)][..], Asked::Nothing),
            (&[("if-none-match", "\"x\", W/\"abc\"")], Asked::Nothing),
            (&[("if-none-match", "*")], Asked::Nothing),
            (&[("if-none-match", "\"x\"")], Asked::Whole),
            (&[("if-modified-since", &day(1_000_000))], Asked::Nothing),
            (&[("if-modified-since", &day(999_999))], Asked::Whole),
            (&[("if-modified-since", "yesterday")], Asked::Whole),
            // The tag alone counts where both are given.
            (&[("if-none-match", "\"x\""), ("if-modified-since", &day(2_000_000))], Asked::Whole),
            (&[("range", "bytes=0-1"), ("if-range", TAG)], Asked::Part(0..2)),
            (&[("range", "bytes=0-1"), ("if-range", "\"x\"")], Asked::Whole),
            (&[("range", "bytes=0-1"), ("if-range", "W/\"abc\"")], Asked::Whole),
            (&[("range", "bytes=0-1"), ("if-range", &day(1_000_000))], Asked::Part(0..2)),
            (&[("range", "bytes=0-1"), ("if-range", &day(1_000_001))], Asked::Whole),
            (&[("range", "bytes=500-"), ("if-none-match", TAG)], Asked::Nothing),
        ] {
            assert_eq!(of(headers), asked, "{headers:?}");
        }
    }
}
