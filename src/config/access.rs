//! The settings of the client commands: the URL of the server and the API key.

use super::{ConfigError, Environment, Masked, Source, parse};
use crate::domain::check_value;

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
}

impl Access {
    /// Reads the URL (`--url`, else `RINGBACK_URL`, else the default) and `RINGBACK_API_KEY`. Returns every error.
    pub fn read(flag: Option<&str>, env: &Environment) -> Result<Self, Vec<ConfigError>> {
        let variable = || Some((env.get(URL)?, Source::Variable(URL.to_owned())));
        let given = flag.map(|url| (url, Source::Flag("--url"))).or_else(variable);
        let (text, source) = given.unwrap_or((DEFAULT_URL, Source::Default));
        let checked = |text| check_value(text).map_err(|error| format!("the value {error}"));
        let url = checked(text)
            .and_then(|()| parse::base_url(text))
            .map_err(|message| ConfigError { source, message });
        let key = env.get(KEY).map(|key| checked(key).and_then(|()| parse::api_key(key))).transpose();
        let key = key.map_err(|message| ConfigError { source: Source::Variable(KEY.to_owned()), message });
        match (url, key) {
            (Ok(url), Ok(key)) => Ok(Self { url, key }),
            (url, key) => Err(url.err().into_iter().chain(key.err()).collect()),
        }
    }

    /// Returns whether a flag or a variable names a server.
    pub fn is_set(flag: Option<&str>, env: &Environment) -> bool {
        flag.is_some() || env.get(URL).is_some() || env.get(KEY).is_some()
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
        RINGBACK_URL: this is not a URL: relative URL without a base
        RINGBACK_API_KEY: the key has 4 characters; it must have 16 to 256
        "
        );
        insta::assert_snapshot!(
            read(Some("ftp://x"), &[]).unwrap_err(),
            @"--url: this URL cannot be used: it must begin with http:// or https://"
        );
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
