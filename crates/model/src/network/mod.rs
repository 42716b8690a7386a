//! What a sandbox may reach. The same model serves every surface: what is allowed beats what is denied, and what is
//! neither is reached unless everything is denied.
//!
//! Private ranges, the host and other guests are no matter of policy: no sandbox ever reaches them.

mod destination;
mod headers;
mod proxy;
mod secret;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use destination::{Destination, DomainPattern, InvalidDestination, Range};
pub use headers::{HeaderWords, InvalidHeaders, RequestHeaders, is_token};
pub use proxy::{EgressProxy, InvalidProxy, Login, ProxyAddress, ProxyHost, ProxyTls, ProxyWords};
pub use secret::{Secret, Untold};

/// Whether a sandbox reaches what no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InternetAccess {
    /// It does.
    #[default]
    On,
    /// It reaches only what it is allowed.
    Off,
}

/// What a sandbox may reach, which way, and with which headers. `P` is what of it is secret, in whatever form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PolicyWords<P>", into = "PolicyWords<P>")]
#[serde(bound(serialize = "P: Clone + Serialize", deserialize = "P: Deserialize<'de>"))]
pub struct NetworkPolicy<P = Secret> {
    internet: InternetAccess,
    allow: Vec<Destination>,
    deny: Vec<Range>,
    name_servers: Option<Vec<Ipv4Addr>>,
    proxy: Option<EgressProxy<P>>,
    headers: RequestHeaders<P>,
}

/// A policy as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[serde(bound(serialize = "P: Clone + Serialize", deserialize = "P: Deserialize<'de>"))]
pub struct PolicyWords<P = Secret> {
    /// Whether what no list names is reached.
    pub allow_internet_access: bool,
    /// Addresses, ranges and domains.
    pub allow_out: Vec<String>,
    /// Addresses and ranges.
    pub deny_out: Vec<String>,
    /// Addresses; none is the host's own name servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
    /// What its connections go through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<ProxyWords<P>>,
    /// Headers that its requests get on their way.
    #[serde(default = "HeaderWords::new", skip_serializing_if = "HeaderWords::is_empty")]
    pub request_headers: HeaderWords<P>,
}

impl<P> Default for PolicyWords<P> {
    fn default() -> Self {
        Self {
            allow_internet_access: true,
            allow_out: Vec::new(),
            deny_out: Vec::new(),
            dns_servers: None,
            egress_proxy: None,
            request_headers: HeaderWords::new(),
        }
    }
}

impl<P> Default for NetworkPolicy<P> {
    fn default() -> Self {
        Self {
            internet: InternetAccess::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            name_servers: None,
            proxy: None,
            headers: RequestHeaders::default(),
        }
    }
}

/// Words that are no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// A list is too long.
    #[error("{list} may have at most {most} entries")]
    TooMany {
        /// Which list.
        list: &'static str,
        /// How many it may have.
        most: usize,
    },
    /// An entry is none.
    #[error("{list}: {source}")]
    Entry {
        /// Which list.
        list: &'static str,
        /// What is wrong with it.
        source: InvalidDestination,
    },
    /// Name servers are machines with an address.
    #[error("dns_servers: {0:?} is no IPv4 address")]
    NameServer(String),
    /// The proxy is none.
    #[error("egress_proxy: {0}")]
    Proxy(#[from] InvalidProxy),
    /// The headers of requests.
    #[error("request_headers: {0}")]
    Headers(#[from] InvalidHeaders),
    /// A name restricts nothing where all addresses are reached anyway.
    #[error("allow_out names domains, so deny_out must hold 0.0.0.0/0 or allow_internet_access be false")]
    DomainsWithoutDenial,
}

impl NetworkPolicy {
    /// Entries that each list may have.
    pub const MOST_ENTRIES: usize = 200;

    /// Name servers that it may have.
    pub const MOST_NAME_SERVERS: usize = 10;
}

impl<P> NetworkPolicy<P> {
    /// A policy, from the words of a request.
    pub fn new(words: PolicyWords<P>) -> Result<Self, InvalidPolicy> {
        let policy = Self {
            internet: if words.allow_internet_access { InternetAccess::On } else { InternetAccess::Off },
            allow: entries("allow_out", &words.allow_out)?,
            deny: entries("deny_out", &words.deny_out)?,
            name_servers: words.dns_servers.as_deref().map(name_servers).transpose()?,
            proxy: words.egress_proxy.map(EgressProxy::try_from).transpose()?,
            headers: words.request_headers.try_into()?,
        };
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

    /// The servers that its names are asked of, in the place of the host's.
    pub fn name_servers(&self) -> Option<&[Ipv4Addr]> {
        self.name_servers.as_deref()
    }

    /// Whether names may be asked of this server. That everything is denied is about what the names lead to.
    pub fn may_ask(&self, server: Ipv4Addr) -> bool {
        let is_denied = self.deny.iter().any(|range| *range != Range::ALL && range.contains(server));
        !is_denied || self.allowed_ranges().any(|range| range.contains(server))
    }

    /// What its connections go through.
    pub fn proxy(&self) -> Option<&EgressProxy<P>> {
        self.proxy.as_ref()
    }

    /// The headers that its requests get on their way.
    pub fn headers(&self) -> &RequestHeaders<P> {
        &self.headers
    }

    /// Whether connections to this address are allowed, as long as nothing is said of names.
    pub fn reaches(&self, address: Ipv4Addr) -> bool {
        let is_denied = self.denies_by_default() || self.deny.iter().any(|range| range.contains(address));
        !is_denied || self.allowed_ranges().any(|range| range.contains(address))
    }

    /// The same with what of it is secret in another form.
    pub fn with_secrets<Q, E>(self, mut change: impl FnMut(P) -> Result<Q, E>) -> Result<NetworkPolicy<Q>, E> {
        let Self { internet, allow, deny, name_servers, proxy, headers } = self;
        let proxy = proxy.map(|proxy| proxy.with_secret(&mut change)).transpose()?;
        let headers = headers.with_secrets(change)?;
        Ok(NetworkPolicy { internet, allow, deny, name_servers, proxy, headers })
    }

    /// What anybody may be told of it.
    pub fn untold(self) -> NetworkPolicy<Untold> {
        match self.with_secrets(|_| Ok::<_, std::convert::Infallible>(Untold)) {
            Ok(policy) => policy,
            Err(never) => match never {},
        }
    }

    /// The policy in words.
    pub fn words(&self) -> PolicyWords<P>
    where
        P: Clone,
    {
        PolicyWords {
            allow_internet_access: self.internet == InternetAccess::On,
            allow_out: self.allow.iter().map(ToString::to_string).collect(),
            deny_out: self.deny.iter().map(ToString::to_string).collect(),
            dns_servers: self.name_servers.as_ref().map(|servers| servers.iter().map(ToString::to_string).collect()),
            egress_proxy: self.proxy.clone().map(Into::into),
            request_headers: self.headers.words(),
        }
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
        return Err(InvalidPolicy::TooMany { list, most: NetworkPolicy::MOST_ENTRIES });
    }
    words.iter().map(|word| word.parse().map_err(|source| InvalidPolicy::Entry { list, source })).collect()
}

fn name_servers(words: &[String]) -> Result<Vec<Ipv4Addr>, InvalidPolicy> {
    if words.len() > NetworkPolicy::MOST_NAME_SERVERS {
        return Err(InvalidPolicy::TooMany { list: "dns_servers", most: NetworkPolicy::MOST_NAME_SERVERS });
    }
    words.iter().map(|word| word.parse().map_err(|_| InvalidPolicy::NameServer(word.clone()))).collect()
}

impl<P> TryFrom<PolicyWords<P>> for NetworkPolicy<P> {
    type Error = InvalidPolicy;

    fn try_from(words: PolicyWords<P>) -> Result<Self, InvalidPolicy> {
        Self::new(words)
    }
}

impl<P: Clone> From<NetworkPolicy<P>> for PolicyWords<P> {
    fn from(policy: NetworkPolicy<P>) -> Self {
        policy.words()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(internet: InternetAccess, allow: &[&str], deny: &[&str]) -> Result<NetworkPolicy, InvalidPolicy> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        NetworkPolicy::new(PolicyWords {
            allow_internet_access: internet == InternetAccess::On,
            allow_out: owned(allow),
            deny_out: owned(deny),
            ..PolicyWords::default()
        })
    }

    fn with_name_servers(deny: &str, servers: &[&str]) -> Result<NetworkPolicy, InvalidPolicy> {
        NetworkPolicy::new(PolicyWords {
            allow_out: vec!["5.6.7.0/24".to_owned()],
            deny_out: vec![deny.to_owned()],
            dns_servers: Some(servers.iter().map(|server| (*server).to_owned()).collect()),
            ..PolicyWords::default()
        })
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
        let refused = InvalidPolicy::TooMany { list: "allow_out", most: NetworkPolicy::MOST_ENTRIES };
        assert_eq!(policy(InternetAccess::On, &many, &[]), Err(refused));
        let refused = InvalidPolicy::TooMany { list: "dns_servers", most: NetworkPolicy::MOST_NAME_SERVERS };
        assert_eq!(with_name_servers("9.9.9.9", &["1.1.1.1"; 11]), Err(refused));
    }

    #[test]
    fn name_servers_are_addresses_none_is_not_no_list_and_both_are_kept() {
        for (servers, text) in [(&["1.1.1.1", "8.8.8.8"][..], r#"["1.1.1.1","8.8.8.8"]"#), (&[], "[]")] {
            let written = with_name_servers("9.9.9.9", servers).unwrap();
            assert_eq!(written.name_servers().map(<[_]>::len), Some(servers.len()));
            let json = serde_json::to_string(&written).unwrap();
            assert!(json.ends_with(&format!(r#""dns_servers":{text}}}"#)), "{json}");
            assert_eq!(serde_json::from_str::<NetworkPolicy>(&json).unwrap(), written);
        }
        for wrong in ["", "dns.example.com", "::1", "1.1.1.1/32", "1.1.1.1:53", " 1.1.1.1", "01.1.1.1"] {
            let refused = Err(InvalidPolicy::NameServer(wrong.to_owned()));
            assert_eq!(with_name_servers("9.9.9.9", &[wrong]), refused, "{wrong:?}");
        }
    }

    #[test]
    fn a_name_server_is_asked_unless_it_is_denied_itself() {
        let check = |deny: &str, server: &str, expect: bool| {
            let policy = with_name_servers(deny, &[server]).unwrap();
            assert_eq!(policy.may_ask(server.parse().unwrap()), expect, "{server} where {deny} is denied");
        };
        check("9.9.9.9", "1.1.1.1", true);
        check("1.1.1.0/24", "1.1.1.1", false);
        check("5.6.0.0/16", "5.6.7.8", true);
        check("5.6.0.0/16", "5.6.8.8", false);
        check("0.0.0.0/0", "1.1.1.1", true);
    }

    #[test]
    fn an_address_is_reached_as_the_rules_of_packets_would_have_it() {
        let check = |internet, allow: &[&str], deny: &[&str], address: &str, expect: bool| {
            let reaches = policy(internet, allow, deny).unwrap().reaches(address.parse().unwrap());
            assert_eq!(reaches, expect, "{internet:?} {allow:?} {deny:?} {address}");
        };
        check(InternetAccess::On, &[], &[], "1.1.1.1", true);
        check(InternetAccess::On, &[], &["1.1.1.0/24"], "1.1.1.1", false);
        check(InternetAccess::On, &["1.1.1.1"], &["1.1.1.0/24"], "1.1.1.1", true);
        check(InternetAccess::Off, &["1.1.1.1", "a.b"], &[], "1.1.1.1", true);
        check(InternetAccess::Off, &["1.1.1.1", "a.b"], &[], "1.1.1.2", false);
        check(InternetAccess::On, &[], &["0.0.0.0/0"], "1.1.1.2", false);
    }

    #[test]
    fn secrets_change_their_form_and_nothing_else_does() {
        let text = r#"{"allow_internet_access":true,"allow_out":[],"deny_out":[],"egress_proxy":{"address":"a.b:1","username":"u","password":"p"},"request_headers":{"a.b":{"x-key":"k"}}}"#;
        let policy: NetworkPolicy = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), text);
        let mut seen = Vec::new();
        let changed: NetworkPolicy<String> = policy
            .clone()
            .with_secrets(|secret| {
                seen.push(secret.reveal().to_owned());
                Ok::<_, ()>("sealed".to_owned())
            })
            .unwrap();
        assert_eq!(seen, ["p", "k"]);
        let sealed = text.replace(r#""p""#, r#""sealed""#).replace(r#""k""#, r#""sealed""#);
        assert_eq!(serde_json::to_string(&changed).unwrap(), sealed);
        let untold = policy.untold();
        assert_eq!(untold.headers().of("a.b").unwrap()["x-key"], Untold);
    }
}
