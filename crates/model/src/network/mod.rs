//! What a sandbox may reach. The same model serves every surface: what is allowed beats what is denied, and what is
//! neither is reached unless everything is denied.
//!
//! Private ranges, the host and other guests are no matter of policy: no sandbox ever reaches them.

mod destination;

use serde::{Deserialize, Serialize};

pub use destination::{Destination, DomainPattern, InvalidDestination, Range};

/// Whether a sandbox reaches what no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InternetAccess {
    /// It does.
    #[default]
    On,
    /// It reaches only what it is allowed.
    Off,
}

/// What a sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Words", into = "Words")]
pub struct NetworkPolicy {
    internet: InternetAccess,
    allow: Vec<Destination>,
    deny: Vec<Range>,
}

/// A policy as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Words {
    allow_internet_access: bool,
    allow_out: Vec<String>,
    deny_out: Vec<String>,
}

impl Default for Words {
    fn default() -> Self {
        Self { allow_internet_access: true, allow_out: Vec::new(), deny_out: Vec::new() }
    }
}

/// Words that are no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// A list is too long.
    #[error("{list} may have at most {} entries", NetworkPolicy::MOST_ENTRIES)]
    TooMany {
        /// Which list.
        list: &'static str,
    },
    /// An entry is none.
    #[error("{list}: {source}")]
    Entry {
        /// Which list.
        list: &'static str,
        /// What is wrong with it.
        source: InvalidDestination,
    },
    /// A name restricts nothing where all addresses are reached anyway.
    #[error("allow_out names domains, so deny_out must hold 0.0.0.0/0 or allow_internet_access be false")]
    DomainsWithoutDenial,
}

impl NetworkPolicy {
    /// Entries that each list may have.
    pub const MOST_ENTRIES: usize = 200;

    /// A policy, from the words of a request.
    pub fn new(internet: InternetAccess, allow_out: &[String], deny_out: &[String]) -> Result<Self, InvalidPolicy> {
        let policy = Self { internet, allow: entries("allow_out", allow_out)?, deny: entries("deny_out", deny_out)? };
        let names_domains = policy.domains().next().is_some();
        if names_domains && !policy.denies_by_default() { Err(InvalidPolicy::DomainsWithoutDenial) } else { Ok(policy) }
    }

    /// Whether what no rule names is reached.
    pub fn internet(&self) -> InternetAccess {
        self.internet
    }

    /// Whether only what is allowed is reached.
    pub fn denies_by_default(&self) -> bool {
        self.internet == InternetAccess::Off || self.deny.contains(&Range::ALL)
    }

    /// What is allowed.
    pub fn allowed(&self) -> &[Destination] {
        &self.allow
    }

    /// What is denied, unless it is allowed.
    pub fn denied(&self) -> &[Range] {
        &self.deny
    }

    /// The addresses that are allowed.
    pub fn allowed_ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.allow.iter().filter_map(|destination| match destination {
            Destination::Range(range) => Some(*range),
            Destination::Domain(_) => None,
        })
    }

    /// The names that are allowed.
    pub fn domains(&self) -> impl Iterator<Item = &DomainPattern> {
        self.allow.iter().filter_map(|destination| match destination {
            Destination::Range(_) => None,
            Destination::Domain(domain) => Some(domain),
        })
    }
}

fn entries<T>(list: &'static str, words: &[String]) -> Result<Vec<T>, InvalidPolicy>
where
    T: std::str::FromStr<Err = InvalidDestination>,
{
    if words.len() > NetworkPolicy::MOST_ENTRIES {
        return Err(InvalidPolicy::TooMany { list });
    }
    words.iter().map(|word| word.parse().map_err(|source| InvalidPolicy::Entry { list, source })).collect()
}

impl TryFrom<Words> for NetworkPolicy {
    type Error = InvalidPolicy;

    fn try_from(words: Words) -> Result<Self, InvalidPolicy> {
        let internet = if words.allow_internet_access { InternetAccess::On } else { InternetAccess::Off };
        Self::new(internet, &words.allow_out, &words.deny_out)
    }
}

impl From<NetworkPolicy> for Words {
    fn from(policy: NetworkPolicy) -> Self {
        Self {
            allow_internet_access: policy.internet == InternetAccess::On,
            allow_out: policy.allow.iter().map(ToString::to_string).collect(),
            deny_out: policy.deny.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(internet: InternetAccess, allow: &[&str], deny: &[&str]) -> Result<NetworkPolicy, InvalidPolicy> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        NetworkPolicy::new(internet, &owned(allow), &owned(deny))
    }

    #[test]
    fn a_policy_is_read_as_it_was_written_and_nothing_is_the_default() {
        let written = policy(InternetAccess::Off, &["1.2.3.4", "*.example.com"], &["198.51.100.0/24"]).unwrap();
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(
            text,
            r#"{"allow_internet_access":false,"allow_out":["1.2.3.4","*.example.com"],"deny_out":["198.51.100.0/24"]}"#
        );
        assert_eq!(serde_json::from_str::<NetworkPolicy>(&text).unwrap(), written);
        assert_eq!(serde_json::from_str::<NetworkPolicy>("{}").unwrap(), NetworkPolicy::default());
        assert!(serde_json::from_str::<NetworkPolicy>(r#"{"allow_in":[]}"#).is_err());
    }

    #[test]
    fn everything_is_denied_by_a_word_or_by_a_range() {
        let check = |policy: Result<NetworkPolicy, InvalidPolicy>, expect| {
            assert_eq!(policy.unwrap().denies_by_default(), expect);
        };
        check(policy(InternetAccess::On, &[], &[]), false);
        check(policy(InternetAccess::On, &["1.1.1.1"], &["8.8.8.8"]), false);
        check(policy(InternetAccess::Off, &[], &[]), true);
        check(policy(InternetAccess::On, &["1.1.1.1"], &["0.0.0.0/0"]), true);
    }

    #[test]
    fn names_are_allowed_only_where_all_else_is_denied() {
        assert_eq!(policy(InternetAccess::On, &["example.com"], &[]), Err(InvalidPolicy::DomainsWithoutDenial));
        assert!(policy(InternetAccess::On, &["example.com"], &["0.0.0.0/0"]).is_ok());
        assert!(policy(InternetAccess::Off, &["example.com"], &[]).is_ok());
        assert!(matches!(
            policy(InternetAccess::Off, &[], &["example.com"]),
            Err(InvalidPolicy::Entry { list: "deny_out", .. })
        ));
    }

    #[test]
    fn lists_are_bounded() {
        let many = vec!["1.1.1.1"; NetworkPolicy::MOST_ENTRIES + 1];
        assert_eq!(policy(InternetAccess::On, &many, &[]), Err(InvalidPolicy::TooMany { list: "allow_out" }));
    }
}
