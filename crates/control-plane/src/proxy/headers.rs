//! What a message's header becomes on its way: what concerns one connection alone stays behind, what the guest may want
//! to know of its caller is added, and what it must not know is taken out.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, EXPECT, Entry, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{HeaderMap, header};

use super::TRAFFIC_TOKEN;
use crate::listen::Scheme;
use crate::store::looks_like_key;

const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Removes what concerns one connection alone, and what the message itself says does.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.iter().chain(&HOP_BY_HOP).for_each(|name| drop(headers.remove(name)));
}

/// Asks for another protocol, on this one connection.
pub fn ask_to_become(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes a caller's header the guest's.
pub fn for_guest(headers: &mut HeaderMap, authority: Option<&Authority>, caller: Option<IpAddr>, scheme: Scheme) {
    // Already answered, by whoever reads the body.
    headers.remove(EXPECT);
    headers.remove(TRAFFIC_TOKEN);
    remove_keys(headers);
    join_cookies(headers);
    if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        headers.insert(HOST, host.clone());
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    let scheme = match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
    if let Some(caller) = caller {
        let before = headers.get(&FORWARDED_FOR).and_then(|value| value.to_str().ok());
        let all = before.map_or_else(|| caller.to_string(), |before| format!("{before}, {caller}"));
        headers.insert(FORWARDED_FOR, HeaderValue::try_from(all).expect("addresses follow what was text"));
    }
}

/// A guest must not learn the key of whoever uses it. Other values under these names are the guest's own business.
fn remove_keys(headers: &mut HeaderMap) {
    let is_key = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default().trim();
        looks_like_key(text.split_once(' ').map_or(text, |(_, key)| key.trim()))
    };
    for name in [API_KEY, AUTHORIZATION] {
        if headers.get_all(&name).iter().any(is_key) {
            headers.remove(name);
        }
    }
}

/// HTTP/2 may send them one by one; servers of HTTP/1 expect one line.
fn join_cookies(headers: &mut HeaderMap) {
    if let Entry::Occupied(cookies) = headers.entry(COOKIE)
        && cookies.iter().count() > 1
    {
        let all = cookies.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
        let (name, _) = cookies.remove_entry_mult();
        headers.extend(HeaderValue::from_bytes(&all).ok().map(|all| (name, all)));
    }
}

/// What a switch to a WebSocket over HTTP/1 needs and one over HTTP/2 does not have.
pub fn add_websocket_key(headers: &mut HeaderMap, key: HeaderValue) {
    headers.insert(header::SEC_WEBSOCKET_KEY, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn what_concerns_one_connection_stays_behind() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Own"),
            ("connection", "close"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "1")]));
    }

    #[test]
    fn a_guest_learns_of_its_caller_and_not_its_secrets() {
        let key = format!("e2b_{}", "0a".repeat(20));
        let bearer = format!("Bearer {key}");
        let mut headers = map(&[
            ("x-api-key", &key),
            ("authorization", &bearer),
            ("e2b-traffic-access-token", "t"),
            ("expect", "100-continue"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        let authority = "80-sb1.x:1".parse().unwrap();
        for_guest(&mut headers, Some(&authority), Some([127, 0, 0, 1].into()), Scheme::Https);
        let expect = map(&[
            ("cookie", "a=1; b=2"),
            ("host", "80-sb1.x:1"),
            ("x-forwarded-host", "80-sb1.x:1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "192.0.2.1, 127.0.0.1"),
        ]);
        assert_eq!(headers, expect);
    }

    #[test]
    fn keys_of_the_guests_own_services_reach_them() {
        let mut headers = map(&[("x-api-key", "mine"), ("authorization", "Bearer abc")]);
        remove_keys(&mut headers);
        assert_eq!(headers, map(&[("x-api-key", "mine"), ("authorization", "Bearer abc")]));
    }
}
