//! Events of progress: how often a job creates them, and how many bytes they take.

use serde_json::{Value, json};

use crate::harness::{Harness, seconds, start};
use ringback::domain::Timestamp;

/// Sets the progress of a job with an output of 60 KB.
fn large(t: &Harness, progress: u64) {
    t.provider.job("job_1", &json!({ "progress": progress, "output": "x".repeat(60_000) }));
}

fn curious() -> Value {
    json!({ "jobId": "job_1", "notify": [], "events": ["job.*"], "pollInterval": "1s" })
}

/// Returns the times of the `job.progress` events of a watch, in seconds since the start.
async fn rounds(t: &Harness, watch: &str) -> Vec<u64> {
    let timeline = t.get(&format!("/v1/watches/{watch}/timeline?limit=200")).await.expect(200);
    let entries = timeline["data"].as_array().unwrap().iter();
    entries
        .filter(|entry| entry["eventType"] == "job.progress")
        .map(|entry| Timestamp::parse(entry["at"].as_str().unwrap()).unwrap().since(start()).as_secs())
        .collect()
}

/// 42 watches with bodies of 60 KB: a round has 2.6 MB, which take 13 s.
#[tokio::test]
async fn the_bytes_of_a_jobs_progress_are_bounded_also_by_a_restart() {
    let mut t = Harness::start().await;
    large(&t, 1);
    let body = json!({ "watches": vec![curious(); 41] });
    t.post("/v1/watches/batch", &body).await.expect(200);
    let watch = t.register(&curious()).await;
    for second in 1..=50 {
        large(&t, second);
        t.pass(seconds(1)).await;
        if second == 25 {
            t.crash().await;
            t.restart().await;
        }
    }
    assert_eq!(rounds(&t, &watch).await, [1, 14, 27, 40]);
    // The state of the job is written all the same, and its end is not delayed.
    let shown = t.shown(&watch).await;
    assert!(shown["job"]["progress"].as_u64().unwrap() >= 45, "{}", shown["job"]["progress"]);
    t.provider.completed("job_1");
    t.pass(seconds(1)).await;
    assert_eq!(t.shown(&watch).await["status"], "completed");
    t.finish().await;
}

/// A registration costs one request, and the events of all watches of its job many bytes.
#[tokio::test]
async fn registrations_of_a_job_add_no_progress_of_its_other_watches() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 10);
    let watch = t.register(&curious()).await;
    let mut last = String::new();
    for _ in 0..12 {
        last = t.register(&curious()).await;
        t.pass(seconds(1)).await;
    }
    assert_eq!(rounds(&t, &watch).await, [1, 6, 11]);
    t.pass(seconds(5)).await;
    assert_eq!(rounds(&t, &last).await, [16], "a new watch gets the progress with the next round");
    t.provider.completed("job_1");
    t.pass(seconds(1)).await;
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    the_bytes_of_a_jobs_progress_are_bounded_also_by_a_restart,
    registrations_of_a_job_add_no_progress_of_its_other_watches,
}
