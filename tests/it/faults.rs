//! The fault suite: faults of the process, the disk, the database server, the clock, the names and the receivers.
//!
//! Each scenario ends with the same [`Verdict`]: no accepted watch lost, no delivery lost, no ID with two bodies, nothing
//! sent after an end, memory bounded. `cargo test` runs every scenario in a short form. At length, with one table at the
//! end:
//!
//! ```sh
//! RINGBACK_ROUNDS=10 cargo test --test it faults:: -- --nocapture --test-threads=1
//! ```
//!
//! `RINGBACK_ROUNDS` multiplies the rounds of every scenario; any value but 1 kills the process at least 200 times. The
//! process, its database and its receivers are real; only the clock and the names are those of the harness, because a
//! test cannot change the machine's.

mod clocks;
mod database;
mod disks;
mod hostile;
mod receivers;

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::crash::number;
use crate::verdict::Verdict;

/// Heading of the table.
const HEADING: &str = "\
| Fault | Rounds | Watches | Lost | Bodies that differ | Sent after the end | Peak memory |
|---|--:|--:|--:|--:|--:|--:|";

/// The rows of the scenarios that have ended, by their position in the list; `None` for one that was skipped.
static ROWS: Mutex<Vec<(usize, Option<String>)>> = Mutex::new(Vec::new());

/// Factor of the number of rounds.
fn factor() -> u64 {
    number("RINGBACK_ROUNDS").unwrap_or(1)
}

/// Returns the number of kills in a loop, which is at least `least` at length. The short form is short because the
/// tests of [`crate::crash`] have the same loops.
fn kills(least: u64) -> u64 {
    if factor() > 1 { (5 * factor()).max(least) } else { 1 }
}

/// Result of a scenario.
enum Survived {
    /// The number of rounds, and what was counted.
    Here(u64, Verdict),
    /// The row that a second run of the test has printed.
    Elsewhere(String),
    /// The machine lacks what the scenario needs.
    Skipped,
}

impl Survived {
    fn of(rounds: u64, verdict: Option<Verdict>) -> Self {
        verdict.map_or(Self::Skipped, |verdict| Self::Here(rounds, verdict))
    }

    /// Prints the row of the scenario, and the whole table after the last one. Fails if something was lost.
    fn report(self, position: usize, fault: &str) {
        let row = match self {
            Self::Here(rounds, verdict) => {
                let Verdict { watches, lost, differing, after_end, peak } = &verdict;
                let [lost, differing, after_end] = [lost, differing, after_end].map(Vec::len);
                let memory = if *peak == 0 { "in the test".to_owned() } else { format!("{peak} MiB") };
                let row = format!(
                    "| {fault} | {rounds} | {watches} | {lost} | {differing} | {after_end} | {memory} |"
                );
                println!("\n{row}");
                verdict.expect_clean();
                Some(row)
            }
            Self::Elsewhere(printed) => {
                let start = format!("| {fault} |");
                let row = printed.lines().find(|line| line.starts_with(&start)).map(str::to_owned);
                Some(row.unwrap_or_else(|| panic!("no row of {fault} in {printed}")))
            }
            Self::Skipped => None,
        };
        let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
        rows.push((position, row));
        if rows.len() == FAULTS.len() {
            rows.sort_unstable();
            let mut table = HEADING.to_owned();
            for row in rows.iter().filter_map(|(_, row)| row.as_ref()) {
                let _ = write!(table, "\n{row}");
            }
            println!("\n{table}");
        }
    }
}

/// Declares the tests of the scenarios, and their list.
macro_rules! faults {
    ($($test:ident: $fault:literal => $scenario:expr;)*) => {
        /// The faults, in the order of the table.
        const FAULTS: &[&str] = &[$($fault,)*];

        $(
            #[tokio::test]
            async fn $test() {
                let position = FAULTS.iter().position(|fault| *fault == $fault).unwrap();
                let scenario: Survived = $scenario.await;
                scenario.report(position, $fault);
            }
        )*
    };
}

faults! {
    kill_dash_nine: "`kill -9` in a loop, SQLite" => database::kills_on_sqlite(kills(200));
    a_full_disk: "full disk" => disks::full("faults::a_full_disk", factor());
    a_read_only_disk: "read-only disk" => disks::read_only("faults::a_read_only_disk", factor());
    a_truncated_log: "truncated tail of the log" => disks::torn_log(3 * factor(), disks::Tail::Truncated);
    a_zeroed_log: "zeroed tail of the log" => disks::torn_log(3 * factor(), disks::Tail::Zeroed);
    a_clock_that_jumps: "clock jumps of a day, both ways" => clocks::jumps(factor());
    names_that_change: "DNS that changes" => clocks::names(factor());
    a_slow_header: "receiver slow in the header" => receivers::slow_head(factor());
    a_slow_body: "receiver slow in the body" => receivers::slow_body(factor());
    an_endless_body: "receiver with an endless body" => receivers::endless(factor());
    resets: "receiver that resets, at each class of byte" => receivers::resets(factor());
    a_wrong_length: "receiver that lies about the length" => receivers::wrong_length(factor());
    a_compression_bomb: "receiver and provider that send a compression bomb" => receivers::compression_bomb(factor());
    redirects_in_a_circle: "receiver that redirects in a circle" => receivers::redirects(factor());
    failing_tls: "receiver with failing TLS" => receivers::failing_tls(factor());
    a_stalled_store: "store that stalls (3 s; 30 s at length)" => database::stall(factor());
    a_kill_under_load: "PostgreSQL: SIGKILL under load" => database::kill_under_load(factor());
    repeated_kills: "PostgreSQL: repeated kills" => database::repeated_kills(kills(1));
    a_database_restart: "PostgreSQL: restart" => database::restart(factor());
    killed_backends: "PostgreSQL: backend kill" => database::backend_kill(3 * factor());
    an_exhausted_pool: "PostgreSQL: pool exhaustion" => database::pool_exhaustion(factor());
}
