//! The addresses that callbacks must not reach: one table with the reason and the source of each range. The check at
//! registration and the check of every connection use this table and nothing else, so both give the same result.
//! docs/EGRESS.md shows the table; a test compares the two.
//!
//! - The ranges are those of the IANA special-purpose registries, and few others. Every special-purpose range is
//!   refused, also the ranges that the registries call globally reachable. These are identifiers that no packet
//!   reaches, and anycast services that every network can provide for itself: a request to one can end inside the
//!   operator's network.
//! - IPv6 is refused by default: only global unicast (`2000::/3`) is permitted, without its parts that embed IPv4
//!   or contain no hosts. A list of the encodings of IPv4 in IPv6 would be easy to get incomplete.
//! - The well-known prefix of NAT64 is decoded, not refused: an IPv6-only host with DNS64 reaches every IPv4
//!   receiver through it. Prefixes of operators have unknown lengths and cannot be decoded; those in `::/8` are
//!   refused.
//! - The table cannot contain this host's own public addresses, nor pods, services and on-premises networks with
//!   public addresses, nor tunnels and translators (ISATAP, NAT64) in a public prefix of the operator. A firewall has
//!   to refuse those.
//!
//! The check runs for each address of each connection. It compares the address with some fifty ranges, which takes
//! far less time than the lookup before it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range of addresses, and whether callbacks can reach it.
#[derive(Clone, Copy, Debug)]
pub struct AddressRange {
    /// The network.
    pub net: IpNet,
    /// What the guard does with an address of this range.
    pub verdict: Verdict,
    /// The kind of the addresses, which continues "an address that is …".
    pub reason: &'static str,
    /// The document that defines the range.
    pub source: Source,
}

/// What the guard does with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Callbacks cannot reach it, unless the operator allows it.
    Refused,
    /// The IPv4 address in its last 32 bits decides.
    Embedded,
    /// Callbacks can reach it.
    Public,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Embedded => "decoded",
            Self::Public => "permitted",
        })
    }
}

/// The document that defines a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A row of the IANA special-purpose registry of the address family, which names this RFC.
    SpecialPurpose(&'static str),
    /// The IANA registry of the whole address space of the family, with this RFC.
    AddressSpace(&'static str),
    /// The documentation of a vendor: no registry marks the range.
    Vendor(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpecialPurpose(rfc) => write!(f, "special-purpose registry, {rfc}"),
            Self::AddressSpace(rfc) => write!(f, "address space registry, {rfc}"),
            Self::Vendor(page) => write!(f, "[vendor]({page})"),
        }
    }
}

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

/// Makes an IPv6 network from the first segments of its address.
const fn v6<const N: usize>(head: [u16; N], prefix: u8) -> IpNet {
    let mut s = [0; 8];
    let mut at = 0;
    while at < N {
        s[at] = head[at];
        at += 1;
    }
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]), prefix))
}

/// A refused row of a special-purpose registry.
const fn special(net: IpNet, reason: &'static str, rfc: &'static str) -> AddressRange {
    AddressRange { net, verdict: Verdict::Refused, reason, source: Source::SpecialPurpose(rfc) }
}

const fn space(net: IpNet, verdict: Verdict, reason: &'static str, rfc: &'static str) -> AddressRange {
    AddressRange { net, verdict, reason, source: Source::AddressSpace(rfc) }
}

/// Microsoft's page on the address of Azure's `WireServer`.
const AZURE: &str = "https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16";

/// All ranges. The first one that contains an address decides, so a range stands before the wider ranges around it.
/// The last range of each family contains all its addresses.
pub const RANGES: &[AddressRange] = &[
    special(v4([0, 0, 0, 0], 8), "\"this host\"", "RFC 791"),
    special(v4([10, 0, 0, 0], 8), "private", "RFC 1918"),
    // Also Alibaba's metadata service and Tailscale.
    special(v4([100, 64, 0, 0], 10), "shared by a carrier's NAT", "RFC 6598"),
    special(v4([127, 0, 0, 0], 8), "loopback", "RFC 1122"),
    // In public space; no registry marks it.
    AddressRange {
        net: v4([168, 63, 129, 16], 32),
        verdict: Verdict::Refused,
        reason: "a cloud's metadata service",
        source: Source::Vendor(AZURE),
    },
    // The metadata services of most clouds.
    special(v4([169, 254, 0, 0], 16), "link-local", "RFC 3927"),
    special(v4([172, 16, 0, 0], 12), "private", "RFC 1918"),
    special(v4([192, 0, 0, 9], 32), "for anycast services", "RFC 7723"),
    special(v4([192, 0, 0, 10], 32), "for anycast services", "RFC 8155"),
    // Also Oracle's metadata service.
    special(v4([192, 0, 0, 0], 24), "reserved for protocols", "RFC 6890"),
    special(v4([192, 0, 2, 0], 24), "for documentation", "RFC 5737"),
    special(v4([192, 31, 196, 0], 24), "for anycast services", "RFC 7535"),
    special(v4([192, 52, 193, 0], 24), "for anycast services", "RFC 7450"),
    special(v4([192, 88, 99, 0], 24), "a 6to4 relay", "RFC 7526"),
    special(v4([192, 168, 0, 0], 16), "private", "RFC 1918"),
    special(v4([192, 175, 48, 0], 24), "for anycast services", "RFC 7534"),
    special(v4([198, 18, 0, 0], 15), "for benchmarks", "RFC 2544"),
    special(v4([198, 51, 100, 0], 24), "for documentation", "RFC 5737"),
    special(v4([203, 0, 113, 0], 24), "for documentation", "RFC 5737"),
    space(v4([224, 0, 0, 0], 4), Verdict::Refused, "multicast", "RFC 5771"),
    // Class E and broadcast; some clusters use it for pods.
    special(v4([240, 0, 0, 0], 4), "reserved", "RFC 1112"),
    space(v4([0, 0, 0, 0], 0), Verdict::Public, "public", "RFC 7249"),
    special(v6([], 128), "\"this host\"", "RFC 4291"),
    special(v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback", "RFC 4291"),
    special(v6([0, 0, 0, 0, 0, 0xffff], 96), "IPv4 in the form of IPv6", "RFC 4291"),
    AddressRange {
        net: v6([0x64, 0xff9b], 96),
        verdict: Verdict::Embedded,
        reason: "IPv4 behind NAT64",
        source: Source::SpecialPurpose("RFC 6052"),
    },
    special(v6([0x64, 0xff9b, 1], 48), "IPv4 behind a local NAT64", "RFC 8215"),
    // Other forms of IPv4: compatible, translated (SIIT), ISATAP. And the rest of the prefixes for NAT64.
    space(v6([], 8), Verdict::Refused, "reserved", "RFC 4291"),
    special(v6([0x100], 64), "discarded by routers", "RFC 6666"),
    special(v6([0x100, 0, 0, 1], 64), "a placeholder", "RFC 9780"),
    special(v6([0x2001, 0], 32), "a Teredo tunnel", "RFC 4380"),
    special(v6([0x2001, 1, 0, 0, 0, 0, 0, 1], 128), "for anycast services", "RFC 7723"),
    special(v6([0x2001, 1, 0, 0, 0, 0, 0, 2], 128), "for anycast services", "RFC 8155"),
    special(v6([0x2001, 1, 0, 0, 0, 0, 0, 3], 128), "for anycast services", "RFC 9665"),
    special(v6([0x2001, 2, 0], 48), "for benchmarks", "RFC 5180"),
    special(v6([0x2001, 3], 32), "for anycast services", "RFC 7450"),
    special(v6([0x2001, 4, 0x112], 48), "for anycast services", "RFC 7535"),
    special(v6([0x2001, 0x10], 28), "a host's identifier", "RFC 4843"),
    special(v6([0x2001, 0x20], 28), "a host's identifier", "RFC 7343"),
    special(v6([0x2001, 0x30], 28), "a drone's identifier", "RFC 9374"),
    special(v6([0x2001, 0], 23), "reserved for protocols", "RFC 2928"),
    special(v6([0x2001, 0xdb8], 32), "for documentation", "RFC 3849"),
    special(v6([0x2002], 16), "a 6to4 tunnel", "RFC 3056"),
    special(v6([0x2620, 0x4f, 0x8000], 48), "for anycast services", "RFC 7534"),
    special(v6([0x3fff], 20), "for documentation", "RFC 9637"),
    space(v6([0x2000], 3), Verdict::Public, "global unicast", "RFC 4291"),
    special(v6([0x5f00], 16), "for segment routing", "RFC 9602"),
    // Also the metadata services of AWS and Google.
    special(v6([0xfc00], 7), "private", "RFC 4193"),
    special(v6([0xfe80], 10), "link-local", "RFC 4291"),
    space(v6([0xfec0], 10), Verdict::Refused, "site-local", "RFC 3879"),
    space(v6([0xff00], 8), Verdict::Refused, "multicast", "RFC 4291"),
    space(v6([], 0), Verdict::Refused, "not public", "RFC 4291"),
];

/// Returns why an address is refused; `None` for a public address.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    let range = RANGES.iter().find(|range| range.net.contains(&address));
    match (range.map(|range| range.verdict), address) {
        (Some(Verdict::Public), _) => None,
        (Some(Verdict::Embedded), IpAddr::V6(address)) => {
            let [.., a, b, c, d] = address.octets();
            forbidden(Ipv4Addr::new(a, b, c, d).into())
        }
        (Some(Verdict::Refused | Verdict::Embedded) | None, _) => {
            Some(range.map_or("in no known range", |range| range.reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        forbidden(text.parse().unwrap()).is_some()
    }

    fn with(verdict: Verdict) -> impl Iterator<Item = &'static AddressRange> {
        RANGES.iter().filter(move |range| range.verdict == verdict)
    }

    #[test]
    fn every_address_is_in_a_range_and_the_narrowest_decides() {
        for (at, range) in RANGES.iter().enumerate() {
            assert_eq!(range.net, range.net.trunc(), "{} has bits after its prefix", range.net);
            for wider in &RANGES[..at] {
                assert!(!wider.net.contains(&range.net), "{} hides {}", wider.net, range.net);
            }
        }
        for all in ["0.0.0.0/0", "::/0"] {
            assert!(RANGES.iter().any(|range| range.net == all.parse().unwrap()), "{all}");
        }
        let embedded: Vec<String> = with(Verdict::Embedded).map(|range| range.net.to_string()).collect();
        assert_eq!(embedded, ["64:ff9b::/96"], "the last 32 bits of these are an IPv4 address");
    }

    #[test]
    fn both_ends_of_every_refused_range_are_forbidden() {
        for range in with(Verdict::Refused).filter(|range| range.net.prefix_len() > 0) {
            for address in [range.net.network(), range.net.broadcast()] {
                assert!(forbidden(address).is_some(), "{address} {}", range.reason);
            }
        }
        assert_eq!(forbidden("4000::1".parse().unwrap()), Some("not public"));
        assert_eq!(forbidden("64:ff9b::a00:1".parse().unwrap()), Some("private"));
    }

    #[test]
    fn the_neighbours_of_the_ranges_are_public() {
        for text in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.15",
            "168.63.129.17",
            "93.184.216.34",
            "2001:200::1",
            "2001:db7::1",
            "2003::1",
            "2606:2800:220:1::1",
            "2a00:1450::1",
            "3ffe::1",
            "64:ff9b::5db8:d822",
        ] {
            assert!(!refused(text), "{text}");
        }
    }

    #[test]
    fn metadata_services_are_forbidden() {
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::a9fe:a9fe",
            "fec0::1",
            "ff02::1",
            "::",
            "::1",
            "100::1",
            "100:0:0:1::1",
            "5f00::1",
            "64:ff9b:1::a00:1",
            "64:ff9b:2::1",
        ] {
            assert!(refused(text), "{text}");
        }
    }
}
