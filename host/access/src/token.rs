//! Tokens of keys: 256 random bits. Only their SHA-256 is kept, which needs no salt: no table of such tokens can be made.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};

/// What generated tokens begin with, for people and scanners of secrets to know one.
const PREFIX: &str = "rv_";
const BYTES: usize = 32;

/// The secret of a key, as its holder sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new one of 256 random bits.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn random() -> Result<Self, String> {
        Ok(Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random::<BYTES>()?))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// SHA-256 of a token's text, in lower-case hexadecimal: what is kept of it.
    pub fn sha256(text: &str) -> String {
        digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a text has the form of a generated token, which nobody can guess, however often they try.
    pub fn is_generated(text: &str) -> bool {
        let encoded = text.strip_prefix(PREFIX);
        encoded.and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok()).is_some_and(|b| b.len() == BYTES)
    }
}

/// Random bytes.
///
/// # Errors
/// Where the system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no randomness".to_owned())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_random_and_known_by_their_form() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_ne!(one.as_str(), other.as_str());
        assert!(Token::is_generated(one.as_str()) && one.as_str().len() == 46);
        for text in ["", "secret", "rv_", "rv_short", &one.as_str()[3..], &format!("{}A", one.as_str())] {
            assert!(!Token::is_generated(text), "{text}");
        }
        // FIPS 180-4, of "abc".
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Token::sha256("abc"), known);
    }
}
