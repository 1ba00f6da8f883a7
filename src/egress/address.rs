//! Decides which addresses users can give, by default and by the operator's settings. Pure decisions on URLs, names
//! and resolved addresses; `resolver` resolves names.
//!
//! A URL is parsed once, by the crate that the HTTP client also uses, and every later decision uses the parsed
//! form. `http://0x7f.1/` and `http://①②⑦.0.0.1/` are then 127.0.0.1, and no second parser can read the host
//! differently.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::ranges::forbidden;
use crate::domain::{
    AddressError, CUT_PASSWORD, Masked, has_cut_password, is_hidden, is_host_name, parse_host_name, url_error,
};

/// Maximum length of a URL in bytes, as given and as normalised.
const URL_MAX: usize = 2_048;

/// Suffixes of names that differ from network to network: special-use names, and internal names of clusters
/// and clouds.
const SPECIAL_SUFFIXES: &[&str] =
    &["localhost", "local", "internal", "svc", "cluster.local", "home.arpa", "arpa", "onion"];

/// The operator's settings for the addresses that users give.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The private networks and hosts that callbacks can reach.
    pub allow: Vec<Allowed>,
    /// Whether callbacks can use plain http everywhere; towards `allow` they always can.
    pub allow_http: bool,
    /// The proxy of all HTTP exchanges; `None` for direct connections.
    pub proxy: Option<Proxy>,
    /// Limits on sockets.
    pub limits: SocketLimits,
}

/// Limits on the sockets of the client. Each socket needs a file descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLimits {
    /// Maximum number of unused connections, over all hosts. Each holds some 30 KiB, too.
    pub unused: usize,
    /// Maximum number of concurrent lookups at registration. Each can use four sockets.
    pub lookups: usize,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self { unused: 1_024, lookups: 64 }
    }
}

impl SocketLimits {
    /// Returns the lower limits of both.
    #[must_use]
    pub fn lowered_to(self, other: Self) -> Self {
        Self { unused: self.unused.min(other.unused), lookups: self.lookups.min(other.lookups) }
    }
}

/// The URL of a proxy. It can contain a password, so `Debug` hides it.
#[derive(Clone, Debug)]
pub struct Proxy(Masked);

impl Proxy {
    /// Parses an http or https URL. The error is a sentence without any part of the URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| {
            format!("the proxy's address is not a URL: {}", url_error(text, error, "http:// or https://"))
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("the proxy's address must begin with http:// or https://".into());
        }
        // A password that begins with digits is a port.
        if has_cut_password(text) {
            return Err(format!("the proxy's address is not a URL: {CUT_PASSWORD}"));
        }
        Ok(Self(Masked::new(url.to_string())))
    }

    pub(super) fn url(&self) -> &str {
        self.0.reveal()
    }
}

/// A private network or host that callbacks can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every address of a network.
    Net(IpNet),
    /// One host, whatever its addresses are.
    Name(String),
}

impl Allowed {
    /// Parses a network in CIDR form, an address or a host name. The error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(net) = text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address))) {
            return Ok(Self::Net(net));
        }
        parse_host_name(text)
            .map(Self::Name)
            .ok_or_else(|| format!("`{text}` is neither a network (10.0.0.0/8), an address nor a host name"))
    }
}

/// The class of a name, by all its addresses. The order matters: a name can be reached if its class is at least the
/// required one, and one forbidden address makes the whole name forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AddressClass {
    /// The lookup failed through no fault of the name: nothing is known about its addresses.
    Unanswered,
    /// The name has no address at present. As a requirement: any address, because the operator allows the name itself.
    Unknown,
    /// At least one address is forbidden and not allowed.
    Forbidden,
    /// No address is forbidden, and at least one is not in the operator's list.
    Public,
    /// Every address is allowed by the operator.
    Allowed,
}

impl Settings {
    /// Parses a URL and checks everything that needs no lookup of its name. The error has every reason.
    pub(super) fn parse(&self, text: &str) -> Result<Target, AddressError> {
        let invalid = |reason: &str| Err(AddressError::Invalid(reason.to_owned()));
        if text.len() > URL_MAX {
            return Err(AddressError::Invalid(too_long()));
        }
        // Most URLs are plain, and need not be decoded.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            // The parser would drop tabs and line ends without an error.
            if text.chars().any(char::is_control) {
                return invalid("must not contain control characters");
            }
            // It would encode others, which come from a copied text, and the receiver would not know the path.
            if text.chars().any(is_hidden) {
                return invalid("must not contain invisible characters");
            }
        }
        let mut url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => return invalid(&format!("is not a URL: {}", url_error(text, error, "https://"))),
        };
        // With other schemes the parser does not even read the host as an address.
        if !matches!(url.scheme(), "https" | "http") {
            return invalid("must begin with https://");
        }
        // A final dot does not change the host, and TLS does not accept it.
        if let Some(name) = url.domain().and_then(|name| name.strip_suffix('.')).map(str::to_owned)
            && url.set_host(Some(&name)).is_err()
        {
            return invalid("has an empty label in its host name");
        }
        let parts = [
            (
                !url.username().is_empty() || url.password().is_some(),
                "must not contain credentials; send them in headers of the destination",
            ),
            (url.fragment().is_some(), "must not contain a fragment (#…), which is never sent; remove it"),
            (url.port() == Some(0), "must not have port 0"),
        ];
        let mut reasons: Vec<String> =
            parts.iter().filter(|(is_there, _)| *is_there).map(|(_, reason)| (*reason).to_owned()).collect();
        if url.as_str().len() > URL_MAX {
            reasons.push(too_long());
        }
        let target = Target { url };
        if target.literal().is_none() {
            reasons.extend(self.syntax_objection(target.name()));
        }
        let literal = self.literal_objection(&target);
        if reasons.is_empty() {
            return literal.map_or(Ok(target), |reason| Err(AddressError::Forbidden(reason)));
        }
        reasons.extend(literal);
        Err(AddressError::Invalid(reasons.join("; ")))
    }

    /// Returns why callbacks cannot reach an address that is written in the URL, and what permits it; `None` if they
    /// can.
    pub(super) fn literal_objection(&self, target: &Target) -> Option<String> {
        let address = target.literal().filter(|address| !self.allows_address(*address))?;
        let reason = match forbidden(address) {
            Some(why) => format!("must not lead to {address} (an address that is {why})"),
            None if target.is_plain() && !self.allow_http => HTTPS.to_owned(),
            None => return None,
        };
        Some(refusal(&[reason], &address.to_string()))
    }

    /// Returns why a name cannot be a host name; `None` if it can.
    fn syntax_objection(&self, name: &str) -> Option<String> {
        if self.allows_name(name) {
            None
        } else if name.split('.').any(str::is_empty) {
            Some("has an empty label in its host name".into())
        } else if !is_host_name(name) {
            Some(format!("has `{name}` as its host name, which is not a valid one"))
        } else {
            None
        }
    }

    /// Returns why callbacks cannot reach a name, unless the operator allows all its addresses.
    pub(super) fn name_objections(&self, name: &str, plain: bool) -> Vec<String> {
        if self.allows_name(name) {
            return Vec::new();
        }
        let mut objections = Vec::new();
        if let Some(suffix) = special_suffix(name) {
            objections.push(format!("must not lead to a host in `{suffix}`"));
        } else if !name.contains('.') {
            objections.push("must have a full host name, with a domain".to_owned());
        }
        if plain && !self.allow_http {
            objections.push(HTTPS.to_owned());
        }
        objections
    }

    /// Returns why callbacks cannot reach a name whose addresses have this class, and what permits it.
    pub(super) fn class_objection(&self, name: &str, plain: bool, class: AddressClass) -> String {
        let mut reasons = self.name_objections(name, plain);
        if class == AddressClass::Forbidden {
            reasons.push("must not lead to a private or otherwise special address".to_owned());
        }
        let mut refusal = refusal(&reasons, name);
        if class == AddressClass::Unknown {
            refusal.push_str(
                "; it does not resolve at present, so its addresses cannot be compared with egress.allow",
            );
        }
        refusal
    }

    /// Returns the class that a name must have before a callback can reach it.
    pub(super) fn required_class(&self, name: &str, plain: bool) -> AddressClass {
        if self.allows_name(name) {
            AddressClass::Unknown
        } else if (plain && !self.allow_http) || !name.contains('.') || special_suffix(name).is_some() {
            AddressClass::Allowed
        } else {
            AddressClass::Public
        }
    }

    /// Returns the class of a name with these addresses.
    pub(super) fn classify(&self, addresses: &[IpAddr]) -> AddressClass {
        let class = |address: &IpAddr| match forbidden(*address) {
            _ if self.allows_address(*address) => AddressClass::Allowed,
            Some(_) => AddressClass::Forbidden,
            None => AddressClass::Public,
        };
        addresses.iter().map(class).min().unwrap_or(AddressClass::Unknown)
    }

    /// Whether callbacks can reach a name of this class, where `required` is needed. The guard judges the addresses
    /// again at each attempt, so a name is accepted if its addresses may turn out to be permitted.
    pub(super) fn accepts(&self, class: AddressClass, required: AddressClass) -> bool {
        let has_networks = || self.allow.iter().any(|allowed| matches!(allowed, Allowed::Net(_)));
        match class {
            AddressClass::Unanswered => required <= AddressClass::Public || has_networks(),
            AddressClass::Unknown => required <= AddressClass::Public,
            AddressClass::Forbidden | AddressClass::Public | AddressClass::Allowed => class >= required,
        }
    }

    pub(super) fn allows_name(&self, name: &str) -> bool {
        self.allow.iter().any(|allowed| matches!(allowed, Allowed::Name(known) if known == name))
    }

    fn allows_address(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|allowed| matches!(allowed, Allowed::Net(net) if net.contains(&address)))
    }
}

/// Returns whether a URL is public, as far as this can be known without a lookup. The operator's settings do
/// not count: the URL is for a third party, such as Slack.
pub fn is_public_https(url: &str) -> bool {
    let settings = Settings::default();
    settings.parse(url).is_ok_and(|target| {
        !target.is_plain()
            && (target.literal().is_some() || settings.name_objections(target.name(), false).is_empty())
    })
}

const HTTPS: &str = "must begin with https:// (plain http is not allowed here)";

/// Returns the text of a refusal: its reasons, and the settings that permit the host.
fn refusal(reasons: &[String], host: &str) -> String {
    let plain_http = if reasons == [HTTPS] { "set egress.allow_http, or " } else { "" };
    let reasons = reasons.join("; ");
    format!(
        "{reasons}; the operator can permit it: {plain_http}add {host} to egress.allow (RINGBACK_EGRESS__ALLOW)"
    )
}

fn too_long() -> String {
    format!("must not be longer than {URL_MAX} characters")
}

fn special_suffix(name: &str) -> Option<&'static str> {
    SPECIAL_SUFFIXES
        .iter()
        .copied()
        .find(|suffix| name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// A parsed and checked URL. `Display` omits the query, which can contain a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    url: Url,
}

impl Target {
    /// The whole URL in normalised form, as it is stored and sent.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// The origin: scheme, host and port. Deliveries to one origin share a queue.
    pub fn origin(&self) -> String {
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{}://{}:{port}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    pub(super) fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The address, if the host is an address and not a name.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        match self.url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) | None => None,
        }
    }

    /// The host name; empty if the host is an address.
    pub(super) fn name(&self) -> &str {
        self.url.domain().unwrap_or_default()
    }
}

impl From<Target> for Url {
    fn from(target: Target) -> Self {
        target.url
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url[..url::Position::AfterPath])?;
        if self.url.query().is_some() { f.write_str("?…") } else { Ok(()) }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(allow: &[&str], allow_http: bool) -> Settings {
        let allow = allow.iter().map(|text| Allowed::parse(text).unwrap()).collect();
        Settings { allow, allow_http, ..Settings::default() }
    }

    #[test]
    fn loopback_is_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.1",
            "127.0.1",
            "127.0.0.1.",
            "127。0。0。1",
            "127．0．0．1",
            "127｡0｡0｡1",
            "１２７.0.0.1",
            "①②⑦.0.0.1",
            "%31%32%37.0.0.1",
            "127.255.255.254",
            "0",
            "0x",
            "00000",
            "0.0.0.0",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "[::1]",
            "[::]",
            "[::127.0.0.1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:7f00:0001]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "[2001:0:7f00:1::]",
            "[fe80::1]",
            "[fc00::1]",
        ] {
            for url in [
                format!("https://{host}/"),
                format!("https:{host}"),
                format!("https:\\\\{host}\\"),
                format!(" https://{host}:8443/ "),
                format!("http://{host}/"),
            ] {
                let refusal = settings(&[], true).parse(&url).expect_err(&url).to_string();
                assert!(refusal.starts_with("must not lead to"), "{url}: {refusal}");
            }
        }
    }

    #[test]
    fn every_reason_against_a_url_is_reported_at_once() {
        let table = [
            ("", "is not a URL"),
            ("example.com/hook", "is not a URL"),
            ("https://", "is not a URL"),
            ("https://1.2.3.4.5/", "is not a URL"),
            ("https://256.1.1.1/", "is not a URL"),
            ("https://09.0.0.1/", "is not a URL"),
            ("https://4294967296/", "is not a URL"),
            ("https://[fe80::1%25eth0]/", "is not a URL"),
            ("https://example.com:65536/", "is not a URL"),
            ("gopher://127.0.0.1/", "https://"),
            ("ftp://example.com/", "https://"),
            ("file:///etc/passwd", "https://"),
            ("javascript:alert(1)", "https://"),
            ("https://user@example.com/", "credentials"),
            ("https://:word@example.com/", "credentials"),
            ("https://example.com@127.0.0.1/", "headers of the destination; must not lead to 127.0.0.1"),
            ("https://127.0.0.1@example.com/", "credentials"),
            ("https://example.com/#top", "fragment"),
            ("https://example.com/#", "fragment"),
            (
                "https://u@example.com:0/#x",
                "destination; must not contain a fragment (#…), which is never sent; remove it; must not have port 0",
            ),
            ("https://a.b..c/", "empty label"),
            ("https://.example.com/", "empty label"),
            ("https://example.com../", "empty label"),
            ("https://a*b.example/", "host name"),
            ("https://-a.example/", "host name"),
            ("https://exam\tple.com/", "control"),
            ("https://example.com/hook\u{200b}", "invisible"),
            ("\u{feff}https://example.com/hook", "invisible"),
            ("https://example.com/\r\nx: y", "control"),
        ];
        for (url, part) in table {
            let error = settings(&[], false).parse(url).expect_err(url);
            let refusal = error.to_string();
            assert!(matches!(error, AddressError::Invalid(_)), "{url}");
            assert!(refusal.contains(part), "{url}: {refusal}");
        }
    }

    #[test]
    fn a_url_has_at_most_2048_characters_as_given_and_as_sent() {
        let url = |fill: &str, count| format!("https://example.com/{}", fill.repeat(count));
        assert!(settings(&[], false).parse(&url("a", 2_028)).is_ok());
        assert!(settings(&[], false).parse(&url("a", 2_029)).is_err());
        assert!(settings(&[], false).parse(&url("é", 1_000)).is_err());
    }

    #[test]
    fn special_use_names_are_refused_unless_allowed() {
        let names = [
            "localhost",
            "a.localhost",
            "printer.local",
            "metadata.google.internal",
            "internal",
            "api.svc",
            "api.default.svc.cluster.local",
            "nas.home.arpa",
            "1.0.0.127.in-addr.arpa",
            "x.onion",
            "intranet",
        ];
        for name in names {
            let strict = settings(&[], false);
            assert_eq!(strict.required_class(name, false), AddressClass::Allowed, "{name}");
            assert_eq!(strict.name_objections(name, false).len(), 1, "{name}");
            assert_eq!(settings(&[name], false).required_class(name, true), AddressClass::Unknown, "{name}");
            assert!(settings(&[name], false).name_objections(name, true).is_empty(), "{name}");
        }
        for name in ["notlocalhost.example", "local.example", "svc.example.com", "arpanet.org"] {
            assert_eq!(settings(&[], false).required_class(name, false), AddressClass::Public, "{name}");
        }
        for url in
            ["https://LOCALHOST/", "https://ｌｏｃａｌｈｏｓｔ/", "https://ⓛocalhost/", "https://localhost./"]
        {
            assert_eq!(settings(&[], false).parse(url).unwrap().name(), "localhost", "{url}");
        }
    }

    #[test]
    fn plain_http_is_limited_to_allowed_addresses_by_default() {
        let strict = settings(&["10.0.0.0/8", "hooks.corp"], false);
        assert!(strict.parse("http://10.1.2.3/").is_ok());
        assert!(strict.parse("http://93.184.216.34/").is_err());
        assert!(strict.parse("https://93.184.216.34/").is_ok());
        assert!(settings(&[], true).parse("http://93.184.216.34/").is_ok());
        assert_eq!(strict.required_class("hooks.corp", true), AddressClass::Unknown);
        assert_eq!(strict.required_class("example.com", true), AddressClass::Allowed);
        assert_eq!(settings(&[], true).required_class("example.com", true), AddressClass::Public);
    }

    #[test]
    fn one_forbidden_address_of_a_name_forbids_the_name() {
        let settings = settings(&["10.0.0.0/8"], false);
        let class = |texts: &[&str]| {
            settings.classify(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(class(&[]), AddressClass::Unknown);
        assert_eq!(class(&["10.0.0.1", "10.0.0.2"]), AddressClass::Allowed);
        assert_eq!(class(&["10.0.0.1", "93.184.216.34"]), AddressClass::Public);
        assert_eq!(class(&["93.184.216.34", "10.0.0.1", "192.168.0.1"]), AddressClass::Forbidden);
        // An allowed network does not include its IPv4-mapped form.
        assert_eq!(class(&["::ffff:10.0.0.1"]), AddressClass::Forbidden);
    }

    #[test]
    fn a_target_hides_its_query_and_has_an_origin() {
        let target = settings(&[], false).parse("HTTPS://Example.com.:443/a?token=secret").unwrap();
        assert_eq!(target.as_str(), "https://example.com/a?token=secret");
        assert_eq!(format!("{target} {target:?}"), "https://example.com/a?… https://example.com/a?…");
        assert_eq!(target.origin(), "https://example.com:443");
        let target = settings(&[], false).parse("https://[2606:2800:220:1::1]:8443/").unwrap();
        assert_eq!(target.origin(), "https://[2606:2800:220:1::1]:8443");
    }

    #[test]
    fn an_allowed_entry_is_a_network_an_address_or_a_name() {
        assert_eq!(Allowed::parse(" Hooks.Corp. "), Ok(Allowed::Name("hooks.corp".into())));
        assert_eq!(Allowed::parse("::1"), Ok(Allowed::Net("::1/128".parse().unwrap())));
        assert_eq!(Allowed::parse("10.0.0.0/8"), Ok(Allowed::Net("10.0.0.0/8".parse().unwrap())));
        for text in ["", ".", "10.0.0.0/33", "*.corp", "http://corp", "corp:8080", "a b", "10.0.0"] {
            assert!(Allowed::parse(text).is_err(), "{text}");
        }
    }
}
