//! What can be asked: the bodies of requests, for the document that describes the API.
//!
//! Nothing is ever of these types. A body is read field by field, so that every mistake is found and what
//! is to be kept stays as it was written; here stands what there is to be read. Tests compare the two.

#![expect(dead_code, reason = "they are documentation, in the form that the schemas are made from")]

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{AppId, ChannelKind, DestinationId, Payload, Scope, Timestamp};

/// A registration, as `register` reads it. Nothing but `jobId` and one way out (or
/// `"notify": []`) is needed.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Registration {
    /// The provider's; it must match the provider's pattern.
    #[schema(min_length = 1, example = "job_abc123def456")]
    job_id: String,
    /// Default: the only one that has a key, else `muvi`.
    provider: Option<String>,
    /// Where to: https, and a public address unless the operator allows it.
    #[schema(max_length = 2048)]
    callback_url: Option<String>,
    /// One address, or several.
    email: Option<OneOrMany>,
    /// A hook's URL, or a channel where a bot token is configured.
    #[schema(min_length = 1)]
    slack: Option<String>,
    /// Further destinations; `[]`, written out and alone, means: nothing is sent, I will ask.
    #[schema(max_items = 20)]
    notify: Option<Vec<Target>>,
    /// What is sent: types, `job.*` or `watch.*`. Default: every ending.
    #[schema(min_items = 1)]
    events: Option<Vec<String>>,
    /// The client's own object, of up to 4 KiB, given back byte for byte.
    #[schema(value_type = Option<Object>)]
    metadata: Option<()>,
    /// What else the provider's definition asks for.
    #[schema(value_type = Option<Object>)]
    params: Option<()>,
    /// `1s` to `30d`; default: the definition's deadline.
    #[schema(example = "24h")]
    expires_in: Option<String>,
    /// When the provider says that the job will be done: a hint.
    expected_at: Option<Timestamp>,
    /// `1s` to `24h`: the greatest gap between two looks.
    #[schema(example = "10s")]
    poll_interval: Option<String>,
    /// Default: `event`.
    payload: Option<Payload>,
}

/// A text, or several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// A destination: a URL, `mailto:` and an address, or an object.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Target {
    /// A URL, or `mailto:` and an address.
    Plain(String),
    /// With more to say.
    Object(TargetObject),
}

/// A destination that is written as an object.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetObject {
    /// `webhook`, `email` or `slack`; default: `webhook`.
    r#type: Option<ChannelKind>,
    /// Where to: a webhook's URL, or a Slack hook's.
    url: Option<String>,
    /// Whom to mail; `address` and `to` are the same.
    email: Option<String>,
    /// The same as `email`.
    address: Option<String>,
    /// The same as `email`.
    to: Option<String>,
    /// A channel in Slack, as `#ops`; `slack` is the same.
    channel: Option<String>,
    /// The same as `url` or `channel`, of Slack.
    slack: Option<String>,
    /// Further headers of a webhook.
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<()>,
    /// `whsec_` and the base64 of 24 to 64 bytes: signs in the app's secret's stead.
    secret: Option<String>,
    /// A saved destination, and nothing else.
    destination_id: Option<DestinationId>,
}

/// A batch, as `batch` reads it.
#[derive(ToSchema)]
pub struct Batch {
    /// Each is at most 256 KiB, and all together 8 MiB.
    #[schema(min_items = 1, max_items = 1000)]
    watches: Vec<Registration>,
}

/// A change, as `amend` reads it. At least one field is needed.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Amendment {
    /// From now on, `1s` to `30d`.
    #[schema(example = "48h")]
    expires_in: Option<String>,
    /// Further destinations; 20 in all.
    #[schema(min_items = 1, max_items = 20)]
    notify: Option<Vec<Target>>,
    /// In the old one's place; null is the empty object.
    #[schema(value_type = Option<Object>)]
    metadata: Option<()>,
}

/// Which deliveries to try again, as `deliveries` reads it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Retry {
    /// `failed`, and nothing else: what is pending is tried anyway.
    status: Failed,
    /// Of events from then on.
    since: Option<Timestamp>,
    /// Of events until then.
    until: Option<Timestamp>,
    /// To this destination.
    destination_id: Option<DestinationId>,
}

/// The one status that can be asked for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum Failed {
    Failed,
}

/// An app to be made, as `apps` reads it.
#[derive(ToSchema)]
pub struct NewApp {
    /// Printable, and no other app's.
    #[schema(min_length = 1, max_length = 64, example = "customer-7")]
    name: String,
}

/// A key to be made, as `keys` reads it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct NewKey {
    /// What people call it.
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
    /// What it may do.
    scope: Scope,
    /// For how long it is valid, `1s` to `3650d`; default: until it is revoked.
    #[schema(example = "90d")]
    expires_in: Option<String>,
    /// Or until when.
    expires_at: Option<Timestamp>,
    /// Whose it is; default: the caller's. Another than that is for admins of the first app.
    app_id: Option<AppId>,
}

/// How a signing secret is replaced, as `admin` reads it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Rotation {
    /// For how many seconds the one before signs, too.
    #[schema(minimum = 0, maximum = 2_592_000, default = 86400)]
    grace_seconds: Option<u32>,
}
