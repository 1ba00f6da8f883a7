//! The examples of the API document are answers of the real application.
//!
//! The test calls every operation, replaces what differs from run to run (ids, secrets, addresses), and compares
//! the answers with the file that the document includes. `UPDATE_EXAMPLES=1` writes the file instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use regex::{Captures, Regex};
use serde_json::{Value, json};

use crate::fakes::Reply;
use crate::harness::{Harness, id, minutes, seconds};
use crate::stream::Follower;
use crate::tenants::{Tenant, tenant};

const FILE: &str = "src/api/openapi/examples.json";

/// The answers of one app, by operation.
struct Examples<'t> {
    t: &'t Harness,
    tenant: Tenant,
    found: BTreeMap<String, Value>,
}

impl Examples<'_> {
    /// Calls an operation and keeps its answer.
    async fn call(&mut self, operation: &str, method: &str, path: &str, body: Option<Value>) -> Value {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let answer = self.t.as_key(&self.tenant.key, method, path, &body).await;
        assert!((200..300).contains(&answer.status), "{operation}: {answer:?}");
        let value = if answer.body.is_empty() { Value::Null } else { answer.json() };
        self.found.insert(operation.to_owned(), value.clone());
        value
    }

    async fn get(&mut self, operation: &str, path: &str) -> Value {
        self.call(operation, "GET", path, None).await
    }
}

/// Replaces what differs from run to run.
fn normalized(text: &str) -> String {
    let mut ids = BTreeMap::<String, usize>::new();
    let pattern = Regex::new(r"(watch|evt|dlv|dst|app|key|op|req)_[0-7][0-9a-hjkmnp-tv-z]{25}").unwrap();
    let text = pattern.replace_all(text, |found: &Captures<'_>| {
        let next = ids.len() + 1;
        let n = *ids.entry(found[0].to_owned()).or_insert(next);
        format!("{}_01khrm7rc0{n:016}", &found[1])
    });
    let replacements = [
        (r"rb_[A-Za-z0-9_-]{43}", "rb_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"),
        (r"whsec_[A-Za-z0-9+/=]{32,}", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
        (r"whpk_[A-Za-z0-9+/=]{44}", "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="),
        (r#""x": "[A-Za-z0-9_-]{43}""#, r#""x": "1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4""#),
        (r#""kid": "[A-Za-z0-9_-]{43}""#, r#""kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k""#),
        (r"v1,[A-Za-z0-9+/=]{44}", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
        (r"http://127\.0\.0\.1:[0-9]+", "https://app.example.com"),
        (r"127\.0\.0\.1:[0-9]+", "app.example.com"),
    ];
    replacements.iter().fold(text.into_owned(), |text, (pattern, replacement)| {
        Regex::new(pattern).unwrap().replace_all(&text, *replacement).into_owned()
    })
}

/// Causes the events about destinations and deliveries: a receiver is gone, its destination is enabled again, and all
/// attempts of a delivery fail.
async fn operational_events(t: &Harness, key: &str) {
    let save = async |name: &str, path: &str, events: Value| {
        let body = json!({ "name": name, "url": t.receiver.url(path), "events": events }).to_string();
        let saved = t.as_key(key, "POST", "/v1/destinations", &body).await.expect(201);
        t.receiver.secret(path, saved["secret"].as_str().unwrap());
        id(&saved)
    };
    save("operations", "/hooks/operations", json!(["destination.*", "delivery.*"])).await;
    let billing = save("billing", "/hooks/gone", json!(["job.*"])).await;
    t.receiver.script("/hooks/gone", [Reply::status(410)]);
    t.receiver.always("/hooks/down", Some(Reply::status(503)));
    for destination in [json!({ "destinationId": billing }), json!(t.receiver.url("/hooks/down"))] {
        let body = json!({ "jobId": "job_completed", "notify": [destination] }).to_string();
        t.as_key(key, "POST", "/v1/watches", &body).await.expect(201);
    }
    t.pass(minutes(1)).await;
    t.as_key(key, "POST", &format!("/v1/destinations/{billing}/enable"), "").await.expect(200);
    // Longer than the retry schedule.
    t.pass(minutes(100 * 60)).await;
}

/// Registers a job of each kind and returns the bodies of the webhooks, by type.
async fn webhooks(t: &Harness, key: &str) -> BTreeMap<String, Value> {
    t.provider.completed("job_completed");
    t.provider.failed("job_failed");
    t.provider.cancelled("job_cancelled");
    t.provider.not_found("job_not_found");
    t.provider.processing("job_running", 40);
    for job in ["completed", "failed", "cancelled", "not_found", "running"] {
        let body = json!({
            "jobId": format!("job_{job}"), "callbackUrl": t.receiver.url("/hooks"), "expiresIn": "5m",
            "events": ["job.*", "watch.*"], "metadata": { "orderId": 42 },
        });
        t.as_key(key, "POST", "/v1/watches", &body.to_string()).await.expect(201);
    }
    let group = json!({ "id": "all", "size": 1, "notify": [t.receiver.url("/hooks")] });
    t.as_key(key, "POST", "/v1/watches", &json!({ "jobId": "job_completed", "group": group }).to_string())
        .await
        .expect(201);
    let group = json!({ "id": "some", "size": 2, "expiresIn": "1m", "notify": [t.receiver.url("/hooks")] });
    t.as_key(key, "POST", "/v1/watches", &json!({ "jobId": "job_completed", "group": group }).to_string())
        .await
        .expect(201);
    t.pass(minutes(1)).await;
    t.provider.processing("job_running", 60);
    t.pass(minutes(6)).await;
    let test = json!({ "destination": t.receiver.url("/hooks") }).to_string();
    t.as_key(key, "POST", "/v1/test", &test).await.expect(200);
    operational_events(t, key).await;
    let mut bodies = BTreeMap::new();
    for hit in t.receiver.read_all() {
        let mut body = hit.json();
        // The times depend on random jitter.
        body["timestamp"] = "2026-02-18T15:01:00.000Z".into();
        if let Some(since) = body["data"].get_mut("since").filter(|since| !since.is_null()) {
            *since = "2026-02-18T14:01:00.000Z".into();
        }
        bodies.entry(body["type"].as_str().unwrap().to_owned()).or_insert(body);
    }
    bodies
}

async fn collected(t: &Harness) -> BTreeMap<String, Value> {
    let tenant = tenant(t, "customer-7").await;
    for path in ["/hooks", "/hooks/down"] {
        t.receiver.secret(path, &tenant.secret);
    }
    let key = tenant.key.clone();
    let mut e = Examples { t, tenant, found: BTreeMap::new() };
    let app = e.tenant.id.clone();
    // The operator creates apps.
    let made = t.post("/v1/apps", &json!({ "name": "customer-8" })).await.expect(201);
    let other = format!("/v1/apps/{}", id(&made));
    e.found.insert("createApp".to_owned(), made);
    let renamed = t.as_key(crate::harness::KEY, "PATCH", &other, r#"{"name": "customer-9"}"#).await;
    e.found.insert("renameApp".to_owned(), renamed.expect(200));
    e.found.insert("deleteApp".to_owned(), t.delete(&other).await.expect(202));
    e.get("listApps", "/v1/apps").await;
    e.get("showApp", &format!("/v1/apps/{app}")).await;
    let new_key = json!({ "name": "billing", "scope": "write", "expiresIn": "90d" });
    let made = e.call("createKey", "POST", "/v1/keys", Some(new_key)).await;
    e.get("showKey", &format!("/v1/keys/{}", id(&made))).await;
    e.get("listKeys", "/v1/keys").await;
    e.call("revokeKey", "DELETE", &format!("/v1/keys/{}", id(&made)), None).await;
    e.get("showSigningSecret", "/v1/signing-secret").await;
    e.get("showPublicKeys", &format!("/v1/apps/{app}/jwks.json")).await;
    let test = json!({ "destination": t.receiver.url("/hooks") });
    e.call("sendTest", "POST", "/v1/test", Some(test)).await;
    e.get("listProviders", "/v1/providers?limit=1").await;
    e.get("showProvider", "/v1/providers/muvi").await;
    let credential =
        json!({ "name": "my-key", "kind": "bearer", "sendTo": ["api.example.com"], "token": "sk-123456789" });
    e.call("createCredential", "POST", "/v1/credentials", Some(credential)).await;
    e.get("listCredentials", "/v1/credentials").await;
    let definition =
        crate::own_definitions::MINE.replace("BASE", "https://api.example.com").replace("mine", "acme");
    let path = "/v1/providers/acme/definition";
    let stored = crate::own_definitions::put_as(t, &key, path, &definition.replace("Mine", "Acme")).await;
    e.found.insert("putDefinition".to_owned(), stored.expect(201));
    let shown = t.as_key(&key, "GET", path, "").await;
    e.found.insert("showDefinition".to_owned(), shown.text().into());
    e.call("deleteDefinition", "DELETE", path, None).await;

    let saved = json!({ "name": "billing", "url": t.receiver.url("/hooks/billing"), "rate": "10/s" });
    let saved = e.call("createDestination", "POST", "/v1/destinations", Some(saved)).await;
    t.receiver.secret("/hooks/billing", saved["secret"].as_str().unwrap());
    let saved = format!("/v1/destinations/{}", id(&saved));
    e.call("testDestination", "POST", &format!("{saved}/test"), None).await;
    e.call("updateDestination", "PATCH", &saved, Some(json!({ "enabled": false }))).await;
    e.call("enableDestination", "POST", &format!("{saved}/enable"), Some(json!({ "retrySkipped": true })))
        .await;
    e.call(
        "rotateDestinationSecret",
        "POST",
        &format!("{saved}/rotate-secret"),
        Some(json!({ "grace": "24h" })),
    )
    .await;
    e.get("showDestination", &saved).await;
    e.get("listDestinations", "/v1/destinations").await;
    e.call("deleteDestination", "DELETE", &saved, None).await;

    let auth = format!("Bearer {key}");
    let mut follower = Follower::start(t, "", &[("authorization", &auth)]).await;
    t.provider.completed("job_abc123def456");
    let registration = json!({
        "jobId": "job_abc123def456", "callbackUrl": t.receiver.url("/hooks"), "metadata": { "orderId": 42 },
    });
    let watch = e.call("createWatch", "POST", "/v1/watches", Some(registration)).await;
    let watch = format!("/v1/watches/{}", id(&watch));
    e.call("amendWatch", "PATCH", &watch, Some(json!({ "expiresIn": "48h" }))).await;
    t.pass(seconds(5)).await;
    let event = follower.next().await;
    let stream = format!("id: {}\nevent: {}\ndata: {}\n\n", event.id, event.event, event.data);
    e.found.insert("streamEvents".to_owned(), stream.into());
    e.get("showWatch", &watch).await;
    e.get("listWatches", "/v1/watches").await;
    e.get("showTimeline", &format!("{watch}/timeline")).await;
    let group = json!({ "id": "batch-7", "size": 2, "notify": [t.receiver.url("/hooks")] });
    t.provider.processing("job_of_group", 1);
    let member = json!({ "jobId": "job_of_group", "group": group }).to_string();
    let member = t.as_key(&key, "POST", "/v1/watches", &member).await.expect(201);
    e.get("showGroup", "/v1/groups/batch-7").await;
    t.as_key(&key, "POST", &format!("/v1/watches/{}/stop", id(&member)), "").await.expect(200);
    e.get("listEvents", "/v1/events").await;
    e.get("showEvent", &format!("/v1/events/{}", event.id)).await;
    let deliveries = e.get("listDeliveries", "/v1/deliveries").await;
    let delivery = format!("/v1/deliveries/{}", id(&deliveries["data"][0]));
    e.get("showDelivery", &delivery).await;
    e.get("listAttempts", &format!("{delivery}/attempts")).await;
    let body = t.as_key(&key, "GET", &format!("{delivery}/body"), "").await;
    e.found.insert("showDeliveryBody".to_owned(), body.text().into());
    e.call("retryDelivery", "POST", &format!("{delivery}/retry"), None).await;
    let retry = json!({ "status": ["failed", "pending"], "since": "2h" });
    let started = e.call("retryDeliveries", "POST", "/v1/deliveries/retry", Some(retry)).await;
    t.rest().await;
    let operation = started["operationId"].as_str().expect("an id");
    e.get("showOperation", &format!("/v1/operations/{operation}")).await;
    e.call("pollWatch", "POST", &format!("{watch}/poll"), None).await;
    e.call("stopWatch", "POST", &format!("{watch}/stop"), None).await;
    e.call("stopWatches", "POST", "/v1/watches/stop", Some(json!({ "all": true }))).await;
    e.call("eraseWatch", "DELETE", &watch, None).await;
    t.pass(seconds(5)).await;
    t.provider.processing("job_batch", 0);
    let batch = json!({ "watches": [{ "jobId": "job_batch", "notify": [] }, { "jobId": 7, "notify": [] }] });
    e.call("createWatches", "POST", "/v1/watches/batch", Some(batch)).await;
    let problem = t.as_key(&key, "POST", "/v1/watches", r#"{"job": "job_abc123def456"}"#).await.expect(422);
    e.found.insert("problem".to_owned(), problem);
    for (operation, path) in [("alive", "/healthz"), ("ready", "/readyz")] {
        e.found.insert(operation.to_owned(), t.get_without_key(path).await.expect(200));
    }
    let metrics = t.get_without_key("/metrics").await;
    let lines = metrics.text().lines().filter(|line| line.contains("ringback_watches")).take(3);
    e.found.insert("metrics".to_owned(), lines.map(|line| format!("{line}\n")).collect::<String>().into());
    let document = t.get_without_key("/openapi.json").await.expect(200);
    let head = json!({ "openapi": document["openapi"], "info": { "title": document["info"]["title"] } });
    e.found.insert("openapi".to_owned(), head);
    let page = t.get_without_key("/docs").await;
    e.found.insert("docs".to_owned(), page.text().lines().take(1).collect::<String>().into());
    t.receiver.read_all();
    e.found.insert("webhooks".to_owned(), json!(webhooks(t, &key).await));
    e.call("rotateSigningSecret", "POST", "/v1/signing-secret/rotate", Some(json!({ "grace": "24h" }))).await;
    e.found.retain(|_, value| !value.is_null());
    e.found
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the developer's request to write the file, as insta has one")]
async fn every_response_example_is_a_real_answer() {
    let t = Harness::start().await;
    let made = collected(&t).await;
    t.give_up().await;
    let text = normalized(&format!("{:#}\n", json!(made)));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("UPDATE_EXAMPLES").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    let (kept, made): (Value, Value) =
        (serde_json::from_str(&kept).unwrap(), serde_json::from_str(&text).unwrap());
    for (operation, example) in made.as_object().unwrap() {
        let update = "run this test with UPDATE_EXAMPLES=1";
        assert_eq!(*example, kept[operation], "the example of {operation} is not current: {update}");
    }
    // Every operation whose answer has a body has an example, and so has every webhook.
    let document: Value = serde_json::from_str(ringback::api::document()).unwrap();
    for event in document["webhooks"].as_object().unwrap().keys() {
        assert!(kept["webhooks"][event].is_object(), "{event} has no example");
    }
    for operation in
        document["paths"].as_object().unwrap().values().flat_map(|all| all.as_object().unwrap().values())
    {
        let name = operation["operationId"].as_str().unwrap();
        assert!(!kept[name].is_null() || operation["responses"]["204"].is_object(), "{name} has no example");
    }
}
