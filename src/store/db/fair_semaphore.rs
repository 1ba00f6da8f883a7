//! A semaphore whose waiters take turns by app.
//!
//! A plain semaphore serves its waiters in the order of their arrival: an app that queues forty slow requests delays
//! every request behind them. Here, each app has a queue of its own, and a free permit goes to the next app in turn.
//! A request therefore waits for at most one permit of each other app, however many requests these have queued.
//!
//! **No permit is lost.** A permit is sent to its waiter as a value that returns itself when it is dropped. If the
//! waiter was cancelled before, the permit goes to the next one; if it is cancelled afterwards, the unread permit is
//! dropped with the channel.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::AppNo;

/// A semaphore whose waiters take turns by app.
#[derive(Debug)]
pub struct FairSemaphore {
    state: Mutex<State>,
    /// Maximum number of permits of one app.
    per_app: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    in_use: HashMap<AppNo, usize>,
    /// The apps that wait, in the order of their turns.
    turns: VecDeque<AppNo>,
    waiting: HashMap<AppNo, VecDeque<oneshot::Sender<FairPermit>>>,
}

/// The right to do one piece of work, until it is dropped.
#[derive(Debug)]
pub struct FairPermit {
    /// `None` for a permit that was not taken by its waiter.
    semaphore: Option<Arc<FairSemaphore>>,
    app: AppNo,
}

impl FairSemaphore {
    /// Creates a semaphore with this many permits, of which one app uses at most `per_app`.
    pub fn new(permits: usize, per_app: usize) -> Arc<Self> {
        let (in_use, waiting) = (HashMap::new(), HashMap::new());
        let state = State { free: permits, in_use, turns: VecDeque::new(), waiting };
        Arc::new(Self { state: Mutex::new(state), per_app })
    }

    /// Waits for a permit.
    pub async fn acquire(self: &Arc<Self>, app: AppNo) -> FairPermit {
        let taken = || FairPermit { semaphore: Some(Arc::clone(self)), app };
        let waiter = {
            let mut state = self.lock();
            // While a permit is free, only apps wait that use all that they may.
            if state.free > 0 && state.in_use(app) < self.per_app {
                state.take(app);
                return taken();
            }
            let (sender, waiter) = oneshot::channel();
            let queue = state.waiting.entry(app).or_default();
            queue.push_back(sender);
            if queue.len() == 1 {
                state.turns.push_back(app);
            }
            waiter
        };
        // A waiter leaves the queue with a permit only, and the queue lives as long as `self`.
        waiter.await.unwrap_or_else(|_| FairPermit { semaphore: None, app })
    }

    /// Gives the free permits to the waiters whose turn it is.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let (app, waiter) = {
                let mut state = self.lock();
                let Some((app, waiter)) = state.next(self.per_app) else { return };
                state.take(app);
                (app, waiter)
            };
            let permit = FairPermit { semaphore: Some(Arc::clone(self)), app };
            if let Err(mut refused) = waiter.send(permit) {
                refused.semaphore = None;
                self.lock().give_back(app);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn in_use(&self, app: AppNo) -> usize {
        self.in_use.get(&app).copied().unwrap_or_default()
    }

    fn take(&mut self, app: AppNo) {
        self.free -= 1;
        *self.in_use.entry(app).or_default() += 1;
    }

    fn give_back(&mut self, app: AppNo) {
        self.free += 1;
        if let Some(in_use) = self.in_use.get_mut(&app) {
            *in_use -= 1;
            if *in_use == 0 {
                self.in_use.remove(&app);
            }
        }
    }

    /// Takes the next waiter that may have a free permit out of its queue.
    fn next(&mut self, per_app: usize) -> Option<(AppNo, oneshot::Sender<FairPermit>)> {
        if self.free == 0 {
            return None;
        }
        let turn = self.turns.iter().position(|app| self.in_use(*app) < per_app)?;
        let app = self.turns.remove(turn)?;
        let queue = self.waiting.get_mut(&app)?;
        let waiter = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&app);
        } else {
            self.turns.push_back(app);
        }
        waiter.map(|waiter| (app, waiter))
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        if let Some(semaphore) = self.semaphore.take() {
            semaphore.lock().give_back(self.app);
            semaphore.hand_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn waiters_take_turns_by_app() {
        let semaphore = FairSemaphore::new(1, 1);
        let permit = semaphore.acquire(AppNo(9)).await;
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        // The first app queues three before the second and the third queue one each.
        for app in [1, 1, 1, 2, 3, 1] {
            let (semaphore, done) = (Arc::clone(&semaphore), done.clone());
            tokio::spawn(async move {
                let permit = semaphore.acquire(AppNo(app)).await;
                done.send(app).expect("a test");
                drop(permit);
            });
            tokio::task::yield_now().await;
        }
        drop((permit, done));
        let mut served = Vec::new();
        while let Some(app) = order.recv().await {
            served.push(app);
        }
        assert_eq!(served, [1, 2, 3, 1, 1, 1]);
    }

    #[tokio::test]
    async fn an_app_uses_no_more_than_its_part_and_others_the_rest() {
        let semaphore = FairSemaphore::new(4, 2);
        let mut mine = vec![semaphore.acquire(AppNo(1)).await, semaphore.acquire(AppNo(1)).await];
        let mut third = Box::pin(semaphore.acquire(AppNo(1)));
        assert!((&mut third).now_or_never().is_none());
        let other = semaphore.acquire(AppNo(2)).now_or_never().expect("a permit is free");
        mine.pop();
        let third = third.now_or_never().expect("the permit that was returned");
        drop((mine, third, other));
        let state = semaphore.lock();
        assert_eq!((state.free, state.in_use.len()), (4, 0));
    }

    #[tokio::test]
    async fn the_permit_of_a_cancelled_waiter_goes_to_the_next() {
        let semaphore = FairSemaphore::new(1, 1);
        let permit = semaphore.acquire(AppNo(1)).await;
        let mut waiters: Vec<_> = (0..1000).map(|_| Box::pin(semaphore.acquire(AppNo(1)))).collect();
        for waiter in &mut waiters {
            assert!(waiter.as_mut().now_or_never().is_none());
        }
        let last = waiters.pop().expect("a waiter");
        // One is cancelled after it has received its permit, all others before.
        let unread = waiters.remove(0);
        drop((waiters, permit));
        drop(unread);
        drop(last.now_or_never().expect("the permit"));
        let state = semaphore.lock();
        assert_eq!((state.free, state.turns.len(), state.waiting.len()), (1, 0, 0));
    }
}
