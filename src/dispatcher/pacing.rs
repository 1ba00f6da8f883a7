//! Pacing: channels that accept fewer messages than a destination queue may send.
//!
//! [`Pacing`] describes what a channel accepts:
//!
//! - **A message per interval to one address**, for all apps together. Where several apps write to one chat,
//!   their queues take turns. A 429 with `Retry-After` closes the address for that time.
//! - **A few messages in flight**, for all addresses and apps together. This protects the operator's mail
//!   server. An app sends while it has fewer in flight than places are free: alone it uses half of the places, and
//!   recipients of one app that the mail server checks slowly leave places for the others.
//!
//! A saved destination has a queue of its own and may have a rate of its own. Its name without the app stands for that
//! rate, as an address does: the queue is closed for the time between two attempts. The pace of its channel holds for
//! its address, which other queues can share.
//!
//! A queue that is not admitted waits here and is returned at its time, so the dispatcher does not check it repeatedly.
//! If its address opens later than [`SOON`], its deliveries return to the store meanwhile: those of many closed
//! addresses would otherwise use up the share of loaded deliveries of their app. The last attempt to a destination with a
//! rate is stored with its result, and a start continues its spacing ([`Pacer::restore`]). Nothing else is stored: after
//! a restart every other address is open. The limits hold for one process. Nodes that share a database would pace separately,
//! each for its own jobs and all their watches.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::fair_queue::app_of;
use crate::channels::{self, Pacing};
use crate::domain::{AppNo, ChannelKind, Destination, Timestamp};

/// Maximum time for which a `Retry-After` closes an address. The delivery that received it waits for the
/// requested time. After the maximum, other deliveries are sent again and show whether the address still
/// refuses messages.
const CLOSED_MAX: Duration = Duration::from_secs(3600);

/// Maximum number of addresses that are closed at a time, before a further `Retry-After` closes no address: an app with
/// many chats could fill the memory. Each delivery to a further one then waits for its own retry alone.
const CLOSED_COUNT_MAX: usize = 50_000;

/// Longest time until an address opens for which its messages stay in memory: two messages at the usual pace.
const SOON: Duration = Duration::from_secs(2);

/// Time until a test is admitted at the earliest if all places of its channel are taken.
const TEST_INTERVAL: Duration = Duration::from_millis(500);

/// State of all paced channels.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Addresses that accept no message yet, by queue name without the app.
    closed: HashMap<Arc<str>, ClosedAddress>,
    /// When each of them opens.
    timers: BTreeSet<(Timestamp, Arc<str>)>,
    /// Channels with a limit of messages in flight.
    limited: HashMap<ChannelKind, InFlight>,
    /// Latest time of a call: a smaller time shows that the clock was set back.
    latest: Timestamp,
}

/// An address that accepts no message yet.
#[derive(Debug)]
struct ClosedAddress {
    until: Timestamp,
    /// The spacing by which it is closed, if that is the rate of a saved destination.
    spacing: Option<Duration>,
    /// Whether the rate may have changed. Deliveries are loaded nevertheless, because they bring the present one.
    is_stale: bool,
    /// Queues that wait for it, in the order of their turns.
    queues: Vec<Arc<str>>,
}

/// Messages in flight of one channel.
#[derive(Debug, Default)]
struct InFlight {
    count: usize,
    by_app: HashMap<AppNo, usize>,
    /// Queues that wait until one of these messages ends, in the order of their turns.
    waiting: VecDeque<Arc<str>>,
    /// The same queues, for a lookup by name.
    is_waiting: HashSet<Arc<str>>,
}

/// Returns the part of a queue's name that follows the app: it names the address.
fn address(queue: &str) -> &str {
    queue.split_once(' ').map_or(queue, |(_app, address)| address)
}

impl Pacer {
    /// Returns whether a queue may send to a destination now. If so, the message counts as sent. If not, the queue is
    /// returned later, by [`Self::open`] or by [`Self::finished`].
    pub(super) fn admit(&mut self, queue: &Arc<str>, to: &Destination, now: Timestamp) -> bool {
        let Some(saved) = &to.saved else { return self.admit_channel(queue, &to.queue, to.channel, now) };
        if self.waits_for(queue, queue, now) || !self.admit_channel(queue, &saved.target, to.channel, now) {
            return false;
        }
        if let Some(spacing) = saved.rate.spacing {
            self.close_until(address(queue), now.plus(spacing));
            if let Some(closed) = self.closed.get_mut(address(queue)) {
                closed.spacing = Some(spacing);
            }
        }
        true
    }

    /// Closes the queue of a saved destination after an attempt of an earlier process.
    pub(super) fn restore(&mut self, queue: &str, at: Timestamp, spacing: Duration) {
        if self.closed.len() >= CLOSED_COUNT_MAX || self.closed.contains_key(address(queue)) {
            return;
        }
        self.close_until(address(queue), at.plus(spacing));
        if let Some(closed) = self.closed.get_mut(address(queue)) {
            closed.spacing = Some(spacing);
        }
    }

    /// Notes that the rate of a saved destination may have changed.
    pub(super) fn reload(&mut self, queue: &str) {
        if let Some(closed) = self.closed.get_mut(address(queue)).filter(|closed| closed.spacing.is_some()) {
            closed.is_stale = true;
        }
    }

    /// Sets the present rate of a saved destination. If it has changed, the next message follows the last one by the
    /// new spacing.
    pub(super) fn set_rate(&mut self, queue: &str, spacing: Option<Duration>) {
        let Some(closed) = self.closed.get_mut(address(queue)) else { return };
        closed.is_stale = false;
        let Some(old) = closed.spacing.filter(|old| Some(*old) != spacing) else { return };
        closed.spacing = spacing;
        let until = closed.until.minus(old).plus(spacing.unwrap_or_default());
        self.close_until(address(queue), until);
    }

    /// Returns whether the address of `target` is closed. The queue then waits for it.
    fn waits_for(&mut self, queue: &Arc<str>, target: &str, now: Timestamp) -> bool {
        let Some(closed) = self.closed.get_mut(address(target)).filter(|closed| closed.until > now) else {
            return false;
        };
        if !closed.queues.contains(queue) {
            closed.queues.push(Arc::clone(queue));
        }
        true
    }

    /// Does the same by the pace of the channel alone. `target` names the address.
    fn admit_channel(
        &mut self,
        queue: &Arc<str>,
        target: &str,
        channel: ChannelKind,
        now: Timestamp,
    ) -> bool {
        match channels::spec(channel).pacing {
            Pacing::Unlimited => true,
            Pacing::PerAddress(interval) => {
                let is_open = !self.waits_for(queue, target, now);
                if is_open {
                    self.close_until(address(target), now.plus(interval));
                }
                is_open
            }
            Pacing::Concurrent(limit) => {
                let in_flight = self.limited.entry(channel).or_default();
                let of_app = in_flight.by_app.entry(app_of(queue)).or_default();
                if *of_app < limit - in_flight.count {
                    in_flight.count += 1;
                    *of_app += 1;
                    return true;
                }
                if in_flight.is_waiting.insert(Arc::clone(queue)) {
                    in_flight.waiting.push_back(Arc::clone(queue));
                }
                false
            }
        }
    }

    /// Admits a message that is in no queue, or returns when to ask again. If it is admitted, it counts as sent.
    pub(super) fn admit_test(
        &mut self,
        queue: &Arc<str>,
        channel: ChannelKind,
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        match channels::spec(channel).pacing {
            Pacing::Unlimited => Ok(()),
            Pacing::PerAddress(interval) => match self.closed.get(address(queue)) {
                Some(closed) if closed.until > now => Err(closed.until),
                Some(_) | None => {
                    self.close_until(address(queue), now.plus(interval));
                    Ok(())
                }
            },
            Pacing::Concurrent(_) => {
                if !self.has_place(queue, channel) {
                    return Err(now.plus(TEST_INTERVAL));
                }
                let in_flight = self.limited.entry(channel).or_default();
                in_flight.count += 1;
                *in_flight.by_app.entry(app_of(queue)).or_default() += 1;
                Ok(())
            }
        }
    }

    /// Records the end of an admitted message of an app. Returns all queues that waited for it, in the order of their
    /// turns, because the first may have nothing left to send.
    pub(super) fn finished(&mut self, channel: ChannelKind, app: AppNo) -> Vec<Arc<str>> {
        let Some(in_flight) = self.limited.get_mut(&channel) else { return Vec::new() };
        in_flight.count -= 1;
        if let Entry::Occupied(mut of_app) = in_flight.by_app.entry(app) {
            *of_app.get_mut() -= 1;
            if *of_app.get() == 0 {
                of_app.remove();
            }
        }
        in_flight.is_waiting.clear();
        in_flight.waiting.drain(..).collect()
    }

    /// Returns when the address of a queue opens, if that is not soon: until then, its deliveries stay in the store.
    pub(super) fn closed_until(&self, queue: &str, now: Timestamp) -> Option<Timestamp> {
        let closed = self.closed.get(address(queue)).filter(|closed| !closed.is_stale)?;
        (closed.until.since(now) > SOON).then_some(closed.until)
    }

    /// Returns when the address of a queue accepts the next message; `None` if it does now.
    pub(super) fn opens_at(&self, queue: &str, now: Timestamp) -> Option<Timestamp> {
        self.closed.get(address(queue)).map(|closed| closed.until).filter(|until| *until > now)
    }

    /// Returns when the rate of a saved destination permits the next message; `None` if it does now, or if it has none.
    pub(super) fn rate_opens_at(&self, queue: &str, now: Timestamp) -> Option<Timestamp> {
        self.closed.get(address(queue)).filter(|closed| closed.spacing.is_some())?;
        self.opens_at(queue, now)
    }

    /// Returns whether a channel accepts one more message in flight of a queue's app.
    pub(super) fn has_place(&self, queue: &str, channel: ChannelKind) -> bool {
        let Pacing::Concurrent(limit) = channels::spec(channel).pacing else { return true };
        self.limited.get(&channel).is_none_or(|in_flight| {
            let of_app = in_flight.by_app.get(&app_of(queue)).copied().unwrap_or_default();
            of_app < limit - in_flight.count
        })
    }

    /// Records the `Retry-After` of a response, if the channel is paced by address. Returns the queues that wait for
    /// the address, if it does not open soon.
    pub(super) fn rate_limited(
        &mut self,
        queue: &str,
        channel: ChannelKind,
        retry_after: Duration,
        now: Timestamp,
    ) -> Vec<Arc<str>> {
        if !matches!(channels::spec(channel).pacing, Pacing::PerAddress(_)) {
            return Vec::new();
        }
        if self.closed.len() >= CLOSED_COUNT_MAX {
            return Vec::new();
        }
        let until = now.plus(retry_after.min(CLOSED_MAX));
        if self.closed.get(address(queue)).is_none_or(|known| known.until < until) {
            self.close_until(address(queue), until);
        }
        let is_long = self.closed_until(queue, now).is_some();
        let closed = self.closed.get(address(queue)).filter(|_| is_long);
        closed.map(|closed| closed.queues.clone()).unwrap_or_default()
    }

    /// Opens the addresses whose time has come, and returns the queues that waited for them.
    pub(super) fn open(&mut self, now: Timestamp) -> Vec<Arc<str>> {
        // If the clock was set back, every address opens: its time may be far away by the new clock.
        let until = if now < self.latest { Timestamp::MAX } else { now };
        self.latest = now;
        let mut open = Vec::new();
        while self.timers.first().is_some_and(|(at, _)| *at <= until) {
            let Some((_, address)) = self.timers.pop_first() else { break };
            open.extend(self.closed.remove(&address).into_iter().flat_map(|closed| closed.queues));
        }
        open
    }

    /// Returns the time when the next address opens.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn close_until(&mut self, address: &str, until: Timestamp) {
        let address: Arc<str> = address.into();
        let new = ClosedAddress { until, spacing: None, is_stale: false, queues: Vec::new() };
        let closed = self.closed.entry(Arc::clone(&address)).or_insert(new);
        self.timers.remove(&(closed.until, Arc::clone(&address)));
        closed.until = until;
        self.timers.insert((until, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DestinationId, Id, SavedNo, SavedQueue, parse_rate};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn queue(name: &str) -> Arc<str> {
        name.into()
    }

    /// Returns an inline destination of a queue.
    fn to(queue: &str, channel: ChannelKind) -> Destination {
        Destination {
            id: DestinationId(Id::from_bytes([7; 16])),
            channel,
            address: String::new(),
            queue: queue.to_owned(),
            headers: Vec::new(),
            secret: None,
            signing: None,
            access: None,
            saved: None,
        }
    }

    /// Returns a saved destination with a rate.
    fn saved(queue: &str, channel: ChannelKind, target: &str, rate: &str) -> Destination {
        let saved = SavedQueue {
            no: SavedNo(1),
            target: target.to_owned(),
            rate: parse_rate(rate).expect("a rate"),
            concurrency: None,
            is_ordered: false,
            old_secret: None,
        };
        Destination { saved: Some(Box::new(saved)), ..to(queue, channel) }
    }

    #[test]
    fn rate_limits_close_a_limited_number_of_addresses() {
        let mut pacer = Pacer::default();
        for n in 0..CLOSED_COUNT_MAX + 10 {
            pacer.rate_limited(&format!("1 chat-{n}"), ChannelKind::Slack, Duration::from_secs(60), at(0));
        }
        assert_eq!((pacer.closed.len(), pacer.timers.len()), (CLOSED_COUNT_MAX, CLOSED_COUNT_MAX));
        assert_eq!(pacer.closed_until(&format!("1 chat-{CLOSED_COUNT_MAX}"), at(0)), None);
        pacer.open(at(60_000));
        let queue = "1 chat-new";
        pacer.rate_limited(queue, ChannelKind::Slack, Duration::from_secs(60), at(60_000));
        assert_eq!(pacer.closed_until(queue, at(60_000)), Some(at(120_000)));
    }

    #[test]
    fn a_saved_destination_keeps_its_rate() {
        let (mut pacer, one) = (Pacer::default(), queue("1 dst_1"));
        let hook = saved(&one, ChannelKind::Webhook, "1 https://a.example:443 x", "10/s");
        assert!(pacer.admit(&one, &hook, at(0)) && !pacer.admit(&one, &hook, at(99)));
        assert_eq!((pacer.open(at(99)), pacer.open(at(100))), (vec![], vec![Arc::clone(&one)]));
        assert!(pacer.admit(&one, &hook, at(100)));
        let slow = saved(&one, ChannelKind::Webhook, "1 https://a.example:443 x", "1/m");
        pacer.open(at(200));
        assert!(pacer.admit(&one, &slow, at(200)));
        assert_eq!(pacer.closed_until(&one, at(200)), Some(at(60_200)));
    }

    #[test]
    fn a_saved_chat_shares_the_pace_of_its_address() {
        let (mut pacer, inline, own) = (Pacer::default(), queue("1 slack ops"), queue("1 dst_1"));
        let chat = saved(&own, ChannelKind::Slack, "1 slack ops", "off");
        assert!(pacer.admit(&inline, &to(&inline, ChannelKind::Slack), at(0)));
        assert!(!pacer.admit(&own, &chat, at(999)));
        assert_eq!(pacer.open(at(1_000)), [Arc::clone(&own)]);
        assert!(pacer.admit(&own, &chat, at(1_000)));
        assert!(!pacer.admit(&inline, &to(&inline, ChannelKind::Slack), at(1_000)));
    }

    #[test]
    fn a_chat_gets_a_message_a_second_and_delays_no_other() {
        let (mut pacer, ops, dev) = (Pacer::default(), queue("1 slack ops"), queue("1 slack dev"));
        let admit =
            |pacer: &mut Pacer, queue, millis| pacer.admit(queue, &to(queue, ChannelKind::Slack), at(millis));
        assert!(admit(&mut pacer, &ops, 0) && admit(&mut pacer, &dev, 400));
        assert!(!admit(&mut pacer, &ops, 999));
        assert_eq!((pacer.next(), pacer.open(at(999))), (Some(at(1_000)), vec![]));
        assert_eq!(pacer.open(at(1_000)), [Arc::clone(&ops)]);
        assert!(admit(&mut pacer, &ops, 1_000));
        assert_eq!(pacer.open(at(5_000)), [] as [Arc<str>; 0], "no queue waited");
        assert_eq!((pacer.next(), pacer.closed.len()), (None, 0));
    }

    #[test]
    fn two_apps_take_turns_at_the_pace_of_one_chat() {
        let (mut pacer, one, two) = (Pacer::default(), queue("1 slack ops"), queue("2 slack ops"));
        let admit =
            |pacer: &mut Pacer, queue, millis| pacer.admit(queue, &to(queue, ChannelKind::Slack), at(millis));
        assert!(admit(&mut pacer, &one, 0));
        assert!(!admit(&mut pacer, &two, 0) && !admit(&mut pacer, &one, 0) && !admit(&mut pacer, &two, 500));
        assert_eq!(pacer.open(at(1_000)), [Arc::clone(&two), Arc::clone(&one)]);
        assert!(admit(&mut pacer, &two, 1_000) && !admit(&mut pacer, &one, 1_000));
        // A 429 for one app applies to the other.
        pacer.rate_limited(&two, ChannelKind::Slack, Duration::from_secs(30), at(1_100));
        assert_eq!(pacer.open(at(2_000)), [] as [Arc<str>; 0]);
        assert_eq!(pacer.open(at(31_100)), [one]);
    }

    #[test]
    fn a_test_keeps_the_pace_of_its_channel() {
        let (mut pacer, ops, mail) = (Pacer::default(), queue("1 slack ops"), queue("1 smtp"));
        let slack = |pacer: &mut Pacer, millis| pacer.admit_test(&ops, ChannelKind::Slack, at(millis));
        assert_eq!(slack(&mut pacer, 0), Ok(()));
        assert_eq!(slack(&mut pacer, 400), Err(at(1_000)));
        assert!(!pacer.admit(&ops, &to(&ops, ChannelKind::Slack), at(400)), "a message waits for the test");
        assert_eq!(pacer.open(at(1_000)), [Arc::clone(&ops)]);
        assert_eq!(slack(&mut pacer, 1_000), Ok(()));
        for _ in 0..4 {
            assert_eq!(pacer.admit_test(&mail, ChannelKind::Email, at(0)), Ok(()));
        }
        assert_eq!(pacer.admit_test(&mail, ChannelKind::Email, at(0)), Err(at(500)));
        assert!(!pacer.admit(&mail, &to(&mail, ChannelKind::Email), at(0)));
        assert_eq!(pacer.finished(ChannelKind::Email, AppNo(1)), [Arc::clone(&mail)]);
        assert_eq!(pacer.admit_test(&mail, ChannelKind::Email, at(0)), Ok(()));
        let hook = queue("a webhook's");
        assert_eq!(pacer.admit_test(&hook, ChannelKind::Webhook, at(0)), Ok(()));
    }

    #[test]
    fn retry_after_closes_a_chat_for_an_hour_at_most() {
        let (mut pacer, ops) = (Pacer::default(), queue("1 slack ops"));
        assert!(pacer.admit(&ops, &to(&ops, ChannelKind::Slack), at(0)));
        assert!(!pacer.admit(&ops, &to(&ops, ChannelKind::Slack), at(50)));
        pacer.rate_limited(&ops, ChannelKind::Slack, Duration::from_secs(30), at(100));
        assert_eq!(pacer.open(at(1_000)), [] as [Arc<str>; 0]);
        assert!(!pacer.admit(&ops, &to(&ops, ChannelKind::Slack), at(30_099)));
        assert_eq!(pacer.open(at(30_100)), [Arc::clone(&ops)]);
        pacer.rate_limited(&ops, ChannelKind::Slack, Duration::from_secs(1 << 30), at(30_100));
        assert_eq!(pacer.next(), Some(at(3_630_100)));
        // A shorter wait does not replace a longer one.
        pacer.rate_limited(&ops, ChannelKind::Slack, Duration::from_secs(1), at(30_100));
        assert_eq!(pacer.next(), Some(at(3_630_100)));
    }

    #[test]
    fn a_clock_that_is_set_back_closes_nothing() {
        let (mut pacer, ops) = (Pacer::default(), queue("1 slack ops"));
        pacer.open(at(10_000_000));
        assert!(pacer.admit(&ops, &to(&ops, ChannelKind::Slack), at(10_000_000)));
        assert!(!pacer.admit(&ops, &to(&ops, ChannelKind::Slack), at(10_000_000)));
        assert_eq!(pacer.open(at(1_000)), [Arc::clone(&ops)]);
        assert!(pacer.admit(&ops, &to(&ops, ChannelKind::Slack), at(1_000)));
    }

    #[test]
    fn mails_in_flight_are_limited_and_apps_take_turns() {
        let (mut pacer, one, two) = (Pacer::default(), queue("1 smtp"), queue("2 smtp"));
        for _ in 0..4 {
            assert!(pacer.admit(&one, &to(&one, ChannelKind::Email), at(0)));
        }
        assert!(!pacer.admit(&one, &to(&one, ChannelKind::Email), at(0)), "half of the places");
        for _ in 0..2 {
            assert!(pacer.admit(&two, &to(&two, ChannelKind::Email), at(0)), "another app has places");
        }
        assert!(!pacer.admit(&two, &to(&two, ChannelKind::Email), at(0)));
        let finished = |pacer: &mut Pacer, app| pacer.finished(ChannelKind::Email, AppNo(app));
        assert_eq!(finished(&mut pacer, 1), [Arc::clone(&one), Arc::clone(&two)]);
        assert!(pacer.admit(&two, &to(&two, ChannelKind::Email), at(0)), "it has fewer than are free");
        for queue in [&two, &one] {
            assert!(!pacer.admit(queue, &to(queue, ChannelKind::Email), at(0)));
        }
        assert_eq!(finished(&mut pacer, 2), [two, one]);
        assert_eq!(finished(&mut pacer, 2), [] as [Arc<str>; 0]);
        let hook = queue("a webhook's");
        assert!(pacer.admit(&hook, &to(&hook, ChannelKind::Webhook), at(0)));
    }
}
