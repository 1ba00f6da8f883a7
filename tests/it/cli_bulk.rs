//! The commands that stop and erase watches and that retry deliveries.

use serde_json::json;

use crate::cli::{Scripted, ask, run, url};
use crate::fakes::Reply;
use crate::harness::{Harness, seconds};

#[tokio::test]
async fn retry_failed_retries_all_failed_in_a_period() {
    let ended = |done: u64| json!({ "id": "op_1", "status": "succeeded", "total": done, "done": done });
    let server = Scripted::start(&[
        (200, json!({ "operationId": null, "count": 7 })),
        (202, json!({ "operationId": "op_1", "count": 7 })),
        (200, json!({ "id": "op_1", "status": "running", "total": 7, "done": 3 })),
        (200, ended(7)),
        (200, json!({ "operationId": null, "count": 0 })),
        (200, json!({ "operationId": null, "count": 1 })),
        (202, json!({ "operationId": "op_2", "count": 1 })),
        (200, json!({ "id": "op_2", "status": "failed", "total": 1, "done": 0 })),
    ])
    .await;
    let line =
        ["retry", "--failed", "--since", "2026-02-18T15:00:00Z", "--until", "2026-02-18T16:00:00+00:00"];
    let ran = ask(&server.url, &[&line[..], &["--destination", "dst_1", "--yes"]].concat()).await.expect(0);
    assert_eq!(ran.out, "7 deliveries are retried.\n");
    assert_eq!(ran.err, "The filter selects 7 deliveries.\n");
    let line = ["retry", "--status", "failed,pending", "--origin", "https://app.example.com", "--yes"];
    let none = ask(&server.url, &line).await.expect(0);
    assert_eq!((none.out.as_str(), none.err.as_str()), ("", "The filter selects 0 deliveries.\n"));
    let failed = ask(&server.url, &["retry", "--all", "--json", "-y"]).await.expect(1);
    assert_eq!(failed.json()["status"], "failed");
    assert!(failed.err.contains("op_2 has ended early"), "{failed:?}");
    insta::assert_snapshot!(server.requests().join("\n"), @r#"
    POST /v1/deliveries/retry {"status":["failed"],"destinationId":"dst_1","since":"2026-02-18T15:00:00.000Z","until":"2026-02-18T16:00:00.000Z","dryRun":true}
    POST /v1/deliveries/retry {"status":["failed"],"destinationId":"dst_1","since":"2026-02-18T15:00:00.000Z","until":"2026-02-18T16:00:00.000Z"}
    GET /v1/operations/op_1
    GET /v1/operations/op_1
    POST /v1/deliveries/retry {"status":["failed","pending"],"origin":"https://app.example.com","dryRun":true}
    POST /v1/deliveries/retry {"all":true,"dryRun":true}
    POST /v1/deliveries/retry {"all":true}
    GET /v1/operations/op_2
    "#);
    run(&[], &["retry"]).await.expect(2);
    run(&[], &["retry", "dlv_1", "--failed"]).await.expect(2);
    run(&[], &["retry", "dlv_1", "--since", "1h"]).await.expect(2);
    // There is no terminal for the confirmation.
    let refused = run(&[], &["retry", "--failed"]).await.expect(2);
    assert!(refused.err.contains("add --yes"), "{refused:?}");
}

#[tokio::test]
async fn stop_stops_a_watch() {
    let h = Harness::start().await;
    h.provider.processing("job_1", 50);
    let watch = h.watch("job_1").await;
    let first = ask(&url(&h), &["stop", &watch]).await.expect(0);
    assert!(
        first.out.contains("stopped") && first.out.contains(&watch) && first.err.is_empty(),
        "{first:#?}"
    );
    let second = ask(&url(&h), &["stop", &watch]).await.expect(0);
    assert!(
        second.err.contains(
            "The watch had ended before: stopped, 2026-02-18 15:00:00 UTC.\nIt had no pending deliveries"
        ),
        "{second:#?}"
    );
    h.provider.completed("job_2");
    h.receiver.script("/hook", [Reply::status(500)]);
    let ended = h.watch("job_2").await;
    h.pass(seconds(5)).await;
    h.receiver.next().await;
    let pending = ask(&url(&h), &["stop", &ended]).await.expect(0);
    assert!(pending.err.ends_with("Its pending deliveries are skipped from now on.\n"), "{pending:#?}");
    let again = ask(&url(&h), &["stop", &watch, "--json"]).await.expect(0).json();
    assert_eq!(again["status"], "stopped");
    assert_eq!(h.shown(&watch).await["status"], "stopped");
    h.finish().await;
}

#[tokio::test]
async fn stop_with_a_filter_stops_many_watches() {
    let h = Harness::start().await;
    for n in 0..3 {
        h.provider.processing(&format!("job_{n}"), 50);
        h.watch(&format!("job_{n}")).await;
    }
    let one = ask(&url(&h), &["stop", "--job-id", "job_1", "--yes"]).await.expect(0);
    assert_eq!(
        (one.out.as_str(), one.err.as_str()),
        ("1 watch is stopped.\n", "The filter selects 1 watch.\n")
    );
    let all = ask(&url(&h), &["stop", "--all", "--yes"]).await.expect(0);
    assert_eq!(all.out, "2 watches are stopped.\n");
    run(&[], &["stop"]).await.expect(2);
    run(&[], &["stop", "watch_1", "--all"]).await.expect(2);
    run(&[], &["stop", "--all"]).await.expect(2);
    h.finish().await;
}

#[tokio::test]
async fn erase_deletes_a_watch() {
    let h = Harness::start().await;
    h.provider.processing("job_1", 50);
    let watch = h.watch("job_1").await;
    let erased = ask(&url(&h), &["erase", &watch]).await.expect(0);
    assert_eq!(erased.out, format!("{watch} is erased.\n"));
    h.get(&format!("/v1/watches/{watch}")).await.expect(404);
    assert!(ask(&url(&h), &["erase", &watch]).await.expect(1).err.contains(&watch));
    h.finish().await;
}
