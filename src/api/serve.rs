//! The front door: accepting connections, and what every request and every answer goes through.
//!
//! A connection that sends its headers too slowly is closed, and so is one that takes no answers. A
//! body stays at the door until somebody wants it; if the request is refused before, it is read and
//! dropped, within limits, so that the client gets to read why.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;

use super::problem::Problem;
use super::request::Held;
use super::stream::Stream;
use super::{Api, router};
use crate::clock::Clock;
use crate::domain::{Ids, RequestId};

/// How many clients may be connected; the next wait in the listener's backlog. Each may hold a body
/// of 256 KiB.
const CONNECTIONS_MAX: usize = 4_096;

/// How long a client may take to send a request's headers, and how long it may keep silent between
/// two requests.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// How many headers a request may have, and how many bytes of them.
const HEADERS_MAX: usize = 100;
const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// After accepting failed (no more file descriptors, most likely), the next try waits.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Accepts and serves until `closing` says so; returns when the last connection has ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let clock = api.clock.clone();
    let router = router(api);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let ids = Arc::new(Ids::default());
    let mut closed = closing.clone();
    loop {
        let accepted = tokio::select! {
            () = raised(&mut closed) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let door = Door { router: router.clone(), clock: clock.clone(), ids: Arc::clone(&ids) };
                let closing = closing.clone();
                tokio::spawn(async move {
                    connection(stream, door, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                clock.sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    // All places are free again when all connections have ended.
    let _ = places.acquire_many(all).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, door: Door, mut closing: watch::Receiver<bool>) {
    let stream = Stream::new(stream, door.clock.clone());
    let service = hyper::service::service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, std::convert::Infallible>(door.handle(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        // A client may close its side once it has asked, and still gets its answer.
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What breaks here is the client's connection, and the client knows.
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        () = raised(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

/// Returns when the flag is up. The guard of the flag's lock does not outlive the look at it.
pub(super) async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|up| *up).await;
}

#[derive(Clone)]
struct Door {
    router: Router,
    clock: Clock,
    ids: Arc<Ids>,
}

impl Door {
    async fn handle(mut self, request: Request<Incoming>) -> Response {
        let request_id = RequestId(self.ids.draw(self.clock.now())).to_string();
        let (mut parts, body) = request.into_parts();
        let held = Held::new(body);
        parts.extensions.insert(held.clone());
        let method = parts.method.clone();
        let path = parts.uri.path().to_owned();
        let Ok(mut response) = self.router.call(Request::from_parts(parts, Body::empty())).await;
        held.drop_politely(&self.clock).await;
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            *response.body_mut() = Body::from(problem.render(&request_id));
            let json = HeaderValue::from_static("application/problem+json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        tracing::debug!(%method, path, status = response.status().as_u16(), request_id, "answered");
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        response
    }
}
