//! A machine whose name servers do not answer.

use serde_json::json;

use crate::harness::{Harness, minutes, seconds};

// hickory-dns/hickory-dns#1132
#[tokio::test]
async fn without_name_servers_no_attempt_is_counted() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW_HTTP", "true")]).await;
    t.lose_name_servers("hooks.example.com");
    t.provider.completed("job_1");
    let url = format!("http://hooks.example.com:{}/hook", t.receiver.port());
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": url })).await;
    t.pass(minutes(60)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("pending"), &json!([])));
    t.resolve("hooks.example.com", &["127.0.0.1"]);
    t.pass(seconds(10)).await;
    t.receiver.next().await;
    let delivery = t.delivery(&watch).await;
    assert_eq!(delivery["status"], "succeeded");
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 1, "{delivery}");
    t.finish().await;
}

#[tokio::test]
async fn plain_http_is_accepted_while_the_name_servers_are_silent() {
    let t = Harness::start().await;
    let names = ["inside.example.com", "outside.example.com"];
    let watches = names.map(|name| (name, format!("http://{name}:{}/hook", t.receiver.port())));
    t.provider.completed("job_1");
    let mut registered = Vec::new();
    for (name, url) in &watches {
        t.lose_name_servers(name);
        registered.push(t.register(&json!({ "jobId": "job_1", "callbackUrl": url })).await);
    }
    t.resolve(names[0], &["127.0.0.1"]);
    t.resolve(names[1], &["93.184.216.34"]);
    t.pass(minutes(1)).await;
    t.receiver.next().await;
    let delivery = t.delivery(&registered[0]).await;
    assert_eq!(delivery["status"], "succeeded", "{delivery}");
    let delivery = t.delivery(&registered[1]).await;
    let error = delivery["attempts"][0]["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("refused: must begin with https://"), "{delivery}");
    t.give_up().await;
}

crate::postgres::on_postgres_too! {
    plain_http_is_accepted_while_the_name_servers_are_silent,
    without_name_servers_no_attempt_is_counted,
}
