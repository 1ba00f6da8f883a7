//! The settings of the client commands: the URL of the server and the API key.

use url::{Host, Url};

use super::secret_file::{has_file, value_or_file};
use super::{ConfigError, Environment, Masked, Source, parse};
use crate::domain::check_setting;

/// URL of a server with the default settings on this machine.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

const URL: &str = "RINGBACK_URL";
const KEY: &str = "RINGBACK_API_KEY";

/// Access to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// http(s) URL without a slash at its end.
    pub url: String,
    /// API key. There is no flag for it, because every user of a machine can see command lines.
    pub key: Option<Masked>,
    /// Proxy of the user's environment; `None` for a server on this machine.
    pub proxy: Option<ClientProxy>,
}

/// Proxy that the environment names for programs of a user. The service does not read it: its proxy is `egress.proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProxy {
    /// The variable, such as `HTTPS_PROXY`.
    pub variable: String,
    /// http(s) URL.
    pub url: Masked,
    /// `NO_PROXY`: hosts, domains and networks that are reached directly, separated by commas.
    pub bypass: String,
}

impl ClientProxy {
    /// Reads the proxy for a server. As in curl and Go, the variables exist in both cases; `ALL_PROXY` is for every
    /// scheme. As in Go, a server on this machine is never reached through a proxy.
    fn read(server: &str, env: &Environment) -> Result<Option<Self>, ConfigError> {
        let server = Url::parse(server).ok();
        let is_here = match server.as_ref().and_then(Url::host) {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => true,
        };
        let scheme = server.as_ref().map_or("", Url::scheme).to_owned();
        let names = [format!("{scheme}_proxy"), "all_proxy".to_owned()];
        let mut names = names.iter().flat_map(|name| [name.to_uppercase(), name.clone()]);
        let found = names.find_map(|name| Some((env.get(&name)?, name)));
        let Some((text, variable)) = found.filter(|_| !is_here) else { return Ok(None) };
        // Other programs accept a proxy without a scheme.
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = parse::proxy(&text).map_err(|message| {
            let message =
                format!("{message}; to go around the proxy, set NO_PROXY to the host of the server");
            ConfigError { source: Source::Variable(variable.clone()), message }
        });
        let bypass = env.get("NO_PROXY").or(env.get("no_proxy")).unwrap_or_default().to_owned();
        Ok(Some(Self { variable, url: url?, bypass }))
    }
}

impl Access {
    /// Reads the URL (`--url`, else `RINGBACK_URL`, else the default) and the key (`RINGBACK_API_KEY`, or the file that
    /// `RINGBACK_API_KEY_FILE` names). Returns every error.
    pub fn read(flag: Option<&str>, env: &Environment) -> Result<Self, Vec<ConfigError>> {
        let variable = || Some((env.get(URL)?, Source::Variable(URL.to_owned())));
        let given = flag.map(|url| (url, Source::Flag("--url"))).or_else(variable);
        let (text, source) = given.unwrap_or((DEFAULT_URL, Source::Default));
        let checked = |text: &str| check_setting(text).map_err(|error| format!("the value {error}"));
        let url = checked(text)
            .and_then(|()| parse::base_url(text))
            .map_err(|message| ConfigError { source, message });
        let key = value_or_file(env, KEY).and_then(|given| {
            let Some((key, source)) = given else { return Ok(None) };
            let parsed = checked(&key).and_then(|()| parse::api_key(&key));
            parsed.map(Some).map_err(|message| ConfigError { source, message })
        });
        let proxy = url.as_ref().map_or(Ok(None), |url| ClientProxy::read(url, env));
        match (url, key, proxy) {
            (Ok(url), Ok(key), Ok(proxy)) => Ok(Self { url, key, proxy }),
            (url, key, proxy) => Err([url.err(), key.err(), proxy.err()].into_iter().flatten().collect()),
        }
    }

    /// Returns whether a flag or a variable names a server.
    pub fn is_set(flag: Option<&str>, env: &Environment) -> bool {
        flag.is_some() || env.get(URL).is_some() || env.get(KEY).is_some() || has_file(env, KEY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_overrides_a_variable_and_both_are_checked() {
        let read = |flag: Option<&str>, env: &[(&str, &str)]| {
            let env = env.iter().copied().collect();
            let read = Access::read(flag, &env);
            read.map(|access| access.url)
                .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        let url = "https://ringback.example/base/";
        assert_eq!(read(None, &[]).as_deref(), Ok(DEFAULT_URL));
        assert_eq!(read(None, &[("RINGBACK_URL", url)]).as_deref(), Ok("https://ringback.example/base"));
        assert_eq!(read(Some("http://[::1]:1"), &[("RINGBACK_URL", url)]).as_deref(), Ok("http://[::1]:1"));
        insta::assert_snapshot!(
            read(None, &[("RINGBACK_URL", "127.0.0.1:8080"), ("RINGBACK_API_KEY", "hush")]).unwrap_err(),
            @r"
        RINGBACK_URL: this URL cannot be used: it must begin with http:// or https://
        RINGBACK_API_KEY: the key has 4 characters; it must have 16 to 256
        "
        );
        insta::assert_snapshot!(
            read(Some("ftp://x"), &[]).unwrap_err(),
            @"--url: this URL cannot be used: it must begin with http:// or https://"
        );
    }

    // modelstudioai/cli#51
    #[test]
    fn the_proxy_is_that_of_the_scheme_except_for_this_machine() {
        let read = |url: &str, env: &[(&str, &str)]| {
            let access = Access::read(Some(url), &env.iter().copied().collect());
            let proxy = access.map(|access| access.proxy);
            proxy
                .map(|proxy| proxy.map(|proxy| format!("{} {}", proxy.variable, proxy.url.reveal())))
                .map_err(|errors| errors[0].to_string())
        };
        let both = [("HTTPS_PROXY", "http://p.example:3128"), ("http_proxy", "p.example:1")];
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(read("https://r.example", &both), some("HTTPS_PROXY http://p.example:3128/"));
        assert_eq!(read("http://r.example", &both), some("http_proxy http://p.example:1/"));
        assert_eq!(read("https://r.example", &[("ALL_PROXY", "https://p")]), some("ALL_PROXY https://p/"));
        for here in ["http://127.0.0.1:8080", "https://localhost", "http://[::1]:1"] {
            assert_eq!(read(here, &both), Ok(None), "{here}");
        }
        let wrong = read("https://r.example", &[("HTTPS_PROXY", "socks5://u:hush@p")]).expect_err("no SOCKS");
        assert!(wrong.starts_with("HTTPS_PROXY: ") && wrong.contains("NO_PROXY"), "{wrong}");
        assert!(!wrong.contains("hush"), "{wrong}");
    }

    #[test]
    fn a_key_with_a_line_break_is_refused_with_the_remedy() {
        let env = [("RINGBACK_URL", "http://a.example\r"), ("RINGBACK_API_KEY", "hush-0123456789abcdef\n")];
        let errors = Access::read(None, &env.into_iter().collect()).expect_err("line breaks");
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(errors.join("\n"), @r"
        RINGBACK_URL: the value ends with a line break; remove it
        RINGBACK_API_KEY: the value ends with a line break; remove it
        ");
    }

    #[test]
    fn a_server_is_set_by_its_url_or_a_key() {
        let is_set =
            |flag: Option<&str>, env: &[(&str, &str)]| Access::is_set(flag, &env.iter().copied().collect());
        assert!(!is_set(None, &[]) && !is_set(None, &[("RINGBACK_URL", "")]));
        assert!(is_set(Some("x"), &[]) && is_set(None, &[("RINGBACK_URL", "x")]));
        assert!(is_set(None, &[("RINGBACK_API_KEY", "x")]));
    }
}
