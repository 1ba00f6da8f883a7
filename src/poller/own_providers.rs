//! The providers of jobs with a credential of an app.
//!
//! Such a provider is made of the operator's definition and settings, and the credential. It is kept, because it holds the
//! token for which a credential is exchanged: a new one for each poll would request a token for each poll. All jobs with
//! the same account share one. The secret is read from the store when a job first needs it, so a million jobs do not hold
//! a million copies.
//!
//! **At most [`KEPT`] are kept.** The one that was used least recently gives way, and is made again when it is needed. Its
//! token is then requested again, and a refresh token that the provider had replaced is lost, as at a restart.
//!
//! **A credential that was deleted** is never used: the message about a job says that it is missing (`store/job_polls`), and
//! a credential that a running watch uses cannot be deleted. Nothing about a kept provider can become wrong: a credential
//! and the operator's settings do not change while the process runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::provider::Provider;
use crate::domain::{CredentialSecret, DefinitionPoll};
use crate::providers::OwnDefinition;
use crate::store::{Store, StoreError};

/// Number of providers that are kept. Each has the copy of a definition, of some ten KiB.
const KEPT: usize = 512;

/// Reason why a job cannot be polled.
#[derive(Debug)]
pub enum NoProvider {
    /// What is stored does not permit it: a sentence.
    Unusable(String),
    /// The store cannot be read now.
    Store(StoreError),
}

/// The providers that are kept.
#[derive(Debug, Default)]
pub struct OwnProviders(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Providers by account, each with the number of its last use.
    of: HashMap<String, (Arc<Provider>, u64)>,
    uses: u64,
}

impl Kept {
    fn get(&mut self, account: &str) -> Option<Arc<Provider>> {
        let (provider, used) = self.of.get_mut(account)?;
        self.uses += 1;
        *used = self.uses;
        Some(Arc::clone(provider))
    }

    /// Keeps a provider, unless another poll has made it meanwhile. Returns the one that is kept.
    fn keep(&mut self, account: &str, made: Arc<Provider>) -> Arc<Provider> {
        if let Some(known) = self.get(account) {
            return known;
        }
        if self.of.len() >= KEPT {
            let oldest =
                self.of.iter().min_by_key(|(_, (_, used))| *used).map(|(account, _)| account.clone());
            oldest.and_then(|oldest| self.of.remove(&oldest));
        }
        self.uses += 1;
        self.of.insert(account.to_owned(), (Arc::clone(&made), self.uses));
        made
    }
}

impl OwnProviders {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the provider of the jobs of an account. `operators` is the operator's provider with the same definition.
    pub async fn get(
        &self,
        store: &Store,
        account: &str,
        poll: &DefinitionPoll,
        operators: Option<&Provider>,
    ) -> Result<Arc<Provider>, NoProvider> {
        let DefinitionPoll { provider, credential, credential_id } = poll;
        let deleted = || NoProvider::Unusable(format!("the credential `{credential}` was deleted"));
        let id = credential_id.ok_or_else(deleted)?;
        if let Some(known) = self.kept().get(account) {
            return Ok(known);
        }
        let operators = operators
            .ok_or_else(|| NoProvider::Unusable(format!("there is no provider `{provider}` any more")))?;
        let secret = store.credential_secret(id).await.map_err(NoProvider::Store)?.ok_or_else(deleted)?;
        let made = CredentialSecret::parse(&secret)
            .and_then(|secret| operators.definition.with_own_credential(&secret))
            .map_err(|why| NoProvider::Unusable(format!("the credential `{credential}` {why}")))?;
        let OwnDefinition { definition, key, .. } = made;
        let Provider { base_url, policy, limits, .. } = operators;
        let made = Provider::new(definition, Some(key), base_url.clone(), *policy, *limits);
        Ok(self.kept().keep(account, Arc::new(made)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Limits, PollPolicy, Rate};
    use crate::providers::load_providers;

    #[test]
    fn the_provider_that_was_used_least_recently_gives_way() {
        let definition = Arc::clone(&load_providers(None).valid["muvi"]);
        let limits = Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 1 };
        let made = || Arc::new(Provider::new(definition.clone(), None, None, PollPolicy::default(), limits));
        let mut kept = Kept::default();
        for n in 0..KEPT {
            kept.keep(&n.to_string(), made());
        }
        let first = kept.get("0").expect("kept");
        assert!(Arc::ptr_eq(&kept.keep("0", made()), &first), "another poll has made it already");
        kept.keep("new", made());
        assert!(kept.get("0").is_some() && kept.get("1").is_none() && kept.get("new").is_some());
        assert_eq!(kept.of.len(), KEPT);
    }
}
