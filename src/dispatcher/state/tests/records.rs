//! Tests of places that are free before the record of their attempt is written.

use super::*;

fn success() -> AttemptResult {
    result(Outcome::Ok, Reach::Answered)
}

impl Fixture {
    /// Ends the exchange of an attempt. Its record is not written yet.
    fn end_exchange(&mut self, delivery: &PendingDelivery) {
        self.state.settle(delivery, &success(), (at(0), at(0)));
        self.state.end_exchange(delivery);
    }

    /// Writes the record of an attempt.
    fn record(&mut self, delivery: &PendingDelivery) {
        self.stored.retain(|one| one.id != delivery.id);
        self.state.finish(delivery, NextStep::Succeeded, at(0));
    }
}

#[test]
fn a_place_is_free_before_the_record_of_its_attempt_is_written() {
    let mut f = Fixture::new();
    for number in 0..20 {
        f.dispatch(to_saved(number, 7, Some(4)), at(0));
    }
    let sent = f.step(at(0));
    assert_eq!(sent.len(), 4);
    f.end_exchange(&sent[0]);
    let more = f.step(at(0));
    assert_eq!(more.len(), 1);
    assert!(more[0].id != sent[0].id && f.state.loaded.contains(&sent[0].id), "it stays loaded");
    f.end_exchange(&sent[1]);
    assert_eq!(f.step(at(0)).len(), 1);
    // Half as many as there are places.
    f.end_exchange(&sent[2]);
    assert!(f.step(at(0)).is_empty(), "it keeps its place");
    f.record(&sent[0]);
    assert!(f.step(at(0)).is_empty(), "its place was given away before");
    f.record(&sent[2]);
    assert_eq!(f.step(at(0)).len(), 1);
    assert_eq!(f.state.shares.total.in_flight, 4);
}

#[test]
fn all_places_are_counted_once_if_the_kind_of_their_queue_changes() {
    let mut f = Fixture::new();
    for _ in 0..40 {
        f.commit("url", at(0));
    }
    let mut sent = f.step(at(0));
    assert_eq!(sent.len(), 4, "it is untried");
    let mut count = 0;
    while !sent.is_empty() {
        for delivery in &sent {
            // It is quick from the first success on.
            f.end_exchange(delivery);
        }
        let next = f.step(at(0));
        assert!(f.state.shares.total.in_flight <= 14, "a quick URL leaves an eighth of the places");
        count += sent.len();
        for delivery in &sent {
            f.record(delivery);
        }
        sent = next;
        sent.extend(f.step(at(0)));
    }
    assert_eq!((count, f.stored.len()), (40, 0));
    let total = &f.state.shares.total;
    assert_eq!((total.loaded, total.bytes, total.in_flight, total.awaiting_record), (0, 0, 0, 0));
    assert!(total.other == super::super::super::fair_queue::Used::default());
    assert!(f.state.queues.is_empty() && f.state.origins.is_empty(), "nothing is remembered");
}

#[test]
fn the_next_event_of_a_watch_follows_the_record_of_the_attempt_before() {
    let mut f = Fixture::new();
    let [one, two] = of_one_watch([1, 2]);
    for delivery in [&one, &two] {
        f.dispatch(delivery.clone(), at(0));
    }
    assert_eq!(ids(&f.step(at(0))), [one.id]);
    f.end_exchange(&one);
    assert!(f.step(at(0)).is_empty());
    f.record(&one);
    assert_eq!(ids(&f.step(at(0))), [two.id]);
}

#[test]
fn one_place_is_kept_until_the_record_is_written() {
    let mut f = Fixture::new();
    for number in 0..2 {
        f.dispatch(to_saved(number, 7, Some(1)), at(0));
    }
    let [sent] = &f.step(at(0))[..] else { panic!("one is sent") };
    f.end_exchange(sent);
    assert!(f.step(at(0)).is_empty());
    f.record(sent);
    assert_eq!(f.step(at(0)).len(), 1);
}
