//! Who calls, and what they may see.

use std::sync::Arc;

use crate::{Key, Need, identity};

/// Who makes a request, or has a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// None: there are no keys, or none was needed.
    key: Option<Arc<Key>>,
    /// Whether calls need a key.
    keyed: bool,
}

impl Caller {
    /// Whoever calls where there are no keys.
    pub fn anyone() -> Self {
        Self { key: None, keyed: false }
    }

    /// Whoever calls without a key where there are keys.
    pub fn nobody() -> Self {
        Self { key: None, keyed: true }
    }

    pub fn with(key: Arc<Key>) -> Self {
        Self { key: Some(key), keyed: true }
    }

    pub fn key(&self) -> Option<&Arc<Key>> {
        self.key.as_ref()
    }

    /// Whether calls need a key.
    pub fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// The key's name for the log; `-` without one.
    pub fn name(&self) -> &str {
        self.key.as_ref().map_or("-", |key| &key.name)
    }

    /// Whether it holds an operator's key.
    pub fn is_operator(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.is_operator())
    }

    /// Whose things it makes, where that is told apart: of a key that is no operator's.
    pub fn tenant(&self) -> Option<&str> {
        self.key.as_ref().filter(|key| !key.is_operator()).map(|key| key.tenant())
    }

    /// Whether it may do what needs this.
    pub fn may(&self, need: &Need) -> bool {
        match &self.key {
            Some(key) => need.met_by(&key.scopes),
            None => !self.keyed || *need == Need::Open,
        }
    }

    /// The owner of what it makes under a client's id; that id itself where owners are not told apart by keys.
    pub fn owner(&self, client: Option<&str>) -> Option<String> {
        match self.tenant() {
            Some(tenant) => Some(identity::owner_of(tenant, client.unwrap_or_default())),
            None => client.map(str::to_owned),
        }
    }

    /// Whether it may see and steer what belongs to `owner`, knowing its id: its own, or anything where it is an operator or
    /// there are no keys.
    pub fn sees(&self, owner: Option<&str>) -> bool {
        self.sees_of(owner.and_then(identity::tenant_of))
    }

    /// The same of what belongs to a tenant.
    pub fn sees_of(&self, tenant: Option<&str>) -> bool {
        match self.tenant() {
            Some(own) => tenant == Some(own),
            None => !self.keyed || self.is_operator(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Scope};

    fn key(name: &str, owner: Option<&str>, scopes: &[Scope]) -> Caller {
        let key = Key {
            name: name.into(),
            sha256: name.repeat(64),
            scopes: scopes.to_vec(),
            owner: owner.map(str::to_owned),
            limits: Limits::default(),
        };
        Caller::with(Arc::new(key))
    }

    #[test]
    fn everyone_sees_their_own_and_operators_all() {
        let alice = key("alice", None, &[Scope::Submit]);
        let reader = key("r", Some("alice"), &[Scope::Read]);
        let bob = key("bob", None, &[Scope::Submit, Scope::Read]);
        let operator = key("op", None, &[Scope::Admin]);
        let of_alice = alice.owner(Some("tab-1"));
        let (anonymous, of_operator) = (Some("some-client"), operator.owner(None));
        assert_eq!((of_alice.as_deref(), &of_operator), (Some("key alice tab-1"), &None));
        for (caller, sees) in [
            (&alice, [true, false, false]),
            (&reader, [true, false, false]),
            (&bob, [false, false, false]),
            (&operator, [true, true, true]),
            (&Caller::anyone(), [true, true, true]),
            (&Caller::nobody(), [false, false, false]),
        ] {
            let owners = [of_alice.as_deref(), anonymous, None];
            assert_eq!(owners.map(|owner| caller.sees(owner)), sees, "{caller:?}");
        }
        assert_eq!(Caller::anyone().owner(Some("x")).as_deref(), Some("x"));
    }

    #[test]
    fn without_a_key_all_is_allowed_only_where_there_are_none() {
        assert!(Caller::anyone().may(&Need::Admin) && !Caller::nobody().may(&Need::Read));
        assert!(Caller::nobody().may(&Need::Open));
        let reader = key("r", None, &[Scope::Read]);
        assert!(reader.may(&Need::Read) && !reader.may(&Need::Any));
    }
}
