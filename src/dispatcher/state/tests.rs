//! Tests of the queues without a store: which deliveries are sent, and which stay in the store.

use std::time::Duration;

use super::DispatchState;
use super::results::{Changes, Opened};
use crate::channels::{AttemptResult, Reach};
use crate::domain::{
    AppNo, Attempt, ChannelKind, DeliveryId, Destination, DestinationId, DispatcherMessage, EventId,
    EventType, Id, NextStep, Outcome, Payload, PendingDelivery, Timestamp, WatchId,
};
use crate::store::DueDeliveries;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

/// Returns the delivery with this number to a URL of one host.
fn delivery(number: u32, url: &str) -> PendingDelivery {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    let id = Id::from_bytes(bytes);
    PendingDelivery {
        app: AppNo(1),
        id: DeliveryId(id),
        event: EventId(id),
        event_type: EventType::JobCompleted,
        watch: WatchId(id),
        destination: Destination {
            id: DestinationId(id),
            channel: ChannelKind::Webhook,
            address: url.to_owned(),
            queue: format!("1 https://a.example:443 {url}"),
            headers: Vec::new(),
            secret: None,
        },
        traceparent: None,
        body: (*b"{}").into(),
        payload: Payload::Event,
        step: 0,
        waited: Duration::ZERO,
        attempts: 0,
        manual: false,
        finished: None,
    }
}

fn result(outcome: Outcome, reach: Reach) -> AttemptResult {
    AttemptResult { outcome, reach, duration: Duration::ZERO, attempt: Attempt::default() }
}

const RETRY: Outcome = Outcome::Retry { after: None };

/// The deliveries of a store, and the state that loads them.
struct Fixture {
    state: DispatchState,
    next: u32,
    stored: Vec<PendingDelivery>,
}

impl Fixture {
    fn new() -> Self {
        Self { state: DispatchState::new(512, 16), next: 0, stored: Vec::new() }
    }

    /// Commits a delivery to a URL.
    fn commit(&mut self, url: &str, now: Timestamp) {
        self.next += 1;
        self.dispatch(delivery(self.next, url), now);
    }

    fn dispatch(&mut self, delivery: PendingDelivery, now: Timestamp) {
        self.stored.push(delivery.clone());
        self.state.apply(DispatcherMessage::Dispatch(Box::new(delivery)), now);
    }

    /// Makes steps until nothing more can be loaded or sent. Returns what is sent.
    fn step(&mut self, now: Timestamp) -> Vec<PendingDelivery> {
        let mut sent = Vec::new();
        loop {
            self.state.expire_timers(now);
            self.state.clock.advance(now);
            let more = self.state.take_sendable(now);
            let pages = self.state.take_pages(now);
            if more.is_empty() && pages.is_empty() {
                return sent;
            }
            sent.extend(more.into_iter().map(|one| *one));
            for page in pages {
                let due = |one: &&PendingDelivery| {
                    one.destination.queue == page.queue && !page.loaded.contains(&one.id)
                };
                let limit = page.limit as usize;
                let deliveries = self.stored.iter().filter(due).take(limit).cloned().collect();
                let has_more = self.stored.iter().filter(due).count() > limit;
                let found = DueDeliveries { deliveries, has_more, next_retry_at: None };
                self.state.finish_page(&page.queue.as_str().into(), Some(found), now);
            }
        }
    }

    /// Ends an attempt. A success removes the delivery; after a failure, its retry is far away.
    fn end(&mut self, delivery: &PendingDelivery, result: &AttemptResult, times: (i64, i64)) -> Changes {
        let (started_at, ended_at) = (at(times.0), at(times.1));
        let changes = self.state.settle(delivery, result, (started_at, ended_at));
        if result.outcome != Outcome::NotMade {
            self.stored.retain(|one| one.id != delivery.id);
        }
        let next = if result.outcome == Outcome::NotMade { NextStep::Unchanged } else { NextStep::Succeeded };
        self.state.finish(delivery, next, ended_at);
        changes
    }
}

#[test]
fn probes_of_hung_urls_leave_places_for_an_untried_one() {
    let mut f = Fixture::new();
    let urls: Vec<String> = (0..40).map(|n| format!("hung{n}")).collect();
    for url in &urls {
        // Five attempts in a row get no answer. The first of them may wait for the places of others.
        for round in 0..5 {
            f.commit(url, at(round));
            let [sent] = &f.step(at(round))[..] else { panic!("one is sent") };
            let changes = f.end(sent, &result(RETRY, Reach::NoAnswer), (round * 2 + 1, round * 2 + 2));
            assert_eq!(changes.opened, (round == 4).then_some(Opened::Url), "{url}");
        }
    }
    assert_eq!(f.state.breakers.open_count(), 40);
    for url in &urls {
        f.commit(url, at(10));
    }
    assert!(f.step(at(10)).is_empty(), "held back");
    assert_eq!(f.state.shares.total.loaded, 0, "in the store");
    let probes = f.step(at(60));
    assert_eq!(probes.len(), 4, "a quarter of the places");
    f.commit("untried", at(60));
    let [sent] = &f.step(at(60))[..] else { panic!("one is sent") };
    assert_eq!(sent.destination.address, "untried");
    // The others follow when the probes have ended.
    for probe in &probes {
        f.end(probe, &result(RETRY, Reach::NoAnswer), (60, 80));
    }
    let others = f.step(at(81));
    assert_eq!(others.len(), 4);
    assert!(
        others.iter().all(|one| probes.iter().all(|probe| probe.destination.queue != one.destination.queue))
    );
}

#[test]
fn a_manual_retry_does_not_wait_for_silent_urls_of_its_host() {
    let mut f = Fixture::new();
    for n in 0..40 {
        f.commit(&format!("silent{n}"), at(0));
    }
    assert_eq!(f.step(at(0)).len(), 8, "half of the places");
    f.commit("untried", at(1));
    assert!(f.step(at(1)).is_empty(), "it waits for its turn");
    f.dispatch(PendingDelivery { manual: true, ..delivery(1_000, "retried") }, at(1));
    let [sent] = &f.step(at(1))[..] else { panic!("one is sent") };
    assert_eq!(sent.destination.address, "retried");
    f.end(sent, &result(Outcome::Ok, Reach::Answered), (1, 1));
    assert!(f.step(at(1)).is_empty());
}

#[test]
fn a_closed_breaker_makes_everything_due_at_once() {
    let mut f = Fixture::new();
    for n in 0..5 {
        f.commit("open", at(n));
        let [sent] = &f.step(at(n))[..] else { panic!("one is sent") };
        f.end(sent, &result(RETRY, Reach::NotConnected), (n * 2 + 1, n * 2 + 2));
    }
    for n in 0..300 {
        f.commit(&format!("url{}", n % 8), at(10));
    }
    assert!(f.step(at(10)).is_empty() && f.state.shares.total.loaded == 0);
    let [probe] = &f.step(at(11))[..] else { panic!("one probe") };
    assert!(f.step(at(30)).is_empty(), "one at a time");
    assert!(f.end(probe, &result(Outcome::Ok, Reach::Answered), (11, 30)).closed);
    let mut sent = 1;
    loop {
        let more = f.step(at(30));
        if more.is_empty() {
            break;
        }
        sent += more.len();
        for delivery in &more {
            f.end(delivery, &result(Outcome::Ok, Reach::Answered), (30, 30));
        }
    }
    assert_eq!((sent, f.stored.len(), f.state.shares.total.loaded), (300, 0, 0));
    assert!(f.state.queues.is_empty() && f.state.origins.is_empty(), "nothing is remembered");
}

#[test]
fn a_url_that_turns_slow_leaves_places_for_its_neighbours() {
    let mut f = Fixture::new();
    for url in ["a", "b"] {
        f.commit(url, at(0));
        let [sent] = &f.step(at(0))[..] else { panic!("one is sent") };
        f.end(sent, &result(Outcome::Ok, Reach::Answered), (0, 0));
    }
    for _ in 0..40 {
        f.commit("a", at(1));
    }
    assert_eq!(f.step(at(1)).len(), 14, "seven eighths");
    f.commit("b", at(1));
    f.commit("untried", at(1));
    let sent = f.step(at(1));
    let urls: Vec<&str> = sent.iter().map(|one| one.destination.address.as_str()).collect();
    assert!(urls.contains(&"b") && urls.contains(&"untried"), "{urls:?}");
}

#[test]
fn a_fault_of_our_own_is_repeated_after_a_pause_without_a_trace() {
    let mut f = Fixture::new();
    f.commit("a", at(0));
    for second in 0..20 {
        let [sent] = &f.step(at(second))[..] else { panic!("one is sent") };
        let changes = f.end(sent, &result(Outcome::NotMade, Reach::NotTried), (second, second));
        assert_eq!((changes.paused, changes.opened), (true, None));
        assert!(f.step(at(second)).is_empty(), "it pauses");
    }
    assert_eq!((f.state.breakers.open_count(), f.stored.len()), (0, 1));
}
