//! How a definition requests a job.

use std::time::Duration;

use url::Url;

use super::template::{Template, UrlTemplate};

/// The parts of a request, before the values of the parameters are known.
#[derive(Clone, Debug)]
pub(super) struct RequestForm {
    pub(super) url: UrlTemplate,
    pub(super) query: Vec<(String, Template)>,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) timeout: Duration,
    pub(super) max_body: usize,
    pub(super) auth: Option<Auth>,
}

/// How to send the credential, and to which hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Auth {
    pub(super) header: String,
    pub(super) prefix: String,
    pub(super) send_to: Vec<(String, u16)>,
}

impl Auth {
    /// Returns whether the credential may be sent to the host and port of `url`. It requires https.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        url.scheme() == "https" && authority(url).is_some_and(|there| self.send_to.contains(&there))
    }
}

/// Returns the host and port of `url`.
pub(super) fn authority(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}
