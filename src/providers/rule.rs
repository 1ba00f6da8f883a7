//! Rules: conditions on an answer, and what it then means.

use super::condition::Condition;
use super::extract::Extract;
use super::field::{Outcome, Scope};

/// What an answer means if the conditions hold.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) when: When,
    pub(super) verdict: Verdict,
    /// The status that is shown, instead of that of the answer.
    pub(super) raw_status: Option<String>,
    /// Error code, if the answer has none.
    pub(super) code: Option<String>,
    /// Error message, if the answer has none.
    pub(super) explain: Option<String>,
}

/// The conditions of a rule.
#[derive(Clone, Debug)]
pub(super) struct When {
    pub(super) http: Vec<HttpRange>,
    /// All of them hold.
    pub(super) all: Vec<Condition>,
    /// If there are any, at least one of them holds.
    pub(super) any: Vec<Condition>,
}

impl When {
    /// Returns whether the conditions hold for an answer.
    pub(super) fn holds(&self, scope: Scope<'_>) -> bool {
        (self.http.is_empty() || self.http.iter().any(|range| range.contains(scope.head.status)))
            && self.all.iter().all(|condition| condition.holds(scope))
            && (self.any.is_empty() || self.any.iter().any(|condition| condition.holds(scope)))
    }

    /// Returns whether a condition is about the body.
    pub(super) fn reads_body(&self) -> bool {
        self.all.iter().chain(&self.any).any(Condition::reads_body)
    }

    /// Limits the number of bytes in which each condition searches its pattern.
    pub(super) fn limit_searches(&mut self, most: usize) {
        for condition in self.all.iter_mut().chain(&mut self.any) {
            condition.most_searched = most;
        }
    }
}

/// What a rule decides.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The answer is about the job. The fields are read as the rule says.
    Job(Outcome, Box<Extract>),
    /// The answer is about the poll.
    Poll(PollVerdict),
}

/// What an answer says about the poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollVerdict {
    NotFound,
    Unauthorized,
    RateLimited,
    Error,
    /// A good answer without news.
    NotYet,
}

/// HTTP statuses from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HttpRange {
    first: u16,
    last: u16,
}

impl HttpRange {
    /// Parses `404` or `4xx`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let range = if let Some(class) = text.strip_suffix("xx") {
            let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
            Self { first: class * 100, last: class * 100 + 99 }
        } else {
            let status = text.parse().ok()?;
            Self { first: status, last: status }
        };
        (100..=599).contains(&range.first).then_some(range)
    }

    /// Returns whether the range contains a status.
    pub(super) fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl Rule {
    /// Returns the fields that are read if the rule is about the job.
    pub(super) fn extract(&self) -> Option<&Extract> {
        if let Verdict::Job(_, extract) = &self.verdict { Some(extract) } else { None }
    }

    /// Returns whether the rule decides an answer. A rule about the job needs a readable body: a truncated one must not
    /// end it. The body of a redirect describes no job, and is often HTML.
    pub(super) fn applies(&self, scope: Scope<'_>, is_readable: bool) -> bool {
        let is_redirect = (300..400).contains(&scope.head.status);
        (is_readable || is_redirect || matches!(self.verdict, Verdict::Poll(_))) && self.when.holds(scope)
    }
}
