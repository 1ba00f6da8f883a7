//! Properties of the guard, on URLs as users write them: each refused address is refused in every spelling, and each
//! public address is accepted in every spelling that the URL parser reads. Addresses and spellings are drawn from a
//! fixed seed, so every run is the same. A spelling that fails becomes a named test.
//!
//! The expectation does not come from the table alone: the rows of the registries count as well, and a public address
//! is one in no row.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use ipnet::IpNet;

use super::registry::rows;
use super::*;

/// A reproducible pseudo-random sequence (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    fn ipv4(&mut self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::try_from(self.next() >> 32).unwrap())
    }

    /// Returns an address of a network.
    fn within(&mut self, net: IpNet) -> IpAddr {
        match net {
            IpNet::V4(net) => {
                let host = self.ipv4().to_bits() & net.hostmask().to_bits();
                Ipv4Addr::from_bits(net.network().to_bits() | host).into()
            }
            IpNet::V6(net) => {
                let host = self.wide() & net.hostmask().to_bits();
                Ipv6Addr::from_bits(net.network().to_bits() | host).into()
            }
        }
    }
}

/// Returns the forms of IPv6 that contain an IPv4 address, without the well-known prefix of NAT64.
fn embeddings(address: Ipv4Addr) -> Vec<(&'static str, Ipv6Addr)> {
    let [a, b, c, d] = address.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    [
        ("mapped", [0, 0, 0, 0, 0, 0xffff, high, low]),
        ("compatible", [0, 0, 0, 0, 0, 0, high, low]),
        ("translated", [0, 0, 0, 0, 0xffff, 0, high, low]),
        ("isatap", [0, 0, 0, 0, 0, 0x5efe, high, low]),
        ("isatap, unique", [0, 0, 0, 0, 0x200, 0x5efe, high, low]),
        ("isatap, link-local", [0xfe80, 0, 0, 0, 0, 0x5efe, high, low]),
        ("isatap, link-local, unique", [0xfe80, 0, 0, 0, 0x200, 0x5efe, high, low]),
        ("local nat64", [0x64, 0xff9b, 1, 0, 0, 0, high, low]),
        ("local nat64, 48 bits", [0x64, 0xff9b, 1, high, u16::from(c), u16::from(d) << 8, 0, 0]),
        ("nat64 besides the prefixes", [0x64, 0xff9b, 2, 0, 0, 0, high, low]),
        ("6to4", [0x2002, high, low, 0, 0, 0, 0, 1]),
        ("teredo server", [0x2001, 0, high, low, 0, 0, 0, 0]),
        ("teredo client", [0x2001, 0, 0x4136, 0xe378, 0, 0, !high, !low]),
    ]
    .map(|(name, segments)| (name, Ipv6Addr::from(segments)))
    .into()
}

fn nat64(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Writes an address as a host of a URL.
fn host(draw: &mut Draw, address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let plain = numbers(draw, address);
            disguised(draw, &plain)
        }
        IpAddr::V6(address) => format!("[{}]", groups(draw, address)),
    }
}

/// Writes an IPv4 address as one to four numbers, each decimal, octal or hexadecimal.
fn numbers(draw: &mut Draw, address: Ipv4Addr) -> String {
    let octets = address.octets();
    let (head, tail) = octets.split_at(draw.below(4));
    let last = tail.iter().fold(0, |number: u32, octet| number << 8 | u32::from(*octet));
    let numbers = head.iter().map(|octet| u32::from(*octet)).chain([last]);
    let written = numbers.map(|number| match draw.below(6) {
        0 | 1 => format!("{number}"),
        2 => format!("0{number:o}"),
        3 => format!("000{number:o}"),
        4 => format!("0x{number:x}"),
        _ => format!("0X{number:08X}"),
    });
    written.collect::<Vec<_>>().join(".")
}

/// Writes an IPv6 address with or without leading zeros, `::` and an IPv4 address at its end.
fn groups(draw: &mut Draw, address: Ipv6Addr) -> String {
    let segments = address.segments();
    let hex = |segments: &[u16]| segments.iter().map(|s| format!("{s:x}")).collect::<Vec<_>>().join(":");
    let text = match draw.below(5) {
        0 => address.to_string(),
        1 => hex(&segments),
        2 => segments.map(|segment| format!("{segment:04x}")).join(":"),
        3 => {
            let [.., a, b, c, d] = address.octets();
            format!("{}:{a}.{b}.{c}.{d}", hex(&segments[..6]))
        }
        _ => {
            let start = draw.below(8);
            let zeros = segments[start..].iter().take_while(|segment| **segment == 0).count();
            let colons = if zeros > 0 { "::" } else { ":" };
            let (head, tail) = (hex(&segments[..start]), hex(&segments[start + zeros..]));
            if zeros == 0 && start == 0 { tail } else { format!("{head}{colons}{tail}") }
        }
    };
    draw.pick(&[text.to_uppercase().as_str(), text.as_str()]).to_owned()
}

/// Writes characters of a host in ways that the URL parser reads as the same, and adds others that it drops.
fn disguised(draw: &mut Draw, host: &str) -> String {
    if draw.below(4) == 0 {
        return host.to_owned();
    }
    let mut text = String::new();
    for c in host.chars() {
        let digit = c.to_digit(10);
        let full_width = char::from_u32(u32::from(c) + 0xfee0).unwrap();
        match (draw.below(8), digit) {
            (0, _) => text.push(full_width),
            (1, _) => write!(text, "%{:02x}", u32::from(c)).unwrap(),
            (2, _) => full_width.to_string().bytes().for_each(|byte| write!(text, "%{byte:02X}").unwrap()),
            (3, None) if c == '.' => text.push(draw.pick(&['。', '｡'])),
            (3, Some(digit)) => text.push(char::from_u32(u32::from('𝟎') + digit).unwrap()),
            (4, Some(0)) => text.push('⓪'),
            (4, Some(digit)) => text.push(char::from_u32(u32::from('①') + digit - 1).unwrap()),
            _ => text.push(c),
        }
        if draw.below(12) == 0 {
            // Soft hyphen, zero width space, word joiner, variation selector.
            text.push_str(draw.pick(&["%C2%AD", "%E2%80%8B", "%E2%81%A0", "%EF%B8%8F"]));
        }
    }
    text + draw.pick(&["", "", ".", "。", "%2E"])
}

const HTTPS: &[&str] =
    &["https://@/", "https:@", "https:\\\\@\\hook", " https://@:8443/hook ", "HTTPS:////@?a=b", "https://@"];

/// An egress client without exceptions and one that allows every address. Neither may resolve a host.
fn strict_and_lenient() -> [Arc<Egress>; 2] {
    [&[] as &[&str], &["0.0.0.0/0", "::/0"]]
        .map(|allow| egress(allow, Resolver::fixed(|name| panic!("`{name}` was read as a name"))).0)
}

/// Checks that a registration, an attempt, a poll and a connection refuse an address.
async fn assert_refused([strict, lenient]: &[Arc<Egress>; 2], url: &str, address: IpAddr) {
    let checked = strict.check(APP, url, Moment::MAX).await;
    assert!(matches!(checked, Err(AddressError::Forbidden(_))), "{url} ({address}): {checked:?}");
    let registered = post(lenient, url);
    assert_eq!(registered.url.literal(), Some(address), "{url}");
    let polled = strict.fetch(guarded_poll(registered.url.as_str())).await;
    assert!(matches!(polled, Err(SendError::Refused(_))), "{url} ({address}): {polled:?}");
    let sent = strict.send(registered).await;
    assert!(matches!(sent, Err(SendError::Refused(_))), "{url} ({address}): {sent:?}");
    assert_eq!(strict.settings.classify(&[address]), AddressClass::Forbidden, "{address}");
}

#[tokio::test]
async fn every_spelling_of_every_refused_address_is_refused() {
    let draw = &mut Draw(1);
    let clients = strict_and_lenient();
    let refused = RANGES.iter().filter(|range| range.verdict == Verdict::Refused).map(|range| range.net);
    let unreachable = rows().into_iter().filter(|row| !row.is_reachable).map(|row| row.net);
    let urls = [HTTPS, &["http://@/"]].concat();
    // Most of `::/0` is global unicast.
    for net in refused.filter(|net| net.prefix_len() > 0).chain(unreachable) {
        let drawn: Vec<IpAddr> = (0..8).map(|_| draw.within(net)).collect();
        for address in [vec![net.network(), net.broadcast()], drawn].concat() {
            let mut forms = vec![address; 8];
            if let IpAddr::V4(address) = address {
                forms.push(nat64(address).into());
                forms.extend(embeddings(address).into_iter().map(|(_, form)| IpAddr::from(form)));
            }
            for form in forms {
                let host = host(draw, form);
                assert_refused(&clients, &draw.pick(&urls).replace('@', &host), form).await;
            }
        }
    }
}

#[tokio::test]
async fn every_public_address_is_accepted_in_every_spelling() {
    let draw = &mut Draw(2);
    let clients = strict_and_lenient();
    let strict = &clients[0];
    let multicast_and_azure = ["224.0.0.0/4", "168.63.129.16/32"].map(|net| net.parse().unwrap());
    let special: Vec<IpNet> = rows().into_iter().map(|row| row.net).chain(multicast_and_azure).collect();
    let is_special = |address: IpAddr| special.iter().any(|net| net.contains(&address));
    for _ in 0..1_000 {
        let (v4, v6) = (draw.ipv4(), Ipv6Addr::from_bits(draw.wide() >> 3 | 1 << 125));
        let mut public: Vec<IpAddr> = vec![v6.into(); 4];
        if !is_special(v4.into()) {
            public.extend([v4; 8].map(IpAddr::from));
            public.push(nat64(v4).into());
        }
        for address in public.into_iter().filter(|address| *address == nat64(v4) || !is_special(*address)) {
            let host = host(draw, address);
            let url = draw.pick(HTTPS).replace('@', &host);
            let target =
                strict.check(APP, &url, Moment::MAX).await.unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(target.literal(), Some(address), "{url}");
            assert_eq!(strict.settings.literal_objection(&target), None, "{url}");
            assert_eq!(strict.settings.classify(&[address]), AddressClass::Public, "{address}");
        }
        // In another form, even a public IPv4 address is no public IPv6 address.
        for (name, form) in embeddings(v4) {
            let url = format!("https://{}/?{name}", host(draw, form.into()));
            assert_refused(&clients, &url, form.into()).await;
        }
    }
}

#[tokio::test]
async fn a_host_that_is_almost_an_address_is_refused_without_a_lookup() {
    let [strict, _] = strict_and_lenient();
    for host in [
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[::1%25lo]",
        "[::ffff:127.0.0.1%251]",
        "[v1.::1]",
        "[::127.1]",
        "[::0x7f.0.0.1]",
        "[::0177.0.0.1]",
        "[::1",
        "::1",
        "%5B::1%5D",
        "127.0.0.1..",
        "127..0.0.1",
        "127.0.0.1.1",
        "127.0.0.256",
        "256.0.0.1",
        "09.0.0.1",
        "4294967296",
        "0x100000000",
        "127.0.0.1\u{ad}",
        "127.0.0.1\u{200b}",
        "127.0.0.1\u{200d}",
        "127.0.0.1 ",
        "127.0.0.1\t",
        "127.0.0.1%00",
        "127.0.0.1%20",
        "127.0.0.1%2F.example.com",
        "127.0.0.1%23.example.com",
        "93.184.216.34@127.0.0.1",
        "example.com@127.0.0.1",
        "example.com:80@[::1]",
        "127.0.0.1:65536",
        "[::1]:65536",
    ] {
        for url in [format!("https://{host}/"), format!("http://{host}/")] {
            strict.check(APP, &url, Moment::MAX).await.expect_err(&url);
        }
    }
}
