//! The paths of the API, as requests and responses carry them.

use std::sync::Arc;

use axum::http::Method;
use utoipa::openapi::path::Paths;
use utoipa_axum::router::UtoipaMethodRouter;

use super::state::Api;
use crate::domain::Scope;

/// The handlers of one path, and their part of the `OpenAPI` document.
pub type Resource = UtoipaMethodRouter<Arc<Api>>;

/// A path of the API.
#[derive(Debug)]
pub struct Endpoint {
    /// The path, with `{id}` in the place of an id.
    pub path: String,
    /// The scope that a key needs, for each method that needs a key.
    scopes: Vec<(Method, Scope)>,
}

impl Endpoint {
    /// Reads the annotations of the handlers of one path.
    pub fn new(paths: &Paths) -> Self {
        let path = paths.paths.keys().next().cloned().unwrap_or_default();
        let operations = serde_json::to_value(&paths.paths[&path]).unwrap_or_default();
        let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let scopes = methods.into_iter().filter_map(|method| {
            let operation = &operations[method.as_str().to_lowercase()];
            Some((method, Scope::parse(operation["security"][0]["key"][0].as_str()?)?))
        });
        Self { path, scopes: scopes.collect() }
    }

    /// Returns the scope that a key needs for a method. `None`: the operation needs no key.
    pub fn scope(&self, method: &Method) -> Option<Scope> {
        // Axum answers HEAD by the handler of GET.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.scopes.iter().find(|(known, _)| known == method).map(|(_, scope)| *scope)
    }
}
