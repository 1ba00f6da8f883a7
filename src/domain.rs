//! The domain without I/O: ids, states, and pure decisions.
//!
//! The terms, the same everywhere:
//!
//! - A **job** belongs to a provider; Ringback never runs one.
//! - A **watch** is the order to notify destinations when a job ends.
//! - An **observation** is one parsed poll of a job.
//! - An **event** is one immutable fact about a watch.
//! - A **delivery** is one event on its way to one destination.
//! - An **attempt** is one try to send a delivery.
//!
//! This module imports no other module of the crate, and nothing in it reads a clock.

#[macro_use]
mod words;

mod access;
mod address;
mod app;
mod credential;
mod definition;
mod delivery;
mod event;
mod failure_streak;
mod feed_order;
mod group;
mod group_request;
mod id;
mod job;
mod job_cancel;
mod json_fields;
mod mail;
mod messages;
mod observe;
mod operation;
mod poll_source;
mod postgres_url;
mod progress;
mod provider;
mod saved_destination;
mod saved_queue;
mod secret_texts;
mod signing;
mod text;
mod time;
mod waiting;
mod watch;

pub use access::{Access, Auth, AuthKind, BasicAuth, ClientCredentials, NewTls, TlsPem, TlsSummary};
pub use address::{AddressError, is_host_name, parse_host_name};
pub use app::{App, AppNo, Masked, Scope, draw_private_key, per_app_limit};
pub use credential::{Credential, CredentialKind, CredentialSecret};
pub use definition::{DefinitionSummary, DefinitionVersion, Pace};
pub use delivery::{
    Attempt, AttemptKind, ChannelKind, ChannelTraits, Delivery, DeliveryStatus, Destination, DispatchPolicy,
    Finished, NextStep, NumberedAttempt, Outcome, Payload, PendingDelivery, Postponement, Reason,
    during_outage, next_attempt, while_unclear,
};
pub use event::{Event, EventList, EventSet, EventType};
pub use failure_streak::FailureStreak;
pub use feed_order::FeedOrder;
pub use group::{Group, GroupCounts, GroupNo, GroupStatus};
pub use group_request::{GroupRequest, GroupRule};
pub use id::{
    AppId, DeliveryId, DestinationId, EventId, Id, Ids, KeyId, OperationId, RequestId, WatchId, hash, random,
};
pub use job::{
    EndingKind, INLINE, JobError, JobName, JobNo, JobStatus, Observation, Output, PollStats, SHARDS,
    params_key,
};
pub use job_cancel::{CANCEL_PERIOD, CancelAttempt, CancelResult, CancelStatus, JobCancel, PendingCancel};
pub use json_fields::json_fields;
pub use mail::{MailAddress, MailPattern, Mailbox};
pub use messages::{Activity, CancelScope, DispatcherMessage, JobSnapshot, PollerMessage, SkipScope};
pub use observe::{Finding, Known, observe};
pub use operation::{Operation, OperationNo, OperationStatus};
pub use poll_source::{CredentialRef, DefinitionRef, NewPoll, OPERATOR_ACCOUNT, PollSource};
pub use postgres_url::{PostgresUrl, Verification};
pub use progress::{AppsApart, ProgressApps, ProgressRound, Reported};
pub use provider::{
    CredentialState, Limits, PollOutcome, PollPolicy, ProviderHealth, ProviderState, credential_variable,
};
pub use saved_destination::{
    DestinationHealth, DisabledReason, FAILING_AFTER, FAILING_ATTEMPTS, SavedAddress, SavedDestination,
    duration_bucket,
};
pub use saved_queue::{SavedNo, SavedQueue};
pub use secret_texts::{MASK, SecretTexts};
pub use signing::{KeyKind, SignatureForm, Signing};
pub use text::{
    CUT_PASSWORD, check_setting, check_value, decode, file_text, file_value, has_cut_password,
    hidden_in_name, is_hidden, shown, to_utf8, url_error,
};
pub use time::{
    Rate, TimeError, Timestamp, format_duration, format_rate, parse_any_duration, parse_duration,
    parse_http_date, parse_rate, parse_retry_after,
};
pub use waiting::{DeliveryWait, WaitReason, WaitingDelivery};
pub use watch::{LatestDelivery, NewWatch, Terms, TimelineEntry, Watch, WatchStatus};
pub(crate) use words::{json_string, word_enum};
pub use words::{nearest, similar};
