//! Exchanges with providers and token URLs.

use crate::egress::{Fetch, Method, SendError};
use crate::providers::{PollFailure, Request};

/// Returns the exchange that makes a request.
pub(super) fn fetch(request: Request) -> Fetch {
    let Request { method, url, headers, body, timeout, max_body, max_redirects, is_from_client, secrets: _ } =
        request;
    Fetch {
        method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET),
        body: body.into(),
        max_redirects,
        is_guarded: is_from_client,
        ..Fetch::new(url, &headers, timeout, max_body)
    }
}

/// Returns what a failed exchange means for a poll, and its kind.
pub(super) fn failure_of(error: &SendError) -> (PollFailure, &'static str) {
    let kind = match error {
        SendError::Refused(_) => "refused",
        SendError::Timeout(_) => "timeout",
        SendError::Connect(_) => "connect",
        SendError::Tls(_) => "tls",
        SendError::Protocol(_) => "protocol",
        SendError::Exhausted(_) => "exhausted",
        SendError::Resolver(_) => "resolver",
        SendError::TooLarge(_) => "too_large",
        SendError::Closed => "closed",
    };
    let failure = match error {
        error if error.is_ours() => PollFailure::NotMade,
        error if *error == SendError::Closed => PollFailure::Closed,
        _ => PollFailure::Error,
    };
    (failure, kind)
}
