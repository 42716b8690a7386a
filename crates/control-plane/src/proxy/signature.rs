//! Signed addresses of files: whoever has one may read or write that file for as long as it holds, and needs nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{Method, Uri};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::form_urlencoded;

use crate::store::AccessToken;

/// The signed part of a request, as it was sent.
#[derive(Debug, Default)]
pub struct Signed {
    operation: &'static str,
    path: String,
    user: String,
    /// Also one that is no number: then the signature is not of it.
    expiration: Option<String>,
    signature: Option<String>,
}

/// Why an address allows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// It has no signature.
    Missing,
    /// The signature is of something else.
    Wrong,
    /// It was good once.
    Expired,
}

impl Signed {
    /// What a request says.
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let operation = if matches!(*method, Method::GET | Method::HEAD) { "read" } else { "write" };
        let mut signed = Self { operation, ..Self::default() };
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "path" => signed.path = value.into_owned(),
                "username" => signed.user = value.into_owned(),
                "signature" => signed.signature = Some(value.into_owned()),
                "signature_expiration" => signed.expiration = Some(value.into_owned()),
                _ => {}
            }
        }
        signed
    }

    /// Whether there is one at all.
    pub fn has_signature(&self) -> bool {
        self.signature.is_some()
    }

    /// Whether it was made with this token.
    pub fn is_by(&self, token: &AccessToken) -> bool {
        let given = self.signature.as_deref().unwrap_or_default();
        self.expected(token).as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// Whether it allows what is asked for.
    pub fn check(&self, token: &AccessToken, now: Timestamp) -> Result<(), Unsigned> {
        if !self.has_signature() {
            return Err(Unsigned::Missing);
        }
        if !self.is_by(token) {
            return Err(Unsigned::Wrong);
        }
        match self.expiration.as_deref().map(str::parse::<i64>) {
            Some(Ok(until)) if until < now.as_second() => Err(Unsigned::Expired),
            Some(Err(_)) => Err(Unsigned::Wrong),
            _ => Ok(()),
        }
    }

    fn expected(&self, token: &AccessToken) -> String {
        let mut text = format!("{}:{}:{}:{}", self.path, self.operation, self.user, token.reveal());
        if let Some(expiration) = &self.expiration {
            text.push(':');
            text.push_str(expiration);
        }
        format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(query: &str) -> Signed {
        Signed::of(&Method::GET, &format!("/files?{query}").parse().unwrap())
    }

    fn signature(token: &AccessToken, query: &str) -> String {
        form_urlencoded::byte_serialize(signed(query).expected(token).as_bytes()).collect()
    }

    #[test]
    fn each_address_allows_what_was_signed_and_nothing_else() {
        let token = AccessToken::random();
        let now = Timestamp::from_second(100).unwrap();
        let check = |query: &str| signed(query).check(&token, now);
        let good = signature(&token, "path=/a%20b&username=user");
        assert_eq!(check(&format!("path=/a%20b&username=user&signature={good}")), Ok(()));
        for other in ["path=/a&username=user", "path=/a%20b", "path=/a%20b&username=user&signature_expiration=200"] {
            assert_eq!(check(&format!("{other}&signature={good}")), Err(Unsigned::Wrong), "{other}");
        }
        let written = format!("/files?path=/a%20b&username=user&signature={good}").parse().unwrap();
        assert_eq!(Signed::of(&Method::POST, &written).check(&token, now), Err(Unsigned::Wrong));
        assert_eq!(check("path=/a"), Err(Unsigned::Missing));
        assert!(!signed(&format!("path=/a%20b&username=user&signature={good}")).is_by(&AccessToken::random()));
    }

    #[test]
    fn an_address_holds_until_its_time_is_over() {
        let token = AccessToken::random();
        let now = Timestamp::from_second(100).unwrap();
        for (until, expect) in [("100", Ok(())), ("99", Err(Unsigned::Expired)), ("soon", Err(Unsigned::Wrong))] {
            let query = format!("path=x&signature_expiration={until}");
            let signature = signature(&token, &query);
            assert_eq!(signed(&format!("{query}&signature={signature}")).check(&token, now), expect, "{until}");
        }
    }
}
