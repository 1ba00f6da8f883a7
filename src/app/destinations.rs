//! Destinations of the configuration file, which each start applies to the database.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::api::managed_destination;
use crate::channels::Channels;
use crate::clock::Clock;
use crate::config::DestinationSection;
use crate::domain::{AppNo, DestinationId};
use crate::egress::Egress;
use crate::store::{ApplyManaged, ManagedChanges, Store};

/// Maximum time of the start in which host names of destinations are resolved. A name for which no time is left is
/// accepted, and checked at each attempt.
const LOOK_UPS_FOR: Duration = Duration::from_secs(5);

/// Applies the destinations of the configuration file. The error lists every invalid field of all of them.
pub async fn apply(
    store: &Store,
    sections: &[DestinationSection],
    (channels, egress): (&Channels, &Egress),
    clock: &Clock,
) -> Result<()> {
    if sections.is_empty() && !store.has_managed_destination().await? {
        return Ok(());
    }
    let (now, until) = (clock.now(), clock.moment().plus(LOOK_UPS_FOR));
    let (mut destinations, mut errors) = (Vec::with_capacity(sections.len()), Vec::new());
    let mut apps: BTreeMap<&str, Option<AppNo>> = BTreeMap::new();
    for DestinationSection { source, app, name, fields } in sections {
        let no = apps.entry(app).or_insert_with(|| store.app_by_name(app).map(|app| app.no));
        let Some(app) = *no else {
            let remedy = format!("create it with `ringback apps create {app}`, or correct the name");
            errors.push(format!("{source}: [[destination]] app: there is no app `{app}`; {remedy}"));
            continue;
        };
        let id = DestinationId(store.ids().draw(now));
        match managed_destination((channels, egress), (app, id), fields, (now, until)).await {
            Ok(destination) => destinations.push(destination),
            Err(invalid) => errors.extend(
                invalid
                    .into_iter()
                    .map(|(field, detail)| format!("{source}: [[destination]] `{name}`: {field}: {detail}")),
            ),
        }
    }
    if !errors.is_empty() {
        bail!(errors.join("\n"));
    }
    let applied = store.apply_managed(ApplyManaged { destinations, now }).await;
    let ManagedChanges { created, unmanaged } =
        applied.context("the destinations of the file cannot be stored")?;
    if created > 0 {
        tracing::info!(count = created, "the configuration file has new destinations");
    }
    if unmanaged > 0 {
        tracing::warn!(
            count = unmanaged,
            "destinations were disabled, because they have left the configuration file; when they are in it again, \
             the next start sends what was skipped"
        );
    }
    Ok(())
}
