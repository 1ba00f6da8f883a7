//! The providers that can be watched, and their state.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::definitions;
use super::http::{Answer, Api, Call, Page, PageParams, Problem, cursor, json};
use crate::domain::{
    CredentialState, DefinitionVersion, ProviderHealth, ProviderState, Timestamp, format_duration,
    format_rate,
};

/// A job API that can be watched.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Provider {
    id: String,
    /// Id of its definition; another one if the provider is a named instance.
    definition: String,
    name: String,
    /// Whether the server has a credential for it, or it needs none.
    configured: bool,
    /// Whether that credential is used for registrations without a credential of their app.
    shared: bool,
    /// Whether the definition is the app's own.
    own: bool,
    /// Its current version; null for a definition of the operator, and for a deleted one that running watches use.
    #[schema(required)]
    version: Option<u32>,
    health: ProviderHealthView,
    budget: ProviderBudget,
    poll: ProviderPoll,
    /// The app's own credentials with which its jobs of the provider are polled, while it has such jobs.
    credentials: Vec<ProviderCredential>,
    /// Mistakes of the definition, with their places; empty unless `health.status` is `invalid`.
    errors: Vec<String>,
    /// Always null: this version learns nothing of the duration of jobs.
    #[schema(required, value_type = Option<Object>)]
    learned: Option<()>,
}

/// The provider's health.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProviderHealthView {
    status: ProviderHealth,
    /// `open` while polls of this provider fail.
    breaker: Breaker,
    /// End of the pause in which only single trial polls are made; null without a pause.
    #[schema(required)]
    paused_until: Option<Timestamp>,
    #[schema(required)]
    last_good_at: Option<Timestamp>,
    /// Status and code of the last failed poll of any job.
    #[schema(required)]
    last_error: Option<String>,
    #[schema(required)]
    last_error_at: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Breaker {
    Closed,
    Open,
}

/// The provider's limits, and their present use.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProviderBudget {
    /// Polls per second, minute or hour, as `10/s`, `90/m` or `1/h`; null without a limit.
    #[schema(required)]
    rate: Option<String>,
    /// Number of polls that may be made at once after a pause.
    burst: u32,
    /// Largest number of simultaneous polls.
    concurrency: u32,
    /// Present number of simultaneous polls.
    in_flight: u32,
    /// Number of polls that are due and wait for the budget. 10,000 stands for 10,000 or more.
    waiting: usize,
}

/// A credential of the app, with the health and the use of a budget that are its own.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProviderCredential {
    name: String,
    health: ProviderHealthView,
    /// Present number of simultaneous polls.
    in_flight: u32,
    /// Number of polls that are due and wait for the budget.
    waiting: usize,
}

/// The poll schedule of the provider's jobs. All values are durations.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProviderPoll {
    /// From the registration to the first poll.
    first: String,
    /// Shortest interval between two polls.
    min_interval: String,
    /// Longest interval between two polls.
    max_interval: String,
    /// Default time until a watch expires.
    deadline: String,
}

/// List providers
///
/// The providers that can be watched, with their health, their budget and their poll schedule. The provider `inline`
/// stands for the app's jobs that are polled as their registrations say, if it has any.
#[utoipa::path(
    get, path = "/v1/providers", operation_id = "listProviders", tag = "Providers", security(("key" = ["read"])),
    params(PageParams),
    responses((status = 200, description = "A page of providers.", body = Page<Provider>))
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit() as usize;
    let from: i64 = query.cursor(cursor::List::Providers).unwrap_or(0);
    query.done()?;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let states = definitions::states(&call.api, call.app()).await?;
    let data: Vec<Provider> =
        states.iter().skip(from).take(limit).map(|state| shown(&call.api, state)).collect();
    let next = from.saturating_add(data.len());
    let next = i64::try_from(next).ok().filter(|_| !data.is_empty() && next < states.len());
    Ok(Page::reply(data, next.map(|from: i64| cursor::encode(cursor::List::Providers, &from))))
}

/// Show a provider
///
/// Its state, as in the list.
#[utoipa::path(
    get, path = "/v1/providers/{id}", operation_id = "showProvider", tag = "Providers", security(("key" = ["read"])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The provider.", body = Provider))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(|text| Some(text.to_owned()))?;
    let states = definitions::states(&call.api, call.app()).await?;
    let state = states.iter().find(|(state, _)| state.id == id).ok_or_else(Problem::not_found)?;
    Ok(json(StatusCode::OK, &shown(&call.api, state)))
}

impl ProviderHealthView {
    fn new(
        status: ProviderHealth,
        (paused_until, last_good_at): (Option<Timestamp>, Option<Timestamp>),
        last_error: Option<(Timestamp, String)>,
    ) -> Self {
        let (last_error_at, last_error) = last_error.unzip();
        let breaker = if status == ProviderHealth::Down { Breaker::Open } else { Breaker::Closed };
        Self { status, breaker, paused_until, last_good_at, last_error, last_error_at }
    }
}

fn credential(state: &CredentialState) -> ProviderCredential {
    let times = (state.held_until, state.last_good_at);
    ProviderCredential {
        name: state.name.clone(),
        health: ProviderHealthView::new(state.health, times, state.last_error.clone()),
        in_flight: state.in_flight,
        waiting: state.waiting,
    }
}

fn shown(api: &Api, (state, version): &(ProviderState, Option<DefinitionVersion>)) -> Provider {
    let times = (state.held_until, state.last_good_at);
    Provider {
        id: state.id.clone(),
        definition: state.definition.clone(),
        name: state.name.clone(),
        configured: state.configured,
        shared: !state.of_app && api.access.get(&state.id).is_some_and(|access| access.is_shared),
        own: state.of_app,
        version: version.as_ref().map(|version| version.version),
        health: ProviderHealthView::new(state.health, times, state.last_error.clone()),
        budget: ProviderBudget {
            rate: state.limits.rate.spacing.map(format_rate),
            burst: state.limits.burst,
            concurrency: state.limits.concurrency,
            in_flight: state.in_flight,
            waiting: state.waiting,
        },
        poll: ProviderPoll {
            first: format_duration(state.policy.first),
            min_interval: format_duration(state.policy.min_interval),
            max_interval: format_duration(state.policy.max_interval),
            deadline: format_duration(state.policy.deadline),
        },
        credentials: state.credentials.iter().map(credential).collect(),
        errors: state.mistakes.clone(),
        learned: None,
    }
}
