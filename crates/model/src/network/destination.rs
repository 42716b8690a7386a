//! Where packets go: ranges of addresses, and names.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of IPv4 addresses. Guests have no IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    first: Ipv4Addr,
    prefix: u8,
}

/// A name, or all names under one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainPattern {
    /// In lower case, without a dot at the end.
    name: String,
    covers: Covers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Covers {
    /// The name itself.
    Name,
    /// All names that end in it, with at least one label more.
    Below,
}

/// What may be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Addresses.
    Range(Range),
    /// What a name stands for.
    Domain(DomainPattern),
}

/// A text that is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDestination {
    /// Neither an address nor a range.
    #[error("{0:?} is no IPv4 address or range such as 198.51.100.0/24")]
    Range(String),
    /// Guests have none.
    #[error("{0:?} is an IPv6 address, which guests do not have")]
    Ipv6(String),
    /// Neither that nor a name.
    #[error("{0:?} is no IPv4 address, range, domain or *.domain")]
    Neither(String),
}

impl Range {
    /// Every address.
    pub const ALL: Self = Self { first: Ipv4Addr::UNSPECIFIED, prefix: 0 };
    /// What one is that is a single address, as a regular expression.
    pub const ADDRESS_PATTERN: &str =
        r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$";
    /// What one is, as a regular expression.
    pub const PATTERN: &str = r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(/(3[0-2]|[12]?[0-9]))?$";

    /// Whether it has this address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first.to_bits()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            32 => self.first.fmt(f),
            prefix => write!(f, "{}/{prefix}", self.first),
        }
    }
}

impl FromStr for Range {
    type Err = InvalidDestination;

    /// Bits beyond the prefix do not matter.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDestination::Range(text.to_owned());
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        if address.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(InvalidDestination::Ipv6(text.to_owned()));
        }
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let number = prefix.parse().ok().filter(|number: &u8| *number <= 32 && number.to_string() == prefix);
        let prefix = number.ok_or_else(invalid)?;
        Ok(Self { first: (address.to_bits() & mask(prefix)).into(), prefix })
    }
}

impl DomainPattern {
    /// Characters of one.
    pub const LONGEST: usize = 253;
    /// What one is, as a regular expression.
    pub const PATTERN: &str = r"^(\*\.)?([a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}\.){0,126}[a-zA-Z][a-zA-Z0-9_-]{0,62}$";

    /// Whether a name is allowed by it. Case and a dot at the end do not matter.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.covers {
            Covers::Name => name == self.name,
            Covers::Below => name.strip_suffix(&self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl DomainPattern {
    /// Of two that match a name, the greater one says more of it.
    pub(super) fn closeness(&self) -> (bool, usize) {
        (self.covers == Covers::Name, self.name.len())
    }

    /// The name that all it matches is, or is below.
    pub fn root(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.covers == Covers::Below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

impl FromStr for DomainPattern {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let (name, covers) = match lower.strip_prefix("*.") {
            Some(name) => (name, Covers::Below),
            None => (lower.as_str(), Covers::Name),
        };
        let is_label = |label: &str| {
            let is_inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(is_inner) && !label.starts_with('-')
        };
        // The last label begins with a letter: so no name can be taken for an address.
        let ends_in_a_word =
            name.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_lowercase()));
        if text.len() > Self::LONGEST || !name.split('.').all(is_label) || !ends_in_a_word {
            return Err(InvalidDestination::Neither(text.to_owned()));
        }
        Ok(Self { name: name.to_owned(), covers })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Domain(domain) => domain.fmt(f),
        }
    }
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(range) => Ok(Self::Range(range)),
            Err(InvalidDestination::Range(_)) => text.parse().map(Self::Domain),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_normal_and_contain_what_they_should() {
        let check = |text: &str, shown: &str, inside: &str, outside: Option<&str>| {
            let range: Range = text.parse().unwrap();
            assert_eq!(range.to_string(), shown);
            assert!(range.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(outside.is_none_or(|address| !range.contains(address.parse().unwrap())), "{text} {outside:?}");
        };
        check("1.2.3.4", "1.2.3.4", "1.2.3.4", Some("1.2.3.5"));
        check("1.2.3.4/32", "1.2.3.4", "1.2.3.4", Some("1.2.3.3"));
        check("10.1.2.3/8", "10.0.0.0/8", "10.255.0.1", Some("11.0.0.0"));
        check("0.0.0.0/0", "0.0.0.0/0", "255.255.255.255", None);
        for wrong in [
            "",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/-1",
            "1.2.3.4/08",
            "1.2.3.4/+8",
            "1.2.3.4/8/8",
            " 1.2.3.4",
            "1.2.3.4\n",
        ] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong:?}");
        }
        assert!(matches!("::1".parse::<Destination>(), Err(InvalidDestination::Ipv6(_))));
        assert!(matches!("2001:db8::/32".parse::<Destination>(), Err(InvalidDestination::Ipv6(_))));
    }

    #[test]
    fn a_name_allows_itself_and_a_star_what_is_below() {
        let check = |pattern: &str, name: &str, expect: bool| {
            assert_eq!(pattern.parse::<DomainPattern>().unwrap().matches(name), expect, "{pattern} {name}");
        };
        check("example.com", "example.com", true);
        check("Example.COM", "eXample.com.", true);
        check("example.com", "www.example.com", false);
        check("example.com", "notexample.com", false);
        check("*.example.com", "www.example.com", true);
        check("*.example.com", "a.b.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", ".example.com", false);
        check("*.example.com", "notexample.com", false);
        check("*.example.com", "www.example.com.evil.net", false);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for wrong in [
            "",
            "*",
            "*.",
            "a..b",
            "a b",
            "a/b",
            "-a.com",
            "*.*.com",
            "1.2.3.4.5",
            "a.1b",
            "a.",
            "ex\u{e4}mple.com",
            "a\n",
        ] {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong:?}");
        }
        assert!(format!("{}com", "a.".repeat(126)).parse::<Destination>().is_err(), "255 bytes");
        assert!(matches!("localhost".parse(), Ok(Destination::Domain(_))));
    }
}
