//! Tests with more destination queues than are kept in memory, of several apps and hosts.

use std::sync::Arc;

use super::{Fixture, RETRY, at, delivery, result};
use crate::channels::Reach;
use crate::dispatcher::state::{DispatchState, LOADED_MAX};
use crate::domain::{AppNo, DispatcherMessage, PendingDelivery};
use crate::store::DestinationQueues;

/// Maximum number of queues in these tests.
const MOST: usize = 1_000;

fn fixture() -> Fixture {
    Fixture { state: DispatchState { queues_max: MOST, ..DispatchState::new(512, 16) }, ..Fixture::new() }
}

/// Returns the name of the queue with this number of an app and a host.
fn queue(app: i64, host: &str, number: usize) -> String {
    format!("{app} https://{host}:443 {number:016x}")
}

/// Returns a delivery that waits for its retry, in the first queue of an app and a host.
fn retry(app: i64, host: &str) -> PendingDelivery {
    let mut retry = PendingDelivery { app: AppNo(app), step: 1, ..delivery(1_000_000, "url") };
    retry.destination.queue = queue(app, host, 0);
    retry
}

/// Reports that a queue has due deliveries in the store.
fn report(f: &mut Fixture, queue: String) {
    f.state.apply(DispatcherMessage::QueueChanged { queue, requested: Vec::new() }, at(12));
}

/// Opens the breaker of a host, whose probe is in flight. Then many of its URLs have due deliveries in the store.
fn hold_back(f: &mut Fixture, urls: usize) {
    for n in 0..6 {
        f.commit("down", at(n * 2));
        let [sent] = &f.step(at(n * 2 + n / 5))[..] else { panic!("one is sent") };
        if n < 5 {
            f.end(sent, &result(RETRY, Reach::NotConnected), (n * 2, n * 2));
        }
    }
    for number in 0..urls {
        report(f, queue(1, "a.example", number));
    }
    assert!(f.step(at(13)).is_empty(), "held back");
}

/// Returns how many queues of an app are known.
fn known(f: &Fixture, app: i64) -> usize {
    let prefix = format!("{app} ");
    f.state.queues.keys().filter(|name| name.starts_with(&prefix)).count()
}

#[test]
fn a_retry_is_made_at_its_time_whatever_is_held_back() {
    // Of another app, and of another host of the same app.
    for app in [2, 1] {
        let mut f = fixture();
        let retry = retry(app, "b.example");
        f.state.set_timer(&retry.destination.queue.as_str().into(), at(30));
        f.stored.push(retry.clone());
        hold_back(&mut f, MOST + 10);
        assert!(f.step(at(29)).is_empty());
        let sent = f.step(at(30));
        assert_eq!(sent.iter().map(|one| one.id).collect::<Vec<_>>(), [retry.id], "app {app}");
    }
}

#[test]
fn a_timer_of_an_app_is_kept_whatever_timers_another_has() {
    let mut f = fixture();
    let set = |f: &mut Fixture, queue: String, seconds| f.state.set_timer(&queue.into(), at(seconds));
    for number in 0..MOST {
        set(&mut f, queue(1, "a.example", number), 20);
    }
    set(&mut f, queue(2, "b.example", 0), 40);
    set(&mut f, queue(1, "b.example", 0), 40);
    assert!(f.state.timers.len() <= MOST);
    assert!(f.state.next().is_some_and(|at| at <= super::at(20)), "the others are searched");
    while f.state.timers.next().is_some_and(|time| time < at(40)) {
        f.state.timers.expire(at(39));
    }
    let left: Vec<_> = std::iter::from_fn(|| f.state.timers.expire(at(40))).collect();
    assert_eq!(left, [queue(1, "b.example", 0), queue(2, "b.example", 0)].map(Arc::<str>::from));
    assert!(f.state.take_search(at(20)));
}

#[test]
fn the_number_of_known_queues_is_limited() {
    let most = MOST + LOADED_MAX.0;
    for is_one_host in [true, false] {
        let mut f = fixture();
        for number in 0..most + MOST {
            let host = if is_one_host { "a.example".to_owned() } else { format!("h{number}.example") };
            let mut delivery = delivery(u32::try_from(number).expect("few"), "url");
            delivery.destination.queue = queue(1, &host, number);
            f.state.apply(DispatcherMessage::Dispatch(Box::new(delivery)), at(0));
        }
        assert!(f.state.queues.len() <= most && f.state.origins.len() <= most, "{}", f.state.queues.len());
        assert!(f.state.queues.len() > MOST / 2, "{}", f.state.queues.len());
        assert!(f.state.take_search(at(10)), "the others are searched");
    }
}

#[test]
fn the_apps_with_most_queues_give_way_to_the_others() {
    let mut f = fixture();
    for number in 0..50 {
        report(&mut f, queue(11, "k.example", number));
    }
    for app in 1..=10 {
        for number in 0..MOST / 5 {
            report(&mut f, queue(app, "a.example", number));
        }
    }
    for number in 0..50 {
        report(&mut f, queue(12, "l.example", number));
    }
    let counts: Vec<usize> = (1..=12).map(|app| known(&f, app)).collect();
    assert_eq!(counts[10..], [50, 50]);
    assert!(counts[..10].iter().all(|count| *count > MOST / 20), "{counts:?}");
    assert!(counts.iter().sum::<usize>() <= MOST);
}

#[test]
fn forgotten_queues_are_found_by_a_search_and_delivered() {
    let mut f = fixture();
    for number in 0..MOST + 10 {
        report(&mut f, queue(1, "a.example", number));
    }
    let count = f.state.with_more;
    assert!(count < MOST && count == known(&f, 1), "{count}");
    let names = (0..MOST).map(|number| queue(1, "a.example", number));
    let (kept, forgotten): (Vec<_>, Vec<_>) =
        names.partition(|name| f.state.queues.contains_key(name.as_str()));
    let mut retry = retry(1, "a.example");
    retry.destination.queue.clone_from(&forgotten[0]);
    f.stored.push(retry.clone());
    f.state.clock.advance(at(22));
    assert!(f.state.take_search(at(22)));
    let queues = kept.iter().chain(&forgotten[..50]).map(|name| (name.clone(), at(12))).collect();
    f.state.set_timers(DestinationQueues { queues, others_at: Some(at(40)) });
    assert_eq!(f.state.timers.len(), 50, "known queues need no timer");
    assert_eq!(f.state.next(), Some(at(12)));
    let sent = f.step(at(22));
    assert_eq!(sent.iter().map(|one| one.id).collect::<Vec<_>>(), [retry.id]);
    assert_eq!((f.state.with_more, f.state.timers.len()), (0, 0));
    assert_eq!(f.state.next(), Some(at(40)), "the search for the others");
}

#[test]
fn nothing_is_left_of_a_forgotten_queue() {
    for is_one_host in [true, false] {
        let mut f = fixture();
        for number in 0..MOST + 10 {
            let host = if is_one_host { "a.example".to_owned() } else { format!("h{number}.example") };
            report(&mut f, queue(1, &host, number));
        }
        let known = f.state.queues.len();
        assert!(known < MOST && known == f.state.with_more, "{known}");
        assert_eq!(f.state.origins.len(), if is_one_host { 1 } else { known });
        let loadable = &mut f.state.loadable;
        assert_eq!(std::iter::from_fn(|| loadable.pop(|_, _| true)).count(), f.state.origins.len());
        let listed = f.state.origins.values_mut().map(|origin| origin.loadable.drain().len());
        assert_eq!(listed.sum::<usize>(), known);
    }
}
