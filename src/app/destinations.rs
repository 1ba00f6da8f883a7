//! Destinations of the configuration file, which each start applies to the database.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::api::managed_destination;
use crate::channels::Channels;
use crate::clock::Clock;
use crate::config::{ConfigError, DestinationSection};
use crate::domain::{AppNo, DestinationId, Id};
use crate::egress::Egress;
use crate::store::{ApplyManaged, ManagedChanges, ManagedDestination, Store};

/// Maximum time of the start in which host names of destinations are resolved. A name for which no time is left is
/// accepted, and checked at each attempt.
const LOOK_UPS_FOR: Duration = Duration::from_secs(5);

/// Applies the destinations of the configuration file. The error lists every invalid field of all of them.
pub async fn apply(
    store: &Store,
    sections: &[DestinationSection],
    parts: (&Channels, &Egress),
    clock: &Clock,
) -> Result<()> {
    if sections.is_empty() && !store.has_managed_destination().await? {
        return Ok(());
    }
    let now = clock.now();
    let app = |name: &str| store.app_by_name(name).map(|app| app.no);
    let id = || DestinationId(store.ids().draw(now));
    let (destinations, errors) = read(sections, parts, clock, (app, id)).await;
    if !errors.is_empty() {
        bail!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
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

/// Returns every error in the destinations of the configuration file. Without a database, it is not known whether their
/// apps exist.
pub async fn errors(
    sections: &[DestinationSection],
    parts: (&Channels, &Egress),
    clock: &Clock,
) -> Vec<ConfigError> {
    // They are not stored.
    let (app, id) = (|_: &str| Some(AppNo(0)), || DestinationId(Id::from_bytes([0; 16])));
    read(sections, parts, clock, (app, id)).await.1
}

/// Reads destinations of the configuration file. `app` finds an app by its name, and `id` draws an id. Returns every
/// error.
async fn read(
    sections: &[DestinationSection],
    (channels, egress): (&Channels, &Egress),
    clock: &Clock,
    (app, id): (impl Fn(&str) -> Option<AppNo>, impl Fn() -> DestinationId),
) -> (Vec<ManagedDestination>, Vec<ConfigError>) {
    let (now, until) = (clock.now(), clock.moment().plus(LOOK_UPS_FOR));
    let (mut destinations, mut errors) = (Vec::with_capacity(sections.len()), Vec::new());
    for section in sections {
        let name = &section.app;
        let Some(app) = app(name) else {
            let remedy = format!("create it with `ringback apps create {name}`, or correct the name");
            errors.push(section.error("app", &format!("there is no app `{name}`; {remedy}")));
            continue;
        };
        match managed_destination((channels, egress), (app, id()), &section.fields, (now, until)).await {
            Ok(destination) => destinations.push(destination),
            Err(invalid) => {
                errors.extend(invalid.iter().map(|(field, detail)| section.error(field, detail)));
            }
        }
    }
    (destinations, errors)
}
