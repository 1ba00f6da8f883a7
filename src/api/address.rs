//! Addresses of destinations, as answers show them.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use crate::channels::{self, ShownAddress};
use crate::domain::ChannelKind;

/// A destination's address, in the field that belongs to its channel.
#[derive(Serialize, ToSchema)]
#[schema(as = Address)]
pub struct AddressView<'a> {
    /// The channel.
    r#type: ChannelKind,
    /// URL of a webhook, or the masked URL of a Slack webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    url: Option<Cow<'a, str>>,
    /// Mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    /// Slack channel, as `#ops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
}

impl<'a> AddressView<'a> {
    /// Shows an address.
    pub fn of(r#type: ChannelKind, address: &'a str) -> Self {
        let empty = Self { r#type, url: None, email: None, channel: None };
        match (channels::spec(r#type).show)(address) {
            ShownAddress::Url(url) => Self { url: Some(url), ..empty },
            ShownAddress::Email(email) => Self { email: Some(email), ..empty },
            ShownAddress::Channel(channel) => Self { channel: Some(channel), ..empty },
        }
    }
}
