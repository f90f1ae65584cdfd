//! JSON as clients write it.

use serde_json::Value;

/// Reads a text, and says whether something in it was replaced. Halves of surrogate pairs, which JavaScript and Python write where a text was cut inside of a character, become
/// U+FFFD: JSON's grammar has them, Unicode does not.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8]) -> serde_json::Result<(Value, bool)> {
    match serde_json::from_slice(text) {
        Ok(value) => Ok((value, false)),
        Err(error) => match mended(text) {
            Some(mended) => Ok((serde_json::from_slice(&mended)?, true)),
            None => Err(error),
        },
    }
}

/// Bytes that the value of a text may take, at most about: its texts, places for its values, and for objects and lists what they
/// begin with.
pub fn weight(text: &[u8]) -> usize {
    let of = |byte: &u8| match byte {
        // A leaf of a B-tree, with places for eleven names and values.
        b'{' => 704,
        // A list begins with four places. A value has two, as it may just have grown, or one with a name of its own.
        b'[' | b',' => 128,
        _ => 0,
    };
    text.len() + text.iter().map(of).sum::<usize>()
}

/// The text with each lone half replaced; none where there are none.
fn mended(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = text.to_vec();
    let mut found = false;
    let mut at = 0;
    while at < out.len() {
        if out[at] != b'\\' {
            at += 1;
            continue;
        }
        let Some(unit) = escape(&out, at) else {
            // The character behind a backslash is none itself.
            at += 2;
            continue;
        };
        let low = |unit: u16| (0xdc00..0xe000).contains(&unit);
        let length = match unit {
            0xd800..0xdc00 if escape(&out, at + 6).is_some_and(low) => 12,
            0xd800..0xe000 => {
                out[at + 2..at + 6].copy_from_slice(b"fffd");
                found = true;
                6
            }
            _ => 6,
        };
        at += length;
    }
    found.then_some(out)
}

/// The unit of an escape such as `\u00e9`.
fn escape(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_are_replaced() {
        for (text, expected) in [
            (r#""a \ud83d""#, "a \u{fffd}"),
            (r#""\ude00 b""#, "\u{fffd} b"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\\ud83d \ud83dx""#, "\\ud83d \u{fffd}x"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().0, expected, "{text}");
        }
        for text in [r#""\ud8""#, "{", r#""\"#, r#""\u"#, ""] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
