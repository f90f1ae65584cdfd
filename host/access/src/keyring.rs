//! The keys that there are at a moment.

use std::{collections::HashMap, sync::Arc};

use crate::{Key, Limits, token::Token};

/// Keys by what is kept of their tokens.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    by_hash: HashMap<String, Arc<Key>>,
    /// Of those that limit something, by whose things they make.
    by_tenant: HashMap<String, Arc<Key>>,
}

impl Keyring {
    /// # Errors
    /// For a bad key, a name that two have, or a token that two have.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Result<Self, String> {
        let mut by_hash: HashMap<String, Arc<Key>> = HashMap::new();
        let mut names = std::collections::HashSet::new();
        for key in keys {
            key.check()?;
            if !names.insert(key.name.clone()) {
                return Err(format!("keys: two are named '{}'", key.name));
            }
            let name = key.name.clone();
            if by_hash.insert(key.sha256.clone(), Arc::new(key)).is_some() {
                return Err(format!("keys: '{name}' has the token of another one"));
            }
        }
        let mut by_tenant: HashMap<String, Arc<Key>> = HashMap::new();
        for key in by_hash.values().filter(|key| !key.is_operator() && key.limits != Limits::default()) {
            let limited = by_tenant.entry(key.tenant().to_owned()).or_insert_with(|| key.clone());
            if limited.name != key.name {
                let mut both = Key::clone(limited);
                both.limits = limited.limits.least(&key.limits);
                *limited = Arc::new(both);
            }
        }
        Ok(Self { by_hash, by_tenant })
    }

    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// The key of a token. Looked up by the token's hash: how long that takes tells nothing of any token.
    pub fn of_token(&self, token: &str) -> Option<&Arc<Key>> {
        self.by_hash.get(&Token::sha256(token))
    }

    /// The key as it is now, where it still is the same: same token, scopes and limits.
    pub fn has(&self, key: &Key) -> bool {
        self.by_hash.get(&key.sha256).is_some_and(|now| **now == *key)
    }

    /// The key that keeps this hash of a token.
    pub fn of_hash(&self, sha256: &str) -> Option<&Arc<Key>> {
        self.by_hash.get(sha256)
    }

    /// A key with the limits of a tenant: of several keys, the least of each. None where nothing is limited.
    pub fn limiting(&self, tenant: &str) -> Option<Arc<Key>> {
        self.by_tenant.get(tenant).cloned()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.by_hash.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    fn key(name: &str, token: &str) -> Key {
        Key {
            name: name.into(),
            sha256: Token::sha256(token),
            scopes: vec![Scope::Read],
            owner: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn a_token_finds_its_key_alone() {
        let ring = Keyring::new([key("a", "x"), key("b", "y")]).unwrap();
        assert_eq!(ring.of_token("x").unwrap().name, "a");
        assert!(ring.of_token("").is_none() && ring.of_token(&Token::sha256("x")).is_none());
        let mut changed = key("a", "x");
        assert!(ring.has(&changed));
        changed.limits.concurrency = 1;
        assert!(!ring.has(&changed));
    }

    #[test]
    fn the_least_limits_of_an_owners_keys_count() {
        let mut one = key("a", "x");
        (one.limits.concurrency, one.limits.queue_share) = (3, 0);
        let mut other = key("b", "y");
        other.owner = Some("a".into());
        (other.limits.concurrency, other.limits.queue_share) = (2, 9);
        let ring = Keyring::new([one, other, key("c", "z")]).unwrap();
        let limits = ring.limiting("a").unwrap().limits.clone();
        assert_eq!((limits.concurrency, limits.queue_share), (2, 9));
        assert!(ring.limiting("c").is_none() && ring.limiting("b").is_none());
    }

    #[test]
    fn bad_keys_are_refused_by_name() {
        let mut no_hash = key("a", "x");
        no_hash.sha256 = "secret".into();
        let mut no_scope = key("a", "x");
        no_scope.scopes.clear();
        let mut bad_owner = key("a", "x");
        bad_owner.owner = Some("a b".into());
        for (keys, said) in [
            (vec![key("a b", "x")], "letters, digits"),
            (vec![key("../x", "x")], "letters, digits"),
            (vec![key("a", "x"), key("a", "y")], "two are named 'a'"),
            (vec![key("a", "x"), key("b", "x")], "the token of another"),
            (vec![no_hash], "64 hexadecimal digits"),
            (vec![no_scope], "at least one of"),
            (vec![bad_owner], "owner"),
        ] {
            let error = Keyring::new(keys).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
