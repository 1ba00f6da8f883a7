//! Reasons why a destination's address is refused.

/// Reason why the address of a destination is refused. The text is a sentence without its subject, for the
/// client that gave the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It cannot be an address of this channel.
    #[error("{0}")]
    Invalid(String),
    /// Callbacks must not reach it.
    #[error("{0}")]
    Forbidden(String),
    /// The operator does not allow it as a recipient.
    #[error("{0}")]
    NotAllowed(String),
    /// The operator has not configured the channel.
    #[error("{0}")]
    NotConfigured(String),
}
