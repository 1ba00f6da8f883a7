//! Apps, API keys and signing secrets: creation, use, expiry, revocation and rotation.

use ringback::channels::webhook::{Secret, sign};
use ringback::cli::tenants::{self as database, KeyRequest};
use serde_json::{Value, json};

use crate::harness::{AUTH, Harness, JSON, KEY, guarded, id, minutes, seconds};
use crate::wire::{self, Answer};

/// An app with an admin key.
pub struct Tenant {
    pub id: String,
    pub secret: String,
    pub key: String,
    pub key_id: String,
}

/// Creates an app and an admin key for it.
pub async fn tenant(t: &Harness, name: &str) -> Tenant {
    let app = t.post("/v1/apps", &json!({ "name": name })).await.expect(201);
    let key = t.post("/v1/keys", &json!({ "scope": "admin", "appId": app["id"] })).await.expect(201);
    let text = |view: &Value, field: &str| view[field].as_str().expect("a text").to_owned();
    Tenant { id: id(&app), secret: text(&app, "signingSecret"), key: text(&key, "key"), key_id: id(&key) }
}

/// Creates a key of the first app and returns the answer.
async fn create_key_with(t: &Harness, body: &Value) -> Value {
    t.post("/v1/keys", body).await.expect(201)
}

pub fn errors(answer: &Answer) -> Vec<String> {
    let problem = answer.expect(422);
    problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["pointer"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_signing_secret_of_a_new_app_is_shown_once() {
    let t = Harness::start().await;
    let answer = t.post("/v1/apps", &json!({ "name": "customer-7" })).await;
    let app = answer.expect(201);
    assert_eq!(answer.header("location"), Some(format!("/v1/apps/{}", id(&app)).as_str()));
    let fields: Vec<&String> = app.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["createdAt", "id", "name", "signingSecret"]);
    assert!(app["signingSecret"].as_str().unwrap().starts_with("whsec_"));
    let shown = t.get(&format!("/v1/apps/{}", id(&app))).await.expect(200);
    assert_eq!(shown, json!({ "id": app["id"], "name": "customer-7", "createdAt": app["createdAt"] }));
    let all = t.get("/v1/apps").await.expect(200);
    let names: Vec<&str> =
        all["data"].as_array().unwrap().iter().map(|app| app["name"].as_str().unwrap()).collect();
    assert_eq!((names.as_slice(), &all["nextCursor"]), (["customer-7", "default"].as_slice(), &Value::Null));
    t.finish().await;
}

#[tokio::test]
async fn an_app_name_is_unique_and_every_invalid_field_is_named() {
    let t = Harness::start().await;
    t.post("/v1/apps", &json!({ "name": "a" })).await.expect(201);
    t.post("/v1/apps", &json!({ "name": "a" })).await.expect(409);
    t.post("/v1/apps", &json!({ "name": "default" })).await.expect(409);
    for (body, wrong) in [
        (json!({}), vec!["/name"]),
        (json!({ "name": 7 }), vec!["/name"]),
        (json!({ "name": "" }), vec!["/name"]),
        (json!({ "name": "x".repeat(65) }), vec!["/name"]),
        (json!({ "name": "a\nb" }), vec!["/name"]),
        (json!({ "name": "b", "plan": "free" }), vec!["/plan"]),
        (json!([]), vec![""]),
    ] {
        assert_eq!(errors(&t.post("/v1/apps", &body).await), wrong, "{body}");
    }
    t.post("/v1/apps", &json!({ "name": "x".repeat(64) })).await.expect(201);
    assert_eq!(t.get("/v1/apps").await.expect(200)["data"].as_array().unwrap().len(), 3);
    t.finish().await;
}

// Once: the test reads the SQLite file.
#[tokio::test]
async fn a_key_is_shown_once_and_stored_as_a_hash() {
    let mut t = Harness::start().await;
    let answer =
        t.post("/v1/keys", &json!({ "name": "billing", "scope": "write", "expiresIn": "90d" })).await;
    let made = answer.expect(201);
    assert_eq!(answer.header("location"), Some(format!("/v1/keys/{}", id(&made)).as_str()));
    let key = made["key"].as_str().unwrap().to_owned();
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("key");
    assert_eq!(t.get(&format!("/v1/keys/{}", id(&made))).await.expect(200), shown);
    assert_eq!(t.get("/v1/keys").await.expect(200), json!({ "data": [shown], "nextCursor": null }));
    let app = id(&t.get("/v1/apps").await.expect(200)["data"][0]);
    let expected = json!({
        "id": made["id"], "appId": app, "name": "billing", "scope": "write",
        "createdAt": "2026-02-18T15:00:00.000Z", "expiresAt": "2026-05-19T15:00:00.000Z", "lastUsedAt": null,
    });
    assert_eq!(shown, expected);
    assert!(key.starts_with("rb_") && key.len() == 46, "{}", key.len());
    t.stop().await;
    let file = std::fs::read(t.file()).unwrap();
    assert!(!file.windows(key.len()).any(|bytes| bytes == key.as_bytes()));
    t.restart().await;
    t.as_key(&key, "GET", "/v1/watches", "").await.expect(200);
    t.finish().await;
}

#[tokio::test]
async fn every_invalid_field_of_a_new_key_is_named() {
    let t = Harness::start().await;
    let wrong = json!({ "name": "", "scope": "root", "expiresIn": "0s", "appId": "app_x", "colour": "red" });
    assert_eq!(
        errors(&t.post("/v1/keys", &wrong).await),
        ["/name", "/scope", "/expiresIn", "/appId", "/colour"]
    );
    for (body, wrong) in [
        (json!({}), "/scope"),
        (json!({ "scope": "read", "expiresIn": "9999d" }), "/expiresIn"),
        (json!({ "scope": "read", "expiresAt": "2026-02-18T15:00:00Z" }), "/expiresAt"),
        (json!({ "scope": "read", "expiresAt": "tomorrow" }), "/expiresAt"),
        (json!({ "scope": "read", "expiresIn": "1d", "expiresAt": "2027-02-18T15:00:00Z" }), "/expiresAt"),
        (json!({ "scope": "read", "appId": "app_00000000000000000000000000" }), "/appId"),
    ] {
        assert_eq!(errors(&t.post("/v1/keys", &body).await), [wrong], "{body}");
    }
    assert_eq!(errors(&t.get("/v1/keys?appId=app_00000000000000000000000000").await), ["?appId"]);
    assert_eq!(t.get("/v1/keys").await.expect(200)["data"], json!([]));
    t.finish().await;
}

#[tokio::test]
async fn an_expired_or_revoked_key_is_401() {
    let mut t = Harness::start().await;
    let short = create_key_with(&t, &json!({ "scope": "read", "expiresAt": "2026-02-18T15:01:00Z" })).await;
    let other = create_key_with(&t, &json!({ "scope": "admin" })).await;
    let (short, key) = (short["key"].as_str().unwrap(), other["key"].as_str().unwrap());
    t.pass(seconds(59)).await;
    t.as_key(short, "GET", "/v1/watches", "").await.expect(200);
    t.pass(seconds(1)).await;
    let expired = t.as_key(short, "GET", "/v1/watches", "").await;
    let unknown = t.as_key("rb_unknown", "GET", "/v1/watches", "").await;
    assert_eq!(expired.expect(401)["detail"], unknown.expect(401)["detail"]);
    let path = format!("/v1/keys/{}", id(&other));
    let gone = t.as_key(key, "DELETE", &path, "").await;
    assert_eq!((gone.status, gone.text()), (204, ""));
    t.as_key(key, "GET", "/v1/watches", "").await.expect(401);
    t.delete(&path).await.expect(404);
    t.get(&path).await.expect(404);
    t.crash().await;
    t.restart().await;
    t.as_key(key, "GET", "/v1/watches", "").await.expect(401);
    t.as_key(short, "GET", "/v1/watches", "").await.expect(401);
    t.finish().await;
}

#[tokio::test]
async fn every_key_can_revoke_itself_and_only_admins_another() {
    let t = Harness::start().await;
    let mut keys = Vec::new();
    for scope in ["read", "write", "admin"] {
        let made = create_key_with(&t, &json!({ "scope": scope })).await;
        keys.push((format!("/v1/keys/{}", id(&made)), made["key"].as_str().unwrap().to_owned()));
    }
    let [(read, _), (write, _), (admin, _)] = &keys[..] else { panic!("three") };
    for (key, others) in [(0, [write, admin]), (1, [read, admin])] {
        for other in others {
            let refused = t.as_key(&keys[key].1, "DELETE", other, "").await.expect(404);
            assert!(refused["detail"].as_str().unwrap().contains("`admin`"), "{refused}");
        }
    }
    for (path, key) in &keys {
        assert_eq!(t.as_key(key, "DELETE", path, "").await.status, 204, "{path}");
        t.as_key(key, "GET", "/v1/watches", "").await.expect(401);
    }
    t.finish().await;
}

// Once: the test reads the SQLite file.
#[tokio::test]
async fn the_last_use_of_a_key_is_stored_within_a_minute() {
    let mut t = Harness::start().await;
    let made = create_key_with(&t, &json!({ "scope": "read" })).await;
    let path = format!("/v1/keys/{}", id(&made));
    let key = made["key"].as_str().unwrap();
    t.pass(seconds(30)).await;
    t.as_key(key, "GET", "/v1/watches", "").await.expect(200);
    let used = "2026-02-18T15:00:30.000Z";
    assert_eq!(t.get(&path).await.expect(200)["lastUsedAt"], used);
    t.pass(minutes(2)).await;
    // The clock does not wait for this write: read the file until it is there.
    let db = rusqlite::Connection::open(t.file()).unwrap();
    let written =
        || -> Option<i64> { db.query_row("select last_used_at from keys", [], |row| row.get(0)).unwrap() };
    crate::harness::guarded("the minute's write", async {
        while written().is_none() {
            t.get_without_key("/healthz").await;
        }
    })
    .await;
    t.crash().await;
    t.restart().await;
    assert_eq!(t.get(&path).await.expect(200)["lastUsedAt"], used);
    t.finish().await;
}

#[tokio::test]
async fn the_last_use_of_a_key_is_stored_at_a_stop() {
    let mut t = Harness::start().await;
    let made = create_key_with(&t, &json!({ "scope": "read" })).await;
    let path = format!("/v1/keys/{}", id(&made));
    t.pass(seconds(30)).await;
    t.as_key(made["key"].as_str().unwrap(), "GET", "/v1/watches", "").await.expect(200);
    t.stop().await;
    t.restart().await;
    assert_eq!(t.get(&path).await.expect(200)["lastUsedAt"], "2026-02-18T15:00:30.000Z");
    t.finish().await;
}

#[tokio::test]
async fn lists_of_apps_and_keys_are_paged() {
    let t = Harness::start().await;
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(tenant(&t, &format!("app {n}")).await);
    }
    for (path, newest_first) in [
        ("/v1/apps", made.iter().rev().map(|tenant| tenant.id.clone()).collect::<Vec<_>>()),
        ("/v1/keys", made.iter().rev().map(|tenant| tenant.key_id.clone()).collect()),
    ] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = t.get(&format!("{path}?limit=1{cursor}")).await.expect(200);
            seen.extend(page["data"].as_array().unwrap().iter().map(id));
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen[..3], newest_first, "{path}");
        assert_eq!(errors(&t.get(&format!("{path}?cursor=x")).await), ["?cursor"]);
    }
    t.finish().await;
}

#[tokio::test]
async fn after_a_rotation_both_secrets_sign_until_the_grace_ends() {
    let mut t = Harness::start().await;
    let b = tenant(&t, "b").await;
    let rotated = t.as_key(&b.key, "POST", "/v1/signing-secret/rotate", r#"{"grace": "10m"}"#).await;
    let rotated = rotated.expect(200);
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert_ne!(new, b.secret);
    assert_eq!(rotated["previous"], json!({ "expiresAt": "2026-02-18T15:10:00.000Z" }));
    assert_eq!(t.as_key(&b.key, "GET", "/v1/signing-secret", "").await.expect(200), rotated);
    // A destination with its own secret is signed with that secret only.
    let own = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
    t.receiver.secret("/b", &b.secret);
    t.receiver.secret("/own", own);
    let send = async |t: &Harness, job: &str| {
        t.provider.completed(job);
        let notify = json!([t.receiver.url("/b"), { "type": "webhook", "url": t.receiver.url("/own"), "secret": own }]);
        let body = json!({ "jobId": job, "notify": notify }).to_string();
        t.as_key(&b.key, "POST", "/v1/watches", &body).await.expect(201);
        t.pass(seconds(5)).await;
        let (one, other) = (t.receiver.next_to("/b").await, t.receiver.next_to("/own").await);
        let expected = |secrets: &[&str]| {
            let seconds = one.header("webhook-timestamp").parse().unwrap();
            let sign = |secret: &&str| sign(&Secret::parse(secret).unwrap(), one.id(), seconds, &one.body);
            secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(other.header("webhook-signature").split(' ').count(), 1);
        (one.header("webhook-signature").to_owned(), expected(&[&new, &b.secret]), expected(&[&new]))
    };
    let (given, both, _) = send(&t, "job_1").await;
    assert_eq!(given, both);
    t.crash().await;
    t.restart().await;
    let (given, both, _) = send(&t, "job_2").await;
    assert_eq!(given, both);
    t.pass(minutes(10)).await;
    t.receiver.secret("/b", &new);
    let (given, _, alone) = send(&t, "job_3").await;
    assert_eq!(given, alone);
    let shown = t.as_key(&b.key, "GET", "/v1/signing-secret", "").await.expect(200);
    assert_eq!((&shown["secret"], &shown["previous"]), (&json!(new), &Value::Null));
    t.finish().await;
}

#[tokio::test]
async fn the_grace_of_a_rotation_is_a_day_unless_it_is_given() {
    let t = Harness::start().await;
    let b = tenant(&t, "b").await;
    let rotate = async |body: &str| t.as_key(&b.key, "POST", "/v1/signing-secret/rotate", body).await;
    assert_eq!(rotate("").await.expect(200)["previous"]["expiresAt"], "2026-02-19T15:00:00.000Z");
    assert_eq!(rotate("{}").await.expect(200)["previous"]["expiresAt"], "2026-02-19T15:00:00.000Z");
    assert_eq!(rotate(r#"{"grace": "0s"}"#).await.expect(200)["previous"], Value::Null);
    rotate(r#"{"grace": "30d"}"#).await.expect(200);
    for body in [r#"{"grace": "2592001s"}"#, r#"{"grace": "-1s"}"#, r#"{"grace": "1.5s"}"#, r#"{"grace": 1}"#]
    {
        assert_eq!(errors(&rotate(body).await), ["/grace"], "{body}");
    }
    assert_eq!(errors(&rotate(r#"{"graceSeconds": 1}"#).await), ["/graceSeconds"]);
    // Chunks without a byte are no body, although the server knows that only at their end.
    let key = &b.key;
    for media_type in ["", "content-type: application/json\r\n"] {
        let request = format!(
            "POST /v1/signing-secret/rotate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{media_type}\
             transfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n"
        );
        let answer = guarded("the rotation", wire::exchange(t.address(), request.as_bytes())).await.unwrap();
        assert_eq!(answer.expect(200)["previous"]["expiresAt"], "2026-02-19T15:00:00.000Z", "{media_type}");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_configured_secret_cannot_be_rotated() {
    let mut t = Harness::start().await;
    let problem = t.act("/v1/signing-secret/rotate").await.expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("signing_secret"), "{problem}");
    let shown = t.get("/v1/signing-secret").await.expect(200);
    assert_eq!((&shown["secret"], &shown["previous"]), (&json!(crate::harness::SECRET), &Value::Null));
    t.stop().await;
    t.set("RINGBACK_SIGNING_SECRET", "");
    t.restart().await;
    let own = t.get("/v1/signing-secret").await.expect(200);
    assert_ne!(own["secret"], crate::harness::SECRET);
    let rotated = t.act("/v1/signing-secret/rotate").await.expect(200);
    assert_eq!(t.get("/v1/signing-secret").await.expect(200), rotated);
    t.finish().await;
}

// Once: the test reads the SQLite file.
#[tokio::test]
async fn an_answer_with_a_secret_is_replayed_to_the_same_key_only() {
    let mut t = Harness::start().await;
    let other = create_key_with(&t, &json!({ "scope": "admin" })).await;
    let other = other["key"].as_str().unwrap();
    let mut shown = Vec::new();
    for (path, body, secret) in
        [("/v1/apps", r#"{"name": "b"}"#, "signingSecret"), ("/v1/keys", r#"{"scope": "read"}"#, "key")]
    {
        let headers = [AUTH, JSON, ("idempotency-key", "k1")];
        let first = t.send("POST", path, &headers, body.as_bytes()).await;
        shown.push(first.expect(201)[secret].as_str().unwrap().to_owned());
        let again = t.send("POST", path, &headers, body.as_bytes()).await;
        assert_eq!((again.status, &again.body), (201, &first.body));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.header("location"), first.header("location"));
        let auth = format!("Bearer {other}");
        let headers = [("authorization", auth.as_str()), JSON, ("idempotency-key", "k1")];
        let refused = t.send("POST", path, &headers, body.as_bytes()).await;
        assert!(refused.expect(409)["detail"].as_str().unwrap().contains("holds a secret"));
        t.send("POST", path, &headers, b"{ }").await.expect(422);
    }
    t.stop().await;
    // Without an encryption key, the table of apps holds the secret in plain text; stored answers never do.
    let db = rusqlite::Connection::open(t.file()).unwrap();
    let mut stored = db.prepare("select response from idempotency").unwrap();
    let stored: Vec<Vec<u8>> = stored.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(stored.len(), 2);
    for secret in &shown {
        assert!(
            stored.iter().all(|answer| !answer.windows(secret.len()).any(|part| part == secret.as_bytes()))
        );
    }
    t.restart().await;
    t.finish().await;
}

#[tokio::test]
async fn keys_and_apps_can_be_managed_without_a_server() {
    let mut t = Harness::start().await;
    let b = tenant(&t, "b").await;
    let config = t.config();
    let wanted = KeyRequest {
        name: Some("back in".into()),
        scope: "admin".into(),
        expires_in: Some("90d".into()),
        app: None,
    };
    let refused = format!("{:?}", database::create_key(&config, &wanted).await.expect_err("in use"));
    assert!(refused.contains("is in use") && refused.contains("RINGBACK_URL"), "{refused}");
    t.stop().await;
    let made = database::create_key(&config, &wanted).await.expect("made").value();
    let of_other_app =
        KeyRequest { app: Some(b.id.clone()), scope: "read".into(), expires_in: None, ..wanted.clone() };
    let of_other_app = database::create_key(&config, &of_other_app).await.expect("made").value();
    assert_eq!(of_other_app["appId"], b.id);
    let listed = database::list_keys(&config, Some(&b.id)).await.expect("listed");
    assert_eq!(
        listed["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(),
        [id(&of_other_app), b.key_id.clone()]
    );
    assert_eq!(listed["nextCursor"], Value::Null);
    database::revoke_key(&config, &b.key_id).await.expect("revoked");
    database::revoke_key(&config, &b.key_id).await.expect_err("gone");
    let app = database::create_app(&config, "c").await.expect("made").value();
    assert!(app["signingSecret"].as_str().unwrap().starts_with("whsec_"));
    database::create_app(&config, "c").await.expect_err("taken");
    for wrong in [
        KeyRequest { scope: "root".into(), ..wanted.clone() },
        KeyRequest { expires_in: Some("soon".into()), ..wanted.clone() },
        KeyRequest { name: Some(String::new()), ..wanted.clone() },
        KeyRequest { app: Some("app_x".into()), ..wanted.clone() },
    ] {
        database::create_key(&config, &wrong).await.expect_err("refused");
    }
    let names = |apps: &Value| -> Vec<Value> {
        apps["data"].as_array().unwrap().iter().map(|app| app["name"].clone()).collect()
    };
    assert_eq!(names(&database::list_apps(&config).await.expect("listed")), ["c", "b", "default"]);
    t.restart().await;
    let mut shown = made.clone();
    let key = shown.as_object_mut().unwrap().remove("key").unwrap();
    let path = format!("/v1/keys/{}", id(&made));
    t.as_key(key.as_str().unwrap(), "GET", "/v1/apps", "").await.expect(200);
    shown["lastUsedAt"] = t.get(&path).await.expect(200)["lastUsedAt"].clone();
    assert_eq!(t.get(&path).await.expect(200), shown);
    t.as_key(&b.key, "GET", "/v1/watches", "").await.expect(401);
    t.as_key(KEY, "GET", "/v1/watches", "").await.expect(200);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    the_signing_secret_of_a_new_app_is_shown_once,
    an_app_name_is_unique_and_every_invalid_field_is_named,
    every_invalid_field_of_a_new_key_is_named,
    an_expired_or_revoked_key_is_401,
    every_key_can_revoke_itself_and_only_admins_another,
    the_last_use_of_a_key_is_stored_at_a_stop,
    lists_of_apps_and_keys_are_paged,
    after_a_rotation_both_secrets_sign_until_the_grace_ends,
    the_grace_of_a_rotation_is_a_day_unless_it_is_given,
    a_configured_secret_cannot_be_rotated,
    keys_and_apps_can_be_managed_without_a_server,
}
