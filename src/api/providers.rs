//! What can be watched, and how it is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use super::http::{Caller, Query, cursor};
use super::{Answer, Api, reply, view};
use crate::domain::{ProviderHealth, ProviderState, Timestamp, format_duration, format_rate};
use crate::store::Scope;

/// A job API.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Provider)]
pub struct ProviderView {
    id: String,
    name: String,
    configured: bool,
    health: HealthView,
    budget: BudgetView,
    poll: PollView,
    /// What was learned of how long its jobs take: nothing yet, the gaps between looks follow a job's age.
    #[schema(required, value_type = Option<Object>)]
    learned: Option<LearnedView>,
}

/// How it is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProviderHealthView)]
struct HealthView {
    status: ProviderHealth,
    /// `open` while the provider is in trouble.
    breaker: Breaker,
    /// Until when nothing is asked, but to try whether it is better.
    #[schema(required)]
    paused_until: Option<Timestamp>,
    #[schema(required)]
    last_good_at: Option<Timestamp>,
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

/// What it allows, and what of it is used.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProviderBudget)]
struct BudgetView {
    /// As `10/s`, `90/m` or `1/h`; null for no limit.
    #[schema(required)]
    rate: Option<String>,
    burst: u32,
    concurrency: u32,
    in_flight: u32,
    /// PollStats that are due and not granted yet; 10,000 and more are shown as 10,000.
    waiting: usize,
}

/// When its jobs are looked at.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProviderPoll)]
struct PollView {
    first: String,
    min_interval: String,
    max_interval: String,
    deadline: String,
}

/// Nothing has this shape yet.
#[derive(Serialize)]
enum LearnedView {}

/// `GET /v1/providers`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    caller.require(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit() as usize;
    let from = query.read("cursor", cursor::WRONG, cursor::decode_feed_position).unwrap_or(0);
    query.done()?;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let states = (api.provider_states)();
    let data: Vec<ProviderView> = states.iter().skip(from).take(limit).map(shown).collect();
    let next = from.saturating_add(data.len());
    let next = i64::try_from(next).ok().filter(|_| !data.is_empty() && next < states.len());
    let page = view::Page { data, next_cursor: next.map(cursor::encode_feed_position) };
    Ok(reply(StatusCode::OK, serde_json::to_vec(&page).unwrap_or_default()))
}

fn shown(state: &ProviderState) -> ProviderView {
    let (last_error_at, last_error) = state.last_error.clone().unzip();
    ProviderView {
        id: state.id.clone(),
        name: state.name.clone(),
        configured: state.configured,
        health: HealthView {
            status: state.health,
            breaker: if state.health == ProviderHealth::Down { Breaker::Open } else { Breaker::Closed },
            paused_until: state.held_until,
            last_good_at: state.last_good_at,
            last_error,
            last_error_at,
        },
        budget: BudgetView {
            rate: state.spacing.map(format_rate),
            burst: state.burst,
            concurrency: state.concurrency,
            in_flight: state.in_flight,
            waiting: state.waiting,
        },
        poll: PollView {
            first: format_duration(state.first),
            min_interval: format_duration(state.min_interval),
            max_interval: format_duration(state.max_interval),
            deadline: format_duration(state.deadline),
        },
        learned: None,
    }
}
