//! `ringback cancel`: stops a watch.

use super::client::{Server, segment};
use super::output::Failure;
use super::show;

/// Stop a watch: its job is not polled any more, and nothing more is sent
///
/// A watch that has ended keeps its status; its pending deliveries are skipped. The job itself continues at the
/// provider.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback cancel watch_01m84y…")]
pub struct Cancel {
    /// Id of the watch (watch_…)
    id: String,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

impl Cancel {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let answer = client.delete(&format!("/v1/watches/{}", segment(&self.id))).await?;
        answer.print(self.json, show::watch_fields)
    }
}
