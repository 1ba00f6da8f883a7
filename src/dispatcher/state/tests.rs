//! Tests of the queues without a store: which deliveries are sent, and which stay in the store.

mod half_share;
mod many_queues;
mod records;

use std::time::Duration;

use super::DispatchState;
use super::results::{Changes, Opened};
use crate::channels::{AttemptResult, Reach};
use crate::dispatcher::probe_waits::ProbeWaits;
use crate::domain::{
    AppNo, Attempt, ChannelKind, DeliveryId, Destination, DestinationId, DispatcherMessage, EventId,
    EventType, Id, NextStep, Outcome, Payload, PendingDelivery, Rate, SavedNo, SavedQueue, Timestamp,
    WatchId,
};
use crate::store::DueDeliveries;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

/// Returns the delivery with this number to a host of its own.
pub(super) fn to_host(number: u32, host: &str) -> PendingDelivery {
    let mut delivery = delivery(number, host);
    delivery.destination.queue = format!("1 https://{host}:443 url");
    delivery
}

/// Returns the delivery with this number to a Slack-compatible hook.
pub(super) fn to_chat(number: u32, hook: &str) -> PendingDelivery {
    let mut delivery = delivery(number, hook);
    delivery.destination.channel = ChannelKind::Slack;
    delivery.destination.queue = format!("1 slack {hook}");
    delivery
}

/// Returns the delivery with this number to a URL of one host.
pub(super) fn delivery(number: u32, url: &str) -> PendingDelivery {
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
            signing: None,
            access: None,
            saved: None,
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

/// Returns the delivery with this number to a saved destination, whose address is on the host of [`delivery`].
pub(super) fn to_saved(number: u32, destination: u8, concurrency: Option<u32>) -> PendingDelivery {
    let mut delivery = delivery(number, "saved");
    delivery.destination.id = DestinationId(Id::from_bytes([destination; 16]));
    delivery.destination.queue = delivery.destination.id.queue(delivery.app);
    delivery.destination.saved = Some(Box::new(SavedQueue {
        no: SavedNo(destination.into()),
        target: "1 https://a.example:443 saved".to_owned(),
        rate: Rate::default(),
        concurrency,
        is_ordered: false,
        old_secret: None,
    }));
    delivery
}

fn changed(destination: &Destination) -> DispatcherMessage {
    DispatcherMessage::DestinationChanged { queue: destination.queue.clone(), disabled: None }
}

pub(super) fn result(outcome: Outcome, reach: Reach) -> AttemptResult {
    AttemptResult { outcome, reach, duration: Duration::ZERO, token: None, attempt: Attempt::default() }
}

pub(super) const RETRY: Outcome = Outcome::Retry { after: None };

/// The deliveries of a store, and the state that loads them.
pub(super) struct Fixture {
    pub(super) state: DispatchState,
    next: u32,
    pub(super) stored: Vec<PendingDelivery>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self { state: DispatchState::new(512, 16), next: 0, stored: Vec::new() }
    }

    /// Commits a delivery to a URL.
    pub(super) fn commit(&mut self, url: &str, now: Timestamp) {
        self.next += 1;
        self.dispatch(delivery(self.next, url), now);
    }

    pub(super) fn dispatch(&mut self, delivery: PendingDelivery, now: Timestamp) {
        self.stored.push(delivery.clone());
        self.state.apply(DispatcherMessage::Dispatch(Box::new(delivery)), now);
    }

    /// Makes steps until nothing more can be loaded or sent. Returns what is sent.
    pub(super) fn step(&mut self, now: Timestamp) -> Vec<PendingDelivery> {
        let mut sent = Vec::new();
        loop {
            self.state.resume_probes();
            self.state.expire_timers(now);
            self.state.clock.advance(now);
            let more = self.state.take_sendable(now);
            let pages = self.state.take_pages(now);
            if more.is_empty() && pages.is_empty() && !self.state.resume_probes() {
                return sent;
            }
            sent.extend(more.into_iter().map(|one| *one));
            for page in pages {
                let due = |one: &&PendingDelivery| {
                    one.destination.queue == page.queue && !page.loaded.contains(&one.id)
                };
                let mut deliveries: Vec<_> = self.stored.iter().filter(due).cloned().collect();
                deliveries.sort_by_key(|one| (one.step > 0) != page.retries_first);
                let has_more = deliveries.len() > page.limit as usize;
                deliveries.truncate(page.limit as usize);
                let found = DueDeliveries { deliveries, has_more, next_retry_at: None };
                self.state.finish_page(&page.queue.as_str().into(), Some(found), now);
            }
        }
    }

    /// Ends an attempt. A success removes the delivery; after a failure, its retry is far away.
    pub(super) fn end(
        &mut self,
        delivery: &PendingDelivery,
        result: &AttemptResult,
        times: (i64, i64),
    ) -> Changes {
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

/// Returns deliveries of one watch to one URL, with these numbers.
fn of_one_watch<const N: usize>(numbers: [u32; N]) -> [PendingDelivery; N] {
    let watch = WatchId(Id::from_bytes([9; 16]));
    numbers.map(|number| {
        let mut delivery = PendingDelivery { watch, ..delivery(number, "url") };
        delivery.destination.id = DestinationId(Id::from_bytes([9; 16]));
        delivery
    })
}

fn ids(deliveries: &[PendingDelivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[test]
fn first_attempts_of_a_watch_keep_their_order() {
    let mut f = Fixture::new();
    let [one, two, three] = of_one_watch([1, 2, 3]);
    let mut other = delivery(4, "url");
    // Another destination of the watch with the same URL, but for its query.
    other.watch = one.watch;
    for delivery in [&one, &two, &three, &other] {
        f.dispatch(delivery.clone(), at(0));
    }
    assert_eq!(ids(&f.step(at(0))), [one.id, other.id], "another destination does not wait");
    f.end(&one, &result(RETRY, Reach::Answered), (0, 1));
    assert_eq!(ids(&f.step(at(1))), [two.id], "the retry is not waited for");
    f.end(&two, &result(Outcome::Ok, Reach::Answered), (1, 2));
    assert_eq!(ids(&f.step(at(2))), [three.id]);
    f.end(&three, &result(Outcome::Ok, Reach::Answered), (2, 3));
    f.end(&other, &result(Outcome::Ok, Reach::Answered), (0, 3));
    assert!(!f.state.has_work());
}

#[test]
fn retries_do_not_wait_for_first_attempts_of_their_watch() {
    let mut f = Fixture::new();
    let [one, two, three] = of_one_watch([1, 2, 3]);
    f.dispatch(one.clone(), at(0));
    assert_eq!(ids(&f.step(at(0))), [one.id]);
    let manual = PendingDelivery { manual: true, attempts: 2, ..two };
    let retry = PendingDelivery { attempts: 1, step: 1, ..three };
    for delivery in [&manual, &retry] {
        f.dispatch(delivery.clone(), at(0));
    }
    assert_eq!(ids(&f.step(at(0))), [manual.id, retry.id]);
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
fn a_retry_of_many_deliveries_probes_at_once() {
    let mut f = Fixture::new();
    for n in 0..5 {
        f.commit("down", at(n));
        let [sent] = &f.step(at(n))[..] else { panic!("one is sent") };
        f.end(sent, &result(RETRY, Reach::NotConnected), (n * 2 + 1, n * 2 + 2));
    }
    // Probes follow after 1, 2, 4, 8 and every 10 s.
    for _ in 0..30 {
        f.commit("down", at(10));
    }
    let mut now = 11;
    for _ in 0..5 {
        let [probe] = &f.step(at(now))[..] else { panic!("one probe at {now}") };
        f.end(probe, &result(RETRY, Reach::NotConnected), (now, now));
        now += 10;
    }
    now -= 8;
    assert!(f.step(at(now)).is_empty(), "the next probe is not due");
    let queue = delivery(0, "down").destination.queue;
    let requested = || DispatcherMessage::QueueChanged { queue: queue.clone(), requested: Vec::new() };
    f.state.apply(requested(), at(now));
    let [probe] = &f.step(at(now))[..] else { panic!("one probe") };
    f.end(probe, &result(RETRY, Reach::NotConnected), (now, now));
    f.state.apply(requested(), at(now));
    assert!(f.step(at(now)).is_empty(), "a further step of the request waits for a second");
    let [probe] = &f.step(at(now + 1))[..] else { panic!("one probe") };
    assert!(f.end(probe, &result(Outcome::Ok, Reach::Answered), (now + 1, now + 1)).closed);
    assert!(f.step(at(now + 1)).len() > 1, "the others follow at once");
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
        let logged = [(0, 1), (9, 10)].into_iter().find(|(at, _)| *at == second).map(|(_, count)| count);
        assert_eq!((changes.paused, changes.opened), (logged, None));
        assert!(f.step(at(second)).is_empty(), "it pauses");
    }
    assert_eq!((f.state.breakers.open_count(), f.stored.len()), (0, 1));
}

#[test]
fn a_fault_of_our_own_is_logged_a_few_times_for_all_origins() {
    let mut f = Fixture::new();
    for n in 0..100 {
        f.dispatch(to_host(n, &format!("h{n}.example")), at(0));
    }
    let mut logged = Vec::new();
    for second in 0..3 {
        for sent in f.step(at(second)) {
            let changes = f.end(&sent, &result(Outcome::NotMade, Reach::NotTried), (second, second));
            logged.extend(changes.paused);
        }
    }
    assert_eq!(logged, [1, 10, 100], "of 300");
}

#[test]
fn a_queue_that_becomes_quick_has_its_turn_among_the_quick_ones() {
    let mut f = Fixture::new();
    for url in ["first", "second", "third"] {
        for _ in 0..40 {
            f.commit(url, at(0));
        }
    }
    let sent = f.step(at(0));
    let first = sent.iter().find(|one| one.destination.address == "first").expect("one of each URL");
    f.end(first, &result(Outcome::Ok, Reach::Answered), (0, 0));
    let more = f.step(at(0));
    let is_first = |one: &&PendingDelivery| one.destination.address == "first";
    assert!(more.iter().filter(is_first).count() > 4, "it uses the places that only a quick one may use");
    for one in sent.iter().filter(|one| one.id != first.id).chain(&more) {
        f.end(one, &result(Outcome::Ok, Reach::Answered), (0, 0));
    }
    let mut sent = f.step(at(0));
    while !sent.is_empty() {
        for one in &sent {
            f.end(one, &result(Outcome::Ok, Reach::Answered), (0, 0));
        }
        sent = f.step(at(0));
    }
    assert!(f.stored.is_empty() && f.state.queues.is_empty() && f.state.origins.is_empty());
    assert_eq!(f.state.with_more, 0);
}

/// Makes five attempts to each of these hung URLs, which open their breakers. `to` returns a delivery with this number
/// to the URL. Then each has many deliveries in the store.
fn hang(f: &mut Fixture, urls: u32, to: impl Fn(u32, u32) -> PendingDelivery) {
    for url in 0..urls {
        for round in 0..5 {
            f.next += 1;
            f.dispatch(to(f.next, url), at(round));
            let [sent] = &f.step(at(round))[..] else { panic!("one is sent") };
            f.end(sent, &result(RETRY, Reach::NoAnswer), (round * 2 + 1, round * 2 + 2));
        }
    }
    for url in (0..urls).flat_map(|url| [url; 20]) {
        f.next += 1;
        f.dispatch(to(f.next, url), at(10));
    }
    assert_eq!(f.state.breakers.open_count(), urls as usize);
}

/// Returns the delivery with this number to the host with this number.
fn to_numbered_host(number: u32, host: u32) -> PendingDelivery {
    to_host(number, &format!("h{host:02}.example"))
}

#[test]
fn probes_of_hung_hosts_leave_places_for_a_healthy_one() {
    let mut f = Fixture { state: DispatchState::new(64, 16), ..Fixture::new() };
    hang(&mut f, 30, to_numbered_host);
    let probes = f.step(at(60));
    assert_eq!(probes.len(), 14, "a quarter of the share of the app");
    assert_eq!((f.state.shares.total.loaded, f.state.pages.0), (14, 0), "the others are not loaded");
    for _ in 0..40 {
        f.commit("healthy", at(60));
    }
    let mut delivered = 0;
    for _ in 0..20 {
        for sent in f.step(at(60)) {
            delivered += 1;
            f.end(&sent, &result(Outcome::Ok, Reach::Answered), (60, 60));
        }
    }
    assert_eq!(delivered, 40);
    for probe in &probes {
        f.end(probe, &result(RETRY, Reach::NoAnswer), (60, 80));
    }
    assert_eq!((f.step(at(80)).len(), f.state.shares.total.probes), (14, 14));
}

#[test]
fn every_hung_url_gets_its_probe_after_those_due_before_it() {
    for hosts in [1, 30] {
        let mut f = Fixture { state: DispatchState::new(64, 16), ..Fixture::new() };
        if hosts == 1 {
            hang(&mut f, 30, |number, url| delivery(number, &format!("u{url:02}")));
        } else {
            hang(&mut f, 30, to_numbered_host);
        }
        let mut seen = std::collections::HashSet::new();
        let mut now = 60;
        // Four places need eight rounds for 30 URLs.
        for _ in 0..8 {
            let probes = f.step(at(now));
            seen.extend(probes.iter().map(|one| one.destination.queue.clone()));
            for probe in &probes {
                f.end(probe, &result(RETRY, Reach::NoAnswer), (now, now + 20));
            }
            now += 21;
        }
        assert_eq!(seen.len(), 30, "{hosts}");
    }
}

#[test]
fn the_end_of_a_probe_gives_one_that_waits_its_turn() {
    let mut f = Fixture { state: DispatchState::new(64, 16), ..Fixture::new() };
    hang(&mut f, 60, to_numbered_host);
    let probes = f.step(at(60));
    let waiting = |f: &Fixture| f.state.probe_waits.get(&AppNo(1)).map_or(0, ProbeWaits::len);
    assert_eq!((probes.len(), waiting(&f)), (14, 46));
    f.end(&probes[0], &result(RETRY, Reach::NoAnswer), (60, 80));
    assert!(f.state.can_probe(), "a step is due");
    assert!(f.state.take_pages(at(80)).is_empty() && f.state.resume_probes());
    assert_eq!(waiting(&f), 45, "as many as may start");
    assert_eq!((f.step(at(80)).len(), waiting(&f), f.state.can_probe()), (1, 45, false));
    // One that has nothing to send any more uses no place.
    f.end(&probes[1], &result(RETRY, Reach::NoAnswer), (60, 80));
    let first = f.state.probe_waits[&AppNo(1)].longest().unwrap();
    let of_first: Vec<WatchId> =
        f.stored.iter().filter(|one| *one.destination.queue == *first).map(|one| one.watch).collect();
    f.stored.retain(|one| *one.destination.queue != *first);
    assert!(!of_first.is_empty());
    assert_eq!((f.step(at(80)).len(), waiting(&f)), (1, 43));
}

#[test]
fn probes_are_first_attempts_and_retries_in_turn() {
    let mut f = Fixture::new();
    for n in 0..5 {
        f.commit("down", at(n));
        let [sent] = &f.step(at(n))[..] else { panic!("one is sent") };
        f.end(sent, &result(RETRY, Reach::NotConnected), (n * 2 + 1, n * 2 + 2));
    }
    for _ in 0..4 {
        f.commit("down", at(10));
    }
    for number in 100..104 {
        f.dispatch(PendingDelivery { step: 1, ..delivery(number, "down") }, at(10));
    }
    let mut steps = Vec::new();
    for now in [20, 40, 60, 80] {
        let [probe] = &f.step(at(now))[..] else { panic!("one probe") };
        steps.push(probe.step);
        f.end(probe, &result(RETRY, Reach::NotConnected), (now, now));
    }
    assert_eq!(steps, [0, 1, 0, 1]);
}

#[test]
fn deliveries_to_a_closed_chat_return_to_the_store() {
    let mut f = Fixture::new();
    for number in 0..20 {
        f.dispatch(to_chat(number, "busy"), at(0));
    }
    let [sent] = &f.step(at(0))[..] else { panic!("one message a second") };
    assert!(f.state.shares.total.loaded > 1, "the next ones wait in memory");
    let wait = Duration::from_secs(3_600);
    let mut refused = result(Outcome::Retry { after: Some(wait) }, Reach::Answered);
    refused.attempt.status_code = Some(429);
    f.end(sent, &refused, (0, 0));
    assert!(f.step(at(1)).is_empty());
    f.dispatch(to_chat(100, "busy"), at(2));
    assert!(f.step(at(2)).is_empty());
    assert_eq!(f.state.shares.total.loaded, 0, "they are in the store");
    assert_eq!(f.state.next(), Some(at(3_600)));
    assert_eq!(f.step(at(3_600)).len(), 1);
}

#[test]
fn manual_retries_to_a_silent_host_use_a_bounded_share() {
    let mut f = Fixture::new();
    for n in 0..40 {
        f.commit(&format!("silent{n}"), at(0));
    }
    let silent = f.step(at(0));
    for number in 1_000..1_200 {
        f.dispatch(PendingDelivery { manual: true, ..delivery(number, &format!("url{number}")) }, at(1));
    }
    let sent = f.step(at(1));
    assert_eq!((silent.len(), sent.len()), (8, 8), "all places of the host");
    let loaded = f.state.shares.total.loaded;
    assert!(loaded <= 16 + 2 * 32, "{loaded}: the rest stays in the store");
    f.dispatch(to_host(2_000, "b.example"), at(1));
    assert_eq!(f.step(at(1)).len(), 1);
}

#[test]
fn a_manual_retry_that_waits_for_a_place_leaves_nothing_behind() {
    let mut f = Fixture::new();
    for n in 0..40 {
        f.dispatch(PendingDelivery { manual: true, ..delivery(n, &format!("url{n}")) }, at(0));
    }
    let mut sent = f.step(at(0));
    assert_eq!(sent.len(), 16, "all places");
    assert_eq!(f.state.queues.len(), 40, "their queues are known while they wait");
    let mut count = 0;
    while !sent.is_empty() {
        count += sent.len();
        for one in &sent {
            f.end(one, &result(Outcome::Ok, Reach::Answered), (1, 1));
        }
        sent = f.step(at(1));
    }
    assert_eq!((count, f.state.shares.total.loaded, f.state.shares.total.in_flight), (40, 0, 0));
    assert!(f.state.queues.is_empty() && f.state.origins.is_empty(), "nothing is remembered");
}

#[test]
fn a_changed_destination_is_read_again_before_the_next_attempt() {
    let mut f = Fixture::new();
    for number in 0..10 {
        f.dispatch(to_saved(number, 7, Some(2)), at(0));
    }
    let sent = f.step(at(0));
    assert_eq!((sent.len(), f.state.shares.total.loaded), (2, 10), "its own limit");
    for one in &mut f.stored {
        one.destination.address = "changed".to_owned();
    }
    f.state.apply(changed(&sent[0].destination), at(0));
    assert_eq!(f.state.shares.total.loaded, 2, "those in flight");
    let mut left = sent;
    let mut addresses = Vec::new();
    while !left.is_empty() {
        for one in &left {
            f.end(one, &result(Outcome::Ok, Reach::Answered), (0, 0));
        }
        left = f.step(at(0));
        assert!(left.len() <= 2);
        addresses.extend(left.iter().map(|one| one.destination.address.clone()));
    }
    assert_eq!(addresses, vec!["changed"; 8]);
    assert!(f.state.queues.is_empty() && f.state.origins.is_empty(), "nothing is remembered");
}

#[test]
fn a_page_that_was_read_before_a_change_is_dropped() {
    let mut f = Fixture::new();
    let before = to_saved(1, 7, None);
    let queue: std::sync::Arc<str> = before.destination.queue.as_str().into();
    f.state.apply(changed(&before.destination), at(0));
    let [page] = &f.state.take_pages(at(0))[..] else { panic!("one page") };
    assert_eq!(page.queue, *queue);
    f.state.apply(changed(&before.destination), at(0));
    let found = DueDeliveries { deliveries: vec![before], has_more: false, next_retry_at: None };
    f.state.finish_page(&queue, Some(found), at(0));
    assert!(f.state.take_sendable(at(0)).is_empty());
    assert_eq!(f.state.take_pages(at(0)).len(), 1, "it is read again");
}

#[test]
fn a_saved_destination_shares_only_the_breaker_of_its_host() {
    let mut f = Fixture::new();
    for n in 0..5 {
        f.dispatch(to_saved(n, 7, None), at(n.into()));
        let [sent] = &f.step(at(n.into()))[..] else { panic!("one is sent") };
        let times = (i64::from(n) * 2 + 1, i64::from(n) * 2 + 2);
        f.end(sent, &result(RETRY, Reach::NotConnected), times);
    }
    f.next = 100;
    f.commit("inline", at(10));
    f.dispatch(to_saved(200, 8, None), at(10));
    assert!(f.step(at(10)).is_empty(), "the host is held back for both");
    let probe = f.step(at(11));
    assert_eq!(probe.len(), 1, "one probe");
    f.end(&probe[0], &result(Outcome::Ok, Reach::Answered), (11, 11));
    assert_eq!(f.step(at(12)).len(), 1, "the other one follows within a second");
    // Silence of one saved destination concerns no other, and not the URLs of its host.
    let mut f = Fixture::new();
    for n in 0..5 {
        f.dispatch(to_saved(n, 7, None), at(n.into()));
        let [sent] = &f.step(at(n.into()))[..] else { panic!("one is sent") };
        let times = (i64::from(n) * 2 + 1, i64::from(n) * 2 + 2);
        f.end(sent, &result(RETRY, Reach::NoAnswer), times);
    }
    assert_eq!(f.state.breakers.open_count(), 1);
    f.next = 100;
    f.commit("inline", at(10));
    f.dispatch(to_saved(200, 8, None), at(10));
    f.dispatch(to_saved(201, 7, None), at(10));
    assert_eq!(f.step(at(10)).len(), 2);
}
