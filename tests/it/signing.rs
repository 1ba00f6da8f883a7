//! Signatures of webhooks: the forms, the keys, and the public keys of an app.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ringback::channels::webhook::compatible::{verify_github, verify_stripe};
use ringback::channels::webhook::ed25519::PublicKey;
use ringback::channels::webhook::{Secret, sign, verify_asymmetric};
use serde_json::{Value, json};

use crate::destinations::{patch, save};
use crate::fakes::Hit;
use crate::harness::{Harness, SECRET, id, minutes, seconds};
use crate::tenants::{errors, tenant};

/// Registers a completed job that notifies these destinations, and lets it be delivered.
async fn deliver(t: &Harness, job: &str, notify: &[Value]) {
    t.provider.completed(job);
    t.register(&json!({ "jobId": job, "notify": notify })).await;
    t.pass(seconds(5)).await;
}

fn has(hit: &Hit, name: &str) -> bool {
    hit.headers.iter().any(|(known, _)| known == name)
}

/// Verifies that a signature with this public key is in the standard header.
fn is_signed_by(hit: &Hit, key: &PublicKey) -> bool {
    let (time, signatures) = (hit.header("webhook-timestamp"), hit.header("webhook-signature"));
    verify_asymmetric(key, hit.id(), time, signatures, &hit.body, hit.at, Duration::from_secs(300)).is_ok()
}

#[tokio::test]
async fn each_form_of_signature_is_what_its_receivers_verify() {
    let t = Harness::start().await;
    let hook = |path: &str, more: Value| {
        let mut destination = json!({ "type": "webhook", "url": t.receiver.url(path) });
        destination.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        destination
    };
    for path in ["/github", "/stripe", "/own", "/none"] {
        t.receiver.other_signature(path);
    }
    let own = "It's a Secret to Everybody";
    let notify = [
        hook("/github", json!({ "signature": "github", "headers": { "x-env": "prod" } })),
        hook("/stripe", json!({ "signature": "stripe" })),
        hook("/own", json!({ "signature": "github", "secret": own })),
        hook("/none", json!({ "signature": "none" })),
        hook("/standard", json!({ "signature": "standard", "keys": ["hmac"] })),
    ];
    deliver(&t, "job_1", &notify).await;

    let github = t.receiver.next_to("/github").await;
    assert_eq!(verify_github(SECRET, github.header("x-hub-signature-256"), &github.body), Ok(()));
    assert_eq!(github.header("x-github-event"), "job.completed");
    assert_eq!(github.header("x-github-delivery"), github.id());
    assert_eq!(github.header("x-env"), "prod");
    let stripe = t.receiver.next_to("/stripe").await;
    let signature = stripe.header("stripe-signature");
    assert_eq!(verify_stripe(SECRET, signature, &stripe.body, stripe.at, Duration::ZERO), Ok(()));
    let own_hit = t.receiver.next_to("/own").await;
    assert_eq!(verify_github(own, own_hit.header("x-hub-signature-256"), &own_hit.body), Ok(()));
    let none = t.receiver.next_to("/none").await;
    for hit in [&github, &stripe, &own_hit, &none] {
        assert!(!has(hit, "webhook-signature") && has(hit, "webhook-id") && has(hit, "webhook-timestamp"));
    }
    let others = ["x-hub-signature-256", "stripe-signature", "x-github-event", "x-github-delivery"];
    assert!(others.iter().all(|name| !has(&none, name)));
    // The receiver has verified it.
    t.receiver.next_to("/standard").await;

    let watches = t.get("/v1/watches").await.expect(200);
    let shown: Vec<(&Value, &Value)> = watches["data"][0]["destinations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["signature"], &one["keys"]))
        .collect();
    let forms = [json!("github"), json!("stripe"), json!("github"), json!("none"), Value::Null];
    assert_eq!(shown, forms.iter().map(|form| (form, &Value::Null)).collect::<Vec<_>>());
    assert!(!watches.to_string().contains(own));
    t.finish().await;
}

#[tokio::test]
async fn a_key_pair_signs_and_rotates_with_the_secret() {
    let mut t = Harness::start().await;
    let b = tenant(&t, "b").await;
    let show = async |t: &Harness| t.as_key(&b.key, "GET", "/v1/signing-secret", "").await.expect(200);
    let key_of = |shown: &Value| PublicKey::parse(shown["publicKey"].as_str().unwrap()).unwrap();
    let old = key_of(&show(&t).await);
    t.receiver.secret("/both", &b.secret);
    t.receiver.other_signature("/alone");
    let send = async |t: &Harness, job: &str| {
        t.provider.completed(job);
        let (both, alone) = (t.receiver.url("/both"), t.receiver.url("/alone"));
        let notify =
            json!([{ "url": both, "keys": ["hmac", "ed25519"] }, { "url": alone, "keys": ["ed25519"] }]);
        let body = json!({ "jobId": job, "notify": notify }).to_string();
        let made = t.as_key(&b.key, "POST", "/v1/watches", &body).await.expect(201);
        assert_eq!(made["destinations"][1]["signature"], Value::Null, "the default");
        assert_eq!(made["destinations"][1]["keys"], json!(["ed25519"]));
        t.pass(seconds(5)).await;
        (t.receiver.next_to("/both").await, t.receiver.next_to("/alone").await)
    };
    let versions = |hit: &Hit| {
        let signatures = hit.header("webhook-signature").split(' ');
        signatures.map(|one| one.split(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (both, alone) = send(&t, "job_1").await;
    assert_eq!((versions(&both), versions(&alone)), (vec!["v1".into(), "v1a".into()], vec!["v1a".into()]));
    assert!(is_signed_by(&both, &old) && is_signed_by(&alone, &old));
    let time = both.header("webhook-timestamp").parse().unwrap();
    let hmac = sign(&Secret::parse(&b.secret).unwrap(), both.id(), time, &both.body);
    assert!(both.header("webhook-signature").starts_with(&hmac));

    let rotated = t.as_key(&b.key, "POST", "/v1/signing-secret/rotate", r#"{"grace": "10m"}"#).await;
    let rotated = rotated.expect(200);
    let new = key_of(&rotated);
    assert_ne!(new, old);
    t.crash().await;
    t.restart().await;
    assert_eq!(key_of(&show(&t).await), new);
    let (both, alone) = send(&t, "job_2").await;
    assert_eq!(versions(&both), ["v1", "v1", "v1a", "v1a"]);
    assert!([&old, &new].iter().all(|key| is_signed_by(&both, key) && is_signed_by(&alone, key)));
    t.pass(minutes(10)).await;
    t.receiver.secret("/both", rotated["secret"].as_str().unwrap());
    let (both, _) = send(&t, "job_3").await;
    assert_eq!(versions(&both), ["v1", "v1a"]);
    assert!(is_signed_by(&both, &new) && !is_signed_by(&both, &old));
    t.finish().await;
}

#[tokio::test]
async fn public_keys_of_an_app_are_shown_without_a_key() {
    let t = Harness::start().await;
    let b = tenant(&t, "b").await;
    let path = format!("/v1/apps/{}/jwks.json", b.id);
    let read = async || {
        let answer = t.send("GET", &path, &[], b"").await;
        assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
        answer.expect(200)
    };
    let public = async || {
        let shown = t.as_key(&b.key, "GET", "/v1/signing-secret", "").await.expect(200);
        PublicKey::parse(shown["publicKey"].as_str().unwrap()).unwrap()
    };
    let jwk = |key: &PublicKey| {
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.thumbprint(),
                "x": key.coordinate() })
    };
    let old = public().await;
    assert_eq!(read().await, json!({ "keys": [jwk(&old)] }));
    assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(old.coordinate()).unwrap().len(), 32);
    t.as_key(&b.key, "POST", "/v1/signing-secret/rotate", r#"{"grace": "10m"}"#).await.expect(200);
    let new = public().await;
    assert_eq!(read().await, json!({ "keys": [jwk(&new), jwk(&old)] }));
    t.pass(minutes(10)).await;
    assert_eq!(read().await, json!({ "keys": [jwk(&new)] }));
    for unknown in ["app_00000000000000000000000000", "x", &b.key_id] {
        t.send("GET", &format!("/v1/apps/{unknown}/jwks.json"), &[], b"").await.expect(404);
    }
    t.finish().await;
}

#[tokio::test]
async fn the_fields_of_a_signature_are_checked_together() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let register = async |destination: Value| {
        t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": [destination] })).await
    };
    let url = t.receiver.url("/hook");
    for (destination, pointer) in [
        (json!({ "url": url, "signature": "svix" }), "/notify/0/signature"),
        (json!({ "url": url, "keys": ["rsa"] }), "/notify/0/keys/0"),
        (json!({ "url": url, "signature": "github", "keys": ["hmac"] }), "/notify/0/keys"),
        (json!({ "url": url, "signature": "github", "secret": "hush" }), "/notify/0/secret"),
        (json!({ "url": url, "secret": "It's a Secret to Everybody" }), "/notify/0/secret"),
        (
            json!({ "url": url, "signature": "stripe", "headers": { "Stripe-Signature": "x" } }),
            "/notify/0/headers/stripe-signature",
        ),
        (json!({ "type": "email", "email": "me@example.com", "keys": ["hmac"] }), "/notify/0/keys"),
    ] {
        let answer = register(destination.clone()).await;
        let found = errors(&answer);
        assert!(found.iter().any(|one| one == pointer), "{destination}: {found:?}");
        assert!(!answer.text().contains("hush"), "{}", answer.text());
    }
    // Two ways to the same address would be two deliveries.
    let twice = [json!({ "url": url }), json!({ "url": url, "keys": ["ed25519"] })];
    let answer = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": twice })).await;
    assert_eq!(errors(&answer), ["/notify/1/url"]);
    let once = [json!(url), json!({ "url": url, "keys": ["hmac"] })];
    let answer = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": once })).await;
    assert_eq!(answer.expect(201)["destinations"].as_array().unwrap().len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn a_saved_destination_signs_in_its_own_form() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "signature": "github" })).await;
    let secret = "It's a Secret to Everybody";
    let own = json!({ "url": t.receiver.url("/own"), "signature": "stripe", "secret": secret });
    let own = t.post("/v1/destinations", &own).await.expect(201);
    assert_eq!((&own["signature"], &own["secret"]), (&json!("stripe"), &json!(secret)));
    let pair = json!({ "url": t.receiver.url("/pair"), "keys": ["ed25519"] });
    let pair = t.post("/v1/destinations", &pair).await.expect(201);
    assert_eq!((&pair["keys"], &pair["secret"]), (&json!(["ed25519"]), &Value::Null), "no secret signs");
    for path in ["/hook", "/own", "/pair"] {
        t.receiver.other_signature(path);
    }
    let ids = [&saved, &id(&own), &id(&pair)].map(|id| json!({ "destinationId": id }));
    deliver(&t, "job_1", &ids).await;
    let github = t.receiver.next_to("/hook").await;
    assert!(has(&github, "x-hub-signature-256") && !has(&github, "webhook-signature"), "{github:?}");
    let stripe = t.receiver.next_to("/own").await;
    let signature = stripe.header("stripe-signature");
    assert_eq!(verify_stripe(secret, signature, &stripe.body, stripe.at, Duration::ZERO), Ok(()));
    assert!(t.receiver.next_to("/pair").await.header("webhook-signature").starts_with("v1a,"));
    // A change applies to the next attempt.
    let changed = patch(&t, &saved, &json!({ "signature": null, "keys": ["hmac", "ed25519"] })).await;
    assert_eq!(changed.expect(200)["keys"], json!(["hmac", "ed25519"]));
    deliver(&t, "job_2", &ids[..1]).await;
    let both = t.receiver.next_to("/hook").await;
    let kinds: Vec<_> = both.header("webhook-signature").split(' ').map(|one| &one[..3]).collect();
    assert_eq!(kinds, ["v1,", "v1a"]);
    assert_eq!(patch(&t, &saved, &json!({ "signature": "none" })).await.expect(200)["signature"], "none");
    assert_eq!(t.act(&format!("/v1/destinations/{saved}/rotate-secret")).await.status, 422);
    for (id, change, pointer) in [
        (&id(&own), json!({ "signature": "standard" }), "/signature"),
        (&id(&own), json!({ "headers": { "stripe-signature": "x" } }), "/headers/stripe-signature"),
        (&id(&own), json!({ "keys": ["ed25519"] }), "/keys"),
        (&id(&own), json!({ "signature": "svix" }), "/signature"),
        (&id(&own), json!({ "keys": [] }), "/keys"),
    ] {
        assert_eq!(errors(&patch(&t, id, &change).await), [pointer], "{change}");
    }
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_saved_destination_signs_in_its_own_form,
    each_form_of_signature_is_what_its_receivers_verify,
    a_key_pair_signs_and_rotates_with_the_secret,
    public_keys_of_an_app_are_shown_without_a_key,
    the_fields_of_a_signature_are_checked_together,
}
