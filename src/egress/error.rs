//! Errors of an exchange, in texts that can be shown to the user who gave the address.
//!
//! The texts of the HTTP client are not used: they contain the URL with its query. The errors reveal nothing about
//! forbidden addresses: no connection is made to them, so open, closed and absent ports cannot be distinguished.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::exhaustion::lacking;
use super::head_limit::NoHead;
use super::resolver::ResolveError;
use crate::tls::{self, Trust};

/// Maximum time to make a connection: resolving the name, TCP and TLS. It is part of the exchange's deadline.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason why there is no response. `Display` gives a word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The guard refuses the address.
    #[error("refused: {0}")]
    Refused(String),
    /// The deadline has passed.
    #[error("timeout: {0}")]
    Timeout(String),
    /// The connection could not be made.
    #[error("connect: {0}")]
    Connect(String),
    /// The peer's identity could not be verified.
    #[error("tls: {0}")]
    Tls(String),
    /// The response is not HTTP, or is incomplete.
    #[error("protocol: {0}")]
    Protocol(String),
    /// This process or its machine lacks something that a connection needs, such as a file descriptor. The peer has no
    /// part in it.
    #[error("shortage: {0}")]
    Exhausted(&'static str),
    /// The name servers of this machine do not answer. The peer has no part in it.
    #[error("resolver: {0}")]
    Resolver(String),
    /// The peer closed an unused connection while the request was on its way, and sent no byte of an answer.
    #[error("closed: the server closed the connection before it answered")]
    Closed,
    /// The decoded response is larger than this maximum, in bytes.
    #[error("too_large: the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl SendError {
    /// Returns whether the cause lies on this machine. Such an exchange says nothing about the peer: it is not an
    /// attempt, and does not count against a receiver or a provider.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Exhausted(_) | Self::Resolver(_))
    }

    /// Returns whether no connection was made: the name, TCP or TLS failed, or they took too long together.
    pub fn is_unconnected(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Tls(_)) || *self == Self::not_connected()
    }

    /// Returns the error of a connection attempt.
    pub(super) fn connecting(error: &io::Error) -> Self {
        Self::exhausted(error).unwrap_or_else(|| Self::Connect(error.kind().to_string()))
    }

    /// Returns the error of a connection that was in use, or `otherwise` if the cause does not lie on this machine.
    pub fn of_io(error: &io::Error, otherwise: Self) -> Self {
        Self::exhausted(error).unwrap_or(otherwise)
    }

    fn exhausted(error: &io::Error) -> Option<Self> {
        lacking(error).map(Self::Exhausted)
    }

    /// The exchange exceeded its deadline.
    pub fn timed_out(limit: Duration) -> Self {
        Self::Timeout(format!("no answer within {}", format_span(limit)))
    }

    pub(super) fn not_connected() -> Self {
        Self::Timeout(format!("no connection within {}", format_span(CONNECT_TIMEOUT)))
    }

    /// Classifies an error of a TLS handshake.
    pub(super) fn not_secure(error: &io::Error, trust: Trust) -> Self {
        // Without an error of TLS, the connection was closed.
        causes(error)
            .find_map(|cause| Self::by_cause(cause, trust))
            .unwrap_or_else(|| Self::Connect(closed_handshake(error.kind())))
    }

    /// Classifies an error of an exchange on a connection.
    pub(super) fn of_exchange(error: &hyper::Error) -> Self {
        let cut = || Self::Protocol("the connection was closed before the answer was complete".into());
        // The certificate of the server was verified in the handshake.
        causes(error).find_map(|cause| Self::by_cause(cause, Trust::Machine)).unwrap_or_else(cut)
    }

    /// Classifies an error of the command line's HTTP client by its causes.
    pub fn classify(error: &reqwest::Error) -> Self {
        if let Some(classified) = causes(error).find_map(|cause| Self::by_cause(cause, Trust::Machine)) {
            return classified;
        }
        if let Some(why) = causes(error).find_map(unresolved) {
            return Self::Connect(format!("the host name does not resolve: {why}"));
        }
        let is_cut = causes(error).any(<dyn Error>::is::<hyper::Error>);
        let network = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
        match network {
            _ if error.is_connect() && error.is_timeout() => Self::not_connected(),
            Some(network) if error.is_connect() => Self::connecting(network),
            None if error.is_connect() => Self::Connect("no connection could be made".into()),
            _ if error.is_decode() && !is_cut => Self::Protocol("the answer cannot be decoded".into()),
            _ => Self::Protocol("the connection was closed before the answer was complete".into()),
        }
    }

    /// Classifies an error by one of its causes; `None` if the cause does not decide.
    fn by_cause(cause: &(dyn Error + 'static), trust: Trust) -> Option<Self> {
        if let Some(unresolved) = cause.downcast_ref::<ResolveError>() {
            return Some(unresolved.clone().into());
        }
        if let Some(exhausted) = cause.downcast_ref().and_then(Self::exhausted) {
            return Some(exhausted);
        }
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return Some(Self::Tls(tls::explain(error, trust)));
        }
        if let Some(no_head) = cause.downcast_ref::<NoHead>() {
            return Some(Self::Protocol(no_head.to_string()));
        }
        if let Some(parse) = cause.downcast_ref::<hyper::Error>().filter(|error| error.is_parse()) {
            return Some(Self::Protocol(explain_parse(parse).into()));
        }
        // The type of these errors is private to the HTTP client.
        let why = match cause.to_string().strip_prefix("tunnel error: ")? {
            "proxy authorization required" => "the proxy requires another name or password",
            "unsuccessful" => "the proxy cannot connect to the destination",
            _ => return None,
        };
        Some(Self::Connect(why.into()))
    }
}

impl From<ResolveError> for SendError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Forbidden(why) => Self::Refused(why),
            ResolveError::Unknown(why) => Self::Connect(why),
            ResolveError::Exhausted(lacking) => Self::Exhausted(lacking),
            ResolveError::Unavailable(why) => Self::Resolver(why),
        }
    }
}

/// Returns what is wrong with an answer that cannot be parsed. The library names the part only in its text.
fn explain_parse(error: &hyper::Error) -> &'static str {
    let text = error.to_string();
    if error.is_parse_too_large() {
        "the answer is not HTTP, or its head has more than 64 KiB or 512 lines"
    } else if text.contains("content-length") {
        "the header content-length of the answer is not valid, or contradicts another one"
    } else if text.contains("transfer-encoding") {
        "the header transfer-encoding of the answer is not valid"
    } else {
        "the answer is not HTTP"
    }
}

/// Returns an error of a handshake that the server ended without an alert.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other errors say what is wrong")]
fn closed_handshake(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            "the server closed the connection in the TLS handshake; check that it speaks TLS on this port, TLS 1.2 or \
             1.3, and requires no client certificate"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Returns why the resolver of the machine does not know a name. The standard library has no kind for this error.
fn unresolved(error: &(dyn Error + 'static)) -> Option<String> {
    let text = error.downcast_ref::<io::Error>()?.to_string();
    text.strip_prefix("failed to lookup address information: ").map(str::to_owned)
}

/// Returns an error and its causes. `io::Error` does not return the error that it contains from `source`.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Formats a time span for people.
fn format_span(span: Duration) -> String {
    match span.as_millis() {
        millis if millis % 1_000 == 0 => format!("{} s", millis / 1_000),
        millis => format!("{millis} ms"),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    // Not `ADDRNOTAVAIL`: it depends on the free ports of this machine, which `exhaustion` tests with given counters.
    #[test]
    fn our_own_exhaustion_is_never_the_peers_error() {
        for (code, ours) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOMEM, true),
            (Errno::NOBUFS, true),
            (Errno::CONNREFUSED, false),
            (Errno::NETUNREACH, false),
        ] {
            let error = || io::Error::from(code);
            assert_eq!(SendError::connecting(&error()).is_ours(), ours, "{code:?}");
            let in_handshake = |error| SendError::not_secure(&error, Trust::Machine).is_ours();
            assert_eq!(in_handshake(error()), ours, "{code:?}");
            // As a library wraps it.
            assert_eq!(in_handshake(io::Error::other(error())), ours, "{code:?}");
        }
    }
}
