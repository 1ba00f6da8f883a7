//! Why a delivery waits: the answer to a person who sees a due delivery without an attempt.
//!
//! A delivery that is held back has no attempt, so its row has no error. Nothing is written about it, because a host that
//! is down would otherwise cost a write for each of its deliveries. What holds it back is known in memory only: the
//! breakers, the pace of its channel, and the places of its queue, its origin and its app.
//!
//! **A view, not a fact in the store.** The API gets a function that looks the reasons up here; `app` connects the two,
//! as it does for the statistics of polls. A column would be wrong after a crash, and while a breaker opens and closes it
//! would change for every delivery of a host. Only one reason is read from the store: an ordered destination waits for an
//! earlier event that may not be loaded ([`WaitingDelivery::is_behind`]).
//!
//! **The time of the next attempt stays what it is**: the time at which the delivery becomes due. A delivery whose time
//! has not come waits for its schedule and has no reason. Neither has one that is in flight, or that the next step
//! starts.
//!
//! **The look-up is cheap and bounded.** It reads a few maps by name for each due delivery of a page, and changes
//! nothing. The lock of the state is released after [`LOOKED_UP_AT_ONCE`] deliveries, so a step of the dispatcher waits
//! for some microseconds at most.
//!
//! **No app sees another one.** The caller asks for its own deliveries. The name of a queue, of an origin and of a breaker
//! begins with the app, so an error is that of the app's own attempts, with the same text as in their list. The pace of a
//! chat is common to all apps; only its time is returned. A fault of Ringback's machine has a reason and no text.
//!
//! **After a restart** all breakers are closed. The next attempts fail and open them again, and until then their
//! deliveries have no reason. **A second node** would know nothing about the deliveries that another one sends, and would
//! show no reason; it would have to ask the node of the delivery's `shard`.

use super::super::breaker::Outage;
use super::super::fair_queue::app_of;
use super::super::origin::{Standing, origin_of};
use super::{DestinationQueue, DispatchState};
use crate::domain::{DeliveryWait, Timestamp, WaitReason, WaitingDelivery};

/// Number of deliveries that are looked up while the state is locked.
pub(in crate::dispatcher) const LOOKED_UP_AT_ONCE: usize = 64;

impl DestinationQueue {
    /// Returns whether a first attempt waits for that of an earlier event of its watch.
    fn has_earlier_in_flight(&self, delivery: &WaitingDelivery) -> bool {
        let watch = delivery.watch.filter(|_| delivery.attempt_count == 0);
        watch.is_some_and(|watch| self.first_attempts.contains(&(watch, delivery.destination)))
    }
}

impl DispatchState {
    /// Returns why a due delivery is not attempted now. `None`: it is in flight, or the next step starts it.
    pub(in crate::dispatcher) fn wait_of(
        &self,
        delivery: &WaitingDelivery,
        now: Timestamp,
    ) -> Option<DeliveryWait> {
        let (name, target) = (delivery.queue.as_str(), delivery.target.as_deref());
        let queue = self.queues.get(name);
        let is_sent = |queue: &DestinationQueue| {
            [&queue.in_flight, &queue.awaiting_reply, &queue.awaiting_record]
                .into_iter()
                .any(|sent| sent.contains(&delivery.id))
        };
        if queue.is_some_and(is_sent) {
            return None;
        }
        let host = origin_of(target.unwrap_or(name));
        if self.breakers.paused_until(host, now).is_some() {
            return Some(DeliveryWait::of(WaitReason::NoResources, delivery));
        }
        // Only a queue that awaits a token pauses without its host.
        if let until @ Some(_) = self.breakers.paused_until(name, now) {
            let last_error = self.breakers.token_error(name).map(str::to_owned);
            return Some(DeliveryWait { until, last_error, ..DeliveryWait::of(WaitReason::Token, delivery) });
        }
        if let Some(outage) = [host, name].into_iter().find_map(|name| self.breakers.open_outage(name)) {
            let Outage { since, probe_at, last_error } = outage;
            return Some(DeliveryWait {
                reason: WaitReason::DestinationDown,
                since,
                until: probe_at.filter(|at| *at > now),
                last_error: last_error.map(str::to_owned),
                is_own_rate: false,
            });
        }
        if delivery.is_behind || queue.is_some_and(|queue| queue.has_earlier_in_flight(delivery)) {
            return Some(DeliveryWait::of(WaitReason::Order, delivery));
        }
        let opens_at =
            [Some(name), target].into_iter().flatten().filter_map(|name| self.pacer.opens_at(name, now));
        if let Some(at) = opens_at.max() {
            let is_own_rate = self.pacer.rate_opens_at(name, now) == Some(at);
            return Some(DeliveryWait {
                until: Some(at),
                is_own_rate,
                ..DeliveryWait::of(WaitReason::RateLimited, delivery)
            });
        }
        (!self.has_place(delivery, queue)).then(|| DeliveryWait::of(WaitReason::Busy, delivery))
    }

    /// Returns whether every limit permits one more attempt of a queue.
    fn has_place(&self, delivery: &WaitingDelivery, queue: Option<&DestinationQueue>) -> bool {
        let (name, app) = (delivery.queue.as_str(), app_of(&delivery.queue));
        let is_loaded = self.loaded.contains(&delivery.id);
        let is_quick = queue.map_or_else(|| self.quick.contains(name), |queue| queue.is_quick);
        let has_memory = is_loaded || self.may_load(app, is_quick);
        let may_send = self.shares.may_send(app, self.in_flight_max, is_quick);
        if !has_memory || !may_send || !self.pacer.has_place(name, delivery.channel) {
            return false;
        }
        self.origins.get(origin_of(name)).is_none_or(|origin| {
            let most = origin.places(self.per_origin_max);
            let (own, standing) = match queue {
                Some(queue) => (queue.in_flight.len(), queue.standing(name)),
                None if origin_of(name) == name => (0, Standing::Alone),
                None if self.quick.contains(name) => (0, Standing::Quick),
                None => (0, Standing::Other),
            };
            origin.in_flight.free(most, own, standing) > 0
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{Fixture, RETRY, at, delivery, result, to_chat, to_host, to_saved};
    use super::*;
    use crate::channels::{Reach, TokenUse};
    use crate::domain::{DestinationId, Id, Outcome, PendingDelivery};

    /// Returns the row of a delivery.
    fn row(delivery: &PendingDelivery) -> WaitingDelivery {
        WaitingDelivery {
            id: delivery.id,
            watch: Some(delivery.watch),
            destination: delivery.destination.id,
            channel: delivery.destination.channel,
            queue: delivery.destination.queue.clone(),
            target: delivery.destination.saved.as_ref().map(|saved| saved.target.clone()),
            attempt_count: delivery.attempts,
            due_at: at(0),
            is_behind: false,
        }
    }

    fn reason(f: &Fixture, delivery: &PendingDelivery, now: Timestamp) -> Option<WaitReason> {
        f.state.wait_of(&row(delivery), now).map(|wait| wait.reason)
    }

    /// Opens a breaker by five attempts that fail one after another.
    fn fail_five(f: &mut Fixture, make: impl Fn(u32) -> PendingDelivery, reach: Reach, error: &str) {
        for n in 0..5 {
            f.dispatch(make(n), at(n.into()));
            for sent in f.step(at(n.into())) {
                let mut failed = result(RETRY, reach);
                failed.attempt.error = Some(error.to_owned());
                f.end(&sent, &failed, (n.into(), n.into()));
            }
        }
    }

    #[test]
    fn a_host_that_is_down_explains_every_delivery_to_it_and_no_other() {
        let mut f = Fixture::new();
        let error = "connect: connection refused";
        fail_five(&mut f, |n| delivery(n, &format!("url{n}")), Reach::NotConnected, error);
        let held = delivery(10, "held");
        f.dispatch(held.clone(), at(4));
        let wait = f.state.wait_of(&row(&held), at(4)).expect("it waits");
        // The outage begins with the failure of a second delivery; the first probe follows a second after the last one.
        assert_eq!((wait.reason, wait.since, wait.until), (WaitReason::DestinationDown, at(1), Some(at(5))));
        assert_eq!(wait.last_error.as_deref(), Some(error));
        assert_eq!(reason(&f, &to_saved(11, 7, None), at(4)), Some(WaitReason::DestinationDown), "its host");
        assert_eq!(reason(&f, &to_host(12, "b.example"), at(4)), None);
        let mut foreign = delivery(13, "held");
        foreign.destination.queue = foreign.destination.queue.replacen('1', "2", 1);
        assert_eq!(reason(&f, &foreign, at(4)), None, "another app");
        // The probe itself does not wait. Meanwhile, the time of the next one is not known.
        let probe = f.step(at(5)).pop().expect("a probe");
        assert_eq!(probe.id, held.id);
        assert_eq!(f.state.wait_of(&row(&held), at(5)), None);
        let other = f.state.wait_of(&row(&delivery(14, "held")), at(5)).expect("it waits");
        assert_eq!((other.reason, other.until), (WaitReason::DestinationDown, None));
        f.end(&probe, &result(Outcome::Ok, Reach::Answered), (5, 5));
        assert_eq!(reason(&f, &delivery(14, "held"), at(5)), None, "it has recovered");
    }

    #[test]
    fn a_url_without_answers_explains_its_own_deliveries_only() {
        let mut f = Fixture::new();
        let long = "x".repeat(1_000);
        fail_five(&mut f, |n| delivery(n, "slow"), Reach::NoAnswer, &long);
        let wait = f.state.wait_of(&row(&delivery(10, "slow")), at(4)).expect("it waits");
        assert_eq!(wait.reason, WaitReason::DestinationDown);
        assert_eq!(wait.last_error.map(|error| error.len()), Some(300), "a long error is cut");
        assert_eq!(reason(&f, &delivery(11, "other"), at(4)), None);
    }

    #[test]
    fn limits_order_and_pace_are_reasons() {
        let mut f = Fixture::new();
        // Four attempts to one untried URL are made at a time.
        for n in 0..5 {
            f.commit("url", at(i64::from(n)));
        }
        let sent = f.step(at(5));
        assert_eq!(sent.len(), 4);
        let waiting =
            f.stored.iter().find(|one| sent.iter().all(|sent| sent.id != one.id)).expect("one waits");
        assert_eq!(reason(&f, waiting, at(5)), Some(WaitReason::Busy));
        assert_eq!(reason(&f, &sent[0], at(5)), None, "it is in flight");
        let mut later = delivery(50, "url");
        (later.watch, later.destination.id) = (sent[0].watch, sent[0].destination.id);
        assert_eq!(reason(&f, &later, at(5)), Some(WaitReason::Order), "first attempts keep their order");
        let behind = WaitingDelivery { is_behind: true, ..row(&to_host(51, "c.example")) };
        assert_eq!(f.state.wait_of(&behind, at(5)).map(|wait| wait.reason), Some(WaitReason::Order));
        f.dispatch(to_chat(60, "ops"), at(5));
        assert_eq!(f.step(at(5)).len(), 1);
        let wait = f.state.wait_of(&row(&to_chat(61, "ops")), at(5)).expect("a message a second");
        assert_eq!((wait.reason, wait.since, wait.until), (WaitReason::RateLimited, at(0), Some(at(6))));
        assert!(!wait.is_own_rate);
        assert_eq!(reason(&f, &to_chat(61, "ops"), at(6)), None);
    }

    #[test]
    fn a_failed_request_for_a_token_is_explained_with_its_error() {
        let mut f = Fixture::new();
        f.dispatch(delivery(1, "url"), at(0));
        let sent = f.step(at(0)).pop().expect("an attempt");
        let mut awaited = result(Outcome::NotMade, Reach::NotTried);
        awaited.attempt.error = Some("token: HTTP 503".to_owned());
        awaited.token = Some(Box::new(TokenUse::Awaited(Duration::from_secs(2))));
        f.end(&sent, &awaited, (0, 0));
        let wait = f.state.wait_of(&row(&delivery(2, "url")), at(1)).expect("it waits");
        assert_eq!((wait.reason, wait.until), (WaitReason::Token, Some(at(2))));
        assert_eq!(wait.last_error.as_deref(), Some("token: HTTP 503"));
    }

    #[test]
    fn the_own_limits_of_a_saved_destination_are_reasons() {
        let mut f = Fixture::new();
        let saved = |number| {
            let mut delivery = to_saved(number, 7, Some(1));
            delivery.destination.id = DestinationId(Id::from_bytes([7; 16]));
            delivery
        };
        f.dispatch(saved(1), at(0));
        f.dispatch(saved(2), at(0));
        let sent = f.step(at(0));
        assert_eq!(sent.len(), 1);
        assert_eq!(reason(&f, &saved(2), at(0)), Some(WaitReason::Busy));
        f.end(&sent[0], &result(Outcome::NotMade, Reach::NotTried), (0, 0));
        assert_eq!(reason(&f, &saved(2), at(0)), Some(WaitReason::NoResources));
        assert_eq!(reason(&f, &saved(2), at(1)), None);
        let mut limited = to_saved(3, 8, None);
        if let Some(saved) = &mut limited.destination.saved {
            saved.rate.spacing = Some(Duration::from_secs(60));
        }
        f.dispatch(limited.clone(), at(2));
        assert_eq!(f.step(at(2)).len(), 2, "the rate is that of one destination");
        let wait = f.state.wait_of(&row(&limited), at(2));
        assert_eq!(wait, None, "it is in flight");
        let mut next = limited.clone();
        next.id = to_saved(4, 8, None).id;
        next.watch = to_saved(4, 8, None).watch;
        let wait = f.state.wait_of(&row(&next), at(2)).expect("it waits");
        assert_eq!(
            (wait.reason, wait.until, wait.is_own_rate),
            (WaitReason::RateLimited, Some(at(62)), true)
        );
    }
}
