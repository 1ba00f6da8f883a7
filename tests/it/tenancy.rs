//! Authorization: every route with every kind of key, and every route with the data of another app.
//!
//! The tests iterate over `ringback::api::ROUTES`, which has every route of the router, so a new route is tested
//! at once. A route with `{id}` is called with the id of the other app. For any other route, [`attempts`] lists the
//! requests that could reveal data of another app; the tests fail for a route that it does not list.

use ringback::api::{ROUTES, Route};
use ringback::domain::Scope;
use serde_json::{Value, json};

use crate::harness::{Harness, JSON, KEY, id, seconds};
use crate::tenants::{Tenant, tenant};
use crate::wire::Answer;

/// The documented routes: method, path, scope.
const CONTRACT: &[(&str, &str, Option<Scope>)] = &[
    ("POST", "/v1/watches", Some(Scope::Write)),
    ("POST", "/v1/watches/batch", Some(Scope::Write)),
    ("GET", "/v1/watches", Some(Scope::Read)),
    ("GET", "/v1/watches/{id}", Some(Scope::Read)),
    ("PATCH", "/v1/watches/{id}", Some(Scope::Write)),
    ("DELETE", "/v1/watches/{id}", Some(Scope::Write)),
    ("POST", "/v1/watches/{id}/poll", Some(Scope::Write)),
    ("POST", "/v1/watches/{id}/stop", Some(Scope::Write)),
    ("POST", "/v1/watches/stop", Some(Scope::Write)),
    ("GET", "/v1/operations/{id}", Some(Scope::Read)),
    ("GET", "/v1/watches/{id}/timeline", Some(Scope::Read)),
    ("GET", "/v1/groups/{id}", Some(Scope::Read)),
    ("GET", "/v1/events", Some(Scope::Read)),
    ("GET", "/v1/events/{id}", Some(Scope::Read)),
    ("GET", "/v1/events/stream", Some(Scope::Read)),
    ("GET", "/v1/deliveries", Some(Scope::Read)),
    ("GET", "/v1/deliveries/{id}", Some(Scope::Read)),
    ("GET", "/v1/deliveries/{id}/attempts", Some(Scope::Read)),
    ("GET", "/v1/deliveries/{id}/body", Some(Scope::Read)),
    ("POST", "/v1/deliveries/{id}/retry", Some(Scope::Write)),
    ("POST", "/v1/deliveries/retry", Some(Scope::Write)),
    ("GET", "/v1/destinations", Some(Scope::Read)),
    ("POST", "/v1/destinations", Some(Scope::Write)),
    ("GET", "/v1/destinations/{id}", Some(Scope::Read)),
    ("PATCH", "/v1/destinations/{id}", Some(Scope::Write)),
    ("DELETE", "/v1/destinations/{id}", Some(Scope::Write)),
    ("POST", "/v1/destinations/{id}/enable", Some(Scope::Write)),
    ("POST", "/v1/destinations/{id}/rotate-secret", Some(Scope::Write)),
    ("POST", "/v1/destinations/{id}/test", Some(Scope::Write)),
    ("GET", "/v1/signing-secret", Some(Scope::Admin)),
    ("POST", "/v1/signing-secret/rotate", Some(Scope::Admin)),
    ("GET", "/v1/providers", Some(Scope::Read)),
    ("GET", "/v1/providers/{id}", Some(Scope::Read)),
    ("GET", "/v1/providers/{id}/definition", Some(Scope::Read)),
    ("PUT", "/v1/providers/{id}/definition", Some(Scope::Write)),
    ("DELETE", "/v1/providers/{id}/definition", Some(Scope::Write)),
    ("GET", "/v1/credentials", Some(Scope::Read)),
    ("POST", "/v1/credentials", Some(Scope::Write)),
    ("DELETE", "/v1/credentials/{id}", Some(Scope::Write)),
    ("GET", "/v1/apps", Some(Scope::Admin)),
    ("POST", "/v1/apps", Some(Scope::Admin)),
    ("GET", "/v1/apps/{id}", Some(Scope::Admin)),
    ("PATCH", "/v1/apps/{id}", Some(Scope::Admin)),
    ("DELETE", "/v1/apps/{id}", Some(Scope::Admin)),
    ("GET", "/v1/apps/{id}/jwks.json", None),
    ("POST", "/v1/test", Some(Scope::Write)),
    ("GET", "/v1/keys", Some(Scope::Admin)),
    ("POST", "/v1/keys", Some(Scope::Admin)),
    ("GET", "/v1/keys/{id}", Some(Scope::Admin)),
    ("DELETE", "/v1/keys/{id}", Some(Scope::Read)),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/docs", None),
];

/// Returns the path with an id in the place of `{id}`.
fn path(route: &Route, name: impl Fn(&str) -> String) -> String {
    let Some((before, after)) = route.path.split_once("{id}") else { return route.path.to_owned() };
    let kind = if after == "/definition" { "definitions" } else { before.split('/').nth(2).unwrap_or("") };
    [before, &name(kind), after].concat()
}

#[tokio::test]
async fn every_route_requires_the_documented_scope() {
    let t = Harness::start().await;
    let make = async |body: Value| {
        let made = t.post("/v1/keys", &body).await.expect(201);
        (id(&made), made["key"].as_str().unwrap().to_owned())
    };
    let (_, read) = make(json!({ "scope": "read" })).await;
    let (_, write) = make(json!({ "scope": "write" })).await;
    let (_, admin) = make(json!({ "scope": "admin" })).await;
    let (_, expired) = make(json!({ "scope": "admin", "expiresIn": "1s" })).await;
    let (revoked_id, revoked) = make(json!({ "scope": "admin" })).await;
    assert_eq!(t.delete(&format!("/v1/keys/{revoked_id}")).await.status, 204);
    t.pass(seconds(1)).await;
    let bearer = |key: &str| Some(format!("Bearer {key}"));
    let callers: [(&str, Option<String>, Option<Scope>); 11] = [
        ("no key", None, None),
        ("garbage", bearer("rb_garbage"), None),
        ("an empty key", bearer(""), None),
        ("another scheme", Some(format!("Basic {admin}")), None),
        ("no scheme", Some(admin.clone()), None),
        ("expired", bearer(&expired), None),
        ("revoked", bearer(&revoked), None),
        ("read", bearer(&read), Some(Scope::Read)),
        ("write", bearer(&write), Some(Scope::Write)),
        ("admin", bearer(&admin), Some(Scope::Admin)),
        ("the configured key", bearer(KEY), Some(Scope::Admin)),
    ];
    let mut wrong = Vec::new();
    for route in ROUTES.iter() {
        let row = CONTRACT.iter().find(|(method, path, _)| (*method, *path) == (route.method, route.path));
        let Some((_, _, needed)) = row else {
            wrong.push(format!("{route:?} is not in the table of this test"));
            continue;
        };
        if route.scope != *needed {
            wrong.push(format!("{route:?} requires {:?}", route.scope));
        }
        let path = path(route, |kind| unknown_id(kind).to_owned());
        for (caller, auth, has) in &callers {
            let mut headers = vec![JSON];
            headers.extend(auth.iter().map(|auth| ("authorization", auth.as_str())));
            let body: &[u8] = if route.method == "GET" { b"" } else { b"{}" };
            let status = t.send(route.method, &path, &headers, body).await.status;
            let fits = match (needed, has) {
                (Some(_), None) => status == 401,
                (Some(needed), Some(has)) if has < needed => status == 403,
                (Some(_) | None, _) => !matches!(status, 401 | 403 | 405 | 500..),
            };
            if !fits {
                wrong.push(format!("{route:?} as {caller}: {status}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    t.finish().await;
}

/// Returns a valid id of a row that does not exist.
fn unknown_id(kind: &str) -> &'static str {
    match kind {
        "watches" => "watch_00000000000000000000000000",
        "groups" => "no-such-group",
        "events" => "evt_00000000000000000000000000",
        "deliveries" => "dlv_00000000000000000000000000",
        "destinations" => "dst_00000000000000000000000000",
        "operations" => "op_00000000000000000000000000",
        "apps" => "app_00000000000000000000000000",
        "keys" => "key_00000000000000000000000000",
        "credentials" => "no-such-credential",
        "providers" => "no-such-provider",
        "definitions" => "no-such-definition",
        other => panic!("add an id of {other}"),
    }
}

/// Returns a credential that can be created.
fn credential(name: &str) -> Value {
    json!({ "name": name, "kind": "bearer", "sendTo": ["own.example.com"], "token": "other-tenant-token" })
}

/// Another app, with one row of every kind.
struct Other {
    tenant: Tenant,
    watch: String,
    destination: String,
    event: String,
    delivery: String,
    /// A destination that has answered with 410.
    gone: String,
    /// A saved destination.
    saved: String,
    /// An operation.
    operation: String,
    /// Cursors after the first row of its lists.
    cursors: [(&'static str, String); 6],
    /// Texts that no answer to another app may contain.
    marks: Vec<String>,
}

/// An address at which nothing listens.
const UNREACHABLE: &str = "http://127.0.0.1:1/";

const METADATA: &str = "other-tenant-metadata";
const HEADER: &str = "other-tenant-header";
const CREDENTIAL: &str = "other-tenant-credential";
const DEFINITION: &str = "other-tenant-definition";
const GROUP: &str = "other-tenant-group";
const IDEMPOTENCY_KEY: (&str, &str) = ("idempotency-key", "other-tenant-key");

impl Other {
    async fn make(t: &Harness) -> Self {
        let tenant = tenant(t, "other-tenant-app").await;
        let auth = format!("Bearer {}", tenant.key);
        let post = async |path: &str, body: Value| {
            let headers = [("authorization", auth.as_str()), JSON, IDEMPOTENCY_KEY];
            t.send("POST", path, &headers, body.to_string().as_bytes()).await.json()
        };
        let get = async |path: &str| t.as_key(&tenant.key, "GET", path, "").await.expect(200);
        t.receiver.secret("/other-tenant-hook", &tenant.secret);
        t.provider.completed("job_other1");
        let body = json!({
            "jobId": "job_other1", "reference": "other-tenant-order", "metadata": { "note": METADATA },
            "notify": [{ "type": "webhook", "url": t.receiver.url("/other-tenant-hook"), "headers": { "x-note": HEADER } }],
        });
        let watch = post("/v1/watches", body).await;
        t.provider.processing("job_other2", 10);
        t.as_key(
            &tenant.key,
            "POST",
            "/v1/watches",
            r#"{"jobId": "job_other2", "group": {"id": "other-tenant-group", "size": 1}, "events": ["job.*"]}"#,
        )
        .await
        .expect(201);
        // Answers that could be replayed to another app that sends the same request with the same key.
        post("/v1/keys", json!({ "scope": "read" })).await;
        post("/v1/signing-secret/rotate", json!({})).await;
        t.provider.processing("job_other4", 0);
        post("/v1/watches/batch", json!({ "watches": [{ "jobId": "job_other4", "notify": [] }] })).await;
        let retried = post("/v1/deliveries/retry", json!({ "status": "failed" })).await;
        let operation = retried["operationId"].as_str().unwrap().to_owned();
        post("/v1/watches/stop", json!({ "reference": "other-tenant" })).await;
        post("/v1/test", json!({ "destination": UNREACHABLE })).await;
        post("/v1/credentials", credential(CREDENTIAL)).await;
        let definition = crate::own_definitions::MINE.replace("BASE", "https://own.example.com");
        let definition = definition.replace("id = \"mine\"", &format!("id = \"{DEFINITION}\""));
        let path = format!("/v1/providers/{DEFINITION}/definition");
        crate::own_definitions::put_as(t, &tenant.key, &path, &definition).await.expect(201);
        t.pass(seconds(5)).await;
        t.receiver.next_to("/other-tenant-hook").await;
        // Not a default one: it would get the watches of this test.
        let saved = json!({ "name": "other-tenant-saved", "url": t.receiver.url("/other-tenant-hook") });
        let saved = post("/v1/destinations", saved).await;
        // A failed delivery that another app could retry.
        t.receiver.script("/other-tenant-end", [crate::fakes::Reply::status(410)]);
        t.receiver.secret("/other-tenant-end", &tenant.secret);
        t.provider.completed("job_other3");
        let body = json!({ "jobId": "job_other3", "callbackUrl": t.receiver.url("/other-tenant-end") });
        t.as_key(&tenant.key, "POST", "/v1/watches", &body.to_string()).await.expect(201);
        t.pass(seconds(5)).await;
        t.receiver.next_to("/other-tenant-end").await;
        let list = async |path: &str| get(&format!("{path}?limit=1")).await;
        let mut cursors = Vec::new();
        for path in
            ["/v1/watches", "/v1/events", "/v1/deliveries", "/v1/destinations", "/v1/apps", "/v1/keys"]
        {
            let page = list(path).await;
            // Some lists have only one page; any valid cursor serves there.
            let cursor = page["nextCursor"].as_str().unwrap_or_else(|| match path {
                "/v1/apps" => "YQAAAAAAAAAAAAAAAAAAAAA",
                "/v1/destinations" => "bwAAAAAAAAAAAAAAAAAAAAA",
                other => panic!("add a cursor of the list {other}"),
            });
            cursors.push((path, cursor.to_owned()));
        }
        let events = get("/v1/events").await;
        let ending = events["data"].as_array().unwrap().iter().find(|event| event["type"] == "job.completed");
        let event = id(ending.expect("the ending"));
        let failed = get("/v1/deliveries?status=failed").await;
        let delivery = id(&failed["data"][0]);
        let destination = watch["destinations"][0]["id"].as_str().unwrap().to_owned();
        let watch = id(&watch);
        let gone = failed["data"][0]["destinationId"].as_str().unwrap().to_owned();
        let secret = get("/v1/signing-secret").await["secret"].as_str().unwrap().to_owned();
        let (saved_secret, saved) = (saved["secret"].as_str().unwrap().to_owned(), id(&saved));
        let marks = [
            &operation,
            &saved,
            &saved_secret,
            &gone,
            &secret,
            &tenant.id,
            &tenant.secret,
            &tenant.key,
            &tenant.key_id,
            &watch,
            &destination,
            &event,
            &delivery,
        ];
        let words = ["other-tenant", "job_other"].map(str::to_owned);
        let marks = marks.into_iter().cloned().chain(words).collect();
        let cursors = cursors.try_into().expect("six");
        Self { tenant, watch, destination, event, delivery, gone, saved, operation, cursors, marks }
    }

    fn name(&self, kind: &str) -> String {
        match kind {
            "watches" => &self.watch,
            "groups" => return GROUP.to_owned(),
            "credentials" => return CREDENTIAL.to_owned(),
            "definitions" => return DEFINITION.to_owned(),
            // It stands for the polls of the calling app, which has none.
            "providers" => return "inline".to_owned(),
            "events" => &self.event,
            "deliveries" => &self.delivery,
            "destinations" => &self.saved,
            "operations" => &self.operation,
            "apps" => &self.tenant.id,
            "keys" => &self.tenant.key_id,
            other => panic!("add the other app's id of {other}"),
        }
        .clone()
    }

    fn cursor(&self, path: &str) -> &str {
        let found = self.cursors.iter().find(|(known, _)| *known == path);
        found.map_or_else(|| panic!("add a cursor of the list {path}"), |(_, cursor)| cursor)
    }

    /// Returns everything that the app can read. The clock stands still, so no last use changes.
    async fn readable(&self, t: &Harness) -> Vec<String> {
        let mut all = Vec::new();
        for path in [
            format!("/v1/watches/{}/timeline", self.watch),
            format!("/v1/deliveries/{}", self.delivery),
            format!("/v1/operations/{}", self.operation),
            "/v1/watches".to_owned(),
            "/v1/events".to_owned(),
            "/v1/deliveries".to_owned(),
            "/v1/destinations".to_owned(),
            "/v1/credentials".to_owned(),
            format!("/v1/providers/{DEFINITION}/definition"),
            "/v1/signing-secret".to_owned(),
            "/v1/apps".to_owned(),
            "/v1/keys".to_owned(),
        ] {
            let answer = t.as_key(&self.tenant.key, "GET", &path, "").await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            all.push(format!("{path}: {}", answer.text()));
        }
        all
    }
}

/// Expected answer to a request for data of another app.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// A problem with this status.
    Refused(u16),
    /// An empty list.
    Empty,
    /// Data of the caller's own app only, and no replay.
    Own,
}

/// A request for data of another app.
struct Attempt {
    /// Query, with its `?`.
    query: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    expected: Expected,
}

fn attempt(query: impl Into<String>, expected: Expected) -> Attempt {
    Attempt { query: query.into(), headers: Vec::new(), body: String::new(), expected }
}

/// Returns a request with a body and the other app's `Idempotency-Key`.
fn write(body: &Value, expected: Expected) -> Attempt {
    let headers = vec![(IDEMPOTENCY_KEY.0, IDEMPOTENCY_KEY.1.to_owned())];
    Attempt { headers, body: body.to_string(), ..attempt("", expected) }
}

/// Returns the requests by which a route could reveal or change data of `b`.
fn attempts(route: &Route, b: &Other) -> Vec<Attempt> {
    use Expected::{Empty, Own, Refused};

    // Needs no key, and shows the public keys of an app whose id the caller knows, and nothing else.
    if route.path == "/v1/apps/{id}/jwks.json" {
        return vec![attempt("", Own)];
    }
    // An app can have a definition with the same id; `own_definitions` tests that. This body is none.
    if route.method == "PUT" {
        return vec![Attempt { body: "{}".to_owned(), ..attempt("", Refused(415)) }];
    }
    if route.path.contains("{id}") {
        let body = match (route.method, route.path) {
            ("GET", _) => "",
            ("PATCH", "/v1/destinations/{id}") => r#"{"enabled": false}"#,
            ("PATCH", "/v1/apps/{id}") => r#"{"name": "own"}"#,
            ("PATCH", _) => r#"{"expiresIn": "1h"}"#,
            _ => "{}",
        };
        let body = body.to_owned();
        let replayed = write(&json!({}), Refused(404));
        let plain = Attempt { body, ..attempt("", Refused(404)) };
        return if route.method == "POST" { vec![plain, replayed] } else { vec![plain] };
    }
    let list = |more: Vec<Attempt>| -> Vec<Attempt> {
        let cursor = format!("?cursor={}", b.cursor(route.path));
        [attempt("", Own), attempt(cursor, Own)].into_iter().chain(more).collect()
    };
    match (route.method, route.path) {
        ("POST", "/v1/watches") => vec![
            write(&json!({ "jobId": "job_own2", "notify": [] }), Own),
            Attempt {
                body: json!({ "jobId": "job_own2", "notify": [{ "destinationId": b.saved }] }).to_string(),
                ..attempt("", Refused(422))
            },
            Attempt {
                body: json!({ "poll": { "url": "https://own.example.com/", "credential": "no-own" }, "notify": [] })
                    .to_string(),
                ..attempt("", Refused(422))
            },
        ],
        ("GET", "/v1/destinations") => list(Vec::new()),
        ("GET", "/v1/credentials") => vec![attempt("", Own), attempt("?cursor=YwAAAAAAAAAA", Own)],
        ("POST", "/v1/credentials") => vec![write(&credential("own"), Own)],
        ("POST", "/v1/destinations") => vec![write(&json!({ "url": "https://own.example.com/" }), Own)],
        ("GET", "/v1/watches") => {
            list(vec![attempt("?jobId=job_other1", Empty), attempt("?reference=other-tenant-order", Empty)])
        }
        ("GET", "/v1/events") => list(vec![
            attempt(format!("?after={}", b.event), Refused(410)),
            attempt(format!("?watchId={}", b.watch), Empty),
            attempt("?jobId=job_other1&order=desc", Empty),
        ]),
        ("GET", "/v1/deliveries") => list(vec![
            attempt(format!("?watchId={}", b.watch), Empty),
            attempt(format!("?destinationId={}", b.destination), Empty),
            attempt("?jobId=job_other1", Empty),
            attempt("?reference=other-tenant-order", Empty),
            attempt("?status=failed,pending,skipped,succeeded", Own),
        ]),
        ("POST", "/v1/signing-secret/rotate") => vec![write(&json!({}), Own)],
        ("GET", "/v1/apps") => list(Vec::new()),
        ("POST", "/v1/apps") => vec![write(&json!({ "name": "own" }), Refused(403))],
        ("GET", "/v1/keys") => list(vec![attempt(format!("?appId={}", b.tenant.id), Refused(422))]),
        ("POST", "/v1/keys") => vec![
            write(&json!({ "scope": "read", "appId": b.tenant.id }), Refused(422)),
            write(&json!({ "scope": "read" }), Own),
        ],
        ("POST", "/v1/watches/batch") => {
            vec![write(&json!({ "watches": [{ "jobId": "job_own3", "notify": [] }] }), Own)]
        }
        ("GET", "/v1/events/stream") => {
            let last = vec![("last-event-id", b.event.clone())];
            vec![
                attempt(format!("?after={}", b.event), Refused(410)),
                Attempt { headers: last, ..attempt("", Refused(410)) },
            ]
        }
        ("POST", "/v1/deliveries/retry") => vec![
            write(&json!({ "status": "failed" }), Own),
            Attempt {
                body: json!({ "status": "failed", "destinationId": b.gone }).to_string(),
                ..attempt("", Own)
            },
        ],
        ("POST", "/v1/watches/stop") => vec![
            write(&json!({ "jobId": "job_other2" }), Own),
            Attempt { body: json!({ "jobId": "job_other1" }).to_string(), ..attempt("", Own) },
        ],
        ("POST", "/v1/test") => {
            let saved = json!({ "destination": { "destinationId": b.saved } }).to_string();
            vec![
                write(&json!({ "destination": UNREACHABLE }), Own),
                write(&json!({}), Refused(422)),
                Attempt { body: saved, ..attempt("", Refused(422)) },
            ]
        }
        ("GET", "/v1/signing-secret" | "/v1/providers") => vec![attempt("", Own)],
        // These routes need no key and show no app's data.
        ("GET", "/healthz" | "/readyz" | "/metrics" | "/openapi.json" | "/docs") => vec![attempt("", Own)],
        _ => panic!("add requests by which {route:?} could reveal data of another app"),
    }
}

/// Returns the error of an answer; `None` if it is as expected.
fn check(answer: &Answer, expected: Expected, marks: &[String]) -> Option<String> {
    let revealed: Vec<&String> = marks.iter().filter(|mark| answer.text().contains(mark.as_str())).collect();
    let fits = match expected {
        Expected::Refused(status) => answer.status == status,
        Expected::Empty => answer.status == 200 && answer.json()["data"] == json!([]),
        Expected::Own => {
            (200..300).contains(&answer.status) && answer.header("idempotent-replayed").is_none()
        }
    };
    let wrong = !fits || !revealed.is_empty();
    wrong.then(|| {
        format!("expected {expected:?}: {} {}, which reveals {revealed:?}", answer.status, answer.text())
    })
}

#[tokio::test]
async fn an_app_neither_reads_nor_changes_data_of_another_app() {
    let t = Harness::start().await;
    let b = Other::make(&t).await;
    let a = tenant(&t, "own").await;
    t.provider.processing("job_own1", 0);
    t.provider.processing("job_own2", 0);
    t.provider.processing("job_own3", 0);
    t.as_key(&a.key, "POST", "/v1/watches", r#"{"jobId": "job_own1", "notify": []}"#).await.expect(201);
    let before = b.readable(&t).await;
    let auth = format!("Bearer {}", a.key);
    let mut wrong = Vec::new();
    for route in ROUTES.iter() {
        for Attempt { query, headers, body, expected } in attempts(route, &b) {
            let path = path(route, |kind| b.name(kind)) + &query;
            let mut all = vec![("authorization", auth.as_str())];
            all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
            if !body.is_empty() {
                all.push(JSON);
            }
            let answer = t.send(route.method, &path, &all, body.as_bytes()).await;
            wrong.extend(
                check(&answer, expected, &b.marks).map(|error| format!("{} {path}: {error}", route.method)),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    t.rest().await;
    assert_eq!(b.readable(&t).await, before, "its data is unchanged");
    t.finish().await;
}

#[tokio::test]
async fn a_stream_sends_only_events_of_its_own_app() {
    let t = Harness::start().await;
    let (a, b) = (tenant(&t, "a").await, tenant(&t, "b").await);
    let auth = format!("Bearer {}", a.key);
    let mut follower = crate::stream::Follower::start(&t, "", &[("authorization", &auth)]).await;
    for (key, job) in [(&b.key, "job_other"), (&a.key, "job_own")] {
        t.provider.completed(job);
        let body = json!({ "jobId": job, "notify": [] }).to_string();
        t.as_key(key, "POST", "/v1/watches", &body).await.expect(201);
        t.pass(seconds(5)).await;
    }
    assert_eq!(follower.next().await.data["data"]["jobId"], "job_own");
    t.finish().await;
}

/// Admins of the first app manage all apps and keys, but do not read the watches of other apps.
#[tokio::test]
async fn the_operator_manages_all_apps_but_reads_only_its_own_data() {
    let t = Harness::start().await;
    let b = Other::make(&t).await;
    t.provider.processing("job_own2", 0);
    t.provider.processing("job_own3", 0);
    let before = b.readable(&t).await;
    let mut wrong = Vec::new();
    for route in ROUTES.iter().filter(|route| !manages(route)) {
        for Attempt { query, headers, body, expected } in attempts(route, &b) {
            let path = path(route, |kind| b.name(kind)) + &query;
            // The first app's secret is configured in these tests, so it cannot be rotated.
            if route.path == "/v1/signing-secret/rotate" {
                continue;
            }
            let mut all = vec![crate::harness::AUTH];
            all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
            if !body.is_empty() {
                all.push(JSON);
            }
            let answer = t.send(route.method, &path, &all, body.as_bytes()).await;
            wrong.extend(
                check(&answer, expected, &b.marks).map(|error| format!("{} {path}: {error}", route.method)),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    t.rest().await;
    assert_eq!(b.readable(&t).await, before);
    let app = t.get(&format!("/v1/apps/{}", b.tenant.id)).await.expect(200);
    assert_eq!(app["name"], "other-tenant-app");
    let keys = t.get(&format!("/v1/keys?appId={}", b.tenant.id)).await.expect(200);
    assert_eq!(keys["data"].as_array().unwrap().len(), 2);
    assert_eq!(t.delete(&format!("/v1/keys/{}", b.tenant.key_id)).await.status, 204);
    t.as_key(&b.tenant.key, "GET", "/v1/watches", "").await.expect(401);
    t.finish().await;
}

fn manages(route: &Route) -> bool {
    route.path.starts_with("/v1/apps") || route.path.starts_with("/v1/keys")
}

crate::postgres::on_postgres_too! {
    every_route_requires_the_documented_scope,
    an_app_neither_reads_nor_changes_data_of_another_app,
    a_stream_sends_only_events_of_its_own_app,
    the_operator_manages_all_apps_but_reads_only_its_own_data,
}
