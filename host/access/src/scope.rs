//! What a key lets its holder do, and what a call needs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a key lets its holder do. Each includes reading what is the key's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Jobs and messages of all types, uploads and storage.
    Submit,
    /// What the key's owner has, and how the server is.
    Read,
    /// Jobs of this type, messages of this type or domain (what stands before the colon), and uploads for them.
    Plugins(String),
    /// Everything, and what is everyone's.
    Admin,
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:.".contains(&b))
        };
        match (&*text, text.strip_prefix("plugins:")) {
            ("submit", _) => Ok(Self::Submit),
            ("read", _) => Ok(Self::Read),
            ("admin", _) => Ok(Self::Admin),
            (_, Some(name)) if plain(name) => Ok(Self::Plugins(name.to_owned())),
            _ => Err(format!("'{text}' is none of submit, read, plugins:TYPE and admin")),
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit => f.write_str("submit"),
            Self::Read => f.write_str("read"),
            Self::Plugins(name) => write!(f, "plugins:{name}"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

/// What a call needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing: no key either.
    Open,
    /// Any scope.
    Read,
    /// To submit something; what it is gets looked at later.
    Any,
    /// To submit jobs, or send messages, of this type.
    Type(String),
    Admin,
}

impl Need {
    /// Whether one of the scopes is enough.
    pub fn met_by(&self, scopes: &[Scope]) -> bool {
        scopes.iter().any(|scope| match (self, scope) {
            (Self::Open, _) | (_, Scope::Admin) => true,
            (Self::Admin, _) => false,
            (Self::Read, _) => true,
            (Self::Any, scope) => *scope != Scope::Read,
            (Self::Type(_), Scope::Submit) => true,
            (Self::Type(_), Scope::Read) => false,
            (Self::Type(kind), Scope::Plugins(name)) => {
                kind == name || kind.split_once(':').is_some_and(|(domain, _)| domain == name)
            }
        }) || *self == Self::Open
    }

    /// The scopes that are enough, in words.
    pub fn accepted(&self) -> String {
        match self {
            Self::Open => "none".into(),
            Self::Read => "any".into(),
            Self::Any => "submit or plugins:TYPE".into(),
            Self::Type(kind) => {
                format!("submit or plugins:{}", kind.split_once(':').map_or(&**kind, |(domain, _)| domain))
            }
            Self::Admin => "admin".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn texts_become_scopes_and_texts_again() {
        for text in ["submit", "read", "admin", "plugins:sr", "plugins:dream:top"] {
            assert_eq!(scope(text).to_string(), text);
        }
        for wrong in ["", "Admin", "plugins", "plugins:", "plugins:a b", "write"] {
            assert!(Scope::try_from(wrong.to_owned()).unwrap_err().contains("plugins:TYPE"), "{wrong}");
        }
    }

    #[test]
    fn each_scope_meets_its_needs_alone() {
        let needs = [
            Need::Open,
            Need::Read,
            Need::Any,
            Need::Type("sr".into()),
            Need::Type("sr:models".into()),
            Need::Admin,
        ];
        for (given, met) in [
            ("read", [true, true, false, false, false, false]),
            ("submit", [true, true, true, true, true, false]),
            ("plugins:sr", [true, true, true, true, true, false]),
            ("plugins:sr:models", [true, true, true, false, true, false]),
            ("plugins:dream", [true, true, true, false, false, false]),
            ("admin", [true; 6]),
        ] {
            let given = [scope(given)];
            assert_eq!(needs.clone().map(|need| need.met_by(&given)), met, "{given:?}");
        }
        assert_eq!(needs.map(|need| need.met_by(&[])), [true, false, false, false, false, false]);
    }
}
