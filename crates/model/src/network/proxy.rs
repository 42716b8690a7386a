//! The proxy that a sandbox's connections go out through, which its owner runs. Knows how one is written, and not how it is
//! spoken with.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::destination::DomainPattern;
use super::secret::Secret;

/// What a certificate in PEM begins with.
const PEM: &str = "-----BEGIN CERTIFICATE-----";

/// A SOCKS5 proxy. `P` is its password: as it is, sealed, or left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ProxyWords<P>", into = "ProxyWords<P>")]
#[serde(bound(serialize = "P: Clone + Serialize", deserialize = "P: Deserialize<'de>"))]
pub struct EgressProxy<P = Secret> {
    address: ProxyAddress,
    login: Option<Login<P>>,
    tls: Option<ProxyTls>,
}

/// Where a proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    host: ProxyHost,
    port: NonZeroU16,
}

/// On which machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyHost {
    /// The one with this address.
    Address(Ipv4Addr),
    /// The one that this name stands for whenever it is connected to.
    Name(String),
}

/// Who a proxy is told that we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login<P = Secret> {
    /// A name.
    pub username: String,
    /// What proves it, if anything.
    pub password: Option<P>,
}

/// TLS to a proxy. What it shows is always checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyTls {
    /// Whose certificate it is to show, where that is not the host of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The authorities that are believed in the place of the machine's, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
}

/// A proxy as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyWords<P = Secret> {
    /// `host:port`.
    pub address: String,
    /// Its user.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub password: Option<P>,
    /// Whether and how TLS is spoken with it.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub tls: Option<ProxyTls>,
}

fn none<T>() -> Option<T> {
    None
}

/// Words that are no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxy {
    /// Its place is none.
    #[error("address: {0:?} is no HOST:PORT with a name or an IPv4 address and a port")]
    Address(String),
    /// No proxy is there that a sandbox could use.
    #[error("address: {0} is private, and a proxy is at a public address")]
    Private(Ipv4Addr),
    /// A user without a name, or with one that the protocol cannot carry.
    #[error("username must have between 1 and {} bytes", EgressProxy::LONGEST_LOGIN)]
    Username,
    /// The same of a password.
    #[error("password must have between 1 and {} bytes", EgressProxy::LONGEST_LOGIN)]
    Password,
    /// A password is somebody's.
    #[error("password needs a username")]
    PasswordWithoutUsername,
    /// No name of a server.
    #[error("server_name: {0:?} is no name of a server")]
    ServerName(String),
    /// No certificates, or too many.
    #[error("ca_cert must have certificates in PEM, in at most {} bytes", EgressProxy::LONGEST_CA)]
    CaCert,
}

impl Secret {
    /// A password that somebody has given.
    pub fn password(text: String) -> Result<Self, InvalidProxy> {
        let fits = (1..=EgressProxy::LONGEST_LOGIN).contains(&text.len());
        if fits { Ok(Self(text)) } else { Err(InvalidProxy::Password) }
    }
}

impl ProxyTls {
    fn check(&self) -> Result<(), InvalidProxy> {
        if let Some(name) = self.server_name.as_ref().filter(|name| !is_name(name) && name.parse::<IpAddr>().is_err()) {
            return Err(InvalidProxy::ServerName(name.clone()));
        }
        let is_pem = |text: &String| text.len() <= EgressProxy::LONGEST_CA && text.contains(PEM);
        if self.ca_cert.as_ref().is_none_or(is_pem) { Ok(()) } else { Err(InvalidProxy::CaCert) }
    }
}

impl ProxyAddress {
    /// The machine.
    pub fn host(&self) -> &ProxyHost {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port.get()
    }
}

impl fmt::Display for ProxyHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for ProxyAddress {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        let invalid = || InvalidProxy::Address(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let number: NonZeroU16 = port.parse().map_err(|_| invalid())?;
        let host = match host.parse() {
            Ok(address) => ProxyHost::Address(address),
            Err(_) if is_name(host) => ProxyHost::Name(host.to_ascii_lowercase()),
            Err(_) => return Err(invalid()),
        };
        if number.to_string() == port { Ok(Self { host, port: number }) } else { Err(invalid()) }
    }
}

fn is_name(text: &str) -> bool {
    !text.starts_with('*') && text.parse::<DomainPattern>().is_ok()
}

impl EgressProxy {
    /// Bytes of a user's name, and of a password.
    pub const LONGEST_LOGIN: usize = 255;
    /// Bytes of the authorities' certificates.
    pub const LONGEST_CA: usize = 8192;
}

impl<P> EgressProxy<P> {
    /// Where it is.
    pub fn address(&self) -> &ProxyAddress {
        &self.address
    }

    /// Who it is told that we are.
    pub fn login(&self) -> Option<&Login<P>> {
        self.login.as_ref()
    }

    /// Whether and how TLS is spoken with it.
    pub fn tls(&self) -> Option<&ProxyTls> {
        self.tls.as_ref()
    }

    /// The same with its password in another form, if it has one.
    pub fn with_secret<Q, E>(self, change: impl FnOnce(P) -> Result<Q, E>) -> Result<EgressProxy<Q>, E> {
        let Self { address, login, tls } = self;
        let login = match login {
            None => None,
            Some(Login { username, password }) => {
                let password = password.map(change).transpose()?;
                Some(Login { username, password })
            }
        };
        Ok(EgressProxy { address, login, tls })
    }
}

impl<P> TryFrom<ProxyWords<P>> for EgressProxy<P> {
    type Error = InvalidProxy;

    fn try_from(words: ProxyWords<P>) -> Result<Self, InvalidProxy> {
        let login = match (words.username, words.password) {
            (Some(username), _) if !(1..=EgressProxy::LONGEST_LOGIN).contains(&username.len()) => {
                return Err(InvalidProxy::Username);
            }
            (Some(username), password) => Some(Login { username, password }),
            (None, Some(_)) => return Err(InvalidProxy::PasswordWithoutUsername),
            (None, None) => None,
        };
        if let Some(tls) = &words.tls {
            tls.check()?;
        }
        Ok(Self { address: words.address.parse()?, login, tls: words.tls })
    }
}

impl<P> From<EgressProxy<P>> for ProxyWords<P> {
    fn from(proxy: EgressProxy<P>) -> Self {
        let (username, password) = proxy.login.map_or((None, None), |login| (Some(login.username), login.password));
        Self { address: proxy.address.to_string(), username, password, tls: proxy.tls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(address: &str) -> ProxyWords {
        ProxyWords { address: address.to_owned(), username: None, password: None, tls: None }
    }

    fn password(text: &str) -> Option<Secret> {
        Some(Secret::password(text.to_owned()).unwrap())
    }

    #[test]
    fn a_proxy_is_a_machine_and_a_port() {
        let shown = |text: &str| text.parse::<ProxyAddress>().map(|address| address.to_string());
        assert_eq!(shown("Proxy.Example.com:1080").as_deref(), Ok("proxy.example.com:1080"));
        assert_eq!(shown("203.0.113.7:65535").as_deref(), Ok("203.0.113.7:65535"));
        for wrong in [
            "",
            "proxy",
            "proxy:",
            ":1080",
            "proxy:0",
            "proxy:65536",
            "proxy:+1",
            "proxy:080",
            "*.a.b:1",
            "[::1]:1",
            "1.2.3:1",
        ] {
            assert_eq!(shown(wrong), Err(InvalidProxy::Address(wrong.to_owned())), "{wrong:?}");
        }
    }

    #[test]
    fn a_password_is_somebody_s_and_shows_nowhere() {
        let all = ProxyWords { username: Some("user".to_owned()), password: password("open sesame"), ..words("a.b:1") };
        let proxy: EgressProxy = all.clone().try_into().unwrap();
        assert!(!format!("{proxy:?}").contains("sesame"));
        assert_eq!(ProxyWords::from(proxy.clone()), all);
        let sealed: EgressProxy<String> = proxy.with_secret(|_| Ok::<_, ()>("sealed".to_owned())).unwrap();
        let text = serde_json::to_string(&sealed).unwrap();
        assert_eq!(text, r#"{"address":"a.b:1","username":"user","password":"sealed"}"#);
        assert_eq!(serde_json::from_str::<EgressProxy<String>>(&text).unwrap(), sealed);

        let nobody_s = ProxyWords { password: password("x"), ..words("a.b:1") };
        assert_eq!(EgressProxy::try_from(nobody_s), Err(InvalidProxy::PasswordWithoutUsername));
        for wrong in [String::new(), "x".repeat(256)] {
            assert_eq!(Secret::password(wrong.clone()), Err(InvalidProxy::Password));
            let words = ProxyWords { username: Some(wrong), ..words("a.b:1") };
            assert_eq!(EgressProxy::try_from(words), Err(InvalidProxy::Username));
        }
    }

    #[test]
    fn tls_is_spoken_with_a_name_and_authorities() {
        let check = |server_name: Option<&str>, ca_cert: Option<String>| {
            let tls = ProxyTls { server_name: server_name.map(str::to_owned), ca_cert };
            EgressProxy::try_from(ProxyWords { tls: Some(tls), ..words("a.b:1") }).map(drop)
        };
        assert_eq!(check(None, None), Ok(()));
        assert_eq!(check(Some("proxy.internal"), Some(PEM.to_owned())), Ok(()));
        assert_eq!(check(Some("192.0.2.1"), None), Ok(()));
        assert_eq!(check(Some("a b"), None), Err(InvalidProxy::ServerName("a b".to_owned())));
        assert_eq!(check(None, Some("no certificate".to_owned())), Err(InvalidProxy::CaCert));
        assert_eq!(check(None, Some(PEM.repeat(400))), Err(InvalidProxy::CaCert));
    }
}
