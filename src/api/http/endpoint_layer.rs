//! The layer that attaches its [`Endpoint`] to every request of a path.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::body::RequestContext;
use super::endpoint::{Endpoint, Resource};
use super::problem::{Problem, ProblemCode};

/// Attaches its [`Endpoint`] to every request of a path.
pub fn with_endpoint((schemas, paths, handlers): Resource) -> Resource {
    let endpoint = Arc::new(Endpoint::new(&paths));
    let handlers = handlers.fallback(async || {
        let detail = "this path does not support this method; Allow lists those that it supports";
        Problem::new(ProblemCode::MethodNotAllowed, detail)
    });
    (schemas, paths, handlers.layer(Attach(endpoint)))
}

/// The layer that attaches an [`Endpoint`]. A middleware function would take several allocations for each request.
#[derive(Clone)]
struct Attach(Arc<Endpoint>);

impl<S> Layer<S> for Attach {
    type Service = Attached<S>;

    fn layer(&self, handler: S) -> Attached<S> {
        Attached { handler, endpoint: Arc::clone(&self.0) }
    }
}

#[derive(Clone)]
struct Attached<S> {
    handler: S,
    endpoint: Arc<Endpoint>,
}

impl<S: Service<Request>> Service<Request> for Attached<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.handler.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> S::Future {
        if let Some(context) = request.extensions().get::<RequestContext>() {
            context.set_endpoint(&self.endpoint);
        }
        self.handler.call(request)
    }
}
