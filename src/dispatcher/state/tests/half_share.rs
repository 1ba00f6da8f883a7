//! Tests of the half of all places that queues share that are not quick.

use std::collections::HashSet;

use super::{Fixture, RETRY, at, result, to_host, to_saved};
use crate::channels::Reach;
use crate::dispatcher::state::LOADED_MAX;
use crate::domain::{AppNo, DestinationId, Id, Outcome, PendingDelivery};

/// Number of destinations that do not answer.
const SILENT: u32 = 1_000;

/// Number of the quick destination.
const HEALTHY: u32 = SILENT;

/// Returns the delivery with this number to the saved destination with this number, each on a host of its own.
fn to_own_queue(number: u32, destination: u32) -> PendingDelivery {
    let mut delivery = to_saved(number, 0, None);
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&destination.to_be_bytes());
    delivery.destination.id = DestinationId(Id::from_bytes(bytes));
    delivery.destination.queue = delivery.destination.id.queue(delivery.app);
    if let Some(saved) = &mut delivery.destination.saved {
        saved.target = format!("1 https://h{destination}.example:443 saved");
    }
    delivery
}

/// Returns the delivery with this number to the inline destination with this number, each on a host of its own.
fn to_own_host(number: u32, destination: u32) -> PendingDelivery {
    to_host(number, &format!("h{destination}.example"))
}

/// Sends an event to the healthy destination, and succeeds at once.
fn deliver(f: &mut Fixture, to: fn(u32, u32) -> PendingDelivery, second: i64) {
    f.next += 1;
    let delivery = to(f.next, HEALTHY);
    f.dispatch(delivery.clone(), at(second));
    let sent = f.step(at(second));
    assert_eq!(sent.iter().map(|one| one.id).collect::<Vec<_>>(), [delivery.id], "at {second}");
    f.end(&sent[0], &result(Outcome::Ok, Reach::Answered), (second, second));
}

/// Events to a healthy destination are sent at once, however many others of its app do not answer.
fn assert_not_delayed(to: fn(u32, u32) -> PendingDelivery) {
    let mut f = Fixture::new();
    deliver(&mut f, to, 0);
    for _ in 0..5 {
        for destination in 0..SILENT {
            f.next += 1;
            f.dispatch(to(f.next, destination), at(1));
        }
    }
    let mut silent = f.step(at(1));
    assert_eq!(silent.len(), 224, "seven eighths of the half of 512 places");
    assert!(f.state.shares.total.loaded <= LOADED_MAX.0 / 2, "{}", f.state.shares.total.loaded);
    let mut seen = HashSet::new();
    for round in 0_i64..6 {
        let now = 1 + round * 20;
        for second in now..now + 20 {
            for _ in 0..100 {
                deliver(&mut f, to, second);
            }
        }
        seen.extend(silent.iter().map(|one| one.destination.queue.clone()));
        for one in &silent {
            f.end(one, &result(RETRY, Reach::NoAnswer), (now, now + 20));
        }
        silent = f.step(at(now + 20));
        assert_eq!(silent.len(), 224, "the next ones");
    }
    assert_eq!(seen.len(), SILENT as usize, "each has had its turn");
}

#[test]
fn a_thousand_silent_saved_destinations_delay_no_healthy_one() {
    assert_not_delayed(to_own_queue);
}

#[test]
fn a_thousand_silent_hosts_delay_no_healthy_one() {
    assert_not_delayed(to_own_host);
}

#[test]
fn a_destination_that_turns_slow_leaves_the_places_of_the_quick_ones() {
    let mut f = Fixture::new();
    for destination in 0..100 {
        f.next += 1;
        f.dispatch(to_own_queue(f.next, destination), at(0));
    }
    for one in f.step(at(0)) {
        f.end(&one, &result(Outcome::Ok, Reach::Answered), (0, 0));
    }
    for destination in (0..100).flat_map(|destination| [destination; 10]) {
        f.next += 1;
        f.dispatch(to_own_queue(f.next, destination), at(1));
    }
    let sent = f.step(at(1));
    assert_eq!(sent.len(), 448, "quick ones use everything that an app may use");
    // All but one turn slow. What is in flight counts for the half from then on, so no further attempt starts.
    let (one, slow) = sent.split_first().expect("many");
    let mut ended = HashSet::from([one.destination.queue.clone()]);
    for delivery in slow {
        if ended.insert(delivery.destination.queue.clone()) {
            f.end(delivery, &result(RETRY, Reach::NoAnswer), (1, 21));
        }
    }
    let quick = |delivery: &PendingDelivery| delivery.destination.queue == one.destination.queue;
    let next = f.step(at(21));
    assert!(next.iter().all(quick), "only the quick one");
    assert!(f.state.shares.total.other.in_flight > 224);
}

#[test]
fn a_manual_retry_does_not_wait_for_silent_saved_destinations() {
    let mut f = Fixture::new();
    for destination in 0..SILENT {
        f.next += 1;
        f.dispatch(to_own_queue(f.next, destination), at(0));
    }
    assert_eq!(f.step(at(0)).len(), 224);
    f.next += 1;
    f.dispatch(to_own_queue(f.next, HEALTHY), at(1));
    assert!(f.step(at(1)).is_empty(), "an untried one waits for its turn");
    let manual = PendingDelivery { manual: true, ..to_own_queue(5_000, HEALTHY + 1) };
    f.dispatch(manual.clone(), at(1));
    assert_eq!(f.step(at(1)).iter().map(|one| one.id).collect::<Vec<_>>(), [manual.id]);
    for number in 6_000..7_000 {
        f.dispatch(PendingDelivery { manual: true, ..to_own_queue(number, number) }, at(1));
    }
    f.step(at(1));
    assert_eq!(f.state.shares.total.other.in_flight, 384, "three quarters");
}

#[test]
fn a_manual_retry_is_loaded_beyond_the_half_of_the_loaded_deliveries() {
    let mut f = Fixture::new();
    for _ in 0..5 {
        for destination in 0..SILENT {
            f.next += 1;
            f.dispatch(to_own_queue(f.next, destination), at(0));
        }
    }
    f.step(at(0));
    f.next += 1;
    f.dispatch(to_own_queue(f.next, HEALTHY + 1), at(1));
    assert!(!f.state.may_load(AppNo(1), false), "the part of the app is loaded");
    let manual = PendingDelivery { manual: true, ..to_own_queue(5_000, HEALTHY) };
    f.dispatch(manual.clone(), at(1));
    assert_eq!(f.step(at(1)).iter().map(|one| one.id).collect::<Vec<_>>(), [manual.id]);
}
