//! The providers of jobs with a credential or a definition of an app.
//!
//! Such a provider is made of a definition and its settings, and of the credential. It is kept, because it holds the
//! token for which a credential is exchanged: a new one for each poll would request a token for each poll. To compile a
//! definition takes milliseconds, too. All jobs with the same account share one. What is the app's is read from the
//! store when a job first needs it, so a million jobs do not hold a million copies.
//!
//! **At most [`KEPT`] are kept.** The one that was used least recently gives way, and is made again when it is needed.
//! Its token is then requested again, and a refresh token that the provider had replaced is lost, as at a restart.
//!
//! **A credential that was deleted** is never used: the message about a job says that it is missing
//! (`store/job_polls`), and a credential that a running watch uses cannot be deleted. Nothing about a kept provider can
//! become wrong: a credential, a version of a definition and the operator's settings do not change while the process
//! runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::provider::Provider;
use crate::domain::{CredentialRef, CredentialSecret, Id, Limits, PollPolicy};
use crate::providers::Definition;
use crate::store::{Store, StoreError};

/// Number of providers that are kept. Each has the copy of a definition, of some ten KiB.
const KEPT: usize = 512;

/// Definitions of apps are parsed one at a time: a hostile one takes some MiB meanwhile.
static PARSING: Semaphore = Semaphore::const_new(1);

/// Reason why a job cannot be polled.
#[derive(Debug)]
pub enum NoProvider {
    /// What is stored does not permit it: a sentence.
    Unusable(String),
    /// The store cannot be read now.
    Store(StoreError),
}

/// What a provider is made of, besides a credential.
pub enum Source<'a> {
    /// The operator's provider with the same definition.
    OfOperator(&'a Provider),
    /// A version of a definition of the app, with its settings.
    OfApp(Id, PollPolicy, Limits),
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

    /// Returns the provider of the jobs of an account, which is made of this source if it is not kept.
    pub async fn get(
        &self,
        store: &Store,
        account: &str,
        credential: Option<&CredentialRef>,
        source: Source<'_>,
    ) -> Result<Arc<Provider>, NoProvider> {
        let deleted = |name: &str| NoProvider::Unusable(format!("the credential `{name}` was deleted"));
        let id_of = |credential: &CredentialRef| credential.id.ok_or_else(|| deleted(&credential.name));
        let id = credential.map(id_of).transpose()?;
        if let Some(known) = self.kept().get(account) {
            return Ok(known);
        }
        let (definition, base_url, policy, limits) = match source {
            Source::OfOperator(Provider { definition, base_url, policy, limits, .. }) => {
                (Arc::clone(definition), base_url.clone(), *policy, *limits)
            }
            Source::OfApp(id, policy, limits) => (of_app(store, id).await?, None, policy, limits),
        };
        let (definition, key) = match credential.zip(id) {
            None => (definition, None),
            Some((CredentialRef { name, .. }, id)) => {
                let secret = store.credential_secret(id).await.map_err(NoProvider::Store)?;
                let secret = secret.ok_or_else(|| deleted(name))?;
                let own = CredentialSecret::parse(&secret)
                    .and_then(|secret| definition.with_own_credential(&secret))
                    .map_err(|why| NoProvider::Unusable(format!("the credential `{name}` {why}")))?;
                (own.definition, Some(own.key))
            }
        };
        let made = Provider::new(definition, key, base_url, policy, limits);
        Ok(self.kept().keep(account, Arc::new(made)))
    }
}

/// Returns the definition of a version of an app.
async fn of_app(store: &Store, id: Id) -> Result<Arc<Definition>, NoProvider> {
    let text = store.definition_text(id).await.map_err(NoProvider::Store)?;
    let text =
        text.ok_or_else(|| NoProvider::Unusable("the version of the definition was deleted".to_owned()))?;
    // It takes some milliseconds. At a start, each definition with jobs is parsed.
    let _permit = PARSING.acquire().await;
    let parsed = tokio::task::spawn_blocking(move || Definition::parse_own(text.reveal())).await;
    let parsed = parsed.map_err(|_| NoProvider::Unusable("reading the definition panicked".to_owned()))?;
    parsed.map(Arc::new).map_err(|mistakes| {
        let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
        NoProvider::Unusable(format!("this version of the program refuses the definition: {first}"))
    })
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
