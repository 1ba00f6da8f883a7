//! Staying with a watch until its end.
//!
//! The server is asked to answer when the watch has ended, and answers after a while if it has not;
//! so nothing here counts time, and a server that restarts in between is only asked again. Following
//! changes nothing: whoever stops it leaves the watch as it is.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::client::{Answer, Client, Trouble, segment, with_query};
use super::screen::{Screen, clean, text};
use super::{Failure, note, say, stopped};
use crate::domain::{JobStatus, WatchStatus};

/// How long the server may wait before it answers: longer where nobody sees a bar move.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_FOR_BAR: Duration = Duration::from_secs(2);
/// How long a server may be away. A restart takes seconds, an upgrade with a migration minutes.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two tries while it is away; doubled up to the greatest.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// A server that is about to end answers those who wait at once: it is not to be asked in a loop.
const QUICK: Duration = Duration::from_secs(1);
/// How often the bar shows that it lives.
const TICK: Duration = Duration::from_millis(120);

/// How the command ends, by how the watch stands; `None` while it has not ended.
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

/// Follows a watch to its end, which decides how the command ends.
pub(super) async fn follow(
    client: &Client,
    id: &str,
    first: Option<Answer>,
    json: bool,
) -> Result<(), Failure> {
    let progress = Progress::new();
    let ended = tokio::select! {
        // In this order: a signal is heard before anything is said that somebody could answer by one.
        biased;
        asked = stopped() => {
            asked?;
            progress.clear();
            let goes_on = format!("The watch goes on; `ringback show {id} --follow` follows it again.");
            return Err(Failure::Failed(goes_on));
        }
        ended = wait_for_end(client, id, first, &progress) => ended,
    };
    progress.clear();
    let answer = ended?;
    let (screen, watch) = (Screen::of_stdout(), answer.value());
    let status = text(&watch, "/status");
    if json {
        screen.json(&answer.text)?;
    } else {
        let line = describe(&watch);
        let rest = line.strip_prefix(&status).unwrap_or_default();
        say(format_args!("{}{rest}", screen.status(&status)))?;
    }
    match WatchStatus::parse(&status).and_then(exit_code) {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Ended(code)),
        None => Err(Failure::Failed(format!(
            "the server names an ending that is not known here: {}",
            clean(&status)
        ))),
    }
}

async fn wait_for_end(
    client: &Client,
    id: &str,
    first: Option<Answer>,
    progress: &Progress,
) -> Result<Answer, Failure> {
    let wait = if progress.bar.is_some() { WAIT_FOR_BAR } else { WAIT };
    let span = format!("{}s", wait.as_secs());
    let path = with_query(&format!("/v1/watches/{}", segment(id)), [("wait", Some(span))]);
    let mut known = first;
    loop {
        if let Some(answer) = known.take() {
            let watch = answer.value();
            progress.show(&watch);
            if has_ended(&watch) {
                return Ok(answer);
            }
        }
        let asked = client.clock.stopwatch();
        let answer = insist(client, &path, wait, progress).await?;
        if asked.elapsed() < QUICK && !has_ended(&answer.value()) {
            client.clock.sleep(QUICK).await;
        }
        known = Some(answer);
    }
}

/// Asks until there is an answer, also where the server is away for a while.
async fn insist(client: &Client, path: &str, wait: Duration, progress: &Progress) -> Result<Answer, Failure> {
    let (away, mut again, mut told) = (client.clock.stopwatch(), AGAIN, false);
    loop {
        let sentence = match client.get_waiting(path, wait).await {
            Ok(answer) => {
                if told {
                    progress.tell("The server answers again.");
                }
                return Ok(answer);
            }
            Err(Trouble::Passing(sentence)) if away.elapsed() < PATIENCE => sentence,
            Err(trouble) => return Err(trouble.into()),
        };
        if !told {
            let minutes = PATIENCE.as_secs() / 60;
            progress.tell(&format!("{sentence}\nTrying again for {minutes} minutes."));
            told = true;
        }
        client.clock.sleep(again).await;
        again = (again * 2).min(AGAIN_MAX);
    }
}

fn has_ended(watch: &Value) -> bool {
    text(watch, "/status") != WatchStatus::Watching.as_str()
}

/// How a watch stands, in a line.
fn describe(watch: &Value) -> String {
    let ended = has_ended(watch);
    let mut line = clean(&text(watch, if ended { "/status" } else { "/job/status" })).into_owned();
    if line == JobStatus::Unknown.as_str() {
        "not looked at yet".clone_into(&mut line);
    }
    if let Some(percent) = percent(watch) {
        // Writing to a string cannot fail.
        let _ = write!(line, "  {percent} %");
    }
    let said =
        [text(watch, "/job/output"), text(watch, "/job/error/code"), text(watch, "/job/error/message")];
    for word in said.iter().filter(|word| !word.is_empty()) {
        line.push_str("  ");
        line.push_str(&clean(word));
    }
    let trouble = text(watch, "/job/lastError");
    if !ended && !trouble.is_empty() {
        let _ = write!(line, "  (the last look failed: {})", clean(&trouble));
    }
    line
}

fn percent(watch: &Value) -> Option<u64> {
    watch.pointer("/job/progress").and_then(Value::as_u64)
}

/// What happens meanwhile, on stderr: a bar on a terminal, elsewhere a line for each change.
struct Progress {
    bar: Option<ProgressBar>,
    last: std::cell::RefCell<String>,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new(100);
        // Hidden is a bar on what is no terminal, or one that cannot move its cursor.
        let bar = (!bar.is_hidden()).then_some(bar);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, last: std::cell::RefCell::default() }
    }

    fn show(&self, watch: &Value) {
        let line = describe(watch);
        let Some(bar) = &self.bar else {
            if !has_ended(watch) && self.last.replace(line.clone()) != line {
                note(&line);
            }
            return;
        };
        // Without a percentage there is no bar: only that it lives, and for how long.
        let form = match percent(watch) {
            Some(_) => "{spinner} [{bar:30}] {elapsed}  {wide_msg}",
            None => "{spinner} {elapsed}  {wide_msg}",
        };
        bar.set_style(ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(percent(watch).unwrap_or_default());
        bar.set_message(line);
    }

    fn tell(&self, sentence: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(sentence)),
            None => note(sentence),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_ending_has_its_exit_code_and_no_other_status_has_one() {
        let told: Vec<String> =
            WatchStatus::ALL.iter().map(|status| format!("{status} {:?}", exit_code(*status))).collect();
        assert_eq!(
            told,
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
    fn how_a_watch_stands_is_said_in_a_line_that_controls_nothing() {
        let watch = |status: &str, job: Value| describe(&json!({ "status": status, "job": job }));
        insta::assert_snapshot!(
            [
                watch("watching", json!({ "status": "unknown", "progress": null })),
                watch("watching", json!({ "status": "processing", "progress": 50, "lastError": "timeout: \u{1b}[2J" })),
                watch("completed", json!({ "status": "completed", "progress": 100, "output": "https://a/b", "lastError": "x" })),
                watch("failed", json!({ "status": "failed", "error": { "code": "nsfw", "message": "no\nway" } })),
            ]
            .join("\n"),
            @r"
        not looked at yet
        processing  50 %  (the last look failed: timeout: \u{1b}[2J)
        completed  100 %  https://a/b
        failed  nsfw  no\nway
        "
        );
    }
}
