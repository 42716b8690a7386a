//! The proxy of a sandbox's owner, as a request has it, whichever surface it comes by.

use std::fmt;
use std::marker::PhantomData;

use model::{EgressProxy, InvalidProxy, ProxyHost, ProxyTls, ProxyWords, Secret, Untold};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::error::ApiError;
use super::request::Given;

/// A proxy in the words of our own surface.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    address: String,
    username: Option<String>,
    password: Option<Given>,
    #[serde(default, deserialize_with = "object")]
    tls: Option<ProxyTls>,
}

impl Request {
    /// What it asks for.
    pub fn words(self) -> Result<ProxyWords, ApiError> {
        let Self { address, username, password, tls } = self;
        words(ProxyWords { address, username, password, tls })
    }
}

/// An object, or nothing. What is derived would take a list of its members for one, too.
pub fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Option<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(members)).map(Some)
        }
    }
    deserializer.deserialize_any(Object(PhantomData))
}

/// What was asked for, once it is sure that it can be used.
pub fn words(wanted: ProxyWords<Given>) -> Result<ProxyWords, ApiError> {
    let ProxyWords { address, username, password, tls } = wanted;
    let invalid = |error: InvalidProxy| ApiError::invalid_request(format!("the egress proxy is not valid: {error}"));
    let password = password.map(|given| Secret::password(given.0)).transpose().map_err(invalid)?;
    if tls.as_ref().and_then(|tls| tls.ca_cert.as_ref()).is_some_and(|pem| !are_authorities(pem)) {
        return Err(invalid(InvalidProxy::CaCert));
    }
    let words = ProxyWords { address, username, password, tls };
    let proxy = EgressProxy::try_from(words.clone()).map_err(invalid)?;
    match proxy.address().host() {
        // The fence, which knows more of them, holds whatever is said here.
        ProxyHost::Address(host) if host.is_private() || host.is_loopback() || host.is_link_local() => {
            Err(invalid(InvalidProxy::Private(*host)))
        }
        _ => Ok(words),
    }
}

/// What is told of one: never its password, nor whom it is believed by.
pub fn shown(proxy: &EgressProxy<Untold>) -> Shown {
    Shown {
        address: proxy.address().to_string(),
        username: proxy.login().map(|login| login.username.clone()),
        tls: proxy.tls().map(|tls| ShownTls { server_name: tls.server_name.clone() }),
    }
}

/// A proxy as its owner sees it.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = ShownEgressProxy)]
pub struct Shown {
    /// `host:port`.
    pub address: String,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where TLS is spoken with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ShownTls>,
}

/// TLS to a proxy, as its owner sees it.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = ShownProxyTls)]
pub struct ShownTls {
    /// Whose certificate it is to show, where that is not the host of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Whether each certificate of a text can be believed.
fn are_authorities(pem: &str) -> bool {
    let mut roots = RootCertStore::empty();
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates.all(|found| found.is_ok_and(|certificate| roots.add(certificate).is_ok())) && !roots.is_empty()
}
