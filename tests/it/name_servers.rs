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

crate::postgres::on_postgres_too! {
    without_name_servers_no_attempt_is_counted,
}
