//! Definitions of apps: what is stored of one besides its text.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Id, Limits, PollPolicy, Rate, Timestamp};

/// A version of an app's definition, without its text.
#[derive(Clone, Debug)]
pub struct DefinitionVersion {
    /// Id of this version.
    pub id: Id,
    /// The app's id of the definition.
    pub provider: String,
    /// Number of the version, from 1.
    pub version: u32,
    /// What lists show.
    pub summary: DefinitionSummary,
    /// Time at which it was stored.
    pub created_at: Timestamp,
}

/// What is known of a definition without reading its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefinitionSummary {
    /// Name for people.
    pub name: String,
    /// Whether its polls need a credential.
    pub needs_credential: bool,
    /// When and how fast its jobs are polled.
    pub pace: Pace,
}

/// When and how fast the jobs of a definition are polled, as it says. All spans are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pace {
    first: u64,
    min_interval: u64,
    max_interval: u64,
    deadline: u64,
    not_found_grace: u64,
    price: u64,
    spacing: Option<u64>,
    burst: u32,
    concurrency: u32,
}

impl Pace {
    /// Returns what a definition says.
    pub fn of(policy: &PollPolicy, limits: Limits) -> Self {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            first: ms(policy.first),
            min_interval: ms(policy.min_interval),
            max_interval: ms(policy.max_interval),
            deadline: ms(policy.deadline),
            not_found_grace: ms(policy.not_found_grace),
            price: ms(policy.price),
            spacing: limits.rate.spacing.map(ms),
            burst: limits.burst,
            concurrency: limits.concurrency,
        }
    }

    /// Returns the settings within those of the operator for jobs without a definition: a definition of an app polls no
    /// faster than its app could poll without one.
    pub fn within(&self, policy: &PollPolicy, limits: Limits) -> (PollPolicy, Limits) {
        let min_interval = Duration::from_millis(self.min_interval).max(policy.min_interval);
        let own = PollPolicy {
            first: Duration::from_millis(self.first),
            min_interval,
            max_interval: Duration::from_millis(self.max_interval).max(min_interval),
            deadline: Duration::from_millis(self.deadline),
            not_found_grace: Duration::from_millis(self.not_found_grace),
            price: Duration::from_millis(self.price),
        };
        let spacing = self.spacing.map(Duration::from_millis).max(limits.rate.spacing);
        let (burst, concurrency) = (self.burst.min(limits.burst), self.concurrency.min(limits.concurrency));
        (own, Limits { rate: Rate { spacing }, burst, concurrency })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_of_an_app_is_no_faster_than_the_operator_permits() {
        let seconds = Duration::from_secs;
        let policy =
            PollPolicy { min_interval: seconds(1), max_interval: seconds(60), ..PollPolicy::default() };
        let limits = |spacing, burst, concurrency| Limits { rate: Rate { spacing }, burst, concurrency };
        let operators = limits(Some(seconds(1)), 5, 4);
        let fast = PollPolicy {
            first: seconds(2),
            min_interval: Duration::from_millis(10),
            max_interval: Duration::from_millis(20),
            deadline: seconds(600),
            ..PollPolicy::default()
        };
        let (within, limited) = Pace::of(&fast, limits(None, 100, 100)).within(&policy, operators);
        assert_eq!((within.min_interval, within.max_interval, limited), (seconds(1), seconds(1), operators));
        assert_eq!((within.first, within.deadline), (fast.first, fast.deadline));
        let slow = PollPolicy { min_interval: seconds(9), max_interval: seconds(90), ..fast };
        let own = limits(Some(seconds(7)), 1, 1);
        assert_eq!(Pace::of(&slow, own).within(&policy, operators), (slow, own));
    }
}
