//! What a sandbox's rules have kept back, counted in packets since its network was made.

use serde::Deserialize;

/// Packets of a guest that went nowhere, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Denials {
    /// To private ranges, the host, other guests or groups of machines.
    pub fenced: u64,
    /// To what the sandbox's policy does not allow.
    pub denied: u64,
    /// From an address that is not the guest's.
    pub spoofed: u64,
    /// IPv6, and whatever else is not IPv4.
    pub not_ipv4: u64,
    /// Too many connections, or too many new ones.
    pub connections: u64,
    /// More bytes than the bandwidth allows, in either direction.
    pub bandwidth: u64,
    /// Names that are not allowed, and connections that asked for the wrong one: counted by the sandbox's resolver and proxy,
    /// each from its own beginning.
    pub names: u64,
}

/// `nft`'s listing, as far as it matters.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    counter: Option<Counter>,
}

#[derive(Deserialize)]
struct Counter {
    name: String,
    packets: u64,
}

impl Denials {
    /// Those in `nft`'s listing of counters.
    pub(super) fn in_listing(json: &[u8]) -> Result<Self, serde_json::Error> {
        let listing: Listing = serde_json::from_slice(json)?;
        let mut denials = Self::default();
        for counter in listing.nftables.into_iter().filter_map(|item| item.counter) {
            let total = match counter.name.as_str() {
                "fenced" => &mut denials.fenced,
                "denied" => &mut denials.denied,
                "spoofed" => &mut denials.spoofed,
                "not_ipv4" => &mut denials.not_ipv4,
                "connections" => &mut denials.connections,
                "bandwidth" => &mut denials.bandwidth,
                _ => continue,
            };
            *total += counter.packets;
        }
        Ok(denials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_tables_are_added_by_their_names() {
        let listing = br#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "netdev", "name": "fenced", "table": "sandbox", "packets": 2, "bytes": 9}},
            {"counter": {"family": "ip", "name": "fenced", "table": "sandbox", "packets": 3, "bytes": 9}},
            {"counter": {"family": "ip", "name": "denied", "table": "sandbox", "packets": 1, "bytes": 9}},
            {"counter": {"family": "ip", "name": "of_another", "table": "x", "packets": 7, "bytes": 9}}]}"#;
        let expected = Denials { fenced: 5, denied: 1, ..Denials::default() };
        assert_eq!(Denials::in_listing(listing).unwrap(), expected);
        assert!(Denials::in_listing(b"nonsense").is_err());
    }
}
