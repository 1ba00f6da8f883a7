//! Ways out that take less than they could be sent: a chat takes a message a second and may ask for more
//! patience; the mail server takes a few mails at a time, whosever they are.
//!
//! A chat's pace is the chat's, whoever writes to it: where several apps have the same hook, their lanes
//! take turns.
//!
//! A lane that is turned away at the gate is kept here and given back when its time has come, so nobody
//! asks again and again. What is kept here are plans only: after a restart the gates are open. It holds
//! for one process: nodes that share a database have a gate each, and a job, with all its watches, has one
//! node.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::channels::email::MAILS_AT_ONCE;
use crate::channels::slack::PACE;
use crate::domain::{ChannelKind, Timestamp};

/// The longest that a chat's `Retry-After` closes its lane. Its delivery waits as long as was asked for;
/// the others may learn before that whether it still holds.
const SHUT_MAX: Duration = Duration::from_secs(3600);

/// What holds lanes back.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// Chats that take nothing yet; and when they do again.
    shut: HashMap<Arc<str>, Shut>,
    timers: BTreeSet<(Timestamp, Arc<str>)>,
    /// Mails in flight, and the lanes that wait for one of them to land, in turns.
    mails: usize,
    waiting: VecDeque<Arc<str>>,
    waits: HashSet<Arc<str>>,
    /// When it was last asked: to notice a clock that was set back.
    asked: Timestamp,
}

/// A chat that takes nothing yet.
#[derive(Debug)]
struct Shut {
    until: Timestamp,
    /// The lanes that wait for that, in turns.
    lanes: Vec<Arc<str>>,
}

/// A chat is named by its lane, without the app that comes first there.
fn chat(lane: &str) -> &str {
    lane.split_once(' ').map_or(lane, |(_app, chat)| chat)
}

impl Pacing {
    /// Whether a lane may send now by this channel. If so, it counts as sent; if not, the lane is given
    /// back by [`Self::open`] or [`Self::landed`].
    pub(super) fn admit(&mut self, lane: &Arc<str>, channel: ChannelKind, now: Timestamp) -> bool {
        match channel {
            ChannelKind::Webhook => true,
            ChannelKind::Slack => match self.shut.get_mut(chat(lane)) {
                Some(shut) if shut.until > now => {
                    if !shut.lanes.contains(lane) {
                        shut.lanes.push(Arc::clone(lane));
                    }
                    false
                }
                Some(_) | None => {
                    self.shut(chat(lane), now.plus(PACE));
                    true
                }
            },
            ChannelKind::Email if self.mails < MAILS_AT_ONCE => {
                self.mails += 1;
                true
            }
            ChannelKind::Email => {
                if self.waits.insert(Arc::clone(lane)) {
                    self.waiting.push_back(Arc::clone(lane));
                }
                false
            }
        }
    }

    /// A send by this channel has landed; the answer is the lanes that waited for that, in turns. All of
    /// them: the first may have nothing to send any more.
    pub(super) fn landed(&mut self, channel: ChannelKind) -> Vec<Arc<str>> {
        match channel {
            ChannelKind::Webhook | ChannelKind::Slack => Vec::new(),
            ChannelKind::Email => {
                self.mails -= 1;
                self.waits.clear();
                self.waiting.drain(..).collect()
            }
        }
    }

    /// A chat asked for patience.
    pub(super) fn park(&mut self, lane: &str, span: Duration, now: Timestamp) {
        let until = now.plus(span.min(SHUT_MAX));
        if self.shut.get(chat(lane)).is_none_or(|known| known.until < until) {
            self.shut(chat(lane), until);
        }
    }

    /// The lanes that waited for a chat whose time has come.
    pub(super) fn open(&mut self, now: Timestamp) -> Vec<Arc<str>> {
        // Against a clock that was set back nothing is waited for.
        let until = if now < self.asked { Timestamp::MAX } else { now };
        self.asked = now;
        let mut open = Vec::new();
        while self.timers.first().is_some_and(|(at, _)| *at <= until) {
            let Some((_, chat)) = self.timers.pop_first() else { break };
            open.extend(self.shut.remove(&chat).into_iter().flat_map(|shut| shut.lanes));
        }
        open
    }

    /// When the next chat's time comes.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn shut(&mut self, chat: &str, until: Timestamp) {
        let chat: Arc<str> = chat.into();
        let shut = self.shut.entry(Arc::clone(&chat)).or_insert(Shut { until, lanes: Vec::new() });
        self.timers.remove(&(shut.until, Arc::clone(&chat)));
        shut.until = until;
        self.timers.insert((until, chat));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn lane(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_chat_gets_a_message_a_second_and_another_one_does_not_wait_for_it() {
        let (mut gate, ops, dev) = (Pacing::default(), lane("1 slack ops"), lane("1 slack dev"));
        let admit = |gate: &mut Pacing, lane, millis| gate.admit(lane, ChannelKind::Slack, at(millis));
        assert!(admit(&mut gate, &ops, 0) && admit(&mut gate, &dev, 400));
        assert!(!admit(&mut gate, &ops, 999));
        assert_eq!((gate.next(), gate.open(at(999))), (Some(at(1_000)), vec![]));
        assert_eq!(gate.open(at(1_000)), [Arc::clone(&ops)]);
        assert!(admit(&mut gate, &ops, 1_000));
        assert_eq!(gate.open(at(5_000)), [] as [Arc<str>; 0], "nobody waited");
        assert_eq!((gate.next(), gate.shut.len()), (None, 0));
    }

    #[test]
    fn a_chat_that_two_apps_write_to_gets_a_message_a_second_all_the_same_and_they_take_turns() {
        let (mut gate, one, two) = (Pacing::default(), lane("1 slack ops"), lane("2 slack ops"));
        let admit = |gate: &mut Pacing, lane, millis| gate.admit(lane, ChannelKind::Slack, at(millis));
        assert!(admit(&mut gate, &one, 0));
        assert!(!admit(&mut gate, &two, 0) && !admit(&mut gate, &one, 0) && !admit(&mut gate, &two, 500));
        assert_eq!(gate.open(at(1_000)), [Arc::clone(&two), Arc::clone(&one)]);
        assert!(admit(&mut gate, &two, 1_000) && !admit(&mut gate, &one, 1_000));
        // One is asked for patience, and the other heeds it.
        gate.park(&two, Duration::from_secs(30), at(1_100));
        assert_eq!(gate.open(at(2_000)), [] as [Arc<str>; 0]);
        assert_eq!(gate.open(at(31_100)), [one]);
    }

    #[test]
    fn whoever_asks_for_patience_gets_it_for_an_hour_at_most() {
        let (mut gate, ops) = (Pacing::default(), lane("1 slack ops"));
        assert!(gate.admit(&ops, ChannelKind::Slack, at(0)));
        assert!(!gate.admit(&ops, ChannelKind::Slack, at(50)));
        gate.park(&ops, Duration::from_secs(30), at(100));
        assert_eq!(gate.open(at(1_000)), [] as [Arc<str>; 0]);
        assert!(!gate.admit(&ops, ChannelKind::Slack, at(30_099)));
        assert_eq!(gate.open(at(30_100)), [Arc::clone(&ops)]);
        gate.park(&ops, Duration::from_secs(1 << 30), at(30_100));
        assert_eq!(gate.next(), Some(at(3_630_100)));
        // Less patience than it has is none.
        gate.park(&ops, Duration::from_secs(1), at(30_100));
        assert_eq!(gate.next(), Some(at(3_630_100)));
    }

    #[test]
    fn a_clock_that_is_set_back_shuts_nothing() {
        let (mut gate, ops) = (Pacing::default(), lane("1 slack ops"));
        gate.open(at(10_000_000));
        assert!(gate.admit(&ops, ChannelKind::Slack, at(10_000_000)));
        assert!(!gate.admit(&ops, ChannelKind::Slack, at(10_000_000)));
        assert_eq!(gate.open(at(1_000)), [Arc::clone(&ops)]);
        assert!(gate.admit(&ops, ChannelKind::Slack, at(1_000)));
    }

    #[test]
    fn a_few_mails_are_under_way_and_tenants_take_turns() {
        let (mut gate, one, two) = (Pacing::default(), lane("1 smtp"), lane("2 smtp"));
        for _ in 0..MAILS_AT_ONCE {
            assert!(gate.admit(&one, ChannelKind::Email, at(0)));
        }
        for lane in [&one, &one, &two] {
            assert!(!gate.admit(lane, ChannelKind::Email, at(0)));
        }
        assert_eq!(gate.landed(ChannelKind::Email), [Arc::clone(&one), Arc::clone(&two)]);
        assert!(gate.admit(&one, ChannelKind::Email, at(0)));
        for lane in [&two, &one] {
            assert!(!gate.admit(lane, ChannelKind::Email, at(0)));
        }
        assert_eq!(gate.landed(ChannelKind::Email), [two, one]);
        assert_eq!(gate.landed(ChannelKind::Email), [] as [Arc<str>; 0]);
        assert!(gate.admit(&lane("a webhook's"), ChannelKind::Webhook, at(0)));
    }
}
