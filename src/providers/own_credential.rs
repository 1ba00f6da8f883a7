//! An app's credential in place of the operator's key.
//!
//! The definition says how the key is sent, and the credential supplies it. **The hosts** that the definition, the
//! operator's settings, a registration and an answer together make are subject to one more list, the `sendTo` of the
//! credential ([`Auth::own_hosts`]). It holds for every request that has the credential or what is derived from it, a
//! request for a token included, and only https counts. A registration is refused if a host that is known then is
//! missing; what only an answer names is checked when it is requested.
//!
//! Where a definition has a wildcard and a client chooses the host below it, `providers.NAME.hosts` protects the
//! operator's key. An app protects its own key by `sendTo`, which takes the place of that setting.
//!
//! [`Auth::own_hosts`]: super::auth::Auth::own_hosts

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use super::auth::AuthForm;
use super::definition::{Definition, ResultForm, Target};
use super::host_pattern::HostPattern;
use super::request::{CredentialUse, Sources};
use crate::domain::{CredentialKind, CredentialSecret, Masked, Timestamp};

/// Number of copies of a credential that exist, with the token for which it is exchanged.
const CREDENTIAL_COPIES: usize = 4;

/// A definition for a credential of an app.
#[derive(Debug)]
pub struct OwnDefinition {
    /// The definition, which sends the key to the hosts of the credential only.
    pub definition: Arc<Definition>,
    /// The key that the credential supplies.
    pub key: Masked,
    /// Where the key is exchanged for a token, if it is.
    token_url: Option<Url>,
}

impl Definition {
    /// Returns the definition for a credential of an app. The error is the rest of a sentence about the credential,
    /// which does not repeat it.
    pub fn with_own_credential(&self, secret: &CredentialSecret) -> Result<OwnDefinition, String> {
        let mut definition = self.clone();
        let name = &self.name;
        let auth = definition.request.auth.as_mut();
        let auth = auth.ok_or_else(|| format!("has no use: {name} needs none; remove it"))?;
        let takes_pair = matches!(auth.form, AuthForm::Basic);
        match secret.kind {
            CredentialKind::Basic if !takes_pair => {
                let remedy = "use the kind key";
                return Err(format!("is of the kind basic, and {name} takes no user and password; {remedy}"));
            }
            CredentialKind::Bearer | CredentialKind::Header | CredentialKind::Query if takes_pair => {
                let kind = secret.kind;
                let remedy = "use the kind basic";
                return Err(format!(
                    "is of the kind {kind}, and {name} takes a user and a password; {remedy}"
                ));
            }
            CredentialKind::Bearer
            | CredentialKind::Header
            | CredentialKind::Basic
            | CredentialKind::Query
            | CredentialKind::Key => {}
        }
        let key = secret.value.as_str();
        auth.check(key).map_err(|why| format!("does not fit {name}: {why}"))?;
        let hosts = secret.send_to.iter().map(|host| HostPattern::parse(host));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        auth.operator_hosts.clone_from(&hosts);
        auth.own_hosts = Some(hosts);
        let token_url = if auth.needs_token(key) {
            Some(auth.token_request(key, None, Timestamp::from_millis(0))?.url)
        } else {
            None
        };
        Ok(OwnDefinition { definition: Arc::new(definition), key: Masked::new(key), token_url })
    }

    /// Returns whether the credential is an app's.
    pub fn has_own_credential(&self) -> bool {
        self.request.auth.as_ref().is_some_and(|auth| auth.own_hosts.is_some())
    }
}

impl OwnDefinition {
    /// Returns the memory that it takes while an app uses it, in KiB.
    pub fn own_kib(&self) -> u32 {
        let credential = (CREDENTIAL_COPIES * self.key.reveal().len()).div_ceil(1024);
        self.definition.own_kib() + u32::try_from(credential).unwrap_or(u32::MAX / 2)
    }

    /// Checks that the credential may be sent to every host that is known when a job is registered. The error is the
    /// rest of a sentence about the credential.
    pub fn check_requests(
        &self,
        (job_id, params): (&str, &str),
        base_url: Option<&Url>,
    ) -> Result<(), String> {
        let definition = &self.definition;
        let Some(auth) = &definition.request.auth else { return Ok(()) };
        let sources = Sources {
            job_id,
            params,
            values: &BTreeMap::new(),
            named: None,
            base_url,
            credential: CredentialUse::Kept,
            max_body: definition.meaning.max_body,
        };
        let mut urls = vec![definition.build(&definition.request, &sources)?.url];
        urls.extend(self.token_url.clone());
        let results = definition.meaning.results.iter().filter(|form| form.uses_credential);
        urls.extend(results.flat_map(|form| known_urls(form, base_url)));
        let Some(url) = urls.iter().find(|url| !auth.is_permitted_by_app(url)) else {
            // Whatever else the definition does not permit.
            return definition.shown_url(job_id, params, base_url).map(drop);
        };
        let name = &definition.name;
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Err(if url.scheme() == "https" {
            format!("would be sent to {host} by {name}; name a credential whose `sendTo` has {host}")
        } else {
            format!(
                "would be sent to {host} by plain http, because the operator has set that address for {name}; credentials \
                 of apps are sent by https only"
            )
        })
    }
}

/// Returns the addresses of a result that do not depend on an answer.
fn known_urls(form: &ResultForm, base_url: Option<&Url>) -> Vec<Url> {
    match (&form.request.target, base_url) {
        (_, Some(base)) if form.is_rebased => vec![base.clone()],
        (Target::Url(url), _) if url.host().is_none() => Url::parse(&url.origin()).into_iter().collect(),
        // With the operator's own address, an answer names that one.
        (Target::Answer, None) => {
            let exact = form.hosts.iter().filter(|host| host.is_exact());
            exact.filter_map(|host| Url::parse(&format!("https://{}/", host.example())).ok()).collect()
        }
        _ => Vec::new(),
    }
}
