//! The Host that servers in a sandbox see, where that is to be another than the one that was called: many answer only to
//! the name that they know.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;
use http::uri::Authority;

/// What stands for the port that was called.
const PORT: &str = "${PORT}";

/// The longest that there is, as names may be.
const LONGEST: usize = 255;

/// A name, with a port or without, in which `${PORT}` is the port that was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHost(String);

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no host that a request could have: it is a name or address, with a port or without, and may have {PORT}"
)]
pub struct InvalidRequestHost(String);

impl RequestHost {
    /// The header's value for a request to a port.
    pub fn for_port(&self, port: u16) -> Option<HeaderValue> {
        rendered(&self.0, port)
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestHost {
    type Err = InvalidRequestHost;

    fn from_str(text: &str) -> Result<Self, InvalidRequestHost> {
        let is_one = text.len() <= LONGEST && [1, u16::MAX].iter().all(|port| rendered(text, *port).is_some());
        if is_one { Ok(Self(text.to_owned())) } else { Err(InvalidRequestHost(text.chars().take(LONGEST).collect())) }
    }
}

impl fmt::Display for RequestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn rendered(text: &str, port: u16) -> Option<HeaderValue> {
    let text = text.replace(PORT, &port.to_string());
    let authority: Authority = text.parse().ok()?;
    // A port is looked at only where somebody asks for it, and a user is no part of a Host.
    let after_host = text.strip_prefix(authority.host())?;
    let is_whole = after_host.is_empty() || authority.port_u16().is_some();
    if authority.host().is_empty() || !is_whole || text.contains('@') {
        return None;
    }
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_was_called_stands_where_it_is_asked_for() {
        for (text, expect) in [
            ("localhost", "localhost"),
            ("localhost:${PORT}", "localhost:3000"),
            ("${PORT}.internal.example:80", "3000.internal.example:80"),
            ("[::1]:${PORT}", "[::1]:3000"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(text.parse::<RequestHost>().unwrap().for_port(3000).unwrap(), expect, "{text}");
        }
    }

    #[test]
    fn what_no_request_could_have_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            "a b",
            "user@host",
            "http://host",
            "host/path",
            "host:port",
            "host:99999",
            "a\r\nb: c",
            "hôte",
            &long,
            ":80",
            "${port}",
        ] {
            assert!(text.parse::<RequestHost>().is_err(), "{text}");
        }
    }
}
