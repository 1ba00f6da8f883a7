//! What the client commands need to know: where the server is, and the key to it.

use super::{ConfigError, Environment, Masked, Origin, parse};

/// Where `serve` listens if nobody says otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

const URL: &str = "RINGBACK_URL";
const KEY: &str = "RINGBACK_API_KEY";

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// An http(s) URL without a slash at its end.
    pub url: String,
    /// The key. There is no flag for it: the command lines of a machine are seen by all its users.
    pub key: Option<Masked>,
}

impl Access {
    /// `--url` before `RINGBACK_URL` before the default, and `RINGBACK_API_KEY`; or every mistake.
    pub fn read(flag: Option<&str>, env: &Environment) -> Result<Self, Vec<ConfigError>> {
        let variable = || Some((env.get(URL)?, Origin::Variable(URL.to_owned())));
        let given = flag.map(|url| (url, Origin::Flag("--url"))).or_else(variable);
        let (text, origin) = given.unwrap_or((DEFAULT_URL, Origin::Default));
        let url = parse::base_url(text).map_err(|what| ConfigError { origin, what });
        let key = env.get(KEY).map(parse::api_key).transpose();
        let key = key.map_err(|what| ConfigError { origin: Origin::Variable(KEY.to_owned()), what });
        match (url, key) {
            (Ok(url), Ok(key)) => Ok(Self { url, key }),
            (url, key) => Err(url.err().into_iter().chain(key.err()).collect()),
        }
    }

    /// Whether somebody said, by flag or variable, that a server is meant.
    pub fn is_meant(flag: Option<&str>, env: &Environment) -> bool {
        flag.is_some() || env.get(URL).is_some() || env.get(KEY).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_a_variable_and_both_are_checked() {
        let read = |flag: Option<&str>, env: &[(&str, &str)]| {
            let env = env.iter().copied().collect();
            let read = Access::read(flag, &env);
            read.map(|access| access.url)
                .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        let url = "https://ringback.example/base/";
        assert_eq!(read(None, &[]).as_deref(), Ok(DEFAULT_URL));
        assert_eq!(read(None, &[("RINGBACK_URL", url)]).as_deref(), Ok("https://ringback.example/base"));
        assert_eq!(read(Some("http://[::1]:1"), &[("RINGBACK_URL", url)]).as_deref(), Ok("http://[::1]:1"));
        insta::assert_snapshot!(
            read(None, &[("RINGBACK_URL", "127.0.0.1:8080"), ("RINGBACK_API_KEY", "hush")]).unwrap_err(),
            @r"
        RINGBACK_URL: this is not a URL: relative URL without a base
        RINGBACK_API_KEY: a key has 16 to 256 characters, and this one has 4
        "
        );
        insta::assert_snapshot!(
            read(Some("ftp://x"), &[]).unwrap_err(),
            @"--url: this URL cannot be used: it must begin with http:// or https://"
        );
    }

    #[test]
    fn a_server_is_meant_where_its_address_or_a_key_is_given() {
        let meant =
            |flag: Option<&str>, env: &[(&str, &str)]| Access::is_meant(flag, &env.iter().copied().collect());
        assert!(!meant(None, &[]) && !meant(None, &[("RINGBACK_URL", "")]));
        assert!(meant(Some("x"), &[]) && meant(None, &[("RINGBACK_URL", "x")]));
        assert!(meant(None, &[("RINGBACK_API_KEY", "x")]));
    }
}
