//! What is expected of the demo, what came of it, and whether that is the same.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cli::listen::{Arrival, Signature};

/// One job, and how its watch should end.
#[derive(Debug)]
pub struct Scene {
    /// Its id, which tells the simulator what to do.
    pub job: &'static str,
    /// The event by which the watch should end.
    pub ending: &'static str,
    /// Whether the flaky receiver is told.
    pub flaky: bool,
    /// How long it is watched; `None`: as long as the provider's definition says.
    pub expires: Option<&'static str>,
}

/// Every scene's watch, and its webhook as far as it came.
#[derive(Debug)]
pub struct Ledger {
    scenes: usize,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    scene: &'static Scene,
    watch: String,
    /// `webhook-id`; once known, it must stay.
    webhook: Option<String>,
    tries: u32,
    taken: bool,
}

impl Ledger {
    /// Nothing is registered yet.
    pub fn new(scenes: &'static [Scene]) -> Self {
        Self { scenes: scenes.len(), entries: Vec::with_capacity(scenes.len()) }
    }

    /// A scene's watch was registered.
    pub fn registered(&mut self, scene: &'static Scene, watch: String) {
        self.entries.push(Entry { scene, watch, webhook: None, tries: 0, taken: false });
    }

    /// Enters a webhook; the error is what is wrong with it.
    pub fn arrived(&mut self, arrival: &Arrival) -> Result<()> {
        if let Signature::Wrong(why) = &arrival.signature {
            bail!("the signature of {} does not hold: {why}", arrival.id);
        }
        if arrival.signature != Signature::Verified {
            bail!("the signature of {} was not checked", arrival.id);
        }
        let body: Value = serde_json::from_slice(&arrival.body).context("a webhook's body is not JSON")?;
        let watch = body["data"]["watchId"].as_str().context("a webhook names no watch")?;
        let entry = self.entries.iter_mut().find(|entry| entry.watch == watch);
        let entry = entry.with_context(|| format!("a webhook names {watch}, which nobody registered"))?;
        let event = body["type"].as_str().unwrap_or_default();
        if event != entry.scene.ending || event != arrival.event {
            bail!("{} should end by {}, not by {event}", entry.scene.job, entry.scene.ending);
        }
        let known = entry.webhook.get_or_insert_with(|| arrival.id.clone());
        if *known != arrival.id {
            bail!("the webhook of {} was first {known} and then {}", entry.scene.job, arrival.id);
        }
        entry.tries += 1;
        entry.taken |= arrival.answered.is_success();
        Ok(())
    }

    /// Whether every scene's webhook was taken.
    pub fn is_complete(&self) -> bool {
        self.entries.len() == self.scenes && self.entries.iter().all(|entry| entry.taken)
    }

    /// What has not come, as a sentence.
    pub fn missing(&self) -> String {
        let open = self.entries.iter().filter(|entry| !entry.taken);
        let open: Vec<String> =
            open.map(|entry| format!("{} of {}", entry.scene.ending, entry.scene.job)).collect();
        match self.scenes - self.entries.len() {
            0 => format!("Missing: {}.", open.join(", ")),
            unregistered => {
                format!("Missing: {unregistered} registrations, and {}.", open.join(", "))
            }
        }
    }

    /// Whether all went as it should; the error is a sentence.
    pub fn verdict(&self) -> Result<(), String> {
        if !self.is_complete() {
            return Err(self.missing());
        }
        // A flaky receiver that refused nothing would have shown nothing.
        let wanted = |scene: &Scene| if scene.flaky { 2 } else { 1 };
        match self.entries.iter().find(|entry| entry.tries != wanted(entry.scene)) {
            None => Ok(()),
            Some(Entry { scene, tries, .. }) => {
                Err(format!("tries of the webhook of {}: {tries} instead of {}", scene.job, wanted(scene)))
            }
        }
    }

    /// A table. `looks` says how often the provider was asked for a job.
    pub fn summary(&self, looks: impl Fn(&str) -> u32) -> String {
        let mut text = format!(
            "{:20}  {:14}  {:>5}  {:>5}  {:8}  webhook-id\n",
            "job", "expected", "looks", "tries", "result"
        );
        for entry in &self.entries {
            let Entry { scene, webhook, tries, taken, .. } = entry;
            let result = if *taken { "verified" } else { "missing" };
            let (looks, id) = (looks(scene.job), webhook.as_deref().unwrap_or("-"));
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:20}  {:14}  {looks:>5}  {tries:>5}  {result:8}  {id}",
                scene.job, scene.ending
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use hyper::body::Bytes;
    use serde_json::json;

    use super::*;

    const SCENES: &[Scene] = &[
        Scene { job: "job_a", ending: "job.completed", flaky: false, expires: None },
        Scene { job: "job_b", ending: "job.failed", flaky: true, expires: None },
    ];

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(SCENES);
        for (scene, watch) in SCENES.iter().zip(["watch_a", "watch_b"]) {
            ledger.registered(scene, watch.to_owned());
        }
        ledger
    }

    fn arrival(watch: &str, event: &str, id: &str, answered: u16) -> Arrival {
        Arrival {
            path: "/".to_owned(),
            id: id.to_owned(),
            event: event.to_owned(),
            attempt: 1,
            signature: Signature::Verified,
            answered: StatusCode::from_u16(answered).expect("a status"),
            body: Bytes::from(json!({ "type": event, "data": { "watchId": watch } }).to_string()),
        }
    }

    #[test]
    fn all_is_well_when_every_webhook_was_taken_and_the_refused_one_came_again_under_its_id() {
        let mut ledger = ledger();
        ledger.arrived(&arrival("watch_a", "job.completed", "evt_a", 204)).expect("as expected");
        ledger.arrived(&arrival("watch_b", "job.failed", "evt_b", 503)).expect("as expected");
        assert_eq!(ledger.verdict(), Err("Missing: job.failed of job_b.".to_owned()));
        ledger.arrived(&arrival("watch_b", "job.failed", "evt_b", 204)).expect("as expected");
        assert_eq!(ledger.verdict(), Ok(()));
        insta::assert_snapshot!(ledger.summary(|_| 3), @r"
        job                   expected        looks  tries  result    webhook-id
        job_a                 job.completed       3      1  verified  evt_a
        job_b                 job.failed          3      2  verified  evt_b
        ");
    }

    #[test]
    fn a_webhook_that_is_not_what_was_expected_is_an_error() {
        let forged = Arrival {
            signature: Signature::Wrong("another secret".to_owned()),
            ..arrival("watch_a", "job.completed", "evt_a", 401)
        };
        let table = [
            (forged, "does not hold"),
            (arrival("watch_c", "job.completed", "evt_c", 204), "nobody registered"),
            (arrival("watch_a", "job.failed", "evt_a", 204), "should end by job.completed"),
            (arrival("watch_b", "job.failed", "evt_other", 204), "was first evt_b"),
        ];
        for (arrival, why) in table {
            let mut ledger = ledger();
            ledger.arrived(&self::arrival("watch_b", "job.failed", "evt_b", 503)).expect("as expected");
            let error = ledger.arrived(&arrival).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert!(ledger.verdict().is_err());
        }
    }

    #[test]
    fn a_retry_that_nobody_saw_is_an_error_and_so_is_a_watch_that_was_not_registered() {
        let mut ledger = ledger();
        for (watch, event) in [("watch_a", "job.completed"), ("watch_b", "job.failed")] {
            ledger.arrived(&arrival(watch, event, watch, 204)).expect("as expected");
        }
        assert!(ledger.verdict().is_err_and(|why| why.contains("job_b: 1 instead of 2")));
        assert!(Ledger::new(SCENES).verdict().is_err_and(|why| why.contains("2 registrations")));
    }
}
