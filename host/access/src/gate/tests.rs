use super::*;
use crate::{Limits, Need, Scope};

const NOW: u64 = 1_000_000;

fn key(name: &str, token: &str, scopes: &[Scope]) -> Key {
    Key {
        name: name.into(),
        sha256: Token::sha256(token),
        scopes: scopes.to_vec(),
        owner: None,
        limits: Limits::default(),
    }
}

fn access() -> (Access, Token) {
    let token = Token::random().unwrap();
    let keys = [key("alice", token.as_str(), &[Scope::Submit]), Key::operator("secret")];
    (Access::new(Keyring::new(keys).unwrap()).unwrap(), token)
}

fn named(access: &Access, given: Given<'_>) -> Result<String, Refusal> {
    access.caller(&given, NOW).map(|caller| caller.name().to_owned())
}

#[test]
fn a_key_is_shown_in_each_way_that_there_is() {
    let (access, token) = access();
    let bearer = format!("bearer  {}", token.as_str());
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("me:{}", token.as_str())));
    for header in [&bearer, &basic] {
        assert_eq!(
            named(&access, Given { authorization: Some(header), ..Given::default() }),
            Ok("alice".into())
        );
    }
    let caller = access.caller(&Given { authorization: Some(&bearer), ..Given::default() }, NOW).unwrap();
    let cookie = access.begin_session(&caller, NOW).unwrap().unwrap();
    let header = format!("x=y; reverie_session={cookie}");
    let with_cookie = Given { cookie: Some(&header), ..Given::default() };
    assert_eq!(named(&access, with_cookie), Ok("alice".into()));
    let (signature, ends) = access.sign(&caller, "/v1/ws", 1000, NOW).unwrap();
    assert_eq!(ends, NOW + 300);
    let signed = |path| Given { query: Some(&signature), path, ..Given::default() };
    assert_eq!(named(&access, signed("/v1/ws")), Ok("alice".into()));
    assert_eq!(named(&access, signed("/v1/jobs")), Err(Refusal::WrongSignature));
    assert!(access.end_session(&header) && named(&access, with_cookie) == Ok("-".into()));
}

#[test]
fn long_lived_keys_stay_out_of_addresses_but_the_operators_token_as_before() {
    let (access, token) = access();
    let query = |token| Given { query: Some(token), ..Given::default() };
    assert_eq!(named(&access, query(token.as_str())), Err(Refusal::KeyInAddress));
    assert_eq!(named(&access, query("secret")), Ok("auth_token".into()));
    assert_eq!(named(&access, query("Secret")), Err(Refusal::WrongKey));
    assert_eq!(named(&access, Given::default()), Ok("-".into()));
}

#[test]
fn a_guesser_is_slowed_down_and_neighbours_with_keys_are_not() {
    let (access, token) = access();
    let address = "10.0.0.1".parse().ok();
    let tried = |text: &str| {
        let header = format!("Bearer {text}");
        named(&access, Given { authorization: Some(&header), address, ..Given::default() })
    };
    for i in 0..20 {
        assert_eq!(tried(&format!("guess{i}")), Err(Refusal::WrongKey), "{i}");
    }
    assert!(matches!(tried("secret"), Err(Refusal::TooManyAttempts(_))));
    assert_eq!(tried(token.as_str()), Ok("alice".into()));
    // Wrong ones of that form are told nothing either.
    assert!(matches!(tried(Token::random().unwrap().as_str()), Err(Refusal::TooManyAttempts(_))));
}

#[test]
fn revoked_keys_end_at_once_and_the_last_one_opens_nothing() {
    let (access, token) = access();
    let header = format!("Bearer {}", token.as_str());
    let given = Given { authorization: Some(&header), ..Given::default() };
    let caller = access.caller(&given, NOW).unwrap();
    let cookie = format!("reverie_session={}", access.begin_session(&caller, NOW).unwrap().unwrap());
    let (signature, _) = access.sign(&caller, "/x", 60, NOW).unwrap();
    assert!(access.is_current(&caller));
    access.replace(Keyring::default());
    assert!(!access.is_current(&caller));
    assert_eq!(named(&access, given), Err(Refusal::WrongKey));
    assert_eq!(named(&access, Given { cookie: Some(&cookie), ..Given::default() }), Ok("-".into()));
    let signed = Given { query: Some(&signature), path: "/x", ..Given::default() };
    assert_eq!(named(&access, signed), Err(Refusal::WrongSignature));
    assert!(!access.caller(&Given::default(), NOW).unwrap().may(&Need::Read));
}

#[test]
fn keys_that_come_later_end_what_was_open() {
    let access = Access::new(Keyring::default()).unwrap();
    let before = access.caller(&Given::default(), NOW).unwrap();
    assert!(before.may(&Need::Admin) && access.is_current(&before));
    access.replace(Keyring::new([Key::operator("secret")]).unwrap());
    assert!(!access.is_current(&before));
    assert!(!access.caller(&Given::default(), NOW).unwrap().may(&Need::Read));
}

#[test]
fn requests_over_a_keys_limit_are_refused_by_its_name() {
    let mut limited = key("busy", "x", &[Scope::Read]);
    limited.limits.requests_per_minute = 3;
    let access = Access::new(Keyring::new([limited]).unwrap()).unwrap();
    let caller = access.caller(&Given { authorization: Some("Bearer x"), ..Given::default() }, NOW).unwrap();
    (0..3).for_each(|_| access.admit(&caller).unwrap());
    let refused = access.admit(&caller).unwrap_err();
    assert!(refused.message().contains("'busy'") && refused.message().contains("requests_per_minute"));
    assert!((19..=20).contains(&refused.wait().unwrap().as_secs()), "{refused:?}");
}
