//! Attempts that start one after another and run side by side, so that one silent peer does not use up the time of
//! the others (RFC 8305, section 5).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpStream;

use crate::clock::Clock;

/// Time that an attempt has before the next one starts: the connection attempt delay of RFC 8305.
const HEAD_START: Duration = Duration::from_millis(250);

/// Returns the result of the first attempt that succeeds, or else the last error; `None` without an attempt. An attempt
/// starts when the one before has failed, or has run for `head_start`.
pub async fn staggered<T, E>(
    clock: &Clock,
    head_start: Duration,
    attempts: impl Iterator<Item: Future<Output = Result<T, E>>>,
) -> Result<T, Option<E>> {
    let mut attempts = attempts.peekable();
    let mut running = FuturesUnordered::new();
    let mut last = None;
    loop {
        match attempts.next() {
            Some(attempt) => running.push(attempt),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            biased;
            Some(result) = running.next() => match result {
                Ok(found) => return Ok(found),
                Err(error) => last = Some(error),
            },
            () = clock.deadline(head_start), if attempts.peek().is_some() => {}
        }
    }
}

/// Connects to the first of these addresses that accepts. Families alternate: if one of them leads nowhere, the second
/// attempt is in the other.
pub async fn dial(clock: &Clock, addresses: Vec<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let connect = |address| TcpStream::connect((address, port));
    let stream = staggered(clock, HEAD_START, alternating(addresses).into_iter().map(connect)).await;
    stream.map_err(|error| error.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

fn alternating(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut alternating = Vec::new();
    loop {
        let before = alternating.len();
        alternating.extend(first.next().into_iter().chain(second.next()));
        if alternating.len() == before {
            return alternating;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    type Attempt = BoxFuture<'static, Result<u32, &'static str>>;

    /// Returns the result and the time that it took.
    async fn run(attempts: Vec<Attempt>) -> (Result<u32, Option<&'static str>>, Duration) {
        let manual = ManualClock::at(Timestamp::from_millis(0));
        let clock = Clock::Manual(manual.clone());
        let watch = clock.stopwatch();
        let mut work = pin!(staggered(&clock, HEAD_START, attempts.into_iter()));
        loop {
            tokio::select! {
                biased;
                result = &mut work => return (result, watch.elapsed()),
                () = tokio::task::yield_now() => manual.advance(Duration::from_millis(10)),
            }
        }
    }

    #[tokio::test]
    async fn silent_addresses_do_not_use_up_the_time_of_the_next() {
        let silent = || pending().boxed() as Attempt;
        let done = |result: Result<u32, _>| ready(result).boxed() as Attempt;
        assert_eq!(run(vec![]).await, (Err(None), Duration::ZERO));
        assert_eq!(run(vec![done(Ok(1)), done(Ok(2))]).await, (Ok(1), Duration::ZERO));
        assert_eq!(run(vec![silent(), done(Ok(2))]).await, (Ok(2), HEAD_START));
        assert_eq!(run(vec![silent(), silent(), done(Ok(3))]).await, (Ok(3), HEAD_START * 2));
        // A failure starts the next attempt at once.
        assert_eq!(run(vec![done(Err("a")), done(Err("b")), done(Ok(3))]).await, (Ok(3), Duration::ZERO));
        assert_eq!(run(vec![done(Err("a")), done(Err("b"))]).await, (Err(Some("b")), Duration::ZERO));
        assert_eq!(run(vec![silent(), done(Err("b")), done(Ok(3))]).await, (Ok(3), HEAD_START));
    }

    #[test]
    fn address_families_alternate() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let given = list(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "::1", "::2"]);
        assert_eq!(alternating(given), list(&["10.0.0.1", "::1", "10.0.0.2", "::2", "10.0.0.3"]));
        assert_eq!(alternating(list(&["::1", "10.0.0.1"])), list(&["::1", "10.0.0.1"]));
        assert!(alternating(Vec::new()).is_empty());
    }
}
