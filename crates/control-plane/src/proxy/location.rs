//! Where an answer sends its client: a service that believes to be at `localhost` means the guest's, which the client
//! knows by another name.

use http::header::{HeaderValue, LOCATION};
use http::{HeaderMap, Uri};

use super::target::{Named, Target};

/// Names that a guest has for itself.
const SELF: [&str; 5] = ["localhost", "127.0.0.1", "[::1]", "0.0.0.0", "169.254.0.21"];

/// Replaces the guest's own name in a Location by the one that the client used. Whatever else is there stays as it is.
pub fn rewrite(headers: &mut HeaderMap, target: &Target) {
    let location = headers.get(LOCATION).and_then(|location| rewritten(location.to_str().ok()?, target));
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        headers.insert(LOCATION, location);
    }
}

fn rewritten(location: &str, target: &Target) -> Option<String> {
    let (scheme, rest) = location.split_once("://")?;
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let uri: Uri = authority.parse().ok()?;
    if !SELF.contains(&uri.host()?) {
        return None;
    }
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let slash = if path.starts_with('/') { "" } else { "/" };
    match &target.named {
        _ if port == target.port => Some(format!("{slash}{path}")),
        // Another service of the same guest. Both are behind the scheme that the client used.
        Named::ByHost(domain) => Some(format!("//{port}-{}.{domain}{slash}{path}", target.id)),
        Named::ByHeaders => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_own_names_are_replaced() {
        let check = |location: &str, expect: &str| {
            let id = "sb1".parse().unwrap();
            let target = Target { id, port: 8000, named: Named::ByHost("x.example:1".to_owned()) };
            let mut headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            rewrite(&mut headers, &target);
            assert_eq!(headers[LOCATION], expect, "{location}");
        };
        check("/a/?b#c", "/a/?b#c");
        check("http://localhost:8000/a%2Fb/?c=d#e", "/a%2Fb/?c=d#e");
        check("http://127.0.0.1:8000", "/");
        check("http://[::1]:8000?x", "/?x");
        check("http://0.0.0.0:9000/a", "//9000-sb1.x.example:1/a");
        check("http://localhost/a", "//80-sb1.x.example:1/a");
        for other in ["http://other.example:8000/a", "ftp://localhost:8000/", "//localhost:8000/a", "http://", ""] {
            check(other, other);
        }
    }

    #[test]
    fn where_headers_name_the_port_another_one_has_no_address() {
        let target = Target { id: "sb1".parse().unwrap(), port: 8000, named: Named::ByHeaders };
        assert_eq!(rewritten("http://localhost:8000/a", &target).as_deref(), Some("/a"));
        assert_eq!(rewritten("http://localhost:9000/a", &target), None);
    }
}
