//! The caller of a request: the app and the scope of its API key.

use axum::http::{HeaderMap, header};

use super::problem::Problem;
use super::problem_code::ProblemCode;
use super::state::Api;
use crate::domain::AppNo;
use crate::store::Scope;
use crate::tenants::hash_key;

/// The API key of a request, after its scope was checked.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The app of the key.
    pub app: AppNo,
    /// Whether the app is the first one, whose admins manage all apps.
    operator: bool,
    /// SHA-256 of the key.
    hash: [u8; 32],
}

impl Caller {
    /// Finds the key of a request. 401 without a valid key, 403 if the key lacks the scope.
    pub fn authorize(api: &Api, headers: &HeaderMap, needed: Scope) -> Result<Self, Problem> {
        let token = bearer(headers).ok_or_else(Problem::unauthorized)?;
        let hash = hash_key(token);
        // Hashes are compared, so the time of the comparison reveals nothing about the key.
        let (app, scope) = match &api.bootstrap {
            Some(bootstrap) if *bootstrap == hash => (api.operator, Scope::Admin),
            Some(_) | None => {
                let key = api.store.key(&hash, api.clock.now()).ok_or_else(Problem::unauthorized)?;
                (key.app, key.scope)
            }
        };
        if scope < needed {
            let detail = format!("this API key lacks the scope `{needed}`; use one that has it");
            return Err(Problem::new(ProblemCode::InsufficientScope, detail));
        }
        Ok(Self { app, operator: app == api.operator, hash })
    }

    /// Whether the key is still valid: for a response that lasts.
    pub fn is_still_valid(&self, api: &Api) -> bool {
        api.bootstrap == Some(self.hash) || api.store.key(&self.hash, api.clock.now()).is_some()
    }

    /// The app whose keys an admin manages. `None` means all apps: for admins of the first app.
    pub fn managed_app(&self) -> Option<AppNo> {
        (!self.operator).then_some(self.app)
    }
}

/// Returns the token of `Authorization: Bearer <token>`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
