//! Notification channels: how a message reaches a destination, and what the response means.
//!
//! [`TABLE`] describes each channel in one row; nothing outside of the channel's own file depends on its
//! kind. A new channel needs a file with its row and its implementation of [`Channel`], a template, a row in
//! the table, and a variant of [`ChannelKind`] with its traits.
//!
//! This module does not know the database.

mod channel;
pub mod email;
mod hint;
pub mod slack;
mod template_context;
pub mod templates;
pub mod webhook;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

pub use channel::{
    AttemptResult, Channel, ChannelSetting, ChannelSpec, Message, Pacing, ParsedAddress, QueueScope, Reach,
    Services, SettingCheck, SettingValues, SettingsReport, Shorthand, ShownAddress, TokenUse, Transmission,
};

pub use hint::hint;

use crate::domain::{AddressError, AppNo, ChannelKind, Outcome, TlsPem};
use crate::egress::{ClientIdentity, InvalidIdentity, Target};
use channel::{short_hash, webhook_queue};
use templates::Templates;

/// The channel table, in the order of [`ChannelKind::ALL`].
pub static TABLE: [ChannelSpec; ChannelKind::ALL.len()] = [webhook::SPEC, email::SPEC, slack::SPEC];

/// Channel of a destination that does not name one.
pub const DEFAULT: ChannelKind = ChannelKind::Webhook;

/// Returns the row of a channel.
pub fn spec(kind: ChannelKind) -> &'static ChannelSpec {
    &TABLE[kind as usize]
}

/// Returns the channel and the address of a plain text in `notify`.
pub fn recognize(text: &str) -> (ChannelKind, Cow<'_, str>) {
    let found = TABLE.iter().find_map(|spec| Some((spec.kind, (spec.recognize)(text)?)));
    found.unwrap_or_else(|| (DEFAULT, text.into()))
}

/// Loads the templates of all channels, and those in `folder` that replace them. Returns every error in the
/// folder, with its file and line.
pub fn load_templates(folder: Option<&Path>) -> Result<Templates, Vec<String>> {
    let files: Vec<_> = TABLE.iter().flat_map(|spec| spec.templates).copied().collect();
    Templates::load(&files, folder)
}

impl ChannelSpec {
    /// Returns the name of the destination queue of an address. `target` is the checked URL, where the
    /// address is one.
    pub fn queue_name(&self, app: AppNo, address: &str, target: Option<&Target>) -> String {
        match self.queue {
            QueueScope::Url => webhook_queue(app, address, target),
            QueueScope::Address => format!("{} {} {}", app.0, self.kind, short_hash(address)),
            QueueScope::Server(name) => format!("{} {name}", app.0),
        }
    }
}

/// All channels, as they are configured.
#[derive(Debug)]
pub struct Channels {
    services: Services,
    /// In the order of [`TABLE`].
    channels: Vec<Box<dyn Channel>>,
}

impl Channels {
    /// Configures all channels.
    pub fn new(services: Services, settings: &SettingValues) -> Self {
        Self { services, channels: TABLE.iter().map(|spec| (spec.configure)(settings)).collect() }
    }

    /// Parses an address of a channel, and checks that it is permitted. The host of a URL is not checked. An address
    /// that another channel recognizes is refused: Slack's hooks, for example, accept no webhooks.
    pub fn parse_address(&self, kind: ChannelKind, text: &str) -> Result<ParsedAddress, AddressError> {
        if kind == DEFAULT
            && let (other, _) = recognize(text)
            && other != kind
        {
            let field = spec(other).address_fields[0];
            return Err(AddressError::Invalid(format!(
                "is an address of the channel {other}, which accepts no webhooks; give it with its type, as \
                 {{\"type\": \"{other}\", \"{field}\": \"…\"}}"
            )));
        }
        self.channels[kind as usize].parse_address(text)
    }

    /// Makes a TLS identity ready for connections.
    pub fn identity(&self, pem: &TlsPem) -> Result<Arc<ClientIdentity>, InvalidIdentity> {
        self.services.egress.identity(pem)
    }

    /// Makes one attempt.
    pub async fn send(&self, message: Message<'_>) -> AttemptResult {
        let channel = &self.channels[message.delivery.destination.channel as usize];
        let invalid = |reason| {
            AttemptResult::without_response(Outcome::Fatal, format!("invalid: {reason}"), Vec::new())
        };
        channel.send(&self.services, &message).await.unwrap_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_kind_in_order() {
        let kinds: Vec<_> = TABLE.iter().map(|spec| spec.kind).collect();
        assert_eq!(kinds, ChannelKind::ALL);
    }

    #[test]
    fn the_queue_of_an_address_does_not_reveal_it() {
        let queue = |address| spec(ChannelKind::Slack).queue_name(AppNo(1), address, None);
        assert_eq!(queue("#ops"), queue("#ops"));
        assert_ne!(queue("https://a.example/x"), queue("https://a.example/y"));
        assert!(!queue("https://a.example/hush").contains("hush"));
        assert_eq!(queue("#ops").len(), "1 slack ".len() + 16);
    }

    #[test]
    fn a_url_has_one_queue_whatever_its_query() {
        let queue = |address| spec(ChannelKind::Webhook).queue_name(AppNo(1), address, None);
        assert_eq!(queue("https://a.example/x?token=1"), queue("https://a.example/x?token=2#part"));
        assert_ne!(queue("https://a.example/x"), queue("https://a.example/y"));
        assert!(!queue("https://a.example/hush").contains("hush"));
    }
}
