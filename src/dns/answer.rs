//! The answer about a name, put together from the answers about its two address families.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use hickory_resolver::net::NetError;

use crate::clock::Clock;

/// Time for which a lookup waits for the other family after one has answered: the resolution delay of RFC 8305.
pub(super) const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// What the name servers say about the addresses of a name, of one family or of both.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The addresses; at least one.
    Addresses(Vec<IpAddr>),
    /// The name has no address.
    NoAddress,
    /// The name does not exist.
    NoName,
    /// There is no answer.
    Failed(NetError),
}

/// Returns the answer about a name from those about its families. It has the addresses of the family that answers
/// first, and those of the other one if they arrive within [`RESOLUTION_DELAY`].
pub(super) async fn of_both_families(
    clock: &Clock,
    v4: impl Future<Output = Answer>,
    v6: impl Future<Output = Answer>,
) -> Answer {
    match select(pin!(v4), pin!(v6)).await {
        Either::Left((v4, v6)) => {
            // A name without an A record may have addresses, but a name that does not exist has none.
            let is_enough = matches!(v4, Answer::Addresses(_) | Answer::NoName);
            let v6 = if is_enough { clock.timeout(RESOLUTION_DELAY, v6).await } else { Some(v6.await) };
            combined(v4, v6)
        }
        Either::Right((v6, v4)) => {
            let is_enough = matches!(v6, Answer::Addresses(_));
            let v4 = if is_enough { clock.timeout(RESOLUTION_DELAY, v4).await } else { Some(v4.await) };
            match v4 {
                Some(v4) => combined(v4, Some(v6)),
                None => v6,
            }
        }
    }
}

fn combined(v4: Answer, v6: Option<Answer>) -> Answer {
    match (v4, v6) {
        (Answer::Addresses(mut addresses), Some(Answer::Addresses(more))) => {
            addresses.extend(more);
            Answer::Addresses(addresses)
        }
        (found @ Answer::Addresses(_), _) | (_, Some(found @ Answer::Addresses(_))) => found,
        (Answer::NoName, _) => Answer::NoName,
        (failed @ Answer::Failed(_), _) | (_, Some(failed @ Answer::Failed(_))) => failed,
        (Answer::NoAddress, _) => Answer::NoAddress,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    type Part = BoxFuture<'static, Answer>;

    fn at_once(answer: Answer) -> Part {
        ready(answer).boxed()
    }

    /// An answer after the time for the other family has passed.
    fn late(clock: &ManualClock, answer: Answer) -> Part {
        let clock = Clock::Manual(clock.clone());
        async move {
            clock.deadline(RESOLUTION_DELAY * 2).await;
            answer
        }
        .boxed()
    }

    /// Returns the answer and the time that it took.
    async fn lookup(parts: impl FnOnce(&ManualClock) -> (Part, Part)) -> (String, Duration) {
        let manual = ManualClock::at(Timestamp::from_millis(0));
        let clock = Clock::Manual(manual.clone());
        let watch = clock.stopwatch();
        let (v4, v6) = parts(&manual);
        let mut work = pin!(of_both_families(&clock, v4, v6));
        loop {
            tokio::select! {
                biased;
                answer = &mut work => return (format!("{answer:?}"), watch.elapsed()),
                () = tokio::task::yield_now() => manual.advance(Duration::from_millis(10)),
            }
        }
    }

    // systemd/systemd#22575, golang/go#43398
    #[tokio::test]
    async fn a_family_that_does_not_answer_costs_fifty_milliseconds() {
        let v4 = || Answer::Addresses(vec!["192.0.2.1".parse().unwrap()]);
        let v6 = || Answer::Addresses(vec!["2001:db8::1".parse().unwrap()]);
        let silent = || pending().boxed();
        let both = "Addresses([192.0.2.1, 2001:db8::1])";
        let (only_v4, only_v6) = ("Addresses([192.0.2.1])", "Addresses([2001:db8::1])");
        let servfail = || Answer::Failed(NetError::Timeout);
        let of = |v4: Part, v6: Part| lookup(move |_| (v4, v6));
        let delay = RESOLUTION_DELAY;

        assert_eq!(of(at_once(v4()), at_once(v6())).await, (both.into(), Duration::ZERO));
        assert_eq!(of(at_once(v4()), silent()).await, (only_v4.into(), delay));
        assert_eq!(of(silent(), at_once(v6())).await, (only_v6.into(), delay));
        assert_eq!(of(at_once(Answer::NoName), silent()).await, ("NoName".into(), delay));
        // An answer that arrives later is not used.
        assert_eq!(lookup(|clock| (at_once(v4()), late(clock, v6()))).await, (only_v4.into(), delay));
        // These decide nothing, so the other family has all the time.
        for undecided in [Answer::NoAddress, Answer::NoName, servfail()] {
            let part = at_once(undecided.clone());
            assert_eq!(lookup(|clock| (late(clock, v4()), part)).await, (only_v4.into(), delay * 2));
        }
        for undecided in [Answer::NoAddress, servfail()] {
            let part = at_once(undecided.clone());
            assert_eq!(lookup(|clock| (part, late(clock, v6()))).await, (only_v6.into(), delay * 2));
        }
        assert_eq!(of(at_once(Answer::NoAddress), at_once(Answer::NoAddress)).await.0, "NoAddress");
        assert_eq!(of(at_once(Answer::NoAddress), at_once(servfail())).await.0, "Failed(Timeout)");
        assert_eq!(of(at_once(servfail()), at_once(Answer::NoName)).await.0, "Failed(Timeout)");
    }
}
