//! What handlers need of the `OpenAPI` document.

use axum::response::Response;

use crate::store::Scope;

/// The parts of the `OpenAPI` document that handlers need. The document is made of the handlers' annotations,
/// so handlers do not import it: the router attaches this to every request.
#[derive(Clone, Copy)]
pub struct Description {
    /// Returns the scope that a key needs for a method and a path with `{id}`. `None`: it needs no key.
    pub scope_of: fn(&str, &str) -> Option<Scope>,
    /// Returns the document as JSON.
    pub document: fn() -> &'static str,
    /// Returns a response with the document as a page.
    pub page: fn() -> Response,
}
