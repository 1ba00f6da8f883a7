//! The caller of a request: the app and the scope of its API key.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::problem::Problem;
use super::problem_code::ProblemCode;
use super::state::Api;
use crate::domain::AppNo;
use crate::store::Scope;
use crate::tenants::hash_key;

/// The caller, as its API key tells.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The app of the key.
    pub app: AppNo,
    scope: Scope,
    /// Whether the app is the first one, whose admins manage all apps.
    operator: bool,
    /// SHA-256 of the key.
    hash: [u8; 32],
}

impl Caller {
    /// Returns the app if the key has the scope.
    pub fn require(self, scope: Scope) -> Result<AppNo, Problem> {
        if self.scope >= scope {
            return Ok(self.app);
        }
        let detail = format!("this API key lacks the scope `{scope}`; use one that has it");
        Err(Problem::new(ProblemCode::InsufficientScope, detail))
    }

    /// Whether the key is still valid: for a response that lasts.
    pub fn is_still_valid(&self, api: &Api) -> bool {
        api.bootstrap == Some(self.hash) || api.store.key(&self.hash, api.clock.now()).is_some()
    }

    /// Returns the app whose keys an admin manages. `None` means all apps: for admins of the first app.
    pub fn managed_app(self) -> Result<Option<AppNo>, Problem> {
        let app = self.require(Scope::Admin)?;
        Ok((!self.operator).then_some(app))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Arc<Api>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let api = Arc::<Api>::from_ref(state);
        let token = bearer(&parts.headers).ok_or_else(Problem::unauthorized)?;
        let hash = hash_key(token);
        // Hashes are compared, so the time of the comparison reveals nothing about the key.
        let (app, scope) = match &api.bootstrap {
            Some(bootstrap) if *bootstrap == hash => (api.operator, Scope::Admin),
            Some(_) | None => {
                let key = api.store.key(&hash, api.clock.now()).ok_or_else(Problem::unauthorized)?;
                (key.app, key.scope)
            }
        };
        Ok(Self { app, scope, operator: app == api.operator, hash })
    }
}

/// Returns the token of `Authorization: Bearer <token>`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
