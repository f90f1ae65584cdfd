//! The LoRAs that a prompt names.

use crate::error::Error;

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
        assert!(loras("<lora:x:much>").is_err() && loras("<lora:x:inf>").is_err());
    }
}
