//! Circuit breakers of destinations that do not respond.
//!
//! There are two kinds of breaker, because there are two kinds of fault:
//!
//! - **The origin** (app, scheme, host, port) cannot be reached: the name does not resolve, no connection is made, or
//!   TLS fails. This concerns every URL of the host.
//! - **A URL** (without its query) gives no answer in time, or its answers break off, although the connection stands.
//!   This concerns only the URL: on the host of a gateway, the next URL belongs to another program.
//!
//! A breaker opens after [`OPENS_AFTER`] failures in a row, of several deliveries: a single one may itself be the
//! cause, because the receiver fails on its content. Failures that were in flight together count once
//! ([`FailureStreak`]). While it is open, its deliveries are **held back**: they stay due in the store, and nothing is
//! written about them. They use no place of their schedules, and no time of them is counted. One attempt at a time is
//! made as a **probe**, 1, 2, 4, 8 and then every 10 seconds after the end of the last one. The queues of an origin
//! take turns with the probes, so a single bad URL cannot keep the breaker open. Of one URL, first attempts and retries
//! are probes in turn, so that deliveries come to an end while new ones arrive. When the breaker closes, everything
//! that was held back is due, because it never stopped to be due.
//!
//! **A delivery waits no longer than the outage has lasted** ([`during_outage`]), from the moment at which attempts of
//! several deliveries have failed in a row. Otherwise a few deliveries, each of which has failed twice before the
//! breaker opened or as a probe, would all wait for five minutes after an outage of seconds, and nothing would probe.
//! The number of such retries of a delivery is limited, because answers to other deliveries begin a new outage.
//!
//! - A connection that stands closes the breaker of the origin, whatever follows.
//! - Any HTTP status closes the breaker of the URL, even a 500.
//! - A status of a gateway whose backend is away (502, 503, 504, 520 to 524) closes it as well, but continues the
//!   outage: a backend that is deployed behind a gateway is away for seconds, as it is without one. Such a status opens
//!   no breaker, because a receiver may also refuse some deliveries with it and accept others. The retries after it
//!   double their waits, and `Retry-After` lengthens them.
//! - An answer that breaks off is a failure, as if there was none: a program that is restarted resets its connections.
//!   The receiver may have processed the delivery, so a retry may be a second copy; the `webhook-id` is the same. Until
//!   the breaker opens, a few such retries are made in the first seconds, and then only probes.
//! - A manual retry of a single delivery is made nevertheless, up to twice the number of places of the origin at a
//!   time.
//! - Probes use at most a quarter of the share of their app ([`AppShares::may_probe`]), and probes of the URLs of one
//!   origin a quarter of its places. The others wait, and those that have been due for longest follow.
//!
//! If Ringback itself lacks a resource (descriptors, memory, ports), nothing was learned about the destination. The
//! origin pauses for [`OWN_FAULT_PAUSE`], so that it does not repeat the same fault without end. In the same way, a queue
//! pauses until a token may be requested again.
//!
//! The breakers are kept in memory, for one process. After a restart, all of them are closed.
//!
//! [`during_outage`]: crate::domain::during_outage
//! [`AppShares::may_probe`]: super::fair_queue::AppShares::may_probe

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::fair_queue::app_of;
use crate::domain::{AppNo, DeliveryId, FailureStreak, Timestamp, per_app_limit};

/// Number of failures in a row that open a breaker.
const OPENS_AFTER: u32 = 5;

/// Pause before the first probe. A host that is restarted is back within seconds.
const FIRST_PROBE: Duration = Duration::from_secs(1);

/// Maximum pause between two probes, from the end of the first one.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// Shortest time between a failed attempt and a probe that a client requests.
const REQUESTED_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Pause of an origin after an attempt that could not be made for want of a resource of our own.
pub(super) const OWN_FAULT_PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of failing origins and URLs that are kept. One that is not kept makes a few more attempts that fail.
const FAILING_MAX: usize = 10_000;

/// Longest error of a breaker that is kept, in characters: people read it, and each failing origin and URL keeps one.
const ERROR_MAX: usize = 300;

/// Time after which a breaker without attempts may be forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// Shortest time between two searches for breakers of one app that can be forgotten: a search reads all of them.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// Breakers of all origins and URLs, by the name of the origin or of the queue.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    failing: HashMap<Arc<str>, Breaker>,
    /// Number of `failing` for each app.
    of_app: HashMap<AppNo, usize>,
    /// Times of the last search for breakers to forget, by the app that caused it.
    forgot_at: HashMap<AppNo, Timestamp>,
    /// Origins that pause after a fault of our own.
    paused: HashMap<Arc<str>, Pause>,
    /// Number of `paused` at which those whose pause is over are removed: twice the number that the last removal left,
    /// because a removal reads all of them.
    paused_most: usize,
}

#[derive(Debug)]
struct Breaker {
    streak: FailureStreak,
    /// Delivery of the first failure.
    first: DeliveryId,
    /// Time of the first failure of another delivery: the outage begins. A delivery that failed alone before may itself
    /// be the cause, for hours.
    outage_since: Option<Timestamp>,
    /// Time of the last failure or probe.
    last: Timestamp,
    /// Error of the last failure, for people.
    last_error: Option<Arc<str>>,
    /// `Some` while it is open.
    probes: Option<Probes>,
}

#[derive(Debug)]
struct Probes {
    /// Earliest time of the next one.
    at: Timestamp,
    /// Pause after the next one.
    pause: Duration,
    /// The probe in flight.
    in_flight: Option<DeliveryId>,
}

/// An open breaker, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outage<'b> {
    /// Time of the first failure.
    pub(super) since: Timestamp,
    /// Earliest time of the next probe; `None` if one is in flight.
    pub(super) probe_at: Option<Timestamp>,
    /// Error of the last failure.
    pub(super) last_error: Option<&'b str>,
}

/// Whether an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As many as the limits permit.
    Free,
    /// One, as a probe.
    Probe,
    /// None before this time; `None`: not before the end of the probe in flight.
    Held(Option<Timestamp>),
}

/// A pause of an origin after a fault of our own, or of a queue that awaits a token.
#[derive(Debug)]
struct Pause {
    until: Timestamp,
    /// Error of the request for the token.
    error: Option<Arc<str>>,
}

/// Returns the first [`ERROR_MAX`] characters of an error.
fn cut(error: &str) -> &str {
    error.char_indices().nth(ERROR_MAX).map_or(error, |(end, _)| &error[..end])
}

impl Breakers {
    /// Returns whether an attempt to the origin or URL `name` may be made now.
    pub(super) fn admission(&self, name: &str, now: Timestamp) -> Admission {
        // A time far away shows that the clock was set back: then the attempt is made at once.
        let holds = |until: Timestamp| now < until && now >= until.minus(PROBE_INTERVAL_MAX);
        if let Some(Pause { until, .. }) = self.paused.get(name).filter(|pause| holds(pause.until)) {
            return Admission::Held(Some(*until));
        }
        match self.failing.get(name).and_then(|breaker| breaker.probes.as_ref()) {
            None => Admission::Free,
            Some(Probes { in_flight: Some(_), .. }) => Admission::Held(None),
            Some(Probes { at, .. }) if holds(*at) => Admission::Held(Some(*at)),
            Some(_) => Admission::Probe,
        }
    }

    /// Returns since when a probe has been due; `None` if the breaker is closed.
    pub(super) fn probe_due_at(&self, name: &str) -> Option<Timestamp> {
        self.failing.get(name).and_then(|breaker| breaker.probes.as_ref()).map(|probes| probes.at)
    }

    /// Makes the next probe due at once, because a client has requested attempts, or a second after the last one: the
    /// steps of one request can be many.
    pub(super) fn probe_now(&mut self, name: &str, now: Timestamp) {
        let Some(breaker) = self.failing.get_mut(name) else { return };
        let soonest = breaker.last.plus(REQUESTED_PROBE_INTERVAL).max(now);
        if let Some(probes) = &mut breaker.probes {
            probes.at = probes.at.min(soonest);
        }
    }

    /// Records that an attempt starts. If the breaker is open, it is the probe.
    pub(super) fn started(&mut self, name: &str, delivery: DeliveryId, now: Timestamp) {
        if let Some(breaker) = self.failing.get_mut(name)
            && let Some(probes) = &mut breaker.probes
        {
            breaker.last = now;
            probes.in_flight.get_or_insert(delivery);
        }
    }

    /// Records the end of an attempt, after its result. If it was the probe and the breaker is still open, the next
    /// probe follows after a pause.
    pub(super) fn ended(&mut self, name: &str, delivery: DeliveryId, now: Timestamp) {
        if let Some(probes) = self.failing.get_mut(name).and_then(|breaker| breaker.probes.as_mut())
            && probes.in_flight == Some(delivery)
        {
            probes.in_flight = None;
            probes.at = now.plus(probes.pause);
            probes.pause = (probes.pause * 2).min(PROBE_INTERVAL_MAX);
        }
    }

    /// Returns for how long attempts have failed, if they were attempts of several deliveries. The failures of a single
    /// delivery follow its schedule alone.
    pub(super) fn outage(&self, name: &str, now: Timestamp) -> Option<Duration> {
        Some(now.since(self.failing.get(name)?.outage_since?))
    }

    /// Records a success. Returns whether the breaker was open.
    pub(super) fn responded(&mut self, name: &str) -> bool {
        let Some(breaker) = self.failing.remove(name) else { return false };
        self.uncount(name);
        breaker.probes.is_some()
    }

    /// Records that a gateway answered for a backend that gives no answer. The breaker closes, and the outage
    /// continues. Returns whether the breaker was open.
    pub(super) fn unavailable(&mut self, name: &Arc<str>, delivery: DeliveryId, ended_at: Timestamp) -> bool {
        let Some(breaker) = self.failing(name, delivery, ended_at) else { return false };
        breaker.streak.succeeded();
        breaker.probes.take().is_some()
    }

    /// Records a failure of an attempt that started and ended at these times. Returns whether it opens the breaker.
    pub(super) fn failed(
        &mut self,
        name: &Arc<str>,
        delivery: DeliveryId,
        (started_at, ended_at): (Timestamp, Timestamp),
    ) -> bool {
        let Some(breaker) = self.failing(name, delivery, ended_at) else { return false };
        breaker.streak.failed(started_at, ended_at);
        let is_of_several = breaker.outage_since.is_some();
        let opens = breaker.probes.is_none() && is_of_several && breaker.streak.count() >= OPENS_AFTER;
        if opens {
            let (at, pause) = (ended_at.plus(FIRST_PROBE), FIRST_PROBE * 2);
            breaker.probes = Some(Probes { at, pause, in_flight: None });
        }
        opens
    }

    /// Returns the breaker of an origin or URL after an attempt that failed; `None` if no further one can be kept.
    fn failing(
        &mut self,
        name: &Arc<str>,
        delivery: DeliveryId,
        ended_at: Timestamp,
    ) -> Option<&mut Breaker> {
        if !self.failing.contains_key(name) && !self.can_keep_one_more(app_of(name), ended_at) {
            return None;
        }
        let breaker = self.failing.entry(Arc::clone(name)).or_insert_with(|| {
            *self.of_app.entry(app_of(name)).or_default() += 1;
            Breaker {
                streak: FailureStreak::default(),
                first: delivery,
                outage_since: None,
                last: ended_at,
                last_error: None,
                probes: None,
            }
        });
        if breaker.first != delivery {
            breaker.outage_since.get_or_insert(ended_at);
        }
        breaker.last = ended_at;
        Some(breaker)
    }

    /// Notes the error of a failure, as the attempt shows it. Of a long one, the beginning is kept.
    pub(super) fn note_error(&mut self, name: &str, error: Option<&str>) {
        let Some(breaker) = self.failing.get_mut(name) else { return };
        let error = error.map(cut);
        if breaker.last_error.as_deref() != error {
            breaker.last_error = error.map(Arc::from);
        }
    }

    /// Returns the outage of an origin or URL whose breaker is open.
    pub(super) fn open_outage(&self, name: &str) -> Option<Outage<'_>> {
        let breaker = self.failing.get(name)?;
        let probes = breaker.probes.as_ref()?;
        Some(Outage {
            // A breaker opens only after failures of several deliveries.
            since: breaker.outage_since.unwrap_or(breaker.last),
            probe_at: probes.in_flight.is_none().then_some(probes.at),
            last_error: breaker.last_error.as_deref(),
        })
    }

    /// Returns until when an origin pauses after a fault of our own, or a queue that awaits a token.
    pub(super) fn paused_until(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        self.paused.get(name).map(|pause| pause.until).filter(|until| *until > now)
    }

    /// Returns the error of the request for a token after which a queue pauses.
    pub(super) fn token_error(&self, name: &str) -> Option<&str> {
        self.paused.get(name)?.error.as_deref()
    }

    /// Pauses an origin after a fault of our own. Returns whether it was not paused before. `pause` is at most
    /// [`PROBE_INTERVAL_MAX`].
    pub(super) fn pause(&mut self, name: &Arc<str>, pause: Duration, now: Timestamp) -> bool {
        self.pause_after(name, pause, None, now)
    }

    /// Pauses a queue that awaits a token, after a request for it failed with this error.
    pub(super) fn await_token(
        &mut self,
        name: &Arc<str>,
        pause: Duration,
        error: Option<&str>,
        now: Timestamp,
    ) {
        self.pause_after(name, pause, error, now);
    }

    fn pause_after(&mut self, name: &Arc<str>, pause: Duration, error: Option<&str>, now: Timestamp) -> bool {
        if self.paused.len() >= self.paused_most.max(FAILING_MAX) {
            self.paused.retain(|_, pause| pause.until > now);
            self.paused_most = self.paused.len() * 2;
        }
        let pause = Pause { until: now.plus(pause), error: error.map(cut).map(Arc::from) };
        let before = self.paused.insert(Arc::clone(name), pause);
        before.is_none_or(|pause| pause.until <= now)
    }

    /// Returns the number of open breakers.
    pub(super) fn open_count(&self) -> usize {
        self.failing.values().filter(|breaker| breaker.probes.is_some()).count()
    }

    /// Returns whether one more breaker of an app can be kept, if necessary after others were forgotten. An app has at
    /// most seven eighths of them.
    fn can_keep_one_more(&mut self, app: AppNo, now: Timestamp) -> bool {
        if self.has_less_than_most(app) {
            return true;
        }
        // A time far away shows that the clock was set back.
        let is_recent = |at: &Timestamp| *at <= now && now < at.plus(FORGET_INTERVAL);
        if self.forgot_at.get(&app).is_some_and(is_recent) {
            return false;
        }
        if self.forgot_at.len() >= FAILING_MAX {
            self.forgot_at.retain(|_, at| is_recent(at));
        }
        self.forgot_at.insert(app, now);
        self.forget_some(app, now);
        self.has_less_than_most(app)
    }

    fn has_less_than_most(&self, app: AppNo) -> bool {
        self.failing.len() < FAILING_MAX && self.count_of(app) < per_app_limit(FAILING_MAX)
    }

    fn count_of(&self, app: AppNo) -> usize {
        self.of_app.get(&app).copied().unwrap_or_default()
    }

    /// Forgets the breakers without attempts for a long time, and the closed ones of one app: of `app` if it has all it
    /// may, else of the app with the most. The others keep the counts of their failures, whatever this app does.
    fn forget_some(&mut self, app: AppNo, now: Timestamp) {
        let largest = self.of_app.iter().max_by_key(|(_, count)| **count).map(|(app, _)| *app);
        let is_at_limit = self.count_of(app) >= per_app_limit(FAILING_MAX);
        let from = largest.filter(|_| !is_at_limit).unwrap_or(app);
        self.failing.retain(|name, breaker| {
            now.since(breaker.last) < FORGOTTEN_AFTER && (breaker.probes.is_some() || app_of(name) != from)
        });
        self.of_app.clear();
        for name in self.failing.keys() {
            *self.of_app.entry(app_of(name)).or_default() += 1;
        }
    }

    fn uncount(&mut self, name: &str) {
        let app = app_of(name);
        if let Some(count) = self.of_app.get_mut(&app) {
            *count -= 1;
            if *count == 0 {
                self.of_app.remove(&app);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn id(n: u8) -> DeliveryId {
        DeliveryId(Id::from_bytes([n; 16]))
    }

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    /// Records failures of attempts of two deliveries. Each starts one second after the last one; the last one, at
    /// second 0, opens the breaker.
    fn open(breakers: &mut Breakers, name: &Arc<str>) {
        for n in 1..=i64::from(OPENS_AFTER) {
            assert_eq!(breakers.admission(name, at(n - 5)), Admission::Free);
            assert_eq!(breakers.failed(name, id((n == 1).into()), (at(n - 5), at(n - 5))), n == 5);
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_response_closes_it() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443"));
        open(&mut breakers, &a);
        assert_eq!(breakers.admission(&a, at(0)), Admission::Held(Some(at(1))));
        assert_eq!(breakers.admission("1 https://b.example:443", at(0)), Admission::Free);
        assert_eq!((breakers.open_count(), breakers.responded(&a), breakers.open_count()), (1, true, 0));
        assert_eq!(breakers.admission(&a, at(0)), Admission::Free);
        assert!(!breakers.responded(&a));
        // A response in between restarts the count.
        for n in 1..OPENS_AFTER {
            assert!(!breakers.failed(&a, id(1), (at(i64::from(n)), at(i64::from(n)))));
        }
        assert!(!breakers.responded(&a));
        assert_eq!((breakers.failed(&a, id(1), (at(9), at(9))), breakers.open_count()), (false, 0));
        assert_eq!(breakers.of_app.len(), 1);
    }

    #[test]
    fn refusals_within_a_millisecond_are_one_failure() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443"));
        for _ in 0..300 {
            assert!(!breakers.failed(&a, id(1), (at(0), at(0))));
        }
        assert_eq!(breakers.admission(&a, at(0)), Admission::Free);
    }

    #[test]
    fn probes_follow_after_1_2_4_8_and_every_10_seconds() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443"));
        open(&mut breakers, &a);
        let mut tried = Vec::new();
        for second in 0..60 {
            if breakers.admission(&a, at(second)) == Admission::Probe {
                tried.push(second);
                breakers.started(&a, id(1), at(second));
                assert_eq!(breakers.admission(&a, at(second)), Admission::Held(None), "one at a time");
                breakers.failed(&a, id(1), (at(second), at(second)));
                breakers.ended(&a, id(1), at(second));
            }
        }
        assert_eq!(tried, [1, 3, 7, 15, 25, 35, 45, 55]);
    }

    #[test]
    fn a_failure_that_began_before_it_opened_delays_no_probe() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443"));
        open(&mut breakers, &a);
        breakers.failed(&a, id(1), (at(-1), at(1)));
        breakers.ended(&a, id(2), at(1));
        assert_eq!(breakers.admission(&a, at(1)), Admission::Probe);
        // A probe without a result leaves the breaker open.
        breakers.started(&a, id(1), at(1));
        breakers.ended(&a, id(1), at(2));
        assert_eq!(breakers.admission(&a, at(3)), Admission::Held(Some(at(4))));
    }

    #[test]
    fn it_does_not_wait_after_the_clock_was_set_back() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443"));
        open(&mut breakers, &a);
        assert_eq!(breakers.admission(&a, at(-3_600)), Admission::Probe);
        breakers.started(&a, id(1), at(-3_600));
        breakers.failed(&a, id(1), (at(-3_600), at(-3_600)));
        breakers.ended(&a, id(1), at(-3_600));
        assert_eq!(breakers.admission(&a, at(-3_599)), Admission::Held(Some(at(-3_598))));
    }

    #[test]
    fn a_fault_of_our_own_pauses_an_origin_and_opens_nothing() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443"));
        assert!(breakers.pause(&a, OWN_FAULT_PAUSE, at(0)) && !breakers.pause(&a, OWN_FAULT_PAUSE, at(0)));
        assert_eq!(breakers.admission(&a, at(0)), Admission::Held(Some(at(1))));
        assert_eq!((breakers.admission(&a, at(1)), breakers.open_count()), (Admission::Free, 0));
        assert_eq!(breakers.admission(&a, at(-3_600)), Admission::Free, "the clock was set back");
    }

    #[test]
    fn the_number_of_failing_urls_is_limited_for_each_app() {
        let mut breakers = Breakers::default();
        let failed_once = name("3 https://c.example:443");
        breakers.failed(&failed_once, id(1), (at(0), at(0)));
        let mut time = at(0);
        for n in 0..=FAILING_MAX {
            let url = name(&format!("1 https://a.example:443 {n}"));
            for delivery in 0..5_u8 {
                time = time.plus(Duration::from_millis(1));
                breakers.failed(&url, id(delivery), (time, time));
            }
        }
        assert_eq!(breakers.count_of(AppNo(1)), per_app_limit(FAILING_MAX), "open ones are kept");
        assert!(breakers.failing.contains_key(&failed_once), "another app keeps its counts");
        open(&mut breakers, &name("2 https://b.example:443"));
        // Without an attempt for an hour, they are forgotten.
        let url = name("1 https://c.example:443");
        for n in 0..5_u8 {
            let second = 4_000 + i64::from(n);
            breakers.failed(&url, id(n), (at(second), at(second)));
        }
        assert_eq!((breakers.failing.len(), breakers.open_count()), (1, 1));
        assert_eq!(breakers.of_app.values().sum::<usize>(), 1);
    }

    #[test]
    fn the_closed_breakers_of_the_largest_app_are_forgotten_first() {
        let mut breakers = Breakers::default();
        let fail = |breakers: &mut Breakers, app: u32, n: usize| {
            breakers.failed(&name(&format!("{app} https://a.example:443 {n}")), id(1), (at(0), at(0)));
        };
        for n in 0..FAILING_MAX - 10 {
            fail(&mut breakers, if n < per_app_limit(FAILING_MAX) { 1 } else { 2 }, n);
        }
        for n in 0..10 {
            fail(&mut breakers, 3, n);
        }
        let second = breakers.count_of(AppNo(2));
        fail(&mut breakers, 4, 0);
        let counts = [1, 2, 3, 4].map(|app| breakers.count_of(AppNo(app)));
        assert_eq!(counts, [0, second, 10, 1]);
    }

    #[test]
    fn pauses_that_are_over_are_forgotten() {
        let mut breakers = Breakers::default();
        for second in [0, 2] {
            for n in 0..3 * FAILING_MAX {
                let host = name(&format!("1 https://h{n}.of{second}.example:443"));
                assert!(breakers.pause(&host, OWN_FAULT_PAUSE, at(second)));
            }
        }
        assert_eq!(breakers.paused.len(), 3 * FAILING_MAX);
        assert!(breakers.paused.values().all(|pause| pause.until > at(2)));
    }

    #[test]
    fn an_outage_begins_with_the_first_failure_of_a_second_delivery() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443"));
        breakers.failed(&a, id(1), (at(0), at(0)));
        breakers.failed(&a, id(1), (at(3_600), at(3_600)));
        assert_eq!(breakers.outage(&a, at(3_600)), None, "a single delivery follows its schedule");
        breakers.failed(&a, id(2), (at(3_606), at(3_606)));
        breakers.failed(&a, id(3), (at(3_608), at(3_608)));
        assert_eq!(breakers.outage(&a, at(3_609)), Some(Duration::from_secs(3)));
        breakers.responded(&a);
        assert_eq!(breakers.outage(&a, at(3_610)), None);
    }

    #[test]
    fn a_single_delivery_opens_no_breaker() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443 b"));
        for second in 0..100 {
            assert!(!breakers.failed(&a, id(1), (at(second), at(second))));
        }
        assert!(breakers.failed(&a, id(2), (at(100), at(100))), "the next one fails as well");
    }

    #[test]
    fn a_status_of_a_gateway_closes_a_breaker_and_continues_the_outage() {
        let (mut breakers, a) = (Breakers::default(), name("1 https://a.example:443 b"));
        open(&mut breakers, &a);
        assert!(breakers.unavailable(&a, id(1), at(4)) && !breakers.unavailable(&a, id(1), at(5)));
        assert_eq!((breakers.admission(&a, at(5)), breakers.open_count()), (Admission::Free, 0));
        assert_eq!(breakers.outage(&a, at(5)), Some(Duration::from_secs(8)));
        // It opens no breaker by itself, and restarts the count.
        for second in 6..100 {
            assert!(!breakers.unavailable(&a, id(2), at(second)));
        }
        assert!(!breakers.failed(&a, id(2), (at(100), at(100))));
        assert!(!breakers.responded(&a));
        assert_eq!(breakers.outage(&a, at(101)), None);
    }
}
