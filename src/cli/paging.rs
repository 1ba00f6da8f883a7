//! Output of lists, page by page.

use serde_json::Value;

use super::client::{Client, PAGE_MAX, Page, with_query};
use super::output::{Failure, print_line, print_note};
use super::terminal::{Table, Terminal};

/// Arguments that select the page and the form of a list.
#[derive(Debug, clap::Args)]
pub struct Paging {
    /// Maximum number of entries, 1 to 200 [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(PAGE_MAX)))]
    limit: Option<u16>,
    /// Continue after an earlier page, at its nextCursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// List all entries, page by page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print the server's JSON: a page, or with --all one entry per line
    #[arg(long)]
    json: bool,
}

impl Paging {
    /// Prints the list at `path`, each entry as a row.
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
            print_note("There are more entries: --all lists them.");
        }
        Ok(())
    }

    /// Prints a list that is completely in memory.
    pub(super) fn show_whole(
        self,
        mut list: Value,
        head: &[&'static str],
        row: impl Fn(&Value) -> Vec<String>,
    ) -> Result<(), Failure> {
        if self.cursor.is_some() {
            return Err(Failure::Usage(
                "--cursor works with a server only: a database is read completely".into(),
            ));
        }
        if let (Some(limit), Some(data)) = (self.limit, list["data"].as_array_mut()) {
            data.truncate(usize::from(limit));
        }
        self.page(&list.to_string(), head, row, true).map(drop)
    }

    /// Prints a page and returns the cursor of the next one.
    fn page(
        &self,
        text: &str,
        head: &[&'static str],
        row: impl Fn(&Value) -> Vec<String>,
        with_head: bool,
    ) -> Result<Option<String>, Failure> {
        let terminal = Terminal::of_stdout();
        let page: Page = serde_json::from_str(text)
            .map_err(|error| Failure::Failed(format!("the answer is not a list of Ringback: {error}")))?;
        if self.json && self.all {
            page.data.iter().try_for_each(|one| terminal.json(one.get()))?;
        } else if self.json {
            terminal.json(text)?;
        } else if page.data.is_empty() && with_head {
            print_note("No entries.");
        } else {
            let mut table = Table::new(head);
            for one in &page.data {
                table.row(row(&serde_json::from_str(one.get()).unwrap_or_default()));
            }
            print_line(table.render(terminal, "", with_head))?;
        }
        Ok(page.next_cursor)
    }
}
