//! What an operation works on, and its text in the database.

use serde::{Deserialize, Serialize};

use super::super::db::{Result, StoreError};
use super::super::deliveries::DeliveryFilter;
use super::super::rows::to_json;
use super::super::watches::WatchFilter;
use crate::domain::{
    AppNo, ChannelKind, DeliveryStatus, DestinationId, EventType, Reason, SkipScope, Timestamp, WatchId,
    WatchStatus,
};

/// What an operation works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// It retries deliveries now.
    RetryDeliveries(DeliveryFilter),
    /// It stops watches.
    StopWatches(WatchFilter),
    /// It deletes what is left of an erased watch. No client sees the operation.
    EraseWatch(WatchId),
    /// It erases an app.
    EraseApp(AppNo),
    /// It skips deliveries of a watch. No client sees the operation.
    SkipDeliveries(WatchId, SkipScope),
}

/// A subject as it is stored. Fields that the kind does not have are left out.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Stored {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<DeliveryStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<EventType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<ChannelKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    watch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    watch_status: Option<WatchStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<i64>,
}

const RETRY_DELIVERIES: &str = "retry_deliveries";
const STOP_WATCHES: &str = "stop_watches";
pub(super) const ERASE_WATCH: &str = "erase_watch";
const ERASE_APP: &str = "erase_app";
const SKIP_DELIVERIES: &str = "skip_deliveries";
/// Kinds that no client sees.
pub(super) const HIDDEN: [&str; 2] = [ERASE_WATCH, SKIP_DELIVERIES];

const STOPPED: &str = "stopped";
const SUPERSEDED: &str = "superseded";
const GONE: &str = "gone";

impl Subject {
    /// Name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RetryDeliveries(_) => RETRY_DELIVERIES,
            Self::StopWatches(_) => STOP_WATCHES,
            Self::EraseWatch(_) => ERASE_WATCH,
            Self::EraseApp(_) => ERASE_APP,
            Self::SkipDeliveries(..) => SKIP_DELIVERIES,
        }
    }

    /// Returns whether no client sees the operation.
    pub fn is_hidden(&self) -> bool {
        HIDDEN.contains(&self.kind())
    }

    /// Returns its text.
    pub(super) fn to_text(&self) -> String {
        let stored = match self.clone() {
            Self::RetryDeliveries(filter) => {
                let DeliveryFilter { statuses, reason, event_type, channel, origin, .. } = filter;
                let DeliveryFilter { destination, watch, job_id, reference, since, until, before: _, .. } =
                    filter;
                Stored {
                    statuses,
                    reason,
                    event_type,
                    channel,
                    origin,
                    destination: destination.map(|id| id.to_string()),
                    watch: watch.map(|id| id.to_string()),
                    job_id,
                    reference,
                    since: since.map(Timestamp::millis),
                    until: until.map(Timestamp::millis),
                    ..Stored::default()
                }
            }
            Self::StopWatches(filter) => {
                let WatchFilter { status, provider, job_id, reference, group, before: _ } = filter;
                Stored { watch_status: status, provider, job_id, reference, group, ..Stored::default() }
            }
            Self::EraseWatch(watch) => Stored { watch: Some(watch.to_string()), ..Stored::default() },
            Self::EraseApp(app) => Stored { app: Some(app.0), ..Stored::default() },
            Self::SkipDeliveries(watch, scope) => {
                let (scope, n) = match scope {
                    SkipScope::Stopped => (STOPPED, None),
                    SkipScope::Superseded => (SUPERSEDED, None),
                    SkipScope::Gone(n) => (GONE, Some(n)),
                };
                let (watch, scope) = (Some(watch.to_string()), Some(scope.to_owned()));
                Stored { watch, scope, n, ..Stored::default() }
            }
        };
        to_json(&stored)
    }

    /// Reads its kind and its text.
    pub(super) fn read(kind: &str, text: &str) -> Result<Self> {
        let broken = || StoreError::Inconsistent("the subject of an operation cannot be read".to_owned());
        let stored: Stored = serde_json::from_str(text).map_err(|_| broken())?;
        let watch = stored.watch.map(|id| WatchId::parse(&id).ok_or_else(broken)).transpose()?;
        let destination = stored.destination.map(|id| DestinationId::parse(&id).ok_or_else(broken));
        Ok(match kind {
            RETRY_DELIVERIES => Self::RetryDeliveries(DeliveryFilter {
                statuses: stored.statuses,
                reason: stored.reason,
                event_type: stored.event_type,
                channel: stored.channel,
                origin: stored.origin,
                destination: destination.transpose()?,
                watch,
                job_id: stored.job_id,
                reference: stored.reference,
                since: stored.since.map(Timestamp::from_millis),
                until: stored.until.map(Timestamp::from_millis),
                before: None,
            }),
            STOP_WATCHES => Self::StopWatches(WatchFilter {
                status: stored.watch_status,
                provider: stored.provider,
                job_id: stored.job_id,
                reference: stored.reference,
                group: stored.group,
                before: None,
            }),
            ERASE_WATCH => Self::EraseWatch(watch.ok_or_else(broken)?),
            ERASE_APP => Self::EraseApp(AppNo(stored.app.ok_or_else(broken)?)),
            SKIP_DELIVERIES => {
                let scope = match (stored.scope.as_deref(), stored.n) {
                    (Some(STOPPED), None) => SkipScope::Stopped,
                    (Some(SUPERSEDED), None) => SkipScope::Superseded,
                    (Some(GONE), Some(n)) => SkipScope::Gone(n),
                    _ => return Err(broken()),
                };
                Self::SkipDeliveries(watch.ok_or_else(broken)?, scope)
            }
            _ => return Err(broken()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    #[test]
    fn a_subject_survives_its_text() {
        let at = Some(Timestamp::from_millis(1_771_426_800_000));
        let text = || Some("x \"y\"".to_owned());
        let deliveries = DeliveryFilter {
            statuses: vec![DeliveryStatus::Failed, DeliveryStatus::Pending],
            reason: Some(Reason::Gone),
            event_type: Some(EventType::JobFailed),
            channel: Some(ChannelKind::Slack),
            origin: Some("https://a.example:443".to_owned()),
            destination: Some(DestinationId(Id::from_bytes([1; 16]))),
            watch: Some(WatchId(Id::from_bytes([2; 16]))),
            job_id: text(),
            reference: text(),
            since: at,
            until: at,
            before: None,
        };
        let (status, provider) = (Some(WatchStatus::Watching), Some("muvi".to_owned()));
        let watches =
            WatchFilter { status, provider, job_id: text(), reference: text(), group: text(), before: None };
        for subject in [
            Subject::RetryDeliveries(deliveries),
            Subject::RetryDeliveries(DeliveryFilter::default()),
            Subject::StopWatches(watches),
            Subject::EraseWatch(WatchId(Id::from_bytes([3; 16]))),
            Subject::EraseApp(AppNo(7)),
            Subject::SkipDeliveries(WatchId(Id::from_bytes([4; 16])), SkipScope::Stopped),
            Subject::SkipDeliveries(WatchId(Id::from_bytes([5; 16])), SkipScope::Superseded),
            Subject::SkipDeliveries(WatchId(Id::from_bytes([6; 16])), SkipScope::Gone(3)),
        ] {
            let read = Subject::read(subject.kind(), &subject.to_text());
            assert_eq!(read.expect("read"), subject);
        }
        assert!(Subject::read("x", "{}").is_err() && Subject::read(ERASE_APP, "{}").is_err());
    }
}
