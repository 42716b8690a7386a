//! Whose a request is: the left-most label of its Host (`8080-sb….any.domain`), or the headers that clients of E2B send
//! where all sandboxes have one address. A name goes before headers, so that a page that one sandbox serves cannot
//! address another under its own name. Names of the server's own domain that are neither the API's nor a port's are nobody's.

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Uri};
use model::SandboxId;

use super::refusal::Refusal;
use crate::api::KnownHosts;

const SANDBOX: &str = "e2b-sandbox-id";
const PORT: &str = "e2b-sandbox-port";

/// The guest agent's own ports.
const RESERVED: std::ops::RangeInclusive<u16> = 49981..=49983;

/// A port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The sandbox.
    pub id: SandboxId,
    /// The port.
    pub port: u16,
    /// How it was named.
    pub named: Named,
}

/// How a target was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// By Host; with what follows the label there, port included.
    ByHost(String),
    /// By headers.
    ByHeaders,
}

impl Target {
    /// Whether the port is the guest agent's.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.port)
    }
}

/// The target of a request; none where it is for the API.
pub fn of(uri: &Uri, headers: &HeaderMap, api: &KnownHosts) -> Option<Result<Target, Refusal>> {
    let authority = authority(uri, headers);
    // Whatever the server itself is called is no sandbox.
    let authority = authority.filter(|authority| !api.know(authority));
    if let Some(target) = authority.as_ref().and_then(|authority| by_host(&authority.as_str().to_ascii_lowercase())) {
        return Some(target);
    }
    match (headers.get(SANDBOX), headers.get(PORT)) {
        (None, None) => authority.filter(|authority| api.is_in_domain(authority)).map(|_| Err(Refusal::InvalidHost)),
        (Some(id), Some(port)) => {
            let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
            Some(target(&text(port), &text(id), Named::ByHeaders))
        }
        _ => Some(Err(Refusal::MissingHeader)),
    }
}

/// Whom a request names: in its URI (HTTP/2, proxies), else in its Host header.
pub fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let header = || headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    uri.authority().cloned().or_else(header)
}

fn by_host(authority: &str) -> Option<Result<Target, Refusal>> {
    let (label, rest) = authority.split_once('.')?;
    let (port, id) = label.split_once('-')?;
    let looks_so = |text: &str, is: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(is);
    let is_label = looks_so(port, u8::is_ascii_digit) && looks_so(id, |byte| byte.is_ascii_alphanumeric());
    is_label.then(|| target(port, id, Named::ByHost(rest.to_owned())))
}

fn target(port: &str, id: &str, named: Named) -> Result<Target, Refusal> {
    let port = port.parse().ok().filter(|port| *port != 0).ok_or(Refusal::InvalidPort)?;
    let id = id.parse().map_err(|_| Refusal::InvalidId)?;
    Ok(Target { id, port, named })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Domain;

    const ID: &str = "sb01234567890123456789";

    fn check(host: &str, headers: &[(&'static str, &str)], expect: Option<Result<(u16, Named), Refusal>>) {
        let domain = Domain { name: "own.example".parse().unwrap(), port: 443 };
        let api = KnownHosts::new("127.0.0.1:8080".parse().unwrap(), &["7-box.example".to_owned()], Some(&domain));
        let mut map: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        map.insert(HOST, host.parse().unwrap());
        let target = of(&Uri::from_static("/x"), &map, &api);
        let found = target.map(|target| {
            target.map(|target| {
                assert_eq!(target.id.as_str(), ID);
                (target.port, target.named)
            })
        });
        assert_eq!(format!("{found:?}"), format!("{expect:?}"), "{host} {headers:?}");
    }

    #[test]
    fn a_host_names_a_port_and_a_sandbox_under_any_domain() {
        let named = |rest: &str| Named::ByHost(rest.to_owned());
        check(&format!("8080-{ID}.localhost:3000"), &[], Some(Ok((8080, named("localhost:3000")))));
        check(&format!("1-{}.Any.Example", ID.to_uppercase()), &[], Some(Ok((1, named("any.example")))));
        check(&format!("65535-{ID}.x"), &[], Some(Ok((65535, named("x")))));
        for port in ["0", "65536", "99999999999"] {
            check(&format!("{port}-{ID}.localhost"), &[], Some(Err(Refusal::InvalidPort)));
        }
        for api in ["localhost:8080", "127.0.0.1:8080", "7-box.example", "evil.example", "80-.x", "-sb1.x", "a-sb1.x"] {
            check(api, &[], None);
        }
        check(&format!("8080-{ID}"), &[], None);
    }

    #[test]
    fn names_of_the_own_domain_are_the_apis_a_ports_or_nobodys() {
        check("api.own.example", &[], None);
        check("API.own.example:8443", &[], None);
        check(&format!("80-{ID}.own.example"), &[], Some(Ok((80, Named::ByHost("own.example".to_owned())))));
        for nobodys in ["own.example", "www.own.example", "sandbox.own.example:8443", "x-y.own.example"] {
            check(nobodys, &[], Some(Err(Refusal::InvalidHost)));
        }
        let both = [(SANDBOX, ID), (PORT, "9")];
        check("sandbox.own.example", &both, Some(Ok((9, Named::ByHeaders))));
        check("sandbox.own.example", &both[..1], Some(Err(Refusal::MissingHeader)));
    }

    #[test]
    fn headers_name_them_where_the_host_does_not() {
        let both = |port| [(SANDBOX, ID), (PORT, port)];
        check("localhost:8080", &both("9"), Some(Ok((9, Named::ByHeaders))));
        check("anything.example", &both("9"), Some(Ok((9, Named::ByHeaders))));
        check("localhost", &both("0"), Some(Err(Refusal::InvalidPort)));
        check("localhost", &both("+9"), Some(Ok((9, Named::ByHeaders))));
        check("localhost", &[(SANDBOX, "../x"), (PORT, "9")], Some(Err(Refusal::InvalidId)));
        check("localhost", &both("9")[..1], Some(Err(Refusal::MissingHeader)));
        check("localhost", &both("9")[1..], Some(Err(Refusal::MissingHeader)));
        let own = [(SANDBOX, "sbother"), (PORT, "9")];
        check(&format!("8-{ID}.x"), &own, Some(Ok((8, Named::ByHost("x".to_owned())))));
    }

    #[test]
    fn the_guest_agents_ports_are_nobody_elses() {
        let at = |port| Target { id: ID.parse().unwrap(), port, named: Named::ByHeaders };
        assert_eq!(
            [49980, 49981, 49982, 49983, 49984].map(|port| at(port).is_reserved()),
            [false, true, true, true, false]
        );
    }
}
