//! Configuration. This module is the only reader of flags, the environment and the configuration file.
//!
//! - Precedence: defaults < `ringback.toml` (or `--config FILE`) < environment < flags.
//! - One table ([`table`]) lists all settings. Reading, `ringback config`, suggestions and the table in
//!   docs/CONFIGURATION.md come from it.
//! - A secret can also come from a file that a variable names ([`secret_file`]), as Docker and Kubernetes mount it.
//! - All errors are collected, so that one start shows every error. Messages never repeat a secret.
//!
//! The module does not know which providers exist, because definitions can come from `[providers] path` (see
//! [`Config::check_providers`]). It does not open the database and does not use the network.

mod access;
mod conflicts;
mod destinations;
mod model;
mod parse;
mod read;
mod secret_file;
mod settings;
mod source;

pub use crate::domain::{Masked, Rate};
pub use access::{Access, ClientProxy};
pub use destinations::DestinationSection;
pub use model::{
    Config, Database, Effective, Egress, EncryptionKey, LogFormat, ProviderConfig, Retention, Telemetry,
};
pub use secret_file::read_secret;
pub use settings::{Setting, table};
pub use source::{ConfigError, Environment, File, Flags, Source};
