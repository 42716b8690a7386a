//! Keeps web pages away from a server that asks for no key: a page can make a browser send requests to loopback, but
//! it cannot choose the Host header (a name that was rebound to loopback stays in it), nor hide its Origin.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};

use super::error::ApiError;
use crate::domain::{Domain, DomainName};

/// The names under which this server may be called.
#[derive(Debug, Clone)]
pub struct KnownHosts {
    listen: IpAddr,
    named: Vec<String>,
    domain: Option<DomainName>,
}

impl KnownHosts {
    /// Loopback's names, the listen address, those `named`, and the API's name in a domain. A server on all addresses is
    /// called by any of them.
    pub fn new(listen: SocketAddr, named: &[String], domain: Option<&Domain>) -> Self {
        let domain = domain.map(|domain| domain.name.clone());
        let named = named.iter().map(|name| name.to_ascii_lowercase()).chain(domain.as_ref().map(DomainName::api));
        Self { listen: listen.ip(), named: named.collect(), domain }
    }

    /// Whether it is the domain itself or below it.
    pub fn is_in_domain(&self, authority: &Authority) -> bool {
        self.domain.as_ref().is_some_and(|domain| domain.has(&authority.host().to_ascii_lowercase()))
    }

    /// Whether it is one of them.
    pub fn know(&self, authority: &Authority) -> bool {
        let host = authority.host().to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match address {
            Ok(address) if address.is_loopback() || address == self.listen || self.listen.is_unspecified() => true,
            Ok(address) => self.named.iter().any(|name| name.parse() == Ok(address)),
            Err(_) => host == "localhost" || self.named.contains(&host),
        }
    }
}

/// The middleware.
pub async fn refuse_foreign_pages(
    State(hosts): State<Arc<KnownHosts>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(&hosts, request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

fn check(hosts: &KnownHosts, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let header = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    let called: Authority = uri.authority().cloned().or(header).ok_or_else(misdirected)?;
    if !hosts.know(&called) {
        return Err(misdirected());
    }
    match headers.get(ORIGIN) {
        Some(origin) if !is_origin(origin.as_bytes(), &called) => {
            Err(ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", "requests of other web sites are refused"))
        }
        _ => Ok(()),
    }
}

fn misdirected() -> ApiError {
    let message = "this server is not known by the name in the Host header";
    ApiError::new(StatusCode::MISDIRECTED_REQUEST, "misdirected_request", message)
}

/// Whether a page of this very server sent the request.
fn is_origin(origin: &[u8], called: &Authority) -> bool {
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(called.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(listen: &str, host: Option<&str>, origin: Option<&str>) -> &'static str {
        let hosts = KnownHosts::new(listen.parse().unwrap(), &["box.example".to_owned(), "192.0.2.1".to_owned()], None);
        let mut headers = HeaderMap::new();
        for (name, value) in [(HOST, host), (ORIGIN, origin)] {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        match check(&hosts, &Uri::from_static("/v1/sandboxes"), &headers) {
            Ok(()) => "ok",
            Err(error) if error == misdirected() => "421",
            Err(_) => "403",
        }
    }

    #[test]
    fn names_of_this_server_are_known_and_others_are_not() {
        let loopback = "127.0.0.1:8080";
        for host in
            ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]:8080", "box.example", "192.0.2.1"]
        {
            assert_eq!(answer(loopback, Some(host), None), "ok", "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8080", "", "a b"] {
            assert_eq!(answer(loopback, Some(host), None), "421", "{host}");
        }
        assert_eq!(answer(loopback, None, None), "421");
        assert_eq!(answer("10.0.0.1:8080", Some("10.0.0.1:8080"), None), "ok");
        assert_eq!(answer("0.0.0.0:8080", Some("192.0.2.7:8080"), None), "ok");
        assert_eq!(answer("0.0.0.0:8080", Some("evil.example:8080"), None), "421");
    }

    #[test]
    fn only_pages_of_this_server_may_call_it() {
        let answer = |origin| answer("127.0.0.1:8080", Some("localhost:8080"), Some(origin));
        assert_eq!(answer("http://localhost:8080"), "ok");
        for origin in ["http://localhost:3000", "http://127.0.0.1:8080", "https://evil.example", "null", "", "\u{fc}"] {
            assert_eq!(answer(origin), "403", "{origin}");
        }
    }
}
