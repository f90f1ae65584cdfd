//! Sessions of the page: a random cookie in place of the key.

use std::collections::HashMap;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;

use crate::token::{Token, random};

/// Name of the cookie.
pub const COOKIE: &str = "reverie_session";
/// Seconds that a session lasts.
pub const LIFETIME_S: u64 = 12 * 3600;
/// Sessions of one key; one more ends the oldest.
const MAX_OF_KEY: usize = 64;

/// The sessions of this process, by what is kept of their cookies.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Session>>,
}

struct Session {
    /// The hash of the key's token: a key that gets another token ends its sessions.
    key: String,
    ends: u64,
}

impl Sessions {
    /// Begins a session of a key, `now` in unix seconds; returns the cookie's value.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn begin(&self, key: &str, now: u64) -> Result<String, String> {
        let cookie = BASE64_URL_SAFE_NO_PAD.encode(random::<32>()?);
        let mut open = self.open.lock();
        open.retain(|_, session| session.ends > now);
        let of_key = || open.iter().filter(|(_, session)| session.key == key);
        if of_key().count() >= MAX_OF_KEY
            && let Some(oldest) =
                of_key().min_by_key(|(_, session)| session.ends).map(|(hash, _)| hash.clone())
        {
            open.remove(&oldest);
        }
        open.insert(Token::sha256(&cookie), Session { key: key.to_owned(), ends: now + LIFETIME_S });
        Ok(cookie)
    }

    /// The hash of the token of a cookie's key, while the session lasts.
    pub fn key_of(&self, cookie: &str, now: u64) -> Option<String> {
        let open = self.open.lock();
        open.get(&Token::sha256(cookie))
            .filter(|session| session.ends > now)
            .map(|session| session.key.clone())
    }

    /// Ends a session. False where there was none.
    pub fn end(&self, cookie: &str) -> bool {
        self.open.lock().remove(&Token::sha256(cookie)).is_some()
    }

    /// The session's cookie in a `Cookie` header.
    pub fn in_header(header: &str) -> Option<&str> {
        let mut pairs = header.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.trim())
    }

    /// `Set-Cookie` for a value; an empty one takes the cookie away. `secure`: it only goes over TLS.
    pub fn set_cookie(value: &str, secure: bool) -> String {
        let age = if value.is_empty() { 0 } else { LIFETIME_S };
        let secure = if secure { "; Secure" } else { "" };
        format!("{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_begin_end_and_grow_old() {
        let sessions = Sessions::default();
        let cookie = sessions.begin("k", 1000).unwrap();
        assert_eq!(sessions.key_of(&cookie, 1001).as_deref(), Some("k"));
        assert_eq!(sessions.key_of(&cookie, 1000 + LIFETIME_S), None);
        assert!(sessions.end(&cookie) && !sessions.end(&cookie));
        assert_eq!(sessions.key_of(&cookie, 1001), None);
        let first = sessions.begin("k", 0).unwrap();
        for now in 1..=MAX_OF_KEY as u64 {
            sessions.begin("k", now).unwrap();
        }
        assert_eq!(sessions.key_of(&first, 100), None);
        assert_eq!(sessions.open.lock().len(), MAX_OF_KEY);
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        assert_eq!(Sessions::in_header("a=b; reverie_session=x-_1; c=d"), Some("x-_1"));
        for header in ["", "reverie_session", "xreverie_session=1", "a=reverie_session=1"] {
            assert_eq!(Sessions::in_header(header), None, "{header}");
        }
        let set = Sessions::set_cookie("x", true);
        assert!(set.contains("HttpOnly; SameSite=Strict; Secure") && !set.contains("Max-Age=0"));
        assert!(Sessions::set_cookie("", false).contains("Max-Age=0"));
    }
}
