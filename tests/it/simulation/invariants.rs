//! The invariants, each by name. All of them hold whenever nothing is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ringback::domain::Timestamp;
use serde_json::Value;

use super::world::{ProviderMode, RETRY_AFTER, ReceiverMode, Seen, State, Truth};
use super::{BURST, Shown, Simulation};
use crate::harness::id;
use crate::verdict::all;

/// Returns a field that is a text.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// Whether a type of an event ends its watch.
fn is_ending(kind: &str) -> bool {
    let (about, kind) = kind.split_once('.').unwrap_or_default();
    matches!(about, "job" | "watch") && !matches!(kind, "processing" | "progress")
}

/// The event and the URL of a delivery.
fn target(delivery: &Value) -> (String, String) {
    (text(delivery, "eventId").to_owned(), text(&delivery["destination"], "url").to_owned())
}

impl Simulation<'_> {
    pub(super) async fn show(&self) -> Shown {
        let address = self.t.address();
        Shown {
            watches: all(address, "/v1/watches").await,
            events: all(address, "/v1/events").await,
            deliveries: all(address, "/v1/deliveries").await,
        }
    }

    /// Returns the attempts of each delivery, by event and URL, in their order.
    fn attempts<'s>(&self, state: &'s State) -> HashMap<(String, String), Vec<&'s Seen>> {
        let mut attempts: HashMap<_, Vec<&Seen>> = HashMap::new();
        for seen in &state.seen {
            let url = self.world.receiver_url(&seen.hit.path);
            attempts.entry((seen.hit.id().to_owned(), url)).or_default().push(seen);
        }
        attempts
    }

    /// Checks every invariant.
    pub(super) async fn check(&mut self) {
        self.t.rest().await;
        let shown = self.show().await;
        self.accepted_watches_are_conserved(&shown);
        self.an_ending_is_single_and_final(&shown);
        self.the_feed_only_grows(&shown);
        self.an_ending_has_its_event_and_deliveries(&shown);
        let state = self.world.state.clone();
        let state = state.lock();
        self.nothing_is_sent_before_it_is_durable(&shown, &state);
        one_id_has_one_body(&state);
        self.an_accepted_webhook_is_not_repeated(&shown, &state);
        self.nothing_is_sent_after_an_end(&shown, &state);
        self.retry_after_is_kept(&state);
        self.no_ending_is_false(&shown, &state);
        self.the_rate_of_the_provider_is_kept(&state);
        assert!(state.complaints.is_empty(), "{:#?}", state.complaints);
        drop(state);
        self.shown = shown.watches.into_iter().map(|watch| (id(&watch), watch)).collect();
        self.feed = shown.events.iter().map(id).collect();
    }

    /// A watch that was answered with 201 exists after every crash, with its terms, and no other watch does: one key is
    /// one watch. A watch whose stop was answered with 200 stays ended.
    fn accepted_watches_are_conserved(&self, shown: &Shown) {
        let exist: BTreeSet<&str> = shown.watches.iter().map(|watch| text(watch, "id")).collect();
        let accepted: BTreeSet<&str> = self.watches.keys().map(String::as_str).collect();
        assert_eq!(exist, accepted, "the watches that exist are those that were accepted");
        for watch in &shown.watches {
            let registration = &self.watches[text(watch, "id")];
            assert_eq!(watch["jobId"], registration.body["jobId"], "{watch}");
            let to: Vec<&Value> =
                watch["destinations"].as_array().unwrap().iter().map(|to| &to["url"]).collect();
            assert_eq!(
                to,
                registration.body["notify"].as_array().unwrap().iter().collect::<Vec<_>>(),
                "{watch}"
            );
            assert!(!self.stopped.contains(text(watch, "id")) || watch["status"] != "watching", "{watch}");
            assert_eq!(watch["endedAt"].is_null(), watch["status"] == "watching", "{watch}");
        }
    }

    /// A watch ends once, and no later observation changes its end.
    fn an_ending_is_single_and_final(&self, shown: &Shown) {
        for watch in &shown.watches {
            let Some(before) = self.shown.get(text(watch, "id")) else { continue };
            if before["endedAt"].is_string() {
                for field in ["status", "endedAt", "events"] {
                    assert_eq!(watch[field], before[field], "an ending is final: {before}");
                }
            }
        }
        let mut endings = BTreeMap::new();
        for event in shown.events.iter().filter(|event| is_ending(text(event, "type"))) {
            let watch = text(&event["data"], "watchId");
            assert_eq!(endings.insert(watch, event), None, "{watch} has two endings");
        }
    }

    /// What was shown in the feed stays there, in its order.
    fn the_feed_only_grows(&self, shown: &Shown) {
        let feed: Vec<String> = shown.events.iter().map(id).collect();
        assert!(feed.starts_with(&self.feed), "{:?} became {feed:?}", self.feed);
    }

    /// A watch that has ended has the event of its end, and one delivery of the event for each destination; both appear
    /// with the end.
    fn an_ending_has_its_event_and_deliveries(&self, shown: &Shown) {
        let endings: HashMap<&str, &Value> = shown
            .events
            .iter()
            .filter(|event| is_ending(text(event, "type")))
            .map(|event| (text(&event["data"], "watchId"), event))
            .collect();
        let mut targets: BTreeMap<(String, String), u32> = BTreeMap::new();
        for delivery in &shown.deliveries {
            *targets.entry(target(delivery)).or_default() += 1;
        }
        assert!(
            targets.values().all(|count| *count == 1),
            "an event has one delivery for a URL: {targets:?}"
        );
        // A destination that has answered 410 gets no further delivery.
        let gone: BTreeSet<(&str, &str)> = shown
            .deliveries
            .iter()
            .filter(|delivery| delivery["reason"] == "gone")
            .map(|delivery| (text(delivery, "watchId"), text(&delivery["destination"], "url")))
            .collect();
        for watch in &shown.watches {
            let has_ended = !matches!(text(watch, "status"), "watching" | "stopped");
            let ending = endings.get(text(watch, "id"));
            assert_eq!(ending.is_some(), has_ended, "{watch}");
            let Some(ending) = ending else { continue };
            if !watch["events"].as_array().unwrap().contains(&ending["type"]) {
                continue;
            }
            for url in self.watches[text(watch, "id")].body["notify"].as_array().unwrap() {
                let target = (id(ending), url.as_str().unwrap().to_owned());
                let is_gone = gone.contains(&(text(watch, "id"), url.as_str().unwrap()));
                assert!(is_gone || targets.contains_key(&target), "no delivery of {target:?} of {watch}");
            }
        }
    }

    /// A receiver has seen only events that are on disk: also after a crash directly after the attempt.
    fn nothing_is_sent_before_it_is_durable(&self, shown: &Shown, state: &State) {
        let durable: BTreeSet<(String, String)> = shown.deliveries.iter().map(target).collect();
        for target in self.attempts(state).keys() {
            assert!(durable.contains(target), "{target:?} was sent and is not on disk");
        }
    }

    /// A webhook that a receiver has accepted is recorded as such, and is sent again only if a crash came before the
    /// record: at most once for each start of the application.
    fn an_accepted_webhook_is_not_repeated(&self, shown: &Shown, state: &State) {
        let statuses: HashMap<(String, String), &str> =
            shown.deliveries.iter().map(|delivery| (target(delivery), text(delivery, "status"))).collect();
        for (target, attempts) in self.attempts(state) {
            let mut of_start: BTreeMap<u32, u32> = BTreeMap::new();
            for seen in attempts.iter().filter(|seen| seen.mode == ReceiverMode::Accepts) {
                *of_start.entry(seen.starts).or_default() += 1;
            }
            assert!(of_start.values().all(|count| *count == 1), "{target:?} was repeated: {attempts:#?}");
            if of_start.contains_key(&state.starts) {
                assert_eq!(statuses[&target], "succeeded", "{target:?} was accepted: {attempts:#?}");
            }
        }
    }

    /// A delivery that has ended (succeeded, exhausted, gone, stopped, superseded) gets no further attempt.
    fn nothing_is_sent_after_an_end(&mut self, shown: &Shown, state: &State) {
        let attempts = self.attempts(state);
        for delivery in shown.deliveries.iter().filter(|delivery| delivery["status"] != "pending") {
            let target = target(delivery);
            let count = attempts.get(&target).map_or(0, Vec::len);
            let before = *self.ended.entry(target.clone()).or_insert(count);
            assert_eq!(
                count, before,
                "{target:?} was sent after its end: {delivery} {:#?}",
                attempts[&target]
            );
        }
    }

    /// An attempt that was answered with `Retry-After` is not repeated before that time, unless a crash came before the
    /// record. (A wall clock that is set moves the time.)
    fn retry_after_is_kept(&self, state: &State) {
        for (target, attempts) in self.attempts(state) {
            for pair in attempts.windows(2) {
                let is_early = pair[0].mode == ReceiverMode::Busy
                    && pair[0].starts == pair[1].starts
                    && pair[1].at < pair[0].at + RETRY_AFTER;
                assert!(!is_early || self.jumps > 0, "{target:?} was repeated too early: {pair:#?}");
            }
        }
    }

    /// The provider never gets more polls than its rate permits, in any interval, also across crashes; and after a 429 it
    /// gets none before `Retry-After`. (A wall clock that is set can fill the bucket once more.)
    fn the_rate_of_the_provider_is_kept(&self, state: &State) {
        let burst = u64::from(BURST) * u64::from(self.jumps + 1);
        for (first, poll) in state.polls.iter().enumerate() {
            // A longer interval that breaks the rule has a shorter one within it.
            for (more, last) in state.polls[first..].iter().enumerate().take(30) {
                let allowed = burst + last.at.saturating_sub(poll.at).as_secs();
                assert!(more as u64 <= allowed, "{} polls from {poll:?} to {last:?}", more + 1);
            }
            let until = poll.at + RETRY_AFTER;
            if let Some(next) = state.polls[first..].iter().find(|next| next.at > poll.at)
                && poll.mode == ProviderMode::Busy
            {
                let is_kept = next.starts != poll.starts || next.at >= until || self.jumps > 0;
                assert!(is_kept, "{next:?} came too soon after {poll:?}");
            }
        }
    }

    /// A watch ends as the provider has answered, or because its time has passed. Errors, pages, truncated answers and
    /// unknown statuses end nothing.
    fn no_ending_is_false(&self, shown: &Shown, state: &State) {
        for watch in &shown.watches {
            let truth = match text(watch, "status") {
                "completed" => Truth::Completed,
                "failed" => Truth::Failed,
                "cancelled" => Truth::Cancelled,
                "not_found" => Truth::Absent,
                "expired" => {
                    let at = |field| Timestamp::parse(text(watch, field)).unwrap();
                    // A wall clock that is set moves the schedule, and not the row.
                    assert!(at("endedAt") >= at("expiresAt") || self.jumps > 0, "{watch}");
                    continue;
                }
                _ => continue,
            };
            let said = state
                .polls
                .iter()
                .filter(|poll| poll.job == text(watch, "jobId") && poll.mode == ProviderMode::Healthy)
                .filter(|poll| poll.truth == truth);
            let needed = if truth == Truth::Absent { 3 } else { 1 };
            assert!(said.count() >= needed, "the provider has not said so: {watch}");
        }
    }

    /// Everything comes to its end when the failures have ended: each watch, and each delivery, which succeeds unless it
    /// was exhausted, gone or stopped before.
    pub(super) fn everything_has_ended(&self, shown: &Shown) {
        for watch in &shown.watches {
            assert_ne!(watch["status"], "watching", "{watch}");
        }
        let state = self.world.state.lock();
        let attempts = self.attempts(&state);
        let none = Vec::new();
        for delivery in &shown.deliveries {
            let attempts = attempts.get(&target(delivery)).unwrap_or(&none);
            let was = |mode| attempts.iter().any(|seen| seen.mode == mode);
            let is_right = match (text(delivery, "status"), delivery["reason"].as_str()) {
                ("succeeded", None) => was(ReceiverMode::Accepts),
                ("failed", Some("exhausted")) => attempts.len() > super::SCHEDULE.split(',').count(),
                ("failed" | "skipped", Some("gone")) => {
                    state.seen.iter().any(|seen| seen.mode == ReceiverMode::Gone)
                }
                ("skipped", Some("stopped")) => self.stopped.contains(text(delivery, "watchId")),
                ("skipped", Some("superseded")) => !is_ending(text(delivery, "eventType")),
                _ => false,
            };
            assert!(is_right, "{delivery} {attempts:#?}");
        }
    }
}

/// All attempts of a delivery have the same bytes.
fn one_id_has_one_body(state: &State) {
    let mut bodies: HashMap<(&str, &str), &[u8]> = HashMap::new();
    for Seen { hit, .. } in &state.seen {
        let first = bodies.entry((hit.path.as_str(), hit.id())).or_insert(&hit.body);
        assert_eq!(*first, hit.body, "two bodies of {}", hit.id());
    }
}
