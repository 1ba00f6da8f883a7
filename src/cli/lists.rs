//! `ringback watches` and `ringback deliveries`: what there is, newest first.

use serde_json::Value;

use super::client::{Client, PAGE_MAX, Page, Server, with_query};
use super::screen::{Screen, Table, place, text, time};
use super::{Failure, moment, note, one_of, say};
use crate::domain::{DeliveryStatus, JobStatus, WatchStatus};

/// How much of a list is shown, and in which form.
#[derive(Debug, clap::Args)]
pub struct Extent {
    /// How many, 1 to 200 [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(PAGE_MAX)))]
    limit: Option<u16>,
    /// Go on where an earlier page ended, at its nextCursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// All of them, page after page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print the server's JSON: a page, or with --all each entry on a line of its own
    #[arg(long)]
    json: bool,
}

impl Extent {
    /// Shows the list at `path`, each entry as a row.
    pub(super) async fn show(
        self,
        client: &Client,
        path: &str,
        filters: Vec<(&str, Option<String>)>,
        head: &[&'static str],
        row: impl Fn(&Value) -> Vec<String>,
    ) -> Result<(), Failure> {
        let (mut cursor, mut with_head) = (self.cursor.clone(), true);
        let limit = self.limit.or(self.all.then_some(PAGE_MAX)).map(|limit| limit.to_string());
        loop {
            let parameters = [("limit", limit.clone()), ("cursor", cursor.take())];
            let answer = client.get(&with_query(path, filters.clone().into_iter().chain(parameters))).await?;
            cursor = self.page(&answer.text, head, &row, with_head)?;
            with_head = false;
            if !self.all || cursor.is_none() {
                break;
            }
        }
        if cursor.is_some() && !self.json {
            note("There are more: --all shows them.");
        }
        Ok(())
    }

    /// Shows a list of which all is known already.
    pub(super) fn show_whole(
        self,
        mut list: Value,
        head: &[&'static str],
        row: impl Fn(&Value) -> Vec<String>,
    ) -> Result<(), Failure> {
        if self.cursor.is_some() {
            return Err(Failure::Usage("--cursor is for a server's pages: a database is read whole".into()));
        }
        if let (Some(limit), Some(data)) = (self.limit, list["data"].as_array_mut()) {
            data.truncate(usize::from(limit));
        }
        self.page(&list.to_string(), head, row, true).map(drop)
    }

    /// Shows a page, and returns where the next one begins.
    fn page(
        &self,
        text: &str,
        head: &[&'static str],
        row: impl Fn(&Value) -> Vec<String>,
        with_head: bool,
    ) -> Result<Option<String>, Failure> {
        let screen = Screen::of_stdout();
        let page: Page = serde_json::from_str(text).map_err(|error| {
            Failure::Failed(format!("this is no list, as a Ringback would send it: {error}"))
        })?;
        if self.json && self.all {
            page.data.iter().try_for_each(|one| screen.json(one.get()))?;
        } else if self.json {
            screen.json(text)?;
        } else if page.data.is_empty() && with_head {
            note("There are none.");
        } else {
            let mut table = Table::new(head);
            for one in &page.data {
                table.row(row(&serde_json::from_str(one.get()).unwrap_or_default()));
            }
            say(table.render(screen, "", with_head))?;
        }
        Ok(page.next_cursor)
    }
}

/// List watches, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback watches --status watching --provider muvi

With --all --json each watch is a line of JSON, for as many as there are.")]
pub struct Watches {
    /// How they stand
    #[arg(long, value_parser = one_of(WatchStatus::ALL, WatchStatus::as_str))]
    status: Option<String>,
    /// Of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Of this job
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    #[command(flatten)]
    extent: Extent,
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
            let looked_at = status != JobStatus::Unknown.as_str();
            vec![
                text(watch, "/id"),
                text(watch, "/status"),
                text(watch, "/provider"),
                text(watch, "/jobId"),
                if progress.is_empty() {
                    Some(status).filter(|_| looked_at).unwrap_or_default()
                } else {
                    format!("{progress} %")
                },
                time(watch, "/createdAt"),
                time(watch, "/endedAt"),
            ]
        };
        self.extent.show(&client, "/v1/watches", filters, &head, row).await
    }
}

/// List deliveries, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback deliveries --status failed --since 24h

--since and --until take a time, as 2026-02-18T15:00:00Z, or how long ago, as 24h; it is the event's.")]
pub struct Deliveries {
    /// How they stand
    #[arg(long, value_parser = one_of(DeliveryStatus::ALL, DeliveryStatus::as_str))]
    status: Option<String>,
    /// Of this watch
    #[arg(long, value_name = "ID")]
    watch: Option<String>,
    /// To this destination
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Not before
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Before
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    server: Server,
}

impl Deliveries {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let now = client.clock.now();
        let filters = vec![
            ("status", self.status),
            ("watchId", self.watch),
            ("destinationId", self.destination),
            ("since", moment("--since", self.since, now)?),
            ("until", moment("--until", self.until, now)?),
        ];
        let head = ["ID", "STATUS", "EVENT", "WATCH", "TO…", "NEXT TRY (UTC)", "CREATED (UTC)"];
        let row = |delivery: &Value| {
            let (status, reason) = (text(delivery, "/status"), text(delivery, "/reason"));
            vec![
                text(delivery, "/id"),
                if reason.is_empty() { status } else { format!("{status}: {reason}") },
                text(delivery, "/eventType"),
                text(delivery, "/watchId"),
                place(&delivery["destination"]),
                time(delivery, "/nextAttemptAt"),
                time(delivery, "/createdAt"),
            ]
        };
        self.extent.show(&client, "/v1/deliveries", filters, &head, row).await
    }
}
