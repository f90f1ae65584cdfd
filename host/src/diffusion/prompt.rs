//! How long a prompt may be, and the LoRAs that it names.

use crate::error::Error;

/// Characters of a prompt. The text encoders work through it in chunks of 75 tokens, and the model keeps what comes of each.
const MAX_PROMPT: usize = 20_000;

/// # Errors
/// `InvalidInput` for a prompt that is too long, whichever plugin asks with it.
pub fn check_length(name: &str, prompt: Option<&str>) -> Result<(), Error> {
    let length = prompt.map_or(0, |prompt| prompt.chars().count());
    if length > MAX_PROMPT {
        let error = format!("{name}: {length} characters; accepted are up to {MAX_PROMPT}");
        return Err(Error::invalid(error));
    }
    Ok(())
}

/// A prompt without its `<lora:name:strength>`, as AUTOMATIC1111's web UI reads them, and those; 1 where there is no strength.
///
/// # Errors
/// `InvalidInput` for a strength that is no number.
pub fn loras(prompt: &str) -> Result<(String, Vec<(String, f64)>), Error> {
    const OPEN: &str = "<lora:";
    let (mut plain, mut loras, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some(at) = rest.find(OPEN) {
        let inner = &rest[at + OPEN.len()..];
        let Some(end) = inner.find('>') else { break };
        let mut parts = inner[..end].split(':');
        let name = parts.next().unwrap_or_default().to_owned();
        let strength: Option<f64> = parts.next().map_or(Some(1.0), |strength| strength.trim().parse().ok());
        let strength = strength.filter(|strength| strength.is_finite()).ok_or_else(|| {
            Error::invalid(format!("prompt: '<lora:{}>' has no number for a strength", &inner[..end]))
        })?;
        loras.push((name, strength));
        plain.push_str(&rest[..at]);
        rest = &inner[end + 1..];
    }
    plain.push_str(rest);
    Ok((plain, loras))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_names_loras() {
        let (plain, named) = loras("a <lora:ink-v2:0.5>cat <lora:more> <b").unwrap();
        assert_eq!(plain, "a cat  <b");
        assert_eq!(named, [("ink-v2".to_owned(), 0.5), ("more".to_owned(), 1.0)]);
        assert!(check_length("prompt", Some(&"é".repeat(MAX_PROMPT))).is_ok());
        let error = check_length("prompt", Some(&"é".repeat(MAX_PROMPT + 1))).unwrap_err();
        assert_eq!(error.field(), Some("prompt"));
        assert!(loras("<lora:x:much>").is_err() && loras("<lora:x:inf>").is_err());
    }
}
