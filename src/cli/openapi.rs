//! `ringback openapi`: prints the `OpenAPI` document.

use std::io::Write as _;

use anyhow::Context as _;

use super::output::Failure;

/// Print the API as an `OpenAPI` 3.1 document
///
/// A running server has the same document at /openapi.json, and a readable version at /docs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback openapi > openapi.json")]
pub struct OpenApi {}

impl OpenApi {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let written = std::io::stdout().write_all(crate::api::document().as_bytes());
        Ok(written.context("stdout cannot be written")?)
    }
}
