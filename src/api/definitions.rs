//! Definitions of an app: provider definitions that only its own registrations use.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::http::{Answer, Api, Call, FieldErrorCode, FieldErrors, Problem, ProblemCode, created, json};
use crate::domain::{
    AppNo, DefinitionSummary, DefinitionVersion, INLINE, Masked, Pace, ProviderState, Timestamp,
};
use crate::providers::{OWN_DEFINITION_MAX, is_provider_id};
use crate::store::{
    DEFINITIONS_MAX, DefinitionRefusal, DeleteDefinition, OLD_VERSIONS_MAX, PutDefinition, StoredDefinition,
};

const TOML: HeaderValue = HeaderValue::from_static("application/toml");

/// A definition of the app, without its text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Definition)]
pub struct DefinitionView<'a> {
    /// The `provider` of registrations.
    id: &'a str,
    name: &'a str,
    /// Number of the version, from 1. Another text makes another version; running watches keep theirs.
    version: u32,
    /// Whether registrations must name a `credential`.
    needs_credential: bool,
    /// Time at which the version was stored.
    created_at: Timestamp,
}

impl<'a> DefinitionView<'a> {
    fn of(version: &'a DefinitionVersion) -> Self {
        let DefinitionVersion { provider, version, summary, created_at, .. } = version;
        let DefinitionSummary { name, needs_credential, .. } = summary;
        Self {
            id: provider,
            name,
            version: *version,
            needs_credential: *needs_credential,
            created_at: *created_at,
        }
    }
}

/// A definition as TOML, such as a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "the body is read as a text")]
struct TomlFile(String);

/// Show a definition
///
/// The TOML of the current version of a definition of the app. `ETag` names the version.
#[utoipa::path(
    get, path = "/v1/providers/{id}/definition", operation_id = "showDefinition", tag = "Providers",
    security(("key" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, description = "The definition.", body = String, content_type = "application/toml",
        headers(("ETag" = String, description = "Names the version."))))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(provider_id)?;
    let (version, text) = call.api.store.definition(call.app(), id).await?.ok_or_else(Problem::not_found)?;
    let headers = [(header::CONTENT_TYPE, TOML), etag(&version)];
    Ok((headers, text.reveal().to_owned()).into_response())
}

/// Store a definition
///
/// A definition for registrations of this app, as `docs/PROVIDERS.md` describes it. Its examples run first. Its
/// requests are guarded like callbacks, follow no redirect and never have a credential of the operator. Another text
/// than that of the current version makes the next version; running watches keep theirs. The last of several concurrent
/// requests wins: `If-Match` is not compared.
#[utoipa::path(
    put, path = "/v1/providers/{id}/definition", operation_id = "putDefinition", tag = "Providers",
    security(("key" = ["write"])), params(("id" = String, Path)),
    request_body(content = TomlFile, content_type = "application/toml", description = "The TOML, up to 64 KiB."),
    responses(
        (status = 200, description = "The definition, of which this may be the next version, committed.",
            body = DefinitionView),
        (status = 201, description = "The new definition, committed.", body = DefinitionView,
            headers(("Location" = String, description = "Path of the definition."))),
        (status = 409, description = "The operator has a provider with this id, the app has too many definitions, or running \
            watches use too many old versions."),
    )
)]
pub async fn put(call: Call) -> Answer {
    call.no_query()?;
    let id = call.raw_id().to_owned();
    if !is_provider_id(&id) {
        let detail = format!(
            "id: `{id}` in the path must be 1 to 40 characters of a-z, 0-9 and -, starting with a letter"
        );
        let mut errors = FieldErrors::default();
        errors.add("", FieldErrorCode::InvalidFormat, detail);
        errors.check()?;
    }
    let text = call.toml(OWN_DEFINITION_MAX).await?;
    let (api, now) = (&call.api, call.api.clock.now());
    let text = Arc::new(text);
    let parsed = api.own_definitions.parse(call.app(), Arc::clone(&text)).await?;
    let mut errors = FieldErrors::default();
    let definition = match parsed {
        Ok(definition) => {
            if definition.id != id {
                let detail = format!("id: must be `{id}`, as in the path");
                errors.add("", FieldErrorCode::Conflict, detail);
            }
            Some(definition)
        }
        Err(mistakes) => {
            for mistake in mistakes {
                errors.add("", FieldErrorCode::InvalidFormat, mistake.to_string());
            }
            None
        }
    };
    errors.check()?;
    let Some(definition) = definition else { return Err(Problem::not_found().into()) };
    let summary = DefinitionSummary {
        name: definition.name.clone(),
        needs_credential: definition.needs_credential(),
        pace: Pace::of(&definition.poll, definition.limits),
    };
    let put = PutDefinition {
        app: call.app(),
        id: api.store.ids().draw(now),
        is_taken: is_operators(api, &id),
        provider: id,
        text: Masked::new(text.as_str()),
        summary,
        now,
    };
    let StoredDefinition { version, is_new } = api.store.put_definition(put).await?.map_err(refused)?;
    let view = DefinitionView::of(&version);
    let answer = if is_new {
        created(format!("/v1/providers/{}/definition", version.provider), &view).into_response()
    } else {
        json(StatusCode::OK, &view)
    };
    Ok(([etag(&version)], answer).into_response())
}

/// Delete a definition
///
/// Registrations cannot use it any more. Running watches keep their version.
#[utoipa::path(
    delete, path = "/v1/providers/{id}/definition", operation_id = "deleteDefinition", tag = "Providers",
    security(("key" = ["write"])), params(("id" = String, Path)),
    responses((status = 204, description = "The definition is deleted."))
)]
pub async fn remove(call: Call) -> Answer {
    let provider = call.only_id(provider_id)?;
    let delete = DeleteDefinition { app: call.app(), provider, now: call.api.clock.now() };
    let is_deleted = call.api.store.delete_definition(delete).await?;
    if is_deleted { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(Problem::not_found().into()) }
}

fn provider_id(text: &str) -> Option<String> {
    is_provider_id(text).then(|| text.to_owned())
}

/// Returns the header that names a version. Its id never names another one.
fn etag(version: &DefinitionVersion) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&format!("\"{:?}\"", version.id));
    (header::ETAG, value.unwrap_or_else(|_| HeaderValue::from_static("\"\"")))
}

/// Returns whether the operator has a provider with this id, also one whose definition has mistakes.
fn is_operators(api: &Api, id: &str) -> bool {
    let is_invalid =
        || (api.provider_states)(api.operator).iter().any(|state| state.id == id && !state.of_app);
    id == INLINE || api.providers.contains_key(id) || is_invalid()
}

fn refused(refusal: DefinitionRefusal) -> Problem {
    match refusal {
        DefinitionRefusal::Taken => Problem::new(
            ProblemCode::ProviderTaken,
            "the server has a provider with this id; give the definition another one",
        ),
        DefinitionRefusal::TooMany => Problem::new(
            ProblemCode::LimitReached,
            format!("the app has {DEFINITIONS_MAX} definitions, the maximum; delete one first"),
        ),
        DefinitionRefusal::TooManyVersions => Problem::new(
            ProblemCode::LimitReached,
            format!(
                "running watches use {OLD_VERSIONS_MAX} old versions of definitions, the maximum; wait until some have ended, \
                 or stop them"
            ),
        ),
    }
}

/// Returns the states of all providers as an app sees them: a definition of the app stands in place of an operator's
/// one with its id.
pub(super) async fn states(
    api: &Api,
    app: AppNo,
) -> Result<Vec<(ProviderState, Option<DefinitionVersion>)>, Problem> {
    let states = (api.provider_states)(app);
    let own = if api.store.may_define_any(app) { api.store.definitions(app).await? } else { Vec::new() };
    if own.is_empty() {
        return Ok(states.into_iter().map(|state| (state, None)).collect());
    }
    let (policy, limits) = api.inline;
    let (mut used, operators): (Vec<_>, Vec<_>) = states.into_iter().partition(|state| state.of_app);
    let is_own = |id: &str| own.iter().any(|version| version.provider == id);
    let mut all: Vec<_> =
        operators.into_iter().filter(|state| !is_own(&state.id)).map(|s| (s, None)).collect();
    for version in own {
        let id = &version.provider;
        let place = used.iter().position(|state| state.id == *id);
        let found = place.map(|place| used.swap_remove(place));
        let (policy, limits) = version.summary.pace.within(&policy, limits);
        let state = found.unwrap_or_else(|| ProviderState::unused(id, policy, limits));
        all.push((ProviderState { name: version.summary.name.clone(), ..state }, Some(version)));
    }
    // Running watches keep versions of deleted definitions.
    all.extend(used.into_iter().map(|state| (state, None)));
    all.sort_by(|(one, _), (other, _)| (!one.configured, &one.id).cmp(&(!other.configured, &other.id)));
    Ok(all)
}
