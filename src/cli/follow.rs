//! Waiting for the end of a watch.
//!
//! The server answers when the watch has ended, or after some time if it has not. So no timer is needed here, and after
//! a restart of the server the request is repeated. Following does not change the watch, also if it is interrupted.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::client::{Answer, Client, segment, with_query};
use super::delivery_state::{describe_undelivered, is_pending};
use super::output::{
    Failure, clean, join, print_note, print_note_waiting, print_waiting, text, texts, unless_closed,
};
use super::signals::shutdown_signal;
use super::terminal::Terminal;
use crate::domain::{JobStatus, WatchStatus, parse_any_duration};

/// Maximum time that the server waits before it answers; shorter with a progress bar.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_FOR_BAR: Duration = Duration::from_secs(2);
/// Maximum time without an answer of the server: a restart takes seconds, an upgrade with a migration minutes.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(300);
/// First and longest wait before a retry; the wait doubles.
const RETRY_WAIT: Duration = Duration::from_millis(250);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);
/// Minimum time between two requests: a server that shuts down answers at once.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the animation of the progress bar.
const TICK: Duration = Duration::from_millis(120);

/// Returns the exit code for the status of a watch; `None` if the watch has not ended.
const fn exit_code(status: WatchStatus) -> Option<u8> {
    match status {
        WatchStatus::Watching => None,
        WatchStatus::Completed => Some(0),
        WatchStatus::Failed => Some(3),
        WatchStatus::Cancelled => Some(4),
        WatchStatus::NotFound => Some(5),
        WatchStatus::Expired | WatchStatus::Stopped => Some(6),
    }
}

/// Exit code for a completed job of which a delivery has not succeeded.
const UNDELIVERED: u8 = 7;

/// Arguments that follow a watch.
#[derive(Debug, clap::Args)]
pub struct Follow {
    /// Wait for the end of the watch and show progress
    #[arg(id = "follow", long = "follow", short = 'f')]
    pub is_wanted: bool,
    /// With --follow: longest wait for deliveries after the end, such as 5m; 0s for none
    #[arg(long, value_name = "DURATION", value_parser = parse_any_duration, default_value = "30s", requires = "follow")]
    pub delivery_wait: Duration,
}

/// Waits for the end of a watch, whose status decides the exit code, and then for its deliveries.
pub(super) async fn follow(
    client: &Client,
    id: &str,
    first: Option<Answer>,
    (json, delivery_wait): (bool, Duration),
) -> Result<(), Failure> {
    let progress = Progress::new();
    let ended = tokio::select! {
        // The signal handler is installed before the first output, to which a user could react.
        biased;
        asked = shutdown_signal() => {
            asked?;
            progress.bar.finish_and_clear();
            let message = format!("The watch continues. To follow it again:\n  ringback show {id} --follow");
            return Err(Failure::Failed(message));
        }
        ended = wait_for_end(client, id, first, &progress) => ended,
    };
    let answer = match ended {
        Ok(answer) => wait_for_deliveries(client, id, answer, &progress, delivery_wait).await,
        failed => failed,
    };
    progress.bar.finish_and_clear();
    let answer = answer?;
    let (terminal, watch) = (Terminal::of_stdout(), answer.value());
    let status = text(&watch, "/status");
    let result = if json {
        terminal.json_text(&answer.text)
    } else {
        let line = describe(&watch);
        let rest = line.strip_prefix(&status).unwrap_or_default();
        format!("{}{rest}\n", terminal.status(&status))
    };
    let undelivered = describe_undelivered(&watch, terminal);
    let print = async {
        // The exit code is a result, too.
        unless_closed(print_waiting(result).await)?;
        if !undelivered.is_empty() {
            print_note_waiting(undelivered.clone()).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        biased;
        asked = shutdown_signal() => {
            asked?;
            return Err(Failure::Failed("stopped while the result was printed".to_owned()));
        }
        printed = print => printed?,
    }
    match WatchStatus::parse(&status).and_then(exit_code) {
        Some(0) if !undelivered.is_empty() => Err(Failure::Ended(UNDELIVERED)),
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Ended(code)),
        None => Err(Failure::Failed(format!(
            "the server sent an unknown status: {}; is this program older than the server?",
            clean(&status)
        ))),
    }
}

/// Waits until no delivery of an ended watch is pending, the time is over, or the user interrupts the wait. Returns the
/// last state of the watch. A server that does not answer meanwhile is no failure: the end of the watch is known.
async fn wait_for_deliveries(
    client: &Client,
    id: &str,
    ended: Answer,
    progress: &Progress,
    delivery_wait: Duration,
) -> Result<Answer, Failure> {
    let (path, waited) = (format!("/v1/watches/{}", segment(id)), client.clock.stopwatch());
    let (mut answer, mut pause) = (ended, RETRY_WAIT);
    while is_pending(&answer.value()) && waited.elapsed() < delivery_wait {
        progress.bar.set_message("waiting for deliveries");
        let next = async {
            client.clock.sleep(pause.min(delivery_wait.saturating_sub(waited.elapsed()))).await;
            client.get(&path).await
        };
        tokio::select! {
            biased;
            interrupted = shutdown_signal() => {
                interrupted?;
                break;
            }
            next = next => match next {
                Ok(next) => answer = next,
                Err(Failure::Unavailable(_)) => {}
                Err(failure) => return Err(failure),
            },
        }
        pause = (pause * 2).min(REQUEST_INTERVAL);
    }
    Ok(answer)
}

async fn wait_for_end(
    client: &Client,
    id: &str,
    first: Option<Answer>,
    progress: &Progress,
) -> Result<Answer, Failure> {
    let wait = if progress.bar.is_hidden() { WAIT } else { WAIT_FOR_BAR };
    let duration = format!("{}s", wait.as_secs());
    let path = with_query(&format!("/v1/watches/{}", segment(id)), [("wait", Some(duration))]);
    let mut known = first;
    loop {
        if let Some(answer) = known.take() {
            let watch = answer.value();
            progress.show(&watch).await;
            if has_ended(&watch) {
                return Ok(answer);
            }
        }
        // The request is repeated until the server answers.
        let (asked, mut noted) = (client.clock.stopwatch(), false);
        let backoff = ExponentialBuilder::new().with_min_delay(RETRY_WAIT).with_max_delay(RETRY_WAIT_MAX);
        let answer = (|| client.get_waiting(&path, wait))
            .retry(backoff.without_max_times())
            .sleep(client.clock.clone())
            .when(|error| matches!(error, Failure::Unavailable(_)) && asked.elapsed() < UNAVAILABLE_MAX)
            .notify(|error, _| {
                if !std::mem::replace(&mut noted, true) {
                    let minutes = UNAVAILABLE_MAX.as_secs() / 60;
                    progress.note(&format!("{error}\nRetrying for {minutes} minutes."));
                }
            })
            .await?;
        if noted {
            progress.note("The server answers again.");
        }
        if asked.elapsed() < REQUEST_INTERVAL && !has_ended(&answer.value()) {
            client.clock.sleep(REQUEST_INTERVAL).await;
        }
        known = Some(answer);
    }
}

fn has_ended(watch: &Value) -> bool {
    text(watch, "/status") != WatchStatus::Watching.as_str()
}

/// Describes a job of which no poll has brought a status. Polls that failed are polls, too.
pub(super) fn unknown_status(watch: &Value) -> &'static str {
    let polled = !text(watch, "/job/lastPolledAt").is_empty() || !text(watch, "/job/lastError").is_empty();
    match (polled, has_ended(watch)) {
        (true, _) => "unknown, because no poll has brought a status",
        (false, false) => "not polled yet",
        // The server does not know the polls of an old watch any more.
        (false, true) => "unknown",
    }
}

/// Returns the state of a watch in one line.
fn describe(watch: &Value) -> String {
    let ended = has_ended(watch);
    let status = text(watch, if ended { "/status" } else { "/job/status" });
    let status =
        if status == JobStatus::Unknown.as_str() { unknown_status(watch).to_owned() } else { status };
    let percent = percent(watch).map(|percent| format!("{percent} %")).unwrap_or_default();
    let [output, code, message] = texts(watch, ["/job/output", "/job/error/code", "/job/error/message"]);
    let failed = Some(text(watch, "/job/lastError")).filter(|error| !ended && !error.is_empty());
    let failed = failed.map(|error| format!("(the last poll failed: {error})")).unwrap_or_default();
    clean(&join([status, percent, output, code, message, failed], "  "))
}

fn percent(watch: &Value) -> Option<u64> {
    watch.pointer("/job/progress").and_then(Value::as_u64)
}

/// Returns the form of the progress. Without a percentage there is no bar, only an animation and the elapsed time.
fn style(percent: Option<u64>) -> ProgressStyle {
    let form = match percent {
        Some(_) => "{spinner} [{bar:30}] {elapsed}  {wide_msg}",
        None => "{spinner} {elapsed}  {wide_msg}",
    };
    ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Progress on stderr: a bar on a terminal, elsewhere a line per change.
struct Progress {
    /// Hidden if stderr is not a terminal, or one that cannot move its cursor.
    bar: ProgressBar,
    last: std::cell::RefCell<String>,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new(100);
        if !bar.is_hidden() {
            // The first frame is drawn now: nothing is known yet, so it has no bar.
            bar.set_style(style(None));
            bar.enable_steady_tick(TICK);
        }
        Self { bar, last: std::cell::RefCell::default() }
    }

    async fn show(&self, watch: &Value) {
        let line = describe(watch);
        if self.bar.is_hidden() {
            if !has_ended(watch) && self.last.replace(line.clone()) != line {
                print_note_waiting(line).await;
            }
            return;
        }
        self.bar.set_style(style(percent(watch)));
        self.bar.set_position(percent(watch).unwrap_or_default());
        self.bar.set_message(line);
    }

    fn note(&self, message: &str) {
        self.bar.suspend(|| print_note(message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_final_status_has_an_exit_code() {
        let codes: Vec<String> =
            WatchStatus::ALL.iter().map(|status| format!("{status} {:?}", exit_code(*status))).collect();
        assert_eq!(
            codes,
            [
                "watching None",
                "completed Some(0)",
                "failed Some(3)",
                "cancelled Some(4)",
                "not_found Some(5)",
                "expired Some(6)",
                "stopped Some(6)"
            ]
        );
    }

    #[test]
    fn the_state_of_a_watch_is_one_line_without_controls() {
        let watch = |status: &str, job: Value| describe(&json!({ "status": status, "job": job }));
        insta::assert_snapshot!(
            [
                watch("watching", json!({ "status": "unknown", "progress": null })),
                unknown_status(&json!({ "status": "expired", "job": { "status": "unknown", "polls": null } })).to_owned(),
                watch("watching", json!({ "status": "processing", "progress": 50, "lastError": "timeout: \u{1b}[2J" })),
                watch("completed", json!({ "status": "completed", "progress": 100, "output": "https://a/b", "lastError": "x" })),
                watch("failed", json!({ "status": "failed", "error": { "code": "nsfw", "message": "no\nway" } })),
            ]
            .join("\n"),
            @r"
        not polled yet
        unknown
        processing  50 %  (the last poll failed: timeout: \u001b[2J)
        completed  100 %  https://a/b
        failed  nsfw  no\nway
        "
        );
    }
}
