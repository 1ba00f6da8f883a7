//! The addresses that callbacks must not reach. One table serves the check at registration and the check of
//! every connection, so both give the same result.
//!
//! - IPv6 is refused by default: only global unicast (`2000::/3`) is permitted, without its parts that embed IPv4
//!   or contain no hosts. A list of the encodings of IPv4 in IPv6 would be easy to get incomplete.
//! - The well-known prefix of NAT64 is decoded, not refused: an IPv6-only host with DNS64 reaches every IPv4
//!   receiver through it.
//! - The table cannot contain this host's own public addresses, nor pods, services and on-premises networks with
//!   public addresses. A firewall has to refuse those.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// The refused IPv4 networks, each with its kind.
const V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "\"this host\""),
    (v4(10, 0, 0, 0, 8), "private"),
    // Also Alibaba's metadata service and Tailscale.
    (v4(100, 64, 0, 0, 10), "shared by a carrier's NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    // The metadata services of most clouds.
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    // Also Oracle's metadata service.
    (v4(192, 0, 0, 0, 24), "reserved for protocols"),
    (v4(192, 0, 2, 0, 24), "for documentation"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 0, 24), "for documentation"),
    (v4(203, 0, 113, 0, 24), "for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    // Class E and broadcast; some clusters use it for pods.
    (v4(240, 0, 0, 0, 4), "reserved"),
    // Azure's WireServer: in public space, and in no registry of special addresses.
    (v4(168, 63, 129, 16, 32), "a cloud's metadata service"),
];

/// The only IPv6 network that has public addresses.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// The parts of [`GLOBAL_UNICAST`] that are refused.
const V6: &[(Ipv6Net, &str)] = &[
    // Teredo, ORCHID, benchmarks, DETs.
    (v6(0x2001, 0, 0, 23), "reserved for protocols"),
    (v6(0x2001, 0xdb8, 0, 32), "for documentation"),
    (v6(0x2002, 0, 0, 16), "6to4"),
    (v6(0x3fff, 0, 0, 20), "for documentation"),
];

/// The NAT64 prefix whose last 32 bits are an IPv4 address. Prefixes of operators have unknown lengths and
/// cannot be decoded, so they are refused.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);

/// Returns why an address is refused; `None` for a public address.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            forbidden_v4(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V6(address) if !GLOBAL_UNICAST.contains(&address) => Some("not public"),
        IpAddr::V6(address) => reason(V6, |net| net.contains(&address)),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    reason(V4, |net| net.contains(&address))
}

fn reason<N>(table: &[(N, &'static str)], contains: impl Fn(&N) -> bool) -> Option<&'static str> {
    table.iter().find(|(net, _)| contains(net)).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        forbidden(text.parse().unwrap()).is_some()
    }

    #[test]
    fn both_ends_of_every_range_are_forbidden() {
        for (net, why) in V4 {
            for address in [net.network(), net.broadcast()] {
                assert!(forbidden(address.into()).is_some(), "{address} {why}");
            }
        }
        for (net, why) in V6 {
            for address in [net.network(), net.broadcast()] {
                assert!(forbidden(address.into()).is_some(), "{address} {why}");
            }
        }
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

    #[test]
    fn every_embedding_of_a_forbidden_v4_is_forbidden() {
        for (net, why) in V4 {
            // Samples of each range, both ends included.
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            let stride = usize::try_from((last - first) / 500).unwrap().max(1);
            for bits in (first..=last).step_by(stride).chain([last]) {
                let [a, b, c, d] = bits.to_be_bytes();
                let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                let embeddings = [
                    ("mapped", [0, 0, 0, 0, 0, 0xffff, high, low]),
                    ("compatible", [0, 0, 0, 0, 0, 0, high, low]),
                    ("translated", [0, 0, 0, 0, 0xffff, 0, high, low]),
                    ("isatap", [0, 0, 0, 0, 0, 0x5efe, high, low]),
                    ("link-local isatap", [0xfe80, 0, 0, 0, 0, 0x5efe, high, low]),
                    ("nat64", [0x64, 0xff9b, 0, 0, 0, 0, high, low]),
                    ("local nat64", [0x64, 0xff9b, 1, 0, 0, 0, high, low]),
                    ("6to4", [0x2002, high, low, 0, 0, 0, 0, 1]),
                    ("teredo server", [0x2001, 0, high, low, 0, 0, 0, 0]),
                    ("teredo client", [0x2001, 0, 0x4136, 0xe378, 0, 0, !high, !low]),
                ];
                for (name, segments) in embeddings {
                    let address = Ipv6Addr::from(segments);
                    assert!(forbidden(address.into()).is_some(), "{name} {address} ({why})");
                }
            }
        }
    }
}
