//! One key: its name, what is kept of its token, its scopes and limits.

use serde::{Deserialize, Serialize};

use crate::{Scope, token::Token};

/// Letters of a name.
const MAX_NAME: usize = 64;

/// A key, as `[[keys]]` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    pub name: String,
    /// SHA-256 of its token, in hexadecimal.
    pub sha256: String,
    pub scopes: Vec<Scope>,
    /// Whose jobs, outputs, uploads and dreams are read and made with it: several keys may share them. Its own name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(flatten)]
    pub limits: Limits,
}

/// What a key may take at most. 0: no limit of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Limits {
    #[serde(skip_serializing_if = "is_zero")]
    pub requests_per_minute: u64,
    /// Jobs running at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub concurrency: u64,
    /// Jobs waiting.
    #[serde(skip_serializing_if = "is_zero")]
    pub queue_share: u64,
    /// Pixels of pictures made within 24 hours.
    #[serde(skip_serializing_if = "is_zero")]
    pub pixels_per_day: u64,
    /// MiB stored.
    #[serde(skip_serializing_if = "is_zero")]
    pub storage_mb: u64,
}

impl Limits {
    /// The lesser of each of two.
    pub fn least(&self, other: &Self) -> Self {
        let lesser = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
        Self {
            requests_per_minute: lesser(self.requests_per_minute, other.requests_per_minute),
            concurrency: lesser(self.concurrency, other.concurrency),
            queue_share: lesser(self.queue_share, other.queue_share),
            pixels_per_day: lesser(self.pixels_per_day, other.pixels_per_day),
            storage_mb: lesser(self.storage_mb, other.storage_mb),
        }
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Key {
    /// A key of the token of `server.auth_token`: an operator's.
    pub fn operator(token: &str) -> Self {
        Self {
            name: "auth_token".into(),
            sha256: Token::sha256(token),
            scopes: vec![Scope::Admin],
            owner: None,
            limits: Limits::default(),
        }
    }

    /// Whether everything is its holder's business.
    pub fn is_operator(&self) -> bool {
        self.scopes.contains(&Scope::Admin)
    }

    /// Whose things are made with it.
    pub fn tenant(&self) -> &str {
        self.owner.as_deref().unwrap_or(&self.name)
    }

    /// Checks what the types can't say.
    ///
    /// # Errors
    /// A message that names the field and what is accepted.
    pub fn check(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        if let Some(owner) = &self.owner {
            check_name("owner", owner)?;
        }
        let at = &self.name;
        let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.sha256.len() != 64 || !self.sha256.bytes().all(hexadecimal) {
            return Err(format!(
                "keys '{at}': sha256 must be 64 hexadecimal digits in lower case, as `reverie key add` writes them"
            ));
        }
        if self.scopes.is_empty() {
            return Err(format!(
                "keys '{at}': scopes must name at least one of submit, read, plugins:TYPE and admin"
            ));
        }
        Ok(())
    }
}

/// Names stand in addresses of outputs, too.
fn check_name(field: &str, name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(format!(
            "keys: {field} '{}' is not valid: accepted are 1 to {MAX_NAME} letters, digits, '-' and '_'",
            name.escape_debug()
        ));
    }
    Ok(())
}
