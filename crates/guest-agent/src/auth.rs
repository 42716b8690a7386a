//! Whether a caller is who it says: access tokens, signed addresses of files, and the user that a call acts as.
//! Pure decisions over strings; knows nothing of requests, and nothing of which route asks for what.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Why a caller was turned away. The texts are part of the wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host has not set this sandbox up yet.
    #[error("sandbox is not initialised yet")]
    NotInitialised,
    /// The route needs a token and none came.
    #[error("missing access token")]
    MissingToken,
    /// A token came and it is another one.
    #[error("invalid access token")]
    WrongToken,
    /// Neither token nor signature came.
    #[error("missing signature query parameter")]
    MissingSignature,
    /// The signature is of something else.
    #[error("invalid signature")]
    WrongSignature,
    /// The signature was good once.
    #[error("signature is already expired")]
    Expired,
}

/// What a signed address allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Download.
    Read,
    /// Upload.
    Write,
}

/// The signed part of a file's address, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The path as sent, not resolved.
    pub path: &'a str,
    /// What is asked for.
    pub operation: Operation,
    /// The user as sent, empty when absent.
    pub user: &'a str,
    /// Unix seconds until which it holds.
    pub expiration: Option<i64>,
    /// The signature, when there is one.
    pub signature: Option<&'a str>,
}

/// Checks the token of a call that cannot be signed.
pub fn check_token(expected: &str, given: Option<&[u8]>) -> Result<(), Refusal> {
    match given {
        None => Err(Refusal::MissingToken),
        Some(given) if equal(expected.as_bytes(), given) => Ok(()),
        Some(_) => Err(Refusal::WrongToken),
    }
}

/// Checks a call for a file: a token that came decides, otherwise the signature does.
pub fn check_file(token: &str, given: Option<&[u8]>, signed: Signed<'_>, now: i64) -> Result<(), Refusal> {
    if given.is_some() {
        return check_token(token, given);
    }
    let signature = signed.signature.ok_or(Refusal::MissingSignature)?;
    if !equal(sign(token, &signed).as_bytes(), signature.as_bytes()) {
        return Err(Refusal::WrongSignature);
    }
    if signed.expiration.is_some_and(|expiration| expiration < now) {
        return Err(Refusal::Expired);
    }
    Ok(())
}

/// The user name of an `Authorization: Basic` header; none when the header is of another kind or malformed.
pub fn basic_user(header: &str) -> Option<String> {
    let (scheme, value) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    text.split_once(':').map(|(user, _)| user.to_owned())
}

fn sign(token: &str, signed: &Signed<'_>) -> String {
    let operation = match signed.operation {
        Operation::Read => "read",
        Operation::Write => "write",
    };
    let mut text = format!("{}:{operation}:{}:{token}", signed.path, signed.user);
    if let Some(expiration) = signed.expiration {
        text.push_str(&format!(":{expiration}"));
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text.as_bytes())))
}

fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signed<'a>(signature: Option<&'a str>, expiration: Option<i64>) -> Signed<'a> {
        Signed { path: "/a b", operation: Operation::Read, user: "user", expiration, signature }
    }

    #[test]
    fn signatures_are_those_of_the_contract() {
        // printf '/a b:read:user:secret' | sha256sum, as unpadded base64.
        assert_eq!(sign("secret", &signed(None, None)), "v1_PEA/icv+z+JO9bsZ7QQJfW5MQV9ADdOES2Wk1FxeiFU");
        assert_eq!(sign("secret", &signed(None, Some(99))), "v1_M23KOcxUYt/BYwc8n0VMcvk7PGzlQqy2P2winhklBCU");
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let check = |given: Option<&[u8]>, signature, expiration| {
            check_file("secret", given, signed(signature, expiration), 100)
        };
        let good = sign("secret", &signed(None, Some(100)));
        let old = sign("secret", &signed(None, Some(99)));
        assert_eq!(check(None, Some(&good), Some(100)), Ok(()));
        assert_eq!(check(None, Some(&old), Some(99)), Err(Refusal::Expired));
        assert_eq!(check(None, Some(&old), Some(100)), Err(Refusal::WrongSignature));
        assert_eq!(check(None, None, None), Err(Refusal::MissingSignature));
        assert_eq!(check(Some(b"secret"), None, None), Ok(()));
        assert_eq!(check(Some(b"other"), Some(&good), Some(100)), Err(Refusal::WrongToken));
    }

    #[test]
    fn basic_users_are_read_leniently() {
        assert_eq!(basic_user("Basic cm9vdDo=").as_deref(), Some("root"));
        assert_eq!(basic_user("basic dXNlcjpwYXNz").as_deref(), Some("user"));
        for bad in ["", "Basic", "Basic !!!", "Bearer cm9vdDo=", "Basic cm9vdA=="] {
            assert_eq!(basic_user(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_part_breaks_the_signature(
            path in ".{0,20}",
            other in ".{0,20}",
            user in "[a-z]{0,4}",
            at in 0i64..1000,
        ) {
            let (operation, expiration) = (Operation::Write, Some(at));
            let signed = Signed { path: &path, operation, user: &user, expiration, signature: None };
            let signature = sign("k", &signed);
            let check = |signed: Signed<'_>| check_file("k", None, Signed { signature: Some(&signature), ..signed }, 0);
            prop_assert_eq!(check(signed), Ok(()));
            if path != other {
                prop_assert_eq!(check(Signed { path: &other, ..signed }), Err(Refusal::WrongSignature));
            }
            prop_assert_eq!(check(Signed { operation: Operation::Read, ..signed }), Err(Refusal::WrongSignature));
            prop_assert_eq!(check(Signed { expiration: None, ..signed }), Err(Refusal::WrongSignature));
        }

        #[test]
        fn any_header_is_survived(header in ".{0,60}") {
            let _ = basic_user(&header);
            let _ = basic_user(&format!("Basic {header}"));
        }
    }
}
