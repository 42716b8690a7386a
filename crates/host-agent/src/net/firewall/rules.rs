//! The rules as text: what a sandbox's namespace lets through, and what the host does for all sandboxes. Pure.
//!
//! Inside a namespace, in the order in which a guest's packet meets them:
//!
//! ```text
//! ingress      only IPv4 and ARP, from the guest's own address and MAC, to no group of machines
//! prerouting   questions for names go to the host's name servers, or to those of the sandbox
//! input        nothing in the namespace itself is for the guest
//! forward      bandwidth, never to private ranges, new connections, then the sandbox's policy
//! ```
//!
//! Every packet of a connection is looked at again, in both directions, by where its first one went: what a policy no
//! longer allows ends at once. On the host, per installation and as a second layer: guests reach no address of the host
//! and no private one, nor each other, and nobody else reaches them by forwarding. Tables of others are not touched.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use model::{InstanceId, NetworkPolicy, Range};

use super::TrafficLimits;
use crate::net::address::{AddressPlan, GUEST_IP, GUEST_MAC, SandboxAddresses, TAP_IP};
use crate::net::names::{self, PEER, TAP};

/// What no guest ever reaches: this network and machine, private and shared ranges, link-local addresses with the metadata
/// services of clouds, the one of them whose address looks public (Azure's), benchmark networks, groups of machines, and
/// what is reserved, broadcast among it.
const FENCED: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 168.63.129.16, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, \
                      192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 240.0.0.0/4";

/// Questions for names.
const NAMES: &str = "meta l4proto { tcp, udp } th dport 53";

/// Where a sandbox's own proxy listens in its namespace.
pub(in crate::net) const PROXY_PORT: u16 = 4080;

/// Where it listens for connections whose address is allowed, and which go through the proxy of the sandbox's owner or may be
/// requests that get headers.
pub(in crate::net) const TUNNEL_PORT: u16 = 4081;

/// The first address that means more than one machine, or none.
const FIRST_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 0);

/// Whether an address is one of those that no guest ever reaches.
pub(crate) fn is_fenced(address: Ipv4Addr) -> bool {
    FENCED.split(", ").filter_map(|range| range.parse().ok()).any(|range: Range| range.contains(address))
}

/// The name servers that a sandbox's names are asked of: the host's, unless the policy has others. What guests do not reach
/// is not asked either, except by way of the host's own.
pub(crate) fn name_servers(policy: &NetworkPolicy, resolvers: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let is_reached = |server: &Ipv4Addr| {
        resolvers.contains(server) || (!is_fenced(*server) && *server < FIRST_GROUP && policy.may_ask(*server))
    };
    match policy.name_servers() {
        None => resolvers.to_vec(),
        Some(servers) => servers.iter().copied().filter(is_reached).collect(),
    }
}

/// The rules inside a sandbox's namespace, where there are none yet.
pub(in crate::net) fn sandbox_rules(
    addresses: &SandboxAddresses,
    policy: &NetworkPolicy,
    limits: &TrafficLimits,
    resolvers: &[Ipv4Addr],
) -> String {
    let SandboxAddresses { host_ip, veth, peer } = addresses;
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let TrafficLimits { megabytes_per_second, new_connections_per_second, connections } = limits;
    let asked = asked_directly(resolvers);
    let rules = format!(
        r#"table netdev sandbox {{
    counter spoofed {{ }}
    counter not_ipv4 {{ }}
    counter fenced {{ }}
    chain source {{
        type filter hook ingress device "{TAP}" priority 0; policy drop;
        ether saddr != {mac} counter name "spoofed" drop
        ether type arp arp saddr ether {mac} arp saddr ip {GUEST_IP} accept
        ether type arp counter name "spoofed" drop
        ether type != ip counter name "not_ipv4" drop
        ip saddr != {GUEST_IP} counter name "spoofed" drop
        ip daddr >= {FIRST_GROUP} counter name "fenced" drop
        accept
    }}
}}
table ip sandbox {{
    counter fenced {{ }}
    counter denied {{ }}
    counter connections {{ }}
    counter bandwidth {{ }}
    set fenced {{
        type ipv4_addr; flags interval
        elements = {{ {FENCED} }}
    }}
    set allowed {{
        type ipv4_addr; flags interval; auto-merge
    }}
    set denied {{
        type ipv4_addr; flags interval; auto-merge
    }}
    chain destination {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{PEER}" ip daddr {host_ip} dnat to {GUEST_IP}
        iifname "{TAP}" jump names
    }}
    chain names {{
    }}
    chain translation {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{PEER}" ip saddr {GUEST_IP} snat to {peer}
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "{PEER}" limit rate over {megabytes_per_second} mbytes/second burst {megabytes_per_second} mbytes counter name "bandwidth" drop
        ct state established,related accept
        iifname "{TAP}" jump arrivals
        iifname "{TAP}" counter name "fenced" drop
    }}
    chain arrivals {{
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        {asked}
        oifname "{PEER}" ip daddr @fenced counter name "fenced" drop
        oifname "{PEER}" limit rate over {megabytes_per_second} mbytes/second burst {megabytes_per_second} mbytes counter name "bandwidth" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname "{TAP}" oifname "{PEER}" ct direction reply accept
        iifname "{TAP}" oifname "{PEER}" limit rate over {megabytes_per_second} mbytes/second burst {megabytes_per_second} mbytes counter name "bandwidth" drop
        iifname "{TAP}" oifname "{PEER}" ct original ip daddr != {TAP_IP} ct original ip daddr @fenced counter name "fenced" drop
        iifname "{TAP}" oifname "{PEER}" ct state new jump beginning
        iifname "{TAP}" oifname "{PEER}" goto egress
        iifname "{PEER}" oifname "{TAP}" limit rate over {megabytes_per_second} mbytes/second burst {megabytes_per_second} mbytes counter name "bandwidth" drop
        iifname "{PEER}" oifname "{TAP}" ct direction reply goto egress
        iifname "{PEER}" oifname "{TAP}" ip saddr {veth} accept
    }}
    chain beginning {{
        ct count over {connections} counter name "connections" drop
        limit rate over {new_connections_per_second}/second burst {new_connections_per_second} packets counter name "connections" drop
    }}
    chain refuse {{
        meta l4proto tcp counter name "denied" reject with tcp reset
        counter name "denied" reject with icmp type admin-prohibited
    }}
    chain egress {{
    }}
}}
"#
    );
    rules + &policy_rules(policy, resolvers)
}

/// Sends a guest's questions to these name servers, whose answers then seem to come from the guest's own.
fn to_name_servers(servers: &[Ipv4Addr]) -> String {
    let question = format!("ip daddr {TAP_IP} {NAMES} dnat to");
    match servers {
        [] => String::new(),
        [only] => format!("{question} {only}"),
        several => {
            let places: Vec<_> = several.iter().enumerate().map(|(index, ip)| format!("{index} : {ip}")).collect();
            format!("{question} numgen inc mod {} map {{ {} }}", several.len(), places.join(", "))
        }
    }
}

/// Sends questions that a guest has for these name servers to its own resolver.
fn to_resolver(servers: &[Ipv4Addr]) -> String {
    list(servers).map(|list| format!("ip daddr {{ {list} }} {NAMES} dnat to {TAP_IP}")).unwrap_or_default()
}

/// Lets the sandbox's own resolver ask the host's name servers.
fn asked_directly(resolvers: &[Ipv4Addr]) -> String {
    match list(resolvers) {
        None => String::new(),
        Some(list) => format!(r#"oifname "{PEER}" ip daddr {{ {list} }} {NAMES} accept"#),
    }
}

fn list(addresses: &[Ipv4Addr]) -> Option<String> {
    // A set has each element once.
    let texts: BTreeSet<_> = addresses.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.into_iter().collect::<Vec<_>>().join(", "))
}

/// Which connections to allowed addresses are made by our process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    /// All of TCP: they go on through the proxy of the sandbox's owner.
    Everything,
    /// Those that may be requests, as some get headers.
    Requests,
}

impl Through {
    fn of(policy: &NetworkPolicy) -> Option<Self> {
        match (policy.proxy(), policy.headers().is_empty()) {
            (Some(_), _) => Some(Self::Everything),
            (None, false) => Some(Self::Requests),
            (None, true) => None,
        }
    }

    /// What their packets are known by.
    fn which(self) -> &'static str {
        match self {
            Self::Everything => "meta l4proto tcp",
            Self::Requests => "tcp dport { 80, 443 }",
        }
    }

    /// The same of packets in both directions, by where the first of them went.
    fn which_began(self) -> &'static str {
        match self {
            Self::Everything => "meta l4proto tcp",
            Self::Requests => "meta l4proto tcp ct original proto-dst { 80, 443 }",
        }
    }
}

/// How a policy lets a guest find names.
enum Names {
    /// By name servers, which are asked as they are.
    Asked(Vec<Ipv4Addr>),
    /// By the sandbox's own resolver, and connections go through its proxy. Questions to these name servers go to it, too.
    Resolved(Vec<Ipv4Addr>),
    /// Not.
    Nowhere,
}

impl Names {
    fn of(policy: &NetworkPolicy, resolvers: &[Ipv4Addr]) -> Self {
        match (policy.domains().next().is_some(), policy.denies_by_default()) {
            (true, _) => Self::Resolved(policy.name_servers().unwrap_or_default().to_vec()),
            (false, true) => Self::Nowhere,
            (false, false) => Self::Asked(name_servers(policy, resolvers)),
        }
    }

    /// What is done with where packets go, those of connections to allowed addresses that are taken `through` our process
    /// among them.
    fn diversions(&self, through: Option<Through>) -> Vec<String> {
        let tunnel = |which: &str, through: Through| format!("{which}{} redirect to :{TUNNEL_PORT}", through.which());
        let fenced = || "ip daddr @fenced return".to_owned();
        let allowed = through.map(|through| [fenced(), tunnel("ip daddr @allowed ", through)]).into_iter().flatten();
        match self {
            Self::Asked(servers) => {
                let rest = through.map(|through| ["ip daddr @denied return".to_owned(), tunnel("", through)]);
                [to_name_servers(servers)].into_iter().chain(allowed).chain(rest.into_iter().flatten()).collect()
            }
            Self::Resolved(servers) => {
                let named = format!("tcp dport {{ 80, 443 }} redirect to :{PROXY_PORT}");
                let ways = ["ip daddr @allowed return".to_owned(), fenced(), to_resolver(servers), named];
                allowed.chain(ways).collect()
            }
            Self::Nowhere => allowed.collect(),
        }
    }

    /// What then arrives in the namespace itself.
    fn arrivals(&self, through: Option<Through>) -> Vec<String> {
        let diverted = |port: u16| format!("ct status dnat tcp dport {port} accept");
        let is_resolved = matches!(self, Self::Resolved(_));
        let limit = (through.is_some() || is_resolved).then(|| "ct state new jump beginning".to_owned());
        let named = is_resolved.then(|| [format!("ip daddr {TAP_IP} {NAMES} accept"), diverted(PROXY_PORT)]);
        let tunnels = through.map(|_| diverted(TUNNEL_PORT));
        limit.into_iter().chain(named.into_iter().flatten()).chain(tunnels).collect()
    }
}

/// What makes `policy` the one that holds, from one packet to the next.
pub(in crate::net) fn policy_rules(policy: &NetworkPolicy, resolvers: &[Ipv4Addr]) -> String {
    let mut rules = String::new();
    for chain in ["egress", "names", "arrivals"] {
        // Writing to a string never fails.
        let _ = writeln!(rules, "flush chain ip sandbox {chain}");
    }
    let allowed: Vec<_> = policy.allowed_ranges().map(|range| range.to_string()).collect();
    let denied: Vec<_> = policy.denied().iter().map(ToString::to_string).collect();
    for (set, elements) in [("allowed", allowed), ("denied", denied)] {
        let _ = writeln!(rules, "flush set ip sandbox {set}");
        if !elements.is_empty() {
            let _ = writeln!(rules, "add element ip sandbox {set} {{ {} }}", elements.join(", "));
        }
    }
    let rest = if policy.denies_by_default() {
        "goto refuse".to_owned()
    } else {
        format!(
            "ct original ip daddr {TAP_IP} accept\n        ct original ip daddr @denied goto refuse\n        accept"
        )
    };
    let (names, through) = (Names::of(policy, resolvers), Through::of(policy));
    let diversions = names.diversions(through).join("\n        ");
    let arrivals = names.arrivals(through).join("\n        ");
    // What has not come through our process, from before there was one, does not go on beside it.
    let direct = through.map(|through| {
        let which = through.which_began();
        format!("{which} ct original ip daddr != {TAP_IP} goto refuse")
    });
    let direct = direct.unwrap_or_default();
    rules
        + &format!(
            r#"table ip sandbox {{
    chain names {{
        {diversions}
    }}
    chain arrivals {{
        {arrivals}
    }}
    chain egress {{
        {direct}
        ct original ip daddr @allowed accept
        {rest}
    }}
}}
"#
        )
}

/// The rules of an installation on the host. Peers have the odd addresses of the veth range, the host's own ends the
/// even ones: only what a guest sends is masqueraded.
pub(in crate::net) fn host_rules(instance: &InstanceId, plan: &AddressPlan, resolvers: &[Ipv4Addr]) -> String {
    let without = without_table(instance);
    let (table, veths) = (names::table(instance), format!("\"{}*\"", names::veth_prefix(instance)));
    let (host_base, veth_base) = (plan.host_base(), plan.veth_base());
    let first_peer = Ipv4Addr::from(veth_base.to_bits() + 1);
    let names = list(resolvers);
    let names = names.map(|list| format!("iifname {veths} ip daddr {{ {list} }} {NAMES} accept")).unwrap_or_default();
    format!(
        r#"{without}table ip {table} {{
    set fenced {{
        type ipv4_addr; flags interval; auto-merge
        elements = {{ {FENCED}, {host_base}/16, {veth_base}/16 }}
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {veths} ct state established,related accept
        {names}
        iifname {veths} counter drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        {names}
        iifname {veths} ip daddr @fenced counter drop
        iifname {veths} oifname {veths} counter drop
        iifname {veths} accept
        oifname {veths} ct state established,related accept
        oifname {veths} counter drop
    }}
    chain translation {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != {veths} ip saddr & 255.255.0.1 == {first_peer} masquerade
    }}
}}
"#
    )
}

/// What removes an installation's table, whether or not there is one.
pub(in crate::net) fn without_table(instance: &InstanceId) -> String {
    let table = names::table(instance);
    format!("table ip {table}\ndelete table ip {table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(policy: &str) -> Vec<String> {
        let rules = policy_rules(&serde_json::from_str(policy).unwrap(), &[Ipv4Addr::new(10, 0, 0, 53)]);
        let lines = rules.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with("table") && line != "}").collect()
    }

    fn chain(rules: &[String], name: &str) -> Vec<String> {
        let after = rules.iter().skip_while(|rule| **rule != format!("chain {name} {{")).skip(1);
        after.take_while(|rule| !rule.starts_with("chain")).cloned().collect()
    }

    #[test]
    fn what_is_allowed_comes_before_what_is_denied() {
        let rules = rules_of(r#"{"allow_out":["1.2.3.4"],"deny_out":["1.2.3.0/24","5.6.7.8"]}"#);
        let expected = [
            "flush set ip sandbox allowed",
            "add element ip sandbox allowed { 1.2.3.4 }",
            "flush set ip sandbox denied",
            "add element ip sandbox denied { 1.2.3.0/24, 5.6.7.8 }",
            "chain names {",
            "ip daddr 169.254.0.22 meta l4proto { tcp, udp } th dport 53 dnat to 10.0.0.53",
            "chain arrivals {",
            "chain egress {",
            "ct original ip daddr @allowed accept",
            "ct original ip daddr 169.254.0.22 accept",
            "ct original ip daddr @denied goto refuse",
            "accept",
        ];
        assert_eq!(rules[3..], expected);
    }

    #[test]
    fn without_the_internet_there_are_no_names_either() {
        let rules = rules_of(r#"{"allow_internet_access":false}"#);
        assert_eq!(rules[rules.len() - 2..], ["ct original ip daddr @allowed accept", "goto refuse"]);
        assert!(rules.iter().all(|rule| !rule.contains("53")), "{rules:?}");
    }

    #[test]
    fn names_of_a_policy_are_asked_of_the_sandbox_s_own_resolver() {
        let rules = rules_of(r#"{"allow_internet_access":false,"allow_out":["example.com"]}"#);
        assert!(rules.contains(&"tcp dport { 80, 443 } redirect to :4080".to_owned()), "{rules:?}");
        assert!(rules.iter().all(|rule| !rule.contains("dnat to")), "{rules:?}");
    }

    #[test]
    fn names_are_asked_of_a_policy_s_own_servers_in_the_place_of_the_host_s() {
        let rules = rules_of(r#"{"dns_servers":["1.1.1.1"]}"#);
        let question = "ip daddr 169.254.0.22 meta l4proto { tcp, udp } th dport 53 dnat to 1.1.1.1".to_owned();
        assert!(rules.contains(&question), "{rules:?}");
        let rules =
            rules_of(r#"{"allow_internet_access":false,"allow_out":["a.b"],"dns_servers":["1.1.1.1","1.1.1.1"]}"#);
        let question = "ip daddr { 1.1.1.1 } meta l4proto { tcp, udp } th dport 53 dnat to 169.254.0.22".to_owned();
        assert!(rules.contains(&question), "{rules:?}");
        for nobody in [
            r#"{"dns_servers":[]}"#,
            r#"{"dns_servers":["10.0.0.1","169.254.169.254","224.0.0.251"]}"#,
            r#"{"dns_servers":["1.1.1.1"],"deny_out":["1.1.1.0/24"]}"#,
            r#"{"dns_servers":["1.1.1.1"],"deny_out":["0.0.0.0/0"]}"#,
        ] {
            let rules = rules_of(nobody);
            assert!(rules.iter().all(|rule| !rule.contains("dnat")), "{nobody}: {rules:?}");
        }
    }

    #[test]
    fn a_private_name_server_is_asked_only_where_it_is_the_host_s() {
        let ours = [Ipv4Addr::new(10, 0, 0, 53)];
        let check = |policy: &str, expect: &[&str]| {
            let servers = name_servers(&serde_json::from_str(policy).unwrap(), &ours);
            assert_eq!(servers.iter().map(ToString::to_string).collect::<Vec<_>>(), expect, "{policy}");
        };
        check("{}", &["10.0.0.53"]);
        check(r#"{"dns_servers":["10.0.0.53","10.0.0.54","1.1.1.1","127.0.0.1"]}"#, &["10.0.0.53", "1.1.1.1"]);
        check(r#"{"dns_servers":[]}"#, &[]);
    }

    #[test]
    fn what_is_allowed_goes_through_a_proxy_and_nothing_goes_beside_it() {
        let with = |more: &str| rules_of(&format!(r#"{{"egress_proxy":{{"address":"203.0.113.9:1080"}}{more}}}"#));
        let (allowed, rest) =
            ("ip daddr @allowed meta l4proto tcp redirect to :4081", "meta l4proto tcp redirect to :4081");
        let question = "ip daddr 169.254.0.22 meta l4proto { tcp, udp } th dport 53 dnat to 10.0.0.53";
        let open = with("");
        let expected = [question, "ip daddr @fenced return", allowed, "ip daddr @denied return", rest];
        assert_eq!(chain(&open, "names"), expected);
        assert_eq!(chain(&open, "arrivals"), ["ct state new jump beginning", "ct status dnat tcp dport 4081 accept"]);
        assert_eq!(chain(&open, "egress")[0], "meta l4proto tcp ct original ip daddr != 169.254.0.22 goto refuse");
        let off = with(r#","allow_internet_access":false"#);
        assert_eq!(chain(&off, "names"), ["ip daddr @fenced return", allowed]);
        let named = with(r#","allow_internet_access":false,"allow_out":["a.b"]"#);
        let expected = [
            "ip daddr @fenced return",
            allowed,
            "ip daddr @allowed return",
            "ip daddr @fenced return",
            "tcp dport { 80, 443 } redirect to :4080",
        ];
        assert_eq!(chain(&named, "names"), expected);
        assert!(chain(&named, "arrivals").contains(&"ct status dnat tcp dport 4080 accept".to_owned()));
    }

    #[test]
    fn what_may_be_a_request_that_gets_headers_is_looked_at_wherever_it_may_go() {
        let with = |more: &str| rules_of(&format!(r#"{{"request_headers":{{"a.b":{{"x":"y"}}}}{more}}}"#));
        let (allowed, rest) =
            ("ip daddr @allowed tcp dport { 80, 443 } redirect to :4081", "tcp dport { 80, 443 } redirect to :4081");
        let question = "ip daddr 169.254.0.22 meta l4proto { tcp, udp } th dport 53 dnat to 10.0.0.53";
        let open = with("");
        let expected = [question, "ip daddr @fenced return", allowed, "ip daddr @denied return", rest];
        assert_eq!(chain(&open, "names"), expected);
        let direct =
            "meta l4proto tcp ct original proto-dst { 80, 443 } ct original ip daddr != 169.254.0.22 goto refuse";
        assert_eq!(chain(&open, "egress")[0], direct);
        let named = with(r#","allow_internet_access":false,"allow_out":["a.b","1.2.3.4"]"#);
        let expected = [
            "ip daddr @fenced return",
            allowed,
            "ip daddr @allowed return",
            "ip daddr @fenced return",
            "tcp dport { 80, 443 } redirect to :4080",
        ];
        assert_eq!(chain(&named, "names"), expected);
        let both = with(r#","egress_proxy":{"address":"203.0.113.9:1080"}"#);
        assert!(chain(&both, "names").contains(&"meta l4proto tcp redirect to :4081".to_owned()));
    }

    #[test]
    fn private_addresses_are_known_and_public_ones_too() {
        for address in
            ["10.1.2.3", "168.63.129.16", "169.254.169.254", "192.168.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
        {
            assert!(is_fenced(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "168.63.129.17", "172.32.0.1", "203.0.113.2", "100.128.0.1"] {
            assert!(!is_fenced(address.parse().unwrap()), "{address}");
        }
    }
}
