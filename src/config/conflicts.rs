//! Settings that are valid alone, and cannot both apply.

use std::net::{IpAddr, SocketAddr};

use super::Config;
use super::parse::encryption_keys;
use crate::domain::Masked;

/// Returns the later key of each pair that cannot both apply, with what is wrong and what to do.
pub(super) fn find(config: &Config) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let listen = config.listen;
    if let Some(metrics) = config.metrics_listen.filter(|metrics| overlap(*metrics, listen)) {
        let message = if metrics == listen {
            format!("{listen} is also the address of `listen`; choose another port")
        } else {
            format!(
                "{metrics} contains the address of `listen`, {listen}, or the reverse; choose another port"
            )
        };
        found.push(("metrics_listen", message));
    }
    let (api_key, secret) = (config.api_key.as_ref(), config.signing_secret.as_ref());
    // Clients know the admin key, and receivers the signing secret.
    let same = |key: &Masked| {
        encryption_keys(key.reveal())
            .is_ok_and(|keys| keys.iter().any(|key| config.encryption_keys.contains(key)))
    };
    if api_key.is_some_and(|key| secret.is_some_and(|secret| key.reveal() == secret.reveal())) {
        let message = "is also the value of `api_key`, which clients know; set another secret";
        found.push(("signing_secret", message.to_owned()));
    }
    if api_key.is_some_and(same) {
        let message = "has the value of `api_key`, which clients know; set another key";
        found.push(("encryption_key", message.to_owned()));
    }
    found
}

/// Returns whether two listeners cannot exist beside each other. Port 0 is another free port for each.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // The unspecified IPv6 address contains all IPv4 addresses as well.
    let contains = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (first, second) = (one.ip().to_canonical(), other.ip().to_canonical());
    let is_same = first == second || contains(first, second) || contains(second, first);
    one.port() == other.port() && one.port() != 0 && is_same
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::source::{Environment, File, Flags};

    fn errors(text: &str) -> Vec<String> {
        let file = File { path: "ringback.toml".into(), text: text.into() };
        let read = Config::read(&Flags::default(), &Environment::default(), Some(file));
        read.err().into_iter().flatten().map(|error| error.to_string()).collect()
    }

    #[test]
    fn listeners_that_contain_each_other_are_refused() {
        for (listen, metrics, is_refused) in [
            ("127.0.0.1:9000", "127.0.0.1:9000", true),
            ("0.0.0.0:9000", "127.0.0.1:9000", true),
            ("127.0.0.1:9000", "[::]:9000", true),
            ("[::1]:9000", "[::]:9000", true),
            ("127.0.0.1:9000", "[::ffff:127.0.0.1]:9000", true),
            ("0.0.0.0:9000", "[::1]:9000", false),
            ("127.0.0.1:9000", "127.0.0.2:9000", false),
            ("0.0.0.0:9000", "0.0.0.0:9001", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
        ] {
            let found = errors(&format!("listen = '{listen}'\nmetrics_listen = '{metrics}'\n"));
            assert_eq!(found.len(), usize::from(is_refused), "{listen} {metrics}: {found:?}");
            let names_both =
                |error: &String| error.contains("`metrics_listen`") && error.contains("`listen`");
            assert!(found.iter().all(names_both), "{found:?}");
        }
    }

    #[test]
    fn one_secret_cannot_serve_two_settings() {
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for (text, expected) in [
            (format!("api_key = '{secret}'\nsigning_secret = '{secret}'\n"), "`signing_secret`: is also"),
            (format!("api_key = '{key}'\nencryption_key = '{key}'\n"), "`encryption_key`: has the value"),
        ] {
            let found = errors(&text);
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
            assert!(!found[0].contains("AAEC"), "{found:?}");
        }
        let other = key.replace("AAEC", "BBEC");
        assert!(errors(&format!("api_key = '{key}'\nencryption_key = '{other}'\n")).is_empty());
    }
}
