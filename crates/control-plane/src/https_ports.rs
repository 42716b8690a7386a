//! The ports of a sandbox whose servers speak TLS by themselves: whoever calls them is passed on to them that way.

use std::collections::BTreeSet;
use std::fmt;
use std::num::{NonZeroU16, ParseIntError};
use std::str::FromStr;

/// Some ports, or none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpsPorts(BTreeSet<NonZeroU16>);

impl HttpsPorts {
    /// Whether a port is one of them.
    pub fn has(&self, port: u16) -> bool {
        NonZeroU16::new(port).is_some_and(|port| self.0.contains(&port))
    }

    /// All of them, the lowest first.
    pub fn numbers(&self) -> Vec<u16> {
        self.0.iter().map(|port| port.get()).collect()
    }
}

impl FromIterator<NonZeroU16> for HttpsPorts {
    fn from_iter<T: IntoIterator<Item = NonZeroU16>>(ports: T) -> Self {
        Self(ports.into_iter().collect())
    }
}

impl fmt::Display for HttpsPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

impl FromStr for HttpsPorts {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.split(',').filter(|port| !port.is_empty()).map(str::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_were_written() {
        for (text, numbers) in [("", vec![]), ("443", vec![443]), ("443,65535", vec![443, 65535])] {
            let ports: HttpsPorts = text.parse().unwrap();
            assert_eq!((ports.to_string().as_str(), ports.numbers()), (text, numbers));
        }
        assert!("0".parse::<HttpsPorts>().is_err() && "a".parse::<HttpsPorts>().is_err());
        let ports: HttpsPorts = "443".parse().unwrap();
        assert!(ports.has(443) && !ports.has(444) && !ports.has(0));
    }
}
