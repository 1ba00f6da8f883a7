//! `ringback provider push`, `pull` and `remove`: definitions of the app on a server.

use std::path::PathBuf;

use crate::cli::client::{Server, segment};
use crate::cli::output::{Failure, print_line, text};
use crate::named_file;
use crate::providers::{Definition, OWN_DEFINITION_MAX};

/// Store a definition of the app on the server
///
/// Registrations of the app use it by its id. Running watches keep the version with which they were registered. The
/// mistakes of the file are listed as by ringback provider check, and nothing is sent then.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider push acme.toml
  ringback watch job_1 --provider acme")]
pub struct Push {
    /// File of the definition
    file: PathBuf,
    #[command(flatten)]
    server: Server,
}

/// Print a definition of the app as it is on the server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider pull acme > acme.toml")]
pub struct Pull {
    /// Id of the definition
    id: String,
    #[command(flatten)]
    server: Server,
}

/// Delete a definition of the app on the server
///
/// Running watches keep their version.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider remove acme")]
pub struct Remove {
    /// Id of the definition
    id: String,
    #[command(flatten)]
    server: Server,
}

fn path(id: &str) -> String {
    format!("/v1/providers/{}/definition", segment(id))
}

impl Push {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let definition =
            Definition::check(&self.file).map_err(|errors| Failure::Failed(errors.join("\n")))?;
        let name = self.file.display();
        let read = named_file::read(&self.file, OWN_DEFINITION_MAX as u64 + 1);
        let bytes =
            read.map_err(|error| Failure::Failed(format!("{name}: the file cannot be read: {error}")))?;
        if bytes.len() > OWN_DEFINITION_MAX {
            let most = OWN_DEFINITION_MAX / 1024;
            return Err(Failure::Failed(format!("{name}: a definition of an app has at most {most} KiB")));
        }
        let answer = self.server.client()?.put_toml(&path(&definition.id), bytes).await?.value();
        let (id, version) = (text(&answer, "/id"), text(&answer, "/version"));
        Ok(print_line(format_args!("{id} is stored as version {version}."))?)
    }
}

impl Pull {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let text = self.server.client()?.get_text(&path(&self.id)).await?;
        // As it was stored, which usually has a line break at its end.
        Ok(print_line(text.strip_suffix('\n').unwrap_or(&text))?)
    }
}

impl Remove {
    pub(super) async fn run(self) -> Result<(), Failure> {
        self.server.client()?.delete(&path(&self.id)).await?;
        let id = &self.id;
        Ok(print_line(format_args!("{id} is deleted. Running watches keep their version."))?)
    }
}
