//! Who calls: the one place where tokens, cookies and signatures become a [`Caller`].

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::{Mutex, RwLock};

use crate::{
    Caller, Key, Keyring, attempts::Attempts, bucket::Bucket, session::Sessions, signer, signer::Signer,
    token::Token,
};

/// What a request shows of who makes it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Given<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// `token` of the query.
    pub query: Option<&'a str>,
    /// The `Cookie` header.
    pub cookie: Option<&'a str>,
    /// The path that is asked for.
    pub path: &'a str,
    pub address: Option<IpAddr>,
}

/// Why somebody may not call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There are keys, and none was shown.
    NoKey,
    WrongKey,
    /// A key's own token in an address, where it would be written down.
    KeyInAddress,
    /// A signature that has ended, or is of another path.
    WrongSignature,
    TooManyAttempts(Duration),
    /// The key's own limit.
    TooManyRequests {
        name: String,
        limit: u64,
        wait: Duration,
    },
}

impl Refusal {
    /// What was wrong, and what is accepted.
    pub fn message(&self) -> String {
        match self {
            Self::NoKey => {
                "a key is required: 'Authorization: Bearer KEY', the cookie of POST /v1/session, or the \
                            '?token=' of an address that POST /v1/sign made"
                    .into()
            }
            Self::WrongKey => "the key is not known, or was revoked".into(),
            Self::KeyInAddress => {
                "keys are not taken in addresses, which are written down: send 'Authorization: Bearer \
                                   KEY', or have the address signed by POST /v1/sign"
                    .into()
            }
            Self::WrongSignature => "the signature of this address has ended, or is of another one".into(),
            Self::TooManyAttempts(wait) => {
                format!("too many wrong keys from this address: wait {} s", wait.as_secs() + 1)
            }
            Self::TooManyRequests { name, limit, .. } => {
                format!(
                    "key '{name}' makes more than {limit} requests a minute (requests_per_minute of the key)"
                )
            }
        }
    }

    /// How long to wait, where waiting helps.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::TooManyAttempts(wait) | Self::TooManyRequests { wait, .. } => Some(*wait),
            _ => None,
        }
    }
}

/// Keys as they are now, and what is remembered of callers.
pub struct Access {
    keys: RwLock<Arc<Keyring>>,
    /// Once there were keys, calls need one: that the last was taken away opens nothing.
    keyed: AtomicBool,
    attempts: Attempts,
    sessions: Sessions,
    signer: Signer,
    /// By the hash of the key's token.
    rates: Mutex<HashMap<String, Bucket>>,
}

impl Access {
    /// # Errors
    /// Where the system gives no randomness.
    pub fn new(keys: Keyring) -> Result<Self, String> {
        Ok(Self {
            keyed: AtomicBool::new(!keys.is_empty()),
            keys: RwLock::new(Arc::new(keys)),
            attempts: Attempts::default(),
            sessions: Sessions::default(),
            signer: Signer::new()?,
            rates: Mutex::default(),
        })
    }

    /// Puts other keys in place of those that there were.
    pub fn replace(&self, keys: Keyring) {
        if !keys.is_empty() {
            self.keyed.store(true, Ordering::Release);
        }
        self.rates.lock().retain(|hash, _| keys.of_hash(hash).is_some());
        *self.keys.write() = Arc::new(keys);
    }

    /// Whether calls need a key.
    pub fn is_keyed(&self) -> bool {
        self.keyed.load(Ordering::Acquire)
    }

    pub fn keys(&self) -> Arc<Keyring> {
        self.keys.read().clone()
    }

    /// Whether who once was let in would be again: the key is there and the same.
    pub fn is_current(&self, caller: &Caller) -> bool {
        match caller.key() {
            Some(key) => self.keys().has(key),
            None => !self.is_keyed(),
        }
    }

    /// Who makes a request; `now` in unix seconds. Where nothing is shown and keys are needed, it is [`Caller::nobody`].
    ///
    /// # Errors
    /// For what is shown and wrong.
    pub fn caller(&self, given: &Given<'_>, now: u64) -> Result<Caller, Refusal> {
        if !self.is_keyed() {
            return Ok(Caller::anyone());
        }
        let keys = self.keys();
        let basic;
        let header = match given.authorization.and_then(|header| header.trim().split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim()),
            Some((scheme, encoded)) if scheme.eq_ignore_ascii_case("basic") => {
                basic = password(encoded.trim());
                basic.as_deref()
            }
            _ => None,
        };
        if let Some(token) = header {
            return self.of_token(&keys, token, given.address).map(Caller::with);
        }
        if let Some(token) = given.query {
            if Signer::is_signature(token) {
                let key = self.signer.key_of(token, given.path, now).and_then(|hash| keys.of_hash(hash));
                return key.cloned().map(Caller::with).ok_or(Refusal::WrongSignature);
            }
            let key = self.of_token(&keys, token, given.address)?;
            if Token::is_generated(token) {
                return Err(Refusal::KeyInAddress);
            }
            return Ok(Caller::with(key));
        }
        let cookie = given.cookie.and_then(Sessions::in_header);
        let session = cookie.and_then(|cookie| self.sessions.key_of(cookie, now));
        match session.and_then(|hash| keys.of_hash(&hash).cloned()) {
            Some(key) => Ok(Caller::with(key)),
            // An old cookie is as good as none.
            None => Ok(Caller::nobody()),
        }
    }

    /// Whoever has sent too many wrong tokens may not try any that could be guessed; a generated one is always looked at, so that
    /// nobody is shut out by a neighbour.
    fn of_token(&self, keys: &Keyring, token: &str, address: Option<IpAddr>) -> Result<Arc<Key>, Refusal> {
        let now = Instant::now();
        let slowed = address.map_or(Ok(()), |address| self.attempts.check(address, now));
        if slowed.is_ok() || Token::is_generated(token) {
            if let Some(key) = keys.of_token(token) {
                return Ok(key.clone());
            }
            if let Some(address) = address {
                self.attempts.failed(address, now);
            }
        }
        Err(slowed.map_or_else(Refusal::TooManyAttempts, |()| Refusal::WrongKey))
    }

    /// Counts a request against the key's limit.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn admit(&self, caller: &Caller) -> Result<(), Refusal> {
        let Some(key) = caller.key() else { return Ok(()) };
        let limit = key.limits.requests_per_minute;
        if limit == 0 {
            return Ok(());
        }
        let (burst, now) = (limit as f64, Instant::now());
        let mut rates = self.rates.lock();
        let bucket = rates.entry(key.sha256.clone()).or_insert_with(|| Bucket::full(burst, now));
        bucket.take(burst, burst / 60.0, now).map_err(|wait| Refusal::TooManyRequests {
            name: key.name.clone(),
            limit,
            wait,
        })
    }

    /// Begins a session; returns the cookie's value. None where the caller has no key.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn begin_session(&self, caller: &Caller, now: u64) -> Result<Option<String>, String> {
        caller.key().map(|key| self.sessions.begin(&key.sha256, now)).transpose()
    }

    /// Ends the session of a `Cookie` header. False where there was none.
    pub fn end_session(&self, header: &str) -> bool {
        Sessions::in_header(header).is_some_and(|cookie| self.sessions.end(cookie))
    }

    /// What `?token=` of a path may be for so many seconds, [`signer::MAX_LIFETIME_S`] at most; and when it ends. None where the
    /// caller has no key.
    pub fn sign(&self, caller: &Caller, path: &str, seconds: u64, now: u64) -> Option<(String, u64)> {
        let ends = now + seconds.min(signer::MAX_LIFETIME_S);
        caller.key().map(|key| (self.signer.sign(&key.sha256, path, ends), ends))
    }
}

/// The password of `Authorization: Basic`, as clients of A1111's API can send a key.
fn password(encoded: &str) -> Option<String> {
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
#[path = "gate/tests.rs"]
mod tests;
