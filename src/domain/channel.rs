//! Names of the notification channels, with the facts about them that the store needs.
//!
//! Everything else about a channel is in the channel table (`channels::TABLE`).

word_enum! {
    /// Name of a channel, such as `webhook`, `email` or `slack`. Later versions may add channels.
    open ChannelKind {
        /// A signed HTTP POST.
        Webhook = "webhook",
        /// An email.
        Email = "email",
        /// A message in Slack, or in a chat that accepts Slack's messages.
        Slack = "slack",
    }
}

/// What the store needs to know about a channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelTraits {
    /// Whether an address is a credential, because it alone permits sending to it. The store seals such
    /// addresses at rest.
    pub secret_address: bool,
    /// Whether the channel sends the payload form that the watch requests. Other channels render the event.
    pub payload_forms: bool,
}

impl ChannelKind {
    /// Returns the channel's traits.
    pub const fn traits(self) -> ChannelTraits {
        match self {
            Self::Webhook => ChannelTraits { secret_address: false, payload_forms: true },
            Self::Email => ChannelTraits { secret_address: false, payload_forms: false },
            Self::Slack => ChannelTraits { secret_address: true, payload_forms: false },
        }
    }
}
