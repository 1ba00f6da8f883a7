//! Who may what: every route of the router, tried by every kind of key, and with everything that
//! belongs to another app.
//!
//! Both go through `ringback::api::ROUTES`, of which the router is made. A route that is added is in
//! both at once: one with an `{id}` is tried with the other app's id of that kind by itself; about any
//! other, [`tries`] has to be told what it could give away, and the test fails until it is.

use ringback::api::{ROUTES, Route};
use ringback::domain::Scope;
use serde_json::{Value, json};

use crate::harness::{Harness, JSON, KEY, id, seconds};
use crate::tenants::{Tenant, tenant};
use crate::wire::Answer;

/// The contract's table: method, path, scope.
const CONTRACT: &[(&str, &str, Option<Scope>)] = &[
    ("POST", "/v1/watches", Some(Scope::Write)),
    ("POST", "/v1/watches/batch", Some(Scope::Write)),
    ("GET", "/v1/watches", Some(Scope::Read)),
    ("GET", "/v1/watches/{id}", Some(Scope::Read)),
    ("PATCH", "/v1/watches/{id}", Some(Scope::Write)),
    ("DELETE", "/v1/watches/{id}", Some(Scope::Write)),
    ("POST", "/v1/watches/{id}/poll", Some(Scope::Write)),
    ("GET", "/v1/watches/{id}/timeline", Some(Scope::Read)),
    ("GET", "/v1/events", Some(Scope::Read)),
    ("GET", "/v1/events/{id}", Some(Scope::Read)),
    ("GET", "/v1/events/stream", Some(Scope::Read)),
    ("GET", "/v1/deliveries", Some(Scope::Read)),
    ("GET", "/v1/deliveries/{id}", Some(Scope::Read)),
    ("POST", "/v1/deliveries/{id}/retry", Some(Scope::Write)),
    ("POST", "/v1/deliveries/retry", Some(Scope::Write)),
    ("GET", "/v1/signing-secret", Some(Scope::Admin)),
    ("POST", "/v1/signing-secret/rotate", Some(Scope::Admin)),
    ("GET", "/v1/providers", Some(Scope::Read)),
    ("GET", "/v1/apps", Some(Scope::Admin)),
    ("POST", "/v1/apps", Some(Scope::Admin)),
    ("GET", "/v1/apps/{id}", Some(Scope::Admin)),
    ("GET", "/v1/keys", Some(Scope::Admin)),
    ("POST", "/v1/keys", Some(Scope::Admin)),
    ("GET", "/v1/keys/{id}", Some(Scope::Admin)),
    ("DELETE", "/v1/keys/{id}", Some(Scope::Admin)),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/docs", None),
];

/// The path with a name in it.
fn path(route: &Route, name: impl Fn(&str) -> String) -> String {
    let Some((before, after)) = route.path.split_once("{id}") else { return route.path.to_owned() };
    let kind = before.split('/').nth(2).unwrap_or("");
    [before, &name(kind), after].concat()
}

#[tokio::test]
async fn every_route_asks_for_the_scope_that_the_contract_names() {
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
            wrong.push(format!("{route:?} is not in the contract's table"));
            continue;
        };
        if route.scope != *needed {
            wrong.push(format!("{route:?} says that it asks for {:?}", route.scope));
        }
        let path = path(route, |kind| unknown(kind).to_owned());
        for (who, auth, has) in &callers {
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
                wrong.push(format!("{route:?} as {who}: {status}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    t.finish().await;
}

/// An id that nothing has.
fn unknown(kind: &str) -> &'static str {
    match kind {
        "watches" => "watch_00000000000000000000000000",
        "events" => "evt_00000000000000000000000000",
        "deliveries" => "dlv_00000000000000000000000000",
        "apps" => "app_00000000000000000000000000",
        "keys" => "key_00000000000000000000000000",
        other => panic!("say what an id of {other} looks like"),
    }
}

/// An app with one of everything.
struct Other {
    tenant: Tenant,
    watch: String,
    destination: String,
    event: String,
    delivery: String,
    /// A destination that wants nothing more.
    dead: String,
    /// Where its lists go on after the first entry.
    cursors: [(&'static str, String); 5],
    /// Whatever is its own and must not be read in anybody else's answer.
    marks: Vec<String>,
}

const METADATA: &str = "nobody-elses-metadata";
const HEADER: &str = "nobody-elses-header";
const REMEMBERED: (&str, &str) = ("idempotency-key", "nobody-elses-key");

impl Other {
    async fn make(t: &Harness) -> Self {
        let tenant = tenant(t, "nobody-elses-app").await;
        let auth = format!("Bearer {}", tenant.key);
        let post = async |path: &str, body: Value| {
            let headers = [("authorization", auth.as_str()), JSON, REMEMBERED];
            t.send("POST", path, &headers, body.to_string().as_bytes()).await.json()
        };
        let get = async |path: &str| t.as_key(&tenant.key, "GET", path, "").await.expect(200);
        t.receiver.secret("/nobody-elses-hook", &tenant.secret);
        t.provider.completed("job_other1");
        let body = json!({
            "jobId": "job_other1", "metadata": { "note": METADATA },
            "notify": [{ "type": "webhook", "url": t.receiver.url("/nobody-elses-hook"), "headers": { "x-note": HEADER } }],
        });
        let watch = post("/v1/watches", body).await;
        t.provider.processing("job_other2", 10);
        t.as_key(
            &tenant.key,
            "POST",
            "/v1/watches",
            r#"{"jobId": "job_other2", "notify": [], "events": ["job.*"]}"#,
        )
        .await
        .expect(201);
        // What could be replayed to somebody who sends the same under the same key, who is another.
        post("/v1/keys", json!({ "scope": "read" })).await;
        post("/v1/signing-secret/rotate", json!({})).await;
        t.provider.processing("job_other4", 0);
        post("/v1/watches/batch", json!({ "watches": [{ "jobId": "job_other4", "notify": [] }] })).await;
        post("/v1/deliveries/retry", json!({ "status": "failed" })).await;
        t.pass(seconds(5)).await;
        t.receiver.next_to("/nobody-elses-hook").await;
        // And what could be sent again by somebody else's wish.
        t.receiver.script("/nobody-elses-end", [crate::fakes::Reply::status(410)]);
        t.receiver.secret("/nobody-elses-end", &tenant.secret);
        t.provider.completed("job_other3");
        let body = json!({ "jobId": "job_other3", "callbackUrl": t.receiver.url("/nobody-elses-end") });
        t.as_key(&tenant.key, "POST", "/v1/watches", &body.to_string()).await.expect(201);
        t.pass(seconds(5)).await;
        t.receiver.next_to("/nobody-elses-end").await;
        let list = async |path: &str| get(&format!("{path}?limit=1")).await;
        let mut cursors = Vec::new();
        for path in ["/v1/watches", "/v1/events", "/v1/deliveries", "/v1/apps", "/v1/keys"] {
            let page = list(path).await;
            // Of some there is only one page; the last id's place is as good as any.
            let cursor = page["nextCursor"].as_str().unwrap_or("AAAAAAAAAAAAAAAAAAAAAA");
            cursors.push((path, cursor.to_owned()));
        }
        let events = get("/v1/events").await;
        let ending = events["data"].as_array().unwrap().iter().find(|event| event["type"] == "job.completed");
        let event = id(ending.expect("the ending"));
        let failed = get("/v1/deliveries?status=failed").await;
        let delivery = id(&failed["data"][0]);
        let destination = watch["destinations"][0]["id"].as_str().unwrap().to_owned();
        let watch = id(&watch);
        let dead = failed["data"][0]["destinationId"].as_str().unwrap().to_owned();
        let secret = get("/v1/signing-secret").await["secret"].as_str().unwrap().to_owned();
        let marks = [
            &dead,
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
        let words = ["nobody-elses", "job_other"].map(str::to_owned);
        let marks = marks.into_iter().cloned().chain(words).collect();
        let cursors = cursors.try_into().expect("five");
        Self { tenant, watch, destination, event, delivery, dead, cursors, marks }
    }

    fn name(&self, kind: &str) -> String {
        match kind {
            "watches" => &self.watch,
            "events" => &self.event,
            "deliveries" => &self.delivery,
            "apps" => &self.tenant.id,
            "keys" => &self.tenant.key_id,
            other => panic!("say which of {other} is the other app's"),
        }
        .clone()
    }

    fn cursor(&self, path: &str) -> &str {
        let found = self.cursors.iter().find(|(known, _)| *known == path);
        found.map_or_else(|| panic!("say where the list {path} goes on"), |(_, cursor)| cursor)
    }

    /// Everything that it sees of itself. The clock stands, so that not even a last use changes.
    async fn sees(&self, t: &Harness) -> Vec<String> {
        let mut all = Vec::new();
        for path in [
            format!("/v1/watches/{}/timeline", self.watch),
            format!("/v1/deliveries/{}", self.delivery),
            "/v1/watches".to_owned(),
            "/v1/events".to_owned(),
            "/v1/deliveries".to_owned(),
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

/// What is to come of an attempt to reach what is another's.
#[derive(Clone, Copy, Debug)]
enum Hoped {
    /// This status, and a problem.
    Refused(u16),
    /// An empty list.
    Empty,
    /// An answer about one's own alone, and nothing that was made before.
    Own,
}

struct Attempt {
    /// What follows the path.
    query: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    hoped: Hoped,
}

fn attempt(query: impl Into<String>, hoped: Hoped) -> Attempt {
    Attempt { query: query.into(), headers: Vec::new(), body: String::new(), hoped }
}

/// With a body, and with the other app's Idempotency-Key.
fn write(body: &Value, hoped: Hoped) -> Attempt {
    let headers = vec![(REMEMBERED.0, REMEMBERED.1.to_owned())];
    Attempt { headers, body: body.to_string(), ..attempt("", hoped) }
}

/// All the ways in which a route could be asked for what is `b`'s.
fn tries(route: &Route, b: &Other) -> Vec<Attempt> {
    use Hoped::{Empty, Own, Refused};

    if route.path.contains("{id}") {
        let body = match route.method {
            "GET" => "",
            "PATCH" => r#"{"expiresIn": "1h"}"#,
            _ => "{}",
        };
        let body = body.to_owned();
        let remembered = write(&json!({}), Refused(404));
        let plain = Attempt { body, ..attempt("", Refused(404)) };
        return if route.method == "POST" { vec![plain, remembered] } else { vec![plain] };
    }
    let list = |more: Vec<Attempt>| -> Vec<Attempt> {
        let cursor = format!("?cursor={}", b.cursor(route.path));
        [attempt("", Own), attempt(cursor, Own)].into_iter().chain(more).collect()
    };
    match (route.method, route.path) {
        ("POST", "/v1/watches") => vec![write(&json!({ "jobId": "job_own2", "notify": [] }), Own)],
        ("GET", "/v1/watches") => list(vec![attempt("?jobId=job_other1", Empty)]),
        ("GET", "/v1/events") => list(vec![attempt(format!("?after={}", b.event), Refused(410))]),
        ("GET", "/v1/deliveries") => list(vec![
            attempt(format!("?watchId={}", b.watch), Empty),
            attempt(format!("?destinationId={}", b.destination), Empty),
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
                body: json!({ "status": "failed", "destinationId": b.dead }).to_string(),
                ..attempt("", Own)
            },
        ],
        ("GET", "/v1/signing-secret" | "/v1/providers") => vec![attempt("", Own)],
        // Without a key they have nobody's.
        ("GET", "/healthz" | "/readyz" | "/metrics" | "/openapi.json" | "/docs") => vec![attempt("", Own)],
        _ => panic!("say what {route:?} could give away of another app"),
    }
}

/// What is wrong with an answer.
fn judge(answer: &Answer, hoped: Hoped, marks: &[String]) -> Option<String> {
    let told: Vec<&String> = marks.iter().filter(|mark| answer.text().contains(mark.as_str())).collect();
    let fits = match hoped {
        Hoped::Refused(status) => answer.status == status,
        Hoped::Empty => answer.status == 200 && answer.json()["data"] == json!([]),
        Hoped::Own => (200..300).contains(&answer.status) && answer.header("idempotent-replayed").is_none(),
    };
    let wrong = !fits || !told.is_empty();
    wrong.then(|| format!("{hoped:?} was hoped for: {} {}, telling {told:?}", answer.status, answer.text()))
}

#[tokio::test]
async fn an_app_sees_and_changes_nothing_of_another_whatever_it_asks_for() {
    let t = Harness::start().await;
    let b = Other::make(&t).await;
    let a = tenant(&t, "own").await;
    t.provider.processing("job_own1", 0);
    t.provider.processing("job_own2", 0);
    t.provider.processing("job_own3", 0);
    t.as_key(&a.key, "POST", "/v1/watches", r#"{"jobId": "job_own1", "notify": []}"#).await.expect(201);
    let before = b.sees(&t).await;
    let auth = format!("Bearer {}", a.key);
    let mut wrong = Vec::new();
    for route in ROUTES.iter() {
        for Attempt { query, headers, body, hoped } in tries(route, &b) {
            let path = path(route, |kind| b.name(kind)) + &query;
            let mut all = vec![("authorization", auth.as_str())];
            all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
            if !body.is_empty() {
                all.push(JSON);
            }
            let answer = t.send(route.method, &path, &all, body.as_bytes()).await;
            wrong
                .extend(judge(&answer, hoped, &b.marks).map(|why| format!("{} {path}: {why}", route.method)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    t.rest().await;
    assert_eq!(b.sees(&t).await, before, "nothing of it has changed");
    t.finish().await;
}

#[tokio::test]
async fn who_follows_is_told_of_the_own_app_only() {
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

/// The first app's admins manage the tenants, and no more than that.
#[tokio::test]
async fn the_operator_sees_apps_and_keys_of_all_and_the_rest_of_its_own_app_only() {
    let t = Harness::start().await;
    let b = Other::make(&t).await;
    t.provider.processing("job_own2", 0);
    t.provider.processing("job_own3", 0);
    let before = b.sees(&t).await;
    let mut wrong = Vec::new();
    for route in ROUTES.iter().filter(|route| !manages(route)) {
        for Attempt { query, headers, body, hoped } in tries(route, &b) {
            let path = path(route, |kind| b.name(kind)) + &query;
            // Its own secret is configured in these tests, and is not rotated.
            if route.path == "/v1/signing-secret/rotate" {
                continue;
            }
            let mut all = vec![crate::harness::AUTH];
            all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
            if !body.is_empty() {
                all.push(JSON);
            }
            let answer = t.send(route.method, &path, &all, body.as_bytes()).await;
            wrong
                .extend(judge(&answer, hoped, &b.marks).map(|why| format!("{} {path}: {why}", route.method)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    t.rest().await;
    assert_eq!(b.sees(&t).await, before);
    let app = t.get(&format!("/v1/apps/{}", b.tenant.id)).await.expect(200);
    assert_eq!(app["name"], "nobody-elses-app");
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
    every_route_asks_for_the_scope_that_the_contract_names,
    an_app_sees_and_changes_nothing_of_another_whatever_it_asks_for,
    who_follows_is_told_of_the_own_app_only,
    the_operator_sees_apps_and_keys_of_all_and_the_rest_of_its_own_app_only,
}
