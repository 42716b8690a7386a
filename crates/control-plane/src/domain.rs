//! The domain whose names are the API's and the sandboxes': `api.DOMAIN`, and `PORT-ID.DOMAIN` for a port.

use std::fmt;
use std::str::FromStr;

use model::is_dns_label;

/// What a client of E2B believes to be run by E2B, and then looks for sandboxes elsewhere.
const OTHERS: [&str; 7] =
    ["e2b.app", "e2b.dev", "e2b.pro", "e2b-staging.dev", "e2b-tango.dev", "e2b-juliett.dev", "foxtrot-2.e2b.dev"];

/// Room for the longest label of a port before it.
const LONGEST: usize = 253 - 64;

/// The name of a domain, in small letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainName(String);

/// Where a domain's names are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: DomainName,
    /// The port of HTTPS that clients use.
    pub port: u16,
}

/// A text that is no domain for sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDomain {
    /// It is no name of the domain name system.
    #[error("it must be the name of a domain, such as sbx.localhost, without a scheme or a port")]
    NoName,
    /// TLS clients believe no certificate for everything below a name without a dot.
    #[error("clients accept certificates only for names below a domain with a dot, such as sbx.localhost")]
    NoDot,
    /// Clients of E2B treat it in another way.
    #[error("clients of E2B take this domain for E2B's own")]
    Others,
}

impl DomainName {
    /// The same as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the API.
    pub fn api(&self) -> String {
        format!("api.{self}")
    }

    /// Whether a host, in small letters and without a port, is this domain or below it.
    pub fn has(&self, host: &str) -> bool {
        host.strip_suffix(self.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }
}

impl FromStr for DomainName {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let name = text.to_ascii_lowercase();
        // What ends with a number is an address.
        let is_address = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() > LONGEST || is_address || !name.split('.').all(is_dns_label) {
            return Err(InvalidDomain::NoName);
        }
        if !name.contains('.') {
            return Err(InvalidDomain::NoDot);
        }
        if OTHERS.contains(&name.as_str()) {
            return Err(InvalidDomain::Others);
        }
        Ok(Self(name))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As clients of E2B are told it: with the port where that is not the usual one.
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            443 => self.name.fmt(f),
            port => write!(f, "{}:{port}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_one_whose_names_clients_believe() {
        for (text, expect) in [
            ("SBX.localhost", Ok("sbx.localhost")),
            ("a-1.b.example", Ok("a-1.b.example")),
            ("localhost", Err(InvalidDomain::NoDot)),
            ("e2b.app", Err(InvalidDomain::Others)),
            ("", Err(InvalidDomain::NoName)),
            ("sbx.localhost:8443", Err(InvalidDomain::NoName)),
            ("https://sbx.localhost", Err(InvalidDomain::NoName)),
            ("192.0.2.1", Err(InvalidDomain::NoName)),
            (".example", Err(InvalidDomain::NoName)),
            ("x.example.", Err(InvalidDomain::NoName)),
            ("../x.example", Err(InvalidDomain::NoName)),
        ] {
            let name = text.parse::<DomainName>().map(|name| name.to_string());
            assert_eq!(name.as_deref().map_err(|error| *error), expect, "{text:?}");
        }
    }

    #[test]
    fn names_are_below_a_domain_or_not() {
        let name: DomainName = "sbx.localhost".parse().unwrap();
        assert!(name.has("sbx.localhost") && name.has("a.sbx.localhost") && name.has("a.b.sbx.localhost"));
        assert!(!name.has("asbx.localhost") && !name.has("localhost") && !name.has("sbx.localhost.example"));
        let at = |port| Domain { name: name.clone(), port }.to_string();
        assert_eq!([at(443), at(8443)], ["sbx.localhost", "sbx.localhost:8443"]);
    }
}
