//! `ringback watches`: lists watches.

use serde_json::Value;

use super::arguments::values_of;
use super::client::Server;
use super::output::Failure;
use super::paging::Paging;
use super::terminal::{text, time};
use crate::domain::{JobStatus, WatchStatus};

/// List watches, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback watches --status watching --provider muvi

With --all --json each watch is one line of JSON.")]
pub struct Watches {
    /// Only watches with this status
    #[arg(long, value_parser = values_of(WatchStatus::ALL, WatchStatus::as_str))]
    status: Option<String>,
    /// Only watches of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only watches of this job
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    server: Server,
}

impl Watches {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let filters = vec![("status", self.status), ("provider", self.provider), ("jobId", self.job_id)];
        let head = ["ID", "STATUS", "PROVIDER", "JOB", "PROGRESS", "CREATED (UTC)", "ENDED (UTC)"];
        let row = |watch: &Value| {
            let (status, progress) = (text(watch, "/job/status"), text(watch, "/job/progress"));
            let polled = status != JobStatus::Unknown.as_str();
            vec![
                text(watch, "/id"),
                text(watch, "/status"),
                text(watch, "/provider"),
                text(watch, "/jobId"),
                if progress.is_empty() {
                    Some(status).filter(|_| polled).unwrap_or_default()
                } else {
                    format!("{progress} %")
                },
                time(watch, "/createdAt"),
                time(watch, "/endedAt"),
            ]
        };
        self.paging.show(&client, "/v1/watches", filters, &head, row).await
    }
}
