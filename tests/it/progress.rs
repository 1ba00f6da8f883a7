//! Events of progress: how often a job creates them, and how many bytes they take.

use serde_json::{Value, json};

use crate::harness::{Harness, seconds, start};
use crate::tenants::tenant;
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
    let mut others = Vec::new();
    for _ in 0..12 {
        others.push(t.register(&curious()).await);
        t.pass(seconds(1)).await;
    }
    t.pass(seconds(5)).await;
    assert_eq!(rounds(&t, &watch).await, [1]);
    assert_eq!(rounds(&t, &others[1]).await, [6], "a new watch gets the progress with the next round");
    assert_eq!(rounds(&t, &others[11]).await, [16]);
    // What has changed is for all.
    t.provider.processing("job_1", 20);
    t.pass(seconds(5)).await;
    assert_eq!((rounds(&t, &watch).await, rounds(&t, &others[11]).await), (vec![1, 21], vec![16, 21]));
    t.provider.completed("job_1");
    t.pass(seconds(1)).await;
    t.finish().await;
}

/// The status of the job was stored before the watch was there, so no poll after the crash brings a change.
#[tokio::test]
async fn a_watch_of_a_running_job_gets_job_processing_after_a_crash() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 10);
    let first = t.register(&curious()).await;
    t.pass(seconds(3)).await;
    let body = json!({ "jobId": "job_1", "notify": [], "events": ["job.processing"], "pollInterval": "1h" });
    let second = t.register(&body).await;
    t.crash().await;
    t.restart().await;
    t.pass(seconds(60)).await;
    for watch in [first, second] {
        let timeline = t.get(&format!("/v1/watches/{watch}/timeline?limit=200")).await.expect(200);
        let entries = timeline["data"].as_array().unwrap().iter();
        assert_eq!(entries.filter(|entry| entry["eventType"] == "job.processing").count(), 1, "{timeline:#}");
    }
    t.provider.completed("job_1");
    t.pass(seconds(60)).await;
    t.finish().await;
}

/// Returns the time and the progress of each `job.progress` event of an app, in seconds since the start.
async fn reported(t: &Harness, key: &str) -> Vec<(u64, u64)> {
    let feed = t.as_key(key, "GET", "/v1/events?type=job.progress&limit=200", "").await.expect(200);
    let entry = |event: &Value| {
        let at = Timestamp::parse(event["timestamp"].as_str().unwrap()).unwrap().since(start()).as_secs();
        (at, event["data"]["progress"].as_u64().unwrap())
    };
    feed["data"].as_array().unwrap().iter().map(entry).collect()
}

/// Lets a job progress for 90 s, which an app with one watch and an app with many observe. Returns what each
/// received; of the many watches, the first one.
async fn observed_by_both(many: usize) -> (Vec<(u64, u64)>, Vec<u64>) {
    let t = Harness::start().await;
    let advance = |progress: u64| {
        t.provider.job("job_1", &json!({ "progress": progress, "output": "x".repeat(2_000) }));
    };
    advance(1);
    let other = tenant(&t, "other").await;
    let mut first = None;
    for chunk in vec![curious(); many].chunks(1_000) {
        let made = t.post("/v1/watches/batch", &json!({ "watches": chunk })).await.expect(200);
        first.get_or_insert(made["data"][0]["watch"]["id"].as_str().unwrap().to_owned());
    }
    t.as_key(&other.key, "POST", "/v1/watches", &curious().to_string()).await.expect(201);
    for second in 1..=90 {
        advance(second);
        t.pass(seconds(1)).await;
    }
    // The job stands still, and everyone gets the last value.
    t.pass(seconds(60)).await;
    let of_many = match first {
        Some(watch) => rounds(&t, &watch).await,
        None => Vec::new(),
    };
    let of_one = reported(&t, &other.key).await;
    t.provider.completed("job_1");
    t.pass(seconds(10)).await;
    t.finish().await;
    (of_one, of_many)
}

/// 2,000 watches of one app: a round has 7 MB, which take more than half a minute.
#[tokio::test]
async fn the_watches_of_another_app_do_not_delay_the_progress_of_a_job() {
    let (alone, _) = observed_by_both(0).await;
    let (beside, of_many) = observed_by_both(2_000).await;
    assert_eq!(beside, alone);
    assert_eq!(alone.len(), 19, "every 5 s, and the last value: {alone:?}");
    assert!(alone.windows(2).all(|two| two[1].1 > two[0].1), "none twice: {alone:?}");
    // The rounds of the other app are as rare as their bytes require, and the last one has the last value.
    assert!(of_many.len() >= 3 && of_many.windows(2).all(|two| two[1] >= two[0] + 25), "{of_many:?}");
    assert!(*of_many.last().unwrap() >= 90, "{of_many:?}");
}

crate::postgres::on_postgres_too! {
    the_watches_of_another_app_do_not_delay_the_progress_of_a_job,
    the_bytes_of_a_jobs_progress_are_bounded_also_by_a_restart,
    registrations_of_a_job_add_no_progress_of_its_other_watches,
    a_watch_of_a_running_job_gets_job_processing_after_a_crash,
}
