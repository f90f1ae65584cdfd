//! To whom jobs belong, as one text that the ledger keeps: a client's own id where there are no keys, else the key's owner and
//! that id behind a mark which no client's id can have.

/// What the texts of keys' owners begin with, and of users of foreign APIs: ids of clients have no spaces.
const OF_KEY: &str = "key ";
const OF_API: &str = "api ";

/// Characters of a client's id.
pub const MAX_CLIENT_ID: usize = 128;
/// Of one that nobody guesses: characters, and different ones among them.
const MIN_LENGTH: usize = 16;
const MIN_DIFFERENT: usize = 6;

/// The owner of what the client `client` of the tenant `tenant` makes.
pub fn owner_of(tenant: &str, client: &str) -> String {
    format!("{OF_KEY}{tenant} {client}")
}

/// The tenant of an owner; none of one that had no key.
pub fn tenant_of(owner: &str) -> Option<&str> {
    owner.strip_prefix(OF_KEY)?.split_once(' ').map(|(tenant, _)| tenant)
}

/// The owner of what a user of a foreign API makes who has no key; told apart by `user`.
pub fn api_user(api: &str, user: &str) -> String {
    format!("{OF_API}{api} {user}")
}

/// # Errors
/// With what is accepted.
pub fn check_client_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_CLIENT_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "clientId: accepted are up to {MAX_CLIENT_ID} visible ASCII characters without spaces"
        ));
    }
    Ok(())
}

/// Whether an id is one that others don't find by trying, as it has to be where it alone says whose jobs are shown.
///
/// # Errors
/// With what is accepted.
pub fn check_unguessable(id: &str) -> Result<(), String> {
    let different: std::collections::BTreeSet<u8> = id.bytes().collect();
    if id.len() < MIN_LENGTH || different.len() < MIN_DIFFERENT {
        return Err(format!(
            "clientId: '{}' can be guessed, and whoever knows it would see this client's jobs: accepted are {MIN_LENGTH} \
             characters or more, {MIN_DIFFERENT} different ones among them, such as a random UUID",
            id.chars().take(MIN_LENGTH).collect::<String>()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_owner_says_its_tenant_whatever_the_client_is_called(
            tenant in "[A-Za-z0-9_-]{1,64}", client in "\\PC{0,40}"
        ) {
            let owner = owner_of(&tenant, &client);
            prop_assert_eq!(tenant_of(&owner), Some(&*tenant));
        }

        #[test]
        fn no_client_passes_for_a_key_or_an_api(client in "\\PC{1,40}") {
            if check_client_id(&client).is_ok() {
                prop_assert_eq!(tenant_of(&client), None);
                prop_assert!(!client.starts_with(OF_API));
            }
        }
    }

    #[test]
    fn short_and_monotonous_ids_can_be_guessed() {
        for id in ["me", "sdapi", "0123456789abcde", "aaaaaaaaaaaaaaaaaaaaaaaa", "121212121212121212"] {
            assert!(check_unguessable(id).unwrap_err().contains("can be guessed"), "{id}");
        }
        for id in
            ["6ba7b8109dad11d180b400c04fd430c8", "1w3d8kq0zz9m1a5x", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]
        {
            check_unguessable(id).unwrap();
        }
        for id in ["", "a b", "é", "key x y", "a\n", &"x".repeat(129)] {
            assert!(check_client_id(id).is_err(), "{id}");
        }
    }
}
