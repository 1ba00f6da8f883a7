//! What every tenant may read of a failed poll.

use crate::providers::PollFailure;

/// Longest code of a provider that is shown to every tenant, in bytes.
const CODE_SHOWN: usize = 64;

/// Describes an error to every tenant: the status and the code, but not the provider's sentence. The sentence is about
/// the job of one tenant and may quote it.
pub(super) fn public_error(
    failure: &PollFailure,
    http_status: Option<u16>,
    no_answer: Option<&str>,
    job_id: &str,
) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let names_job = |code: &str| code.to_lowercase().contains(&job_id.to_lowercase());
    let code = match failure {
        PollFailure::Unauthorized { code } => Some(code.as_str()),
        PollFailure::NotFound => Some("not_found"),
        PollFailure::NoCredential => Some("no_api_key"),
        PollFailure::Error
        | PollFailure::RateLimited
        | PollFailure::NotMade
        | PollFailure::Closed
        | PollFailure::Refused
        | PollFailure::TokenRefused => None,
    };
    let code = code.filter(|code| code.len() <= CODE_SHOWN && code.chars().all(is_word) && !names_job(code));
    match (http_status, code) {
        (Some(status), Some(code)) => format!("HTTP {status} {code}"),
        (Some(status), None) if (200..300).contains(&status) => {
            format!("HTTP {status}, but the answer cannot be read")
        }
        (Some(status), None) => format!("HTTP {status}"),
        (None, Some(code)) => code.to_owned(),
        (None, None) => no_answer.map_or_else(|| "no answer".into(), |kind| format!("no answer: {kind}")),
    }
}
