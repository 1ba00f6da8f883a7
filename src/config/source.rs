//! The sources of settings, flags, environment and file, and errors that name their source.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::domain::file_text;
use crate::named_file;

/// The file that is read without `--config`, if it exists.
const DEFAULT_FILE: &str = "ringback.toml";

/// Maximum size of the configuration file, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The default.
    Default,
    /// A line of the configuration file.
    File {
        /// Path as the user wrote it.
        path: String,
        /// Number of the line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A file with one value that an environment variable names.
    VariableFile {
        /// Name of the variable.
        variable: String,
        /// Path of the file.
        path: String,
    },
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::VariableFile { variable, path } => write!(f, "{variable} ({path})"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// An error in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Source of the value.
    pub source: Source,
    /// What is wrong and what to do.
    pub message: String,
}

impl ConfigError {
    /// Returns an error about the value of `key`. A variable or a flag already names the setting.
    pub fn about(key: &str, source: Source, message: String) -> Self {
        let is_named = matches!(source, Source::Variable(_) | Source::VariableFile { .. } | Source::Flag(_));
        let message = if is_named { message } else { format!("`{key}`: {message}") };
        Self { source, message }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.message)
    }
}

/// Command-line flags that are settings.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file [default: ringback.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Database, such as <sqlite:///abs/path.db> or <postgres://user@host/name>
    #[arg(
        long,
        value_name = "URL",
        help = "Database, such as sqlite:///abs/path.db or postgres://user@host/name"
    )]
    pub database_url: Option<String>,
    /// Log level or filter, such as info or ringback=debug,warn
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log format: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Environment variables.
#[derive(Clone, Debug, Default)]
pub struct Environment(pub(super) BTreeMap<String, String>);

impl Environment {
    /// Reads the variables of this process. A value that is not UTF-8 is read with replacement characters, which are
    /// refused in the value of a setting.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// Returns a variable, also an empty one.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns a variable; `None` if it is not set or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// A configuration file before it is parsed.
#[derive(Clone, Debug)]
pub struct File {
    /// Path, as messages show it.
    pub path: String,
    /// Content.
    pub text: String,
}

impl File {
    /// Reads the requested file, or else `ringback.toml` if it exists.
    pub fn find(requested: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        Self::find_or(requested, Path::new(DEFAULT_FILE))
    }

    /// Reads the requested file, or else this one if it exists.
    fn find_or(requested: Option<&Path>, default: &Path) -> Result<Option<Self>, ConfigError> {
        let path = requested.unwrap_or(default);
        let name = path.display().to_string();
        let message = match named_file::read_once(path, FILE_MAX) {
            Ok(bytes) if bytes.len() as u64 <= FILE_MAX => match file_text(bytes) {
                Ok(text) => return Ok(Some(Self { path: name, text })),
                Err(error) => format!("{name} {error}"),
            },
            Ok(_) => format!("{name} is larger than 1 MiB; is it the right file?"),
            // A link whose target is not mounted, for example. The defaults would be the wrong settings.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                format!("{name} is a link to a file that does not exist; repair the link, or remove it")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && requested.is_none() => return Ok(None),
            Err(error) => format!("{name} cannot be read: {error}"),
        };
        let default = || Source::File { path: name.clone(), line: 1 };
        Err(ConfigError { source: requested.map_or_else(default, |_| Source::Flag("--config")), message })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_requested_file_must_exist_and_be_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.toml");
        assert!(File::find(Some(&path)).is_err_and(|error| error.to_string().starts_with("--config: ")));
        fs::write(&path, "log = 'warn'").expect("written");
        assert!(
            File::find(Some(&path)).is_ok_and(|file| file.is_some_and(|file| file.text == "log = 'warn'"))
        );
        fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).expect("written");
        assert!(File::find(Some(&path)).is_err_and(|error| error.message.contains("larger")));
    }

    #[test]
    fn a_default_file_that_is_a_broken_link_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ringback.toml");
        assert!(File::find_or(None, &path).is_ok_and(|file| file.is_none()));
        std::os::unix::fs::symlink(folder.path().join("gone.toml"), &path).expect("a link");
        let error = File::find_or(None, &path).expect_err("a broken link").to_string();
        assert!(error.contains("is a link to a file that does not exist; repair the link"), "{error}");
        fs::write(folder.path().join("gone.toml"), "log = 'warn'").expect("written");
        assert!(File::find_or(None, &path).is_ok_and(|file| file.is_some()));
    }

    #[test]
    fn a_file_of_windows_notepad_is_read_or_refused_with_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.toml");
        fs::write(&path, "\u{feff}log = 'warn'\r\n").expect("written");
        assert!(
            File::find(Some(&path)).is_ok_and(|file| file.is_some_and(|file| file.text == "log = 'warn'\n"))
        );
        let utf16: Vec<u8> = "\u{feff}log = 'warn'".encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(&path, utf16).expect("written");
        let error = File::find(Some(&path)).expect_err("UTF-16").to_string();
        assert!(error.ends_with("r.toml is UTF-16; save or send it as UTF-8"), "{error}");
    }
}
