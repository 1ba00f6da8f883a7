//! What a hostile client can use up: memory, places and time. And what its neighbours still get.

use serde_json::json;

use crate::harness::{AUTH, Harness, JSON};

#[tokio::test]
async fn the_head_of_a_request_is_limited() {
    let t = Harness::start().await;
    for (size, status) in [(12 * 1024, 200), (17 * 1024, 431), (60 * 1024, 431)] {
        let long = "x".repeat(size);
        let bytes = crate::wire::request("GET", "/healthz", &[("x-long", &long)], b"");
        let answer = crate::wire::exchange(t.address(), &bytes).await.expect("an answer");
        assert_eq!(answer.status, status, "{size}");
    }
    t.finish().await;
}

#[tokio::test]
async fn no_answer_with_data_is_kept_by_a_cache() {
    let t = Harness::start().await;
    let key = json!({ "scope": "read" }).to_string();
    for (method, path, body) in [
        ("GET", "/v1/signing-secret", ""),
        ("GET", "/v1/watches", ""),
        ("POST", "/v1/keys", &key),
        ("GET", "/v1/nowhere", ""),
        ("GET", "/v1/watches?x=1", ""),
        ("GET", "/readyz", ""),
    ] {
        let headers = if body.is_empty() { &[AUTH][..] } else { &[AUTH, JSON][..] };
        let answer = t.send(method, path, headers, body.as_bytes()).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    assert_eq!(t.get_without_key("/v1/keys").await.header("cache-control"), Some("no-store"));
    for (path, expected) in [("/openapi.json", "public, max-age=300"), ("/docs", "no-cache")] {
        assert_eq!(t.get_without_key(path).await.header("cache-control"), Some(expected), "{path}");
    }
    t.finish().await;
}
