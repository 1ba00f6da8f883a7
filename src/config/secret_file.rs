//! Secrets in files: `RINGBACK_API_KEY_FILE` names the file that holds the value of `RINGBACK_API_KEY`.
//!
//! This is the convention of Docker's official images, for secrets that Docker and Kubernetes mount as files. Every
//! variable of a secret has such a second variable; an empty variable is not set. The value is checked like that of the
//! variable. The path is shown only after the file was read: before, it can be a secret that was put into the wrong
//! variable.

use std::io;
use std::path::Path;

use super::settings::FILE_SUFFIX;
use super::{ConfigError, Environment, Source};
use crate::domain::file_value;
use crate::named_file;

/// Maximum size of a file, in bytes. The longest secret is a list of encryption keys.
const SIZE_MAX: u64 = 64 * 1024;

/// Returns the value of a variable, or else of the file that its file variable names, with its source.
pub(super) fn value_or_file(
    env: &Environment,
    variable: &str,
) -> Result<Option<(String, Source)>, ConfigError> {
    let file_variable = format!("{variable}{FILE_SUFFIX}");
    let source = || Source::Variable(file_variable.clone());
    match (env.get(variable), env.get(&file_variable)) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some((value.to_owned(), Source::Variable(variable.to_owned())))),
        (Some(_), Some(_)) => {
            let message = format!("{variable} is set as well; unset one of the two");
            Err(ConfigError { source: source(), message })
        }
        (None, Some(path)) => match read(path) {
            Ok(value) => {
                let source = Source::VariableFile { variable: file_variable.clone(), path: path.to_owned() };
                Ok(Some((value, source)))
            }
            Err(message) => Err(ConfigError { source: source(), message }),
        },
    }
}

/// Returns whether the file variable of a variable is set.
pub(super) fn has_file(env: &Environment, variable: &str) -> bool {
    env.get(&format!("{variable}{FILE_SUFFIX}")).is_some()
}

/// Reads the value. The error is a sentence that shows neither the path nor the value.
fn read(path: &str) -> Result<String, String> {
    read_secret(|most| named_file::read_once(Path::new(path), most))
}

/// Reads a secret, which is the only value of a file or of another source. `read` reads it up to one byte more than the
/// given number. The error is a sentence that shows neither the name of the file nor the value.
pub fn read_secret(read: impl FnOnce(u64) -> io::Result<Vec<u8>>) -> Result<String, String> {
    match read(SIZE_MAX) {
        Ok(bytes) if bytes.len() as u64 > SIZE_MAX => {
            Err("the file is larger than 64 KiB; is it the right one?".to_owned())
        }
        Ok(bytes) => file_value(bytes).map_err(|error| format!("the file {error}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("there is no such file; write the path of a file that holds the value".to_owned())
        }
        Err(error) => Err(format!("the file cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::{Access, Config, Flags, Masked, table};

    const HUSH: &str = "hush-0123456789abcdef";

    fn read_all(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let env = variables.iter().copied().collect();
        let read = Config::read(&Flags::default(), &env, None);
        read.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    /// Returns the errors as one text, with `FOLDER` for the folder.
    fn errors(folder: &str, variables: &[(&str, &str)]) -> String {
        read_all(variables).expect_err("errors").join("\n").replace(folder, "FOLDER")
    }

    #[test]
    fn every_secret_can_come_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let values = [
            ("database_url", "postgres://u:hush@a.example/name"),
            ("api_key", HUSH),
            ("signing_secret", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"),
            ("encryption_key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
            ("egress.proxy", "http://u:hush@p.example:3128"),
            ("telemetry.otlp_headers", "a=hush"),
            ("smtp.url", "smtp://u:hush@a.example?tls=required"),
            ("slack.bot_token", "xoxb-hush"),
            ("providers.NAME.api_key", HUSH),
        ];
        let secrets: Vec<&str> =
            table().iter().filter(|setting| setting.has_file_variable()).map(|setting| setting.key).collect();
        assert_eq!(secrets, values.map(|(key, _)| key));
        let mut env = vec![("RINGBACK_SMTP__FROM".to_owned(), "r@a.example".to_owned())];
        for (setting, (key, value)) in
            table().iter().filter(|setting| setting.has_file_variable()).zip(values)
        {
            let path = folder.path().join(key);
            fs::write(&path, format!("{value}\n")).expect("written");
            let variable = setting.variable().replace("NAME", "MUVI");
            env.push((format!("{variable}_FILE"), path.display().to_string()));
        }
        let config = Config::read(&Flags::default(), &env.into_iter().collect(), None).expect("no errors");
        for (key, _) in values {
            let key = key.replace("NAME", "muvi");
            let shown = config.effective.iter().find(|one| one.key == key).expect("listed");
            let source = shown.source.to_string();
            assert!(source.starts_with("RINGBACK_") && source.contains("_FILE (/"), "{key}: {source}");
        }
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(config.api_key.as_ref().map(Masked::reveal), Some(HUSH));
    }

    #[test]
    fn a_file_variable_of_muvi_overrides_the_one_of_ringback() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        fs::write(&one, "pb_first\n").expect("written");
        fs::write(&other, "pb_second").expect("written");
        let (one, other) = (one.display().to_string(), other.display().to_string());
        let config =
            read_all(&[("MUVI_API_KEY_FILE", &one), ("RINGBACK_PROVIDERS__MUVI__API_KEY_FILE", &other)]);
        let config = config.expect("no errors");
        assert_eq!(config.providers["muvi"].api_key.as_ref().map(Masked::reveal), Some("pb_first"));
    }

    #[test]
    fn a_value_and_a_file_for_the_same_secret_are_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, HUSH).expect("written");
        let path = path.display().to_string();
        insta::assert_snapshot!(
            errors("-", &[
                ("RINGBACK_API_KEY", HUSH),
                ("RINGBACK_API_KEY_FILE", &path),
                ("MUVI_API_KEY", HUSH),
                ("MUVI_API_KEY_FILE", &path),
            ]),
            @r"
        RINGBACK_API_KEY_FILE: RINGBACK_API_KEY is set as well; unset one of the two
        MUVI_API_KEY_FILE: MUVI_API_KEY is set as well; unset one of the two
        "
        );
        // A variable of a compose file without a value is empty.
        let config = read_all(&[("RINGBACK_API_KEY", ""), ("RINGBACK_API_KEY_FILE", &path)]);
        assert_eq!(config.expect("no errors").api_key.as_ref().map(Masked::reveal), Some(HUSH));
        let config = read_all(&[("RINGBACK_API_KEY", HUSH), ("RINGBACK_API_KEY_FILE", "")]);
        assert!(config.is_ok());
    }

    #[test]
    fn a_file_without_a_usable_value_is_an_error_without_the_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).expect("written");
            path.display().to_string()
        };
        let large = write("large", &vec![b'x'; 64 * 1024 + 1]);
        let (empty, lines) = (write("empty", b"\n"), write("lines", b"hush-01234567\n89abcdef\n"));
        let (quoted, latin) = (write("quoted", b"\"xoxb-hush\""), write("latin", b"hush\xe4"));
        let root = folder.path().display().to_string();
        insta::assert_snapshot!(
            errors(&root, &[
                ("RINGBACK_API_KEY_FILE", "hush-in-the-wrong-variable"),
                ("RINGBACK_DATABASE_URL_FILE", &large),
                ("RINGBACK_EGRESS__ALLOW_FILE", &large),
                ("RINGBACK_EGRESS__PROXY_FILE", &empty),
                ("RINGBACK_ENCRYPTION_KEY_FILE", &root),
                ("RINGBACK_SIGNING_SECRET_FILE", &latin),
                ("RINGBACK_SLACK__BOT_TOKEN_FILE", &quoted),
                ("MUVI_API_KEY_FILE", &lines),
            ]),
            @r"
        RINGBACK_API_KEY_FILE: there is no such file; write the path of a file that holds the value
        RINGBACK_DATABASE_URL_FILE: the file is larger than 64 KiB; is it the right one?
        RINGBACK_EGRESS__ALLOW_FILE: only a secret can come from a file; set RINGBACK_EGRESS__ALLOW to the value
        RINGBACK_EGRESS__PROXY_FILE: the file is empty; write the value into it
        RINGBACK_ENCRYPTION_KEY_FILE: the file cannot be read: Is a directory (os error 21)
        RINGBACK_SIGNING_SECRET_FILE: the file is not UTF-8, in line 1; save or send it as UTF-8
        RINGBACK_SLACK__BOT_TOKEN_FILE (FOLDER/quoted): the value is in quotes, which would be a part of it; remove them
        MUVI_API_KEY_FILE (FOLDER/lines): the value contains a line break; remove it
        "
        );
    }

    #[test]
    fn a_file_variable_of_a_setting_that_is_no_secret_is_not_read() {
        let config = read_all(&[("RINGBACK_LOG_FILE", "/var/log/ringback.log")]).expect("a warning");
        assert_eq!(config.warnings, ["RINGBACK_LOG_FILE is not a setting and is ignored"]);
    }

    #[test]
    fn the_key_of_a_client_can_come_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, format!("{HUSH}\n")).expect("written");
        let path = path.display().to_string();
        let access = |env: &[(&str, &str)]| Access::read(None, &env.iter().copied().collect());
        let file = ("RINGBACK_API_KEY_FILE", path.as_str());
        let key = access(&[file]).expect("a key").key;
        assert_eq!(key.as_ref().map(Masked::reveal), Some(HUSH));
        assert!(Access::is_set(None, &[file].into_iter().collect()));
        let both = access(&[file, ("RINGBACK_API_KEY", HUSH)]).expect_err("two keys");
        assert_eq!(
            both[0].to_string(),
            "RINGBACK_API_KEY_FILE: RINGBACK_API_KEY is set as well; unset one of the two"
        );
    }
}
