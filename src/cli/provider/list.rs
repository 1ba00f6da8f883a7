//! `ringback provider list`: the providers of a server with their state, or those of this shell's settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::app;
use crate::cli::arguments::configuration;
use crate::cli::client::{Client, PAGE_MAX, Page, Server};
use crate::cli::output::{Failure, print_line, print_note, text, texts};
use crate::cli::terminal::{Column, Terminal};
use crate::config::{Environment, Flags};
use crate::domain::{JobStatus, format_duration, format_rate};

/// List providers: those of a server with health and budget, or those of this shell
///
/// With a server, lists the configured providers, and those with mistakes. Without one, reads the settings and the keys of
/// this shell, as ringback serve would if it was started here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  RINGBACK_URL=http://127.0.0.1:8080 ringback provider list
  RINGBACK_PROVIDERS__PATH=./providers ringback provider list --config ringback.toml")]
pub struct List {
    /// Use this server.
    #[arg(
        long,
        value_name = "URL",
        help = "Use this server [default: RINGBACK_URL; without both, the settings of this shell are shown]"
    )]
    url: Option<String>,
    /// List the providers of this configuration file instead of those of a server
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    config: Option<PathBuf>,
    /// Also list the server's providers that have no credential
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) async fn run(self) -> Result<(), Failure> {
        // A key alone names no server: an operator sets `RINGBACK_API_KEY` for `serve` as well.
        let names_server = self.url.is_some() || Environment::of_process().get("RINGBACK_URL").is_some();
        if names_server && self.config.is_none() {
            let client = Server { url: self.url.clone() }.client()?;
            return self.of_server(&client).await;
        }
        self.of_shell()
    }

    /// Lists the providers of a server.
    async fn of_server(self, client: &Client) -> Result<(), Failure> {
        let (mut known, mut after) = (Vec::new(), String::new());
        loop {
            let answer = client.get(&format!("/v1/providers?limit={PAGE_MAX}{after}")).await?;
            let page: Page =
                serde_json::from_str(&answer.text).context("the answer is not a list of Ringback")?;
            known.extend(page.data);
            let Some(cursor) = page.next_cursor else { break };
            after = format!("&cursor={cursor}");
        }
        let terminal = Terminal::of_stdout();
        if self.json {
            return Ok(terminal.json(&json!({ "data": known, "nextCursor": null }).to_string())?);
        }
        let known: Vec<Value> =
            known.iter().map(|one| serde_json::from_str(one.get()).unwrap_or_default()).collect();
        let is_shown = |one: &&Value| self.all || text(one, "/health/status") != "unconfigured";
        let rows = known.iter().filter(is_shown).map(row_of_state);
        print_line(terminal.table(COLUMNS, rows, true))?;
        let hidden = known.iter().filter(|one| !is_shown(one)).count();
        if hidden > 0 {
            print_note(format_args!(
                "\n{hidden} further providers have no credential on this server: --all lists them."
            ));
        }
        Ok(())
    }

    /// Lists the providers of this shell's settings.
    fn of_shell(self) -> Result<(), Failure> {
        let config = configuration(&Flags { config: self.config, ..Flags::default() })?;
        let known = app::providers(&config)?;
        let known: Vec<Value> = known.iter().map(about).collect();
        let terminal = Terminal::of_stdout();
        if self.json {
            return Ok(terminal.json(&json!({ "data": known, "nextCursor": null }).to_string())?);
        }
        let instance_of = |one: &Value| match (text(one, "/id"), text(one, "/definition")) {
            (id, definition) if id == definition => String::new(),
            (_, definition) => definition,
        };
        let mut columns = vec![
            Column::new("ID"),
            Column::new("KEY"),
            Column::new("STATUSES").soft().optional(2),
            Column::new("RATE"),
            Column::new("CONCURRENCY").optional(3),
            Column::new("POLL INTERVAL").optional(1),
            Column::new("BASE URL").soft(),
        ];
        let has_instances = known.iter().any(|one| !instance_of(one).is_empty());
        if has_instances {
            columns.insert(1, Column::new("INSTANCE OF"));
        }
        let rows = known.iter().map(|one| {
            let statuses: Vec<_> =
                one["statuses"].as_object().into_iter().flat_map(Map::keys).cloned().collect();
            let mut row = vec![
                text(one, "/id"),
                text(one, "/credential"),
                statuses.join(" "),
                text(one, "/limits/rate"),
                text(one, "/limits/concurrency"),
                [text(one, "/poll/minInterval"), text(one, "/poll/maxInterval")].join("–"),
                text(one, "/baseUrl"),
            ];
            if has_instances {
                row.insert(1, instance_of(one));
            }
            row
        });
        print_line(terminal.table(&columns, rows, true))?;
        print_note(
            "\nThese are the settings of this shell. With RINGBACK_URL, those of a running server are shown.",
        );
        Ok(())
    }
}

/// Columns of the list of a server.
const COLUMNS: &[Column] = &[
    Column::new("ID"),
    Column::new("HEALTH"),
    Column::new("RATE"),
    Column::new("IN FLIGHT").optional(1),
    Column::new("WAITING"),
    Column::time("LAST GOOD").optional(2),
    Column::new("LAST ERROR").soft().optional(3),
];

fn row_of_state(one: &Value) -> [String; 7] {
    let [id, health, rate, in_flight, concurrency, waiting, good, error] = texts(
        one,
        [
            "/id",
            "/health/status",
            "/budget/rate",
            "/budget/inFlight",
            "/budget/concurrency",
            "/budget/waiting",
            "/health/lastGoodAt",
            "/health/lastError",
        ],
    );
    let error = if error.is_empty() { text(one, "/errors/0") } else { error };
    let rate = if rate.is_empty() { "off".to_owned() } else { rate };
    [id, health, rate, format!("{in_flight} of {concurrency}"), waiting, good, error]
}

/// Returns a provider with its effective settings as JSON.
fn about(provider: &app::Provider) -> Value {
    let definition = &provider.definition;
    let credential = match (&provider.credential, definition.needs_credential()) {
        (_, false) => "not needed",
        (Some(_), true) => "set",
        (None, true) => "missing",
    };
    let base_url = provider.base_url.as_ref().map_or_else(|| definition.base_url(), ToString::to_string);
    let statuses: BTreeMap<&str, JobStatus> = definition.status_words().collect();
    let (bounds, limits) = (&provider.policy, &provider.limits);
    json!({
        "id": definition.id,
        "definition": definition.definition_id(),
        "name": definition.name,
        "docs": definition.docs,
        "baseUrl": base_url.trim_end_matches('/'),
        "credential": credential,
        "statuses": statuses,
        "poll": {
            "first": format_duration(bounds.first),
            "minInterval": format_duration(bounds.min_interval),
            "maxInterval": format_duration(bounds.max_interval),
            "deadline": format_duration(bounds.deadline),
        },
        "limits": {
            "rate": limits.rate.spacing.map_or_else(|| "off".to_owned(), format_rate),
            "burst": limits.burst,
            "concurrency": limits.concurrency,
        },
    })
}
