//! JSON as Python writes it.

/// `text` with the `Infinity`, `-Infinity` and `NaN` that Python's `json` module writes, and no parser of JSON takes,
/// replaced: infinities by the largest doubles, NaN by null. Schedulers with `lambda_min_clipped` are saved with one.
pub(super) fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, piece) in outside_and_inside_of_strings(text).enumerate() {
        if i % 2 == 0 {
            let piece = piece.replace("NaN", "null");
            out.push_str(&piece.replace("Infinity", &format!("{:e}", f64::MAX)));
        } else {
            out.push_str(piece);
        }
    }
    out
}

/// Pieces of `text` that lie outside of string literals and inside by turns, the quotes going with the inside.
fn outside_and_inside_of_strings(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    let mut inside = false;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = if inside { end_of_string(rest) } else { rest.find('"').unwrap_or(rest.len()) };
        inside = !inside;
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// Where the string literal that `text` begins with ends, or the end of `text` where it is never closed.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_are_replaced() {
        let text = r#"{"a": -Infinity, "Infinity": "NaN \" Infinity", "b": NaN, "c": [Infinity]}"#;
        let value: serde_json::Value = serde_json::from_str(&without_infinities(text)).unwrap();
        assert_eq!(value["a"].as_f64(), Some(f64::MIN));
        assert_eq!(value["Infinity"], "NaN \" Infinity");
        assert!(value["b"].is_null());
        assert_eq!(value["c"][0].as_f64(), Some(f64::MAX));
    }

    #[test]
    fn an_open_string_is_left_to_the_parser() {
        assert_eq!(without_infinities(r#"{"a": "b\"#), r#"{"a": "b\"#);
    }
}
