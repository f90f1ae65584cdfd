//! Short-lived addresses: a signature of a path and a time stands in `?token=` where the key would else stand, as for a browser's
//! WebSocket or an `<img>`.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;

use crate::token::random;

/// What signatures begin with. No token does.
const PREFIX: &str = "sig.";
/// The longest that a signature lasts, in seconds.
pub const MAX_LIFETIME_S: u64 = 300;

/// Signs with a secret of this process: signatures end with it.
pub struct Signer(hmac::Key);

impl Signer {
    /// # Errors
    /// Where the system gives no randomness.
    pub fn new() -> Result<Self, String> {
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?)))
    }

    /// A signature with which the key that keeps `sha256` of its token reads `path` until `ends`, in unix seconds.
    pub fn sign(&self, sha256: &str, path: &str, ends: u64) -> String {
        let tag = hmac::sign(&self.0, message(sha256, path, ends).as_bytes());
        format!("{PREFIX}{sha256}.{ends}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whether a text has the form of a signature.
    pub fn is_signature(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// The hash of the token of the key that signed, where the signature is one of this path and has not ended. The hash is no
    /// secret: nothing can be done with it.
    pub fn key_of<'a>(&self, signature: &'a str, path: &str, now: u64) -> Option<&'a str> {
        let mut parts = signature.strip_prefix(PREFIX)?.split('.');
        let (sha256, ends, tag) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let ends = ends.parse().ok()?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.0, message(sha256, path, ends).as_bytes(), &tag).ok()?;
        (ends > now && ends - now <= MAX_LIFETIME_S).then_some(sha256)
    }
}

/// The path stands last: it may hold anything.
fn message(sha256: &str, path: &str, ends: u64) -> String {
    format!("{sha256} {ends} {path}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_signature_is_for_its_path_and_time_alone() {
        let signer = Signer::new().unwrap();
        let hash = "a".repeat(64);
        let signature = signer.sign(&hash, "/storage/a.png", 1100);
        assert!(Signer::is_signature(&signature));
        assert_eq!(signer.key_of(&signature, "/storage/a.png", 1000), Some(&*hash));
        assert_eq!(signer.key_of(&signature, "/storage/b.png", 1000), None);
        assert_eq!(signer.key_of(&signature, "/storage/a.png", 1100), None);
        assert_eq!(Signer::new().unwrap().key_of(&signature, "/storage/a.png", 1000), None);
        let long = signer.sign(&hash, "/x", 1000 + MAX_LIFETIME_S + 1);
        assert_eq!(signer.key_of(&long, "/x", 1000), None);
    }

    proptest! {
        #[test]
        fn a_changed_signature_is_none(at in 0usize..120, to in any::<u8>(), cut in 0usize..120) {
            let signer = Signer::new().unwrap();
            let signature = signer.sign(&"b".repeat(64), "/v1/ws", 60);
            let mut bytes = signature.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = to;
            let changed = String::from_utf8_lossy(&bytes).into_owned();
            // Trailing bits of base64 are checked by the decoder: no two texts are the same tag.
            if changed != signature {
                prop_assert_eq!(signer.key_of(&changed, "/v1/ws", 0), None);
            }
            let cut = &signature[..cut.min(signature.len() - 1)];
            prop_assert_eq!(signer.key_of(cut, "/v1/ws", 0), None);
        }
    }
}
