//! By which name a connection's first bytes ask for its server: the SNI of a TLS hello, the `Host` of an HTTP request. Pure;
//! every byte may be hostile. What can be read in two ways is read in none.

use model::is_token;

/// What the first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    /// A name, in lower case, and what is to be sent on in the place of these bytes.
    Names { name: String, forward: Vec<u8> },
    /// Too little yet.
    Incomplete,
    /// No name, or not one alone.
    Nothing,
}

/// Of a TLS connection.
pub(super) fn of_tls(bytes: &[u8]) -> Head {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return Head::Nothing,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return name.map_or(Head::Nothing, |name| Head::Names { name, forward: bytes.to_vec() });
            }
            Ok(None) => {}
            Err(_) => return Head::Nothing,
        }
    }
    Head::Incomplete
}

/// Of an HTTP/1 connection. Its server is told to close it after one answer: a further request might name another.
pub(super) fn of_http(bytes: &[u8]) -> Head {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Head::Incomplete };
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let Some((name, head)) = std::str::from_utf8(head).ok().and_then(read_head) else { return Head::Nothing };
    Head::Names { name, forward: [head.as_bytes(), body].concat() }
}

/// The name and the head to send on.
fn read_head(head: &str) -> Option<(String, String)> {
    let mut lines = head.split("\r\n");
    let request = lines.next()?;
    let words: Vec<_> = request.split(' ').collect();
    let [method, target, version] = words[..] else { return None };
    let is_plain = method != "CONNECT" && target.starts_with('/') || target == "*";
    if !is_plain || !["HTTP/1.1", "HTTP/1.0"].contains(&version) || has_control(request) {
        return None;
    }
    let (mut name, mut kept, mut upgrades) = (None, vec![request], false);
    for line in lines {
        let (field, value) = line.split_once(':')?;
        if field.is_empty() || !field.bytes().all(is_token) || has_control(value) {
            return None;
        }
        match field.to_ascii_lowercase().as_str() {
            "host" if name.is_some() => return None,
            "host" => name = Some(host(value.trim())?),
            "connection" if value.to_ascii_lowercase().contains("upgrade") => upgrades = true,
            "connection" | "keep-alive" | "proxy-connection" => continue,
            _ => {}
        }
        kept.push(line);
    }
    if !upgrades {
        kept.push("Connection: close");
    }
    Some((name?, kept.join("\r\n") + "\r\n\r\n"))
}

/// Without the usual port.
fn host(value: &str) -> Option<String> {
    let name = value.strip_suffix(":80").unwrap_or(value);
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    is_name.then(|| name.to_ascii_lowercase())
}

fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use proptest::prelude::*;

    fn named(head: Head) -> Option<String> {
        match head {
            Head::Names { name, .. } => Some(name),
            _ => None,
        }
    }

    #[test]
    fn a_request_names_its_host_and_asks_for_the_connection_s_end() {
        let request = b"GET /a HTTP/1.1\r\nHost: Example.com:80\r\nConnection: keep-alive\r\nX: 1\r\n\r\nbody";
        let forward = b"GET /a HTTP/1.1\r\nHost: Example.com:80\r\nX: 1\r\nConnection: close\r\n\r\nbody".to_vec();
        assert_eq!(of_http(request), Head::Names { name: "example.com".to_owned(), forward });
        assert_eq!(of_http(&request[..40]), Head::Incomplete);
        let upgrade = "GET / HTTP/1.1\r\nHost: a.b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let Head::Names { forward, .. } = of_http(upgrade.as_bytes()) else { panic!("it names a host") };
        assert_eq!(String::from_utf8(forward).unwrap(), upgrade);
    }

    #[test]
    fn what_could_be_read_in_two_ways_names_nothing() {
        for request in [
            "GET / HTTP/1.1\r\nX: 1",
            "GET / HTTP/1.1\r\nHost: a.b\r\nHost: c.d",
            "GET / HTTP/1.1\r\nHost : a.b",
            "GET / HTTP/1.1\r\nHost: a.b\r\n continued",
            "GET / HTTP/1.1\r\nHost: a.b\nHost: c.d",
            "GET http://c.d/ HTTP/1.1\r\nHost: a.b",
            "CONNECT c.d:443 HTTP/1.1\r\nHost: a.b",
            "GET /  HTTP/1.1\r\nHost: a.b",
            "GET / HTTP/2.0\r\nHost: a.b",
            "GET / HTTP/1.1\r\nHost: a.b:8080",
            "GET / HTTP/1.1\r\nHost: a.b, c.d",
            "GET / HTTP/1.1\r\nHost:",
            "SSH-2.0-x",
        ] {
            assert_eq!(of_http(format!("{request}\r\n\r\n").as_bytes()), Head::Nothing, "{request:?}");
        }
    }

    fn hello(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_names_its_server_once_it_is_whole() {
        let bytes = hello("www.example.com");
        assert_eq!(named(of_tls(&bytes)).unwrap(), "www.example.com");
        assert_eq!(of_tls(&bytes[..bytes.len() - 1]), Head::Incomplete);
        assert_eq!(of_tls(b""), Head::Incomplete);
        assert_eq!(of_tls(&hello("192.0.2.1")), Head::Nothing, "an address is no name");
        assert_eq!(of_tls(b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"), Head::Nothing);
    }

    proptest! {
        #[test]
        fn no_bytes_do_any_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = of_tls(&bytes);
            let _ = of_http(&bytes);
        }
    }
}
