//! The group of a watch, as a registration names it.

use std::time::Duration;

use super::Destination;

/// Number of watches that end for a group to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRule {
    /// As many as the size of the group.
    All,
    /// One.
    First,
    /// This number.
    Count(u32),
}

impl GroupRule {
    /// Returns the number for a group of this size.
    pub fn needed(self, size: u32) -> u32 {
        match self {
            Self::All => size,
            Self::First => 1,
            Self::Count(count) => count,
        }
    }

    /// Returns the stored form.
    pub fn to_text(self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::First => "first".to_owned(),
            Self::Count(count) => count.to_string(),
        }
    }

    /// Parses the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => Some(Self::All),
            "first" => Some(Self::First),
            _ => text.parse().ok().map(Self::Count),
        }
    }
}

/// The group of a watch, as a registration names it. Only the first registration of a group has to give its terms.
#[derive(Clone, Debug)]
pub struct GroupRequest {
    /// The client's id of the group.
    pub name: String,
    /// Number of watches that belong to it.
    pub size: Option<u32>,
    /// When it is completed.
    pub rule: Option<GroupRule>,
    /// Time until it expires.
    pub expires_in: Option<Duration>,
    /// Destinations of its event.
    pub notify: Option<Vec<Destination>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        for (rule, needed) in [(GroupRule::All, 7), (GroupRule::First, 1), (GroupRule::Count(3), 3)] {
            assert_eq!(GroupRule::parse(&rule.to_text()), Some(rule));
            assert_eq!(rule.needed(7), needed);
        }
        assert_eq!(GroupRule::parse("some"), None);
    }
}
