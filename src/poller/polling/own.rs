//! The provider of a job that is an app's alone, and its metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::{OF_APPS, Poller, is_configured};
use crate::domain::{AppNo, INLINE, JobName, PollSource};
use crate::poller::own_providers::{NoProvider, Source};
use crate::poller::provider::Provider;
use crate::providers::Definition;
use crate::telemetry::metrics::ProviderMetrics;

impl Poller {
    /// Returns the provider of a job that is an app's alone, and its metrics. `is_accepted`: the last good answer was
    /// [`ACCEPTED`](crate::providers::InlinePoll::ACCEPTED).
    pub(super) async fn own_provider(
        &self,
        (app, name): (AppNo, &JobName),
        source: &PollSource,
        is_accepted: bool,
    ) -> Result<(Arc<ProviderMetrics>, Arc<Provider>), NoProvider> {
        match source {
            PollSource::Inline { poll, credential } => {
                let made = Definition::inline(poll, credential.as_ref(), is_accepted);
                let (definition, credential) = made.map_err(NoProvider::Unusable)?;
                let (policy, limits) = self.scheduler().on_demand.settings();
                let owner = Some(self.own.owner(app));
                let made = Provider::new(definition, credential, None, policy, limits).with_owner(owner);
                Ok((self.metrics_of(INLINE), Arc::new(made)))
            }
            PollSource::OfOperator { provider: id, credential } => {
                let of = |(_, provider): &(_, Arc<Provider>)| provider.definition.id.cmp(id);
                let operators = self.providers.binary_search_by(of).map(|index| &self.providers[index]);
                let removed = |_| NoProvider::Unusable(format!("there is no provider `{id}` any more"));
                let (metrics, operators) = operators.map_err(removed)?;
                let source = Source::OfOperator(operators);
                let account = (app, name.account.as_str());
                let provider = self.own.get(&self.store, account, Some(credential), source).await?;
                let is_exported = is_configured(operators);
                Ok((if is_exported { Arc::clone(metrics) } else { self.metrics_of(id) }, provider))
            }
            PollSource::OfApp { definition, credential } => {
                let (policy, limits) = self.scheduler().on_demand.settings();
                let (policy, limits) = definition.pace.within(&policy, limits);
                let source = Source::OfApp(definition.id, policy, limits);
                let account = (app, name.account.as_str());
                let provider = self.own.get(&self.store, account, credential.as_ref(), source).await?;
                Ok((self.metrics_of(OF_APPS), provider))
            }
        }
    }

    pub(super) fn own_metrics(&self) -> MutexGuard<'_, BTreeMap<String, Arc<ProviderMetrics>>> {
        self.own_metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the metrics of a provider that the operator has no credential for.
    pub(super) fn metrics_of(&self, provider: &str) -> Arc<ProviderMetrics> {
        let mut known = self.own_metrics();
        let make = || Arc::new(self.store.metrics().provider(provider, true));
        Arc::clone(known.entry(provider.to_owned()).or_insert_with(make))
    }
}
