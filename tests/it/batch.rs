//! Registration of many watches in one request: `POST /v1/watches/batch`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::harness::{AUTH, Harness, JSON, guarded, id, seconds};
use crate::wire::{self, Answer};

const PATH: &str = "/v1/watches/batch";

/// Returns the items of a 200 answer.
#[track_caller]
fn items(answer: &Answer) -> Vec<Value> {
    answer.expect(200)["data"].as_array().unwrap().clone()
}

async fn keyed(t: &Harness, key: &str, body: &Value) -> Answer {
    let headers = [AUTH, JSON, ("idempotency-key", key)];
    t.send("POST", PATH, &headers, body.to_string().as_bytes()).await
}

async fn count(t: &Harness) -> usize {
    let mut path = "/v1/watches?limit=200".to_owned();
    let mut count = 0;
    loop {
        let page = t.get(&path).await.expect(200);
        count += page["data"].as_array().unwrap().len();
        let Some(cursor) = page["nextCursor"].as_str() else { return count };
        path = format!("/v1/watches?limit=200&cursor={cursor}");
    }
}

#[tokio::test]
async fn valid_items_of_a_batch_are_registered_and_others_refused() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    t.provider.failed("job_2");
    let hook = t.receiver.url("/hook");
    let answer = t
        .post(
            PATH,
            &json!({ "watches": [
                { "jobId": "job_1", "callbackUrl": hook, "metadata": { "n": 1 } },
                { "jobId": "../x", "callbackUrl": "http://169.254.169.254/", "evnts": 1 },
                { "jobId": "job_2", "callbackUrl": hook },
                "job_3",
            ] }),
        )
        .await;
    let items = items(&answer);
    let statuses: Vec<u64> = items.iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 422, 201, 422]);
    assert_eq!(items[0]["watch"], {
        let mut shown = t.shown(&id(&items[0]["watch"])).await;
        shown["job"]["nextPollAt"] = Value::Null;
        shown
    });
    insta::assert_snapshot!(items[1].to_string(), @r#"{"problem":{"code":"invalid_request","detail":"3 fields are invalid","errors":[{"code":"invalid_format","detail":"must match the pattern [A-Za-z0-9_-]{1,128}","pointer":"/jobId"},{"code":"unknown_field","detail":"there is no such field; did you mean `events`?","pointer":"/evnts"},{"code":"forbidden_address","detail":"must not lead to 169.254.169.254 (an address that is link-local); the operator can permit it: add 169.254.169.254 to egress.allow (RINGBACK_EGRESS__ALLOW)","pointer":"/callbackUrl"}],"status":422,"title":"Invalid request","type":"urn:ringback:problem:invalid_request"},"status":422}"#);
    insta::assert_snapshot!(items[3].to_string(), @r#"{"problem":{"code":"invalid_request","detail":"the body must be an object","errors":[{"code":"invalid_type","detail":"must be an object","pointer":""}],"status":422,"title":"Invalid request","type":"urn:ringback:problem:invalid_request"},"status":422}"#);
    t.pass(seconds(10)).await;
    let delivered: HashSet<String> =
        t.receiver.take(2).await.iter().map(|hit| format!("{} {}", hit.event(), hit.watch())).collect();
    let expected = [("job.completed", 0), ("job.failed", 2)]
        .map(|(event, n)| format!("{event} {}", items[n]["watch"]["id"].as_str().unwrap()));
    assert_eq!(delivered, HashSet::from(expected));
    assert_eq!(count(&t).await, 2);
    t.finish().await;
}

#[tokio::test]
async fn a_batch_of_a_thousand_is_on_disk_when_it_is_answered() {
    let mut t = Harness::start().await;
    let watches: Vec<Value> = (0..1_000)
        .map(|n| {
            t.provider.processing(&format!("job_{n}"), 1);
            json!({ "jobId": format!("job_{n}"), "notify": [] })
        })
        .collect();
    let items = items(&t.post(PATH, &json!({ "watches": watches })).await);
    t.crash().await;
    t.restart().await;
    assert!(items.iter().all(|item| item["status"] == 201), "{items:?}");
    let jobs = items.iter().map(|item| item["watch"]["jobId"].as_str().unwrap());
    assert!(jobs.zip(0..).all(|(job, n)| job == format!("job_{n}")), "in order");
    assert_eq!(count(&t).await, 1_000);
    t.finish().await;
}

#[tokio::test]
async fn a_malformed_batch_is_refused_as_a_whole() {
    let t = Harness::start().await;
    let one = json!({ "jobId": "job_1", "notify": [] });
    let many = |n: usize| json!({ "watches": vec![json!(1); n] });
    for (body, pointer, text) in [
        (json!({}), "/watches", "required"),
        (json!({ "watches": null }), "/watches", "required"),
        (json!({ "watches": {} }), "/watches", "list"),
        (many(0), "/watches", "1 to 1000"),
        (many(1_001), "/watches", "1 to 1000"),
        (json!({ "watches": [one], "dryRun": true }), "/dryRun", "no such field"),
        (json!([one]), "", "object"),
    ] {
        let problem = t.post(PATH, &body).await.expect(422);
        let error = &problem["errors"][0];
        assert_eq!(error["pointer"], pointer, "{body}");
        assert!(error["detail"].as_str().unwrap().contains(text), "{problem}");
    }
    let large = "x".repeat(8 * 1024 * 1024);
    let send = async |body: &[u8]| t.send("POST", PATH, &[AUTH, JSON], body).await;
    assert_eq!(send(format!("{{\"watches\":[\"{large}\"]}}").as_bytes()).await.status, 413);
    assert_eq!(send(b"{\"watches\":[\"\xff\"]}").await.status, 400);
    assert_eq!(send(b"{\"watches\":[{]}").await.status, 400);
    assert_eq!(t.send("POST", PATH, &[AUTH], b"{}").await.status, 415);
    assert_eq!(t.send("POST", &format!("{PATH}?x=1"), &[AUTH, JSON], b"{}").await.status, 422);
    assert_eq!(count(&t).await, 0);
    t.finish().await;
}

#[tokio::test]
async fn an_oversized_or_deep_item_of_a_batch_is_refused_alone() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let good = r#"{"jobId":"job_1","notify":[]}"#;
    let bomb = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(r#"{{"jobId":"job_1","notify":[],"metadata":{{"a":{bomb}}}}}"#);
    let large = format!(r#"{{"jobId":"{}","notify":[]}}"#, "x".repeat(256 * 1024));
    let wide: Vec<String> = (0..20_000).map(|n| format!("\"f{n}\":1")).collect();
    let wide = format!("{{{}}}", wide.join(","));
    let events = format!(r#"{{"jobId":"job_1","notify":[],"events":[{}1]}}"#, "1,".repeat(100_000));
    let body = format!(r#"{{"watches":[{good},{bomb},{deep},{large},{wide},{events},null,{good}]}}"#);
    let items = items(&t.send("POST", PATH, &[AUTH, JSON], body.as_bytes()).await);
    let answered: Vec<(u64, String)> = items
        .iter()
        .map(|item| {
            let detail = item["problem"]["detail"].as_str().unwrap_or("").to_owned();
            (item["status"].as_u64().unwrap(), detail)
        })
        .collect();
    for ((status, detail), (expected, text)) in answered.iter().zip([
        (201, ""),
        (422, "must be an object"),
        (422, "/metadata: is nested deeper than 32 levels"),
        (413, "the item is larger than 256 KiB"),
        (422, "more than 256 fields"),
        (422, "100001 fields are invalid; errors lists the first 256"),
        (422, "must be an object"),
        (201, ""),
    ]) {
        assert_eq!(*status, expected, "{detail}");
        assert!(detail.contains(text), "{detail}");
    }
    assert_eq!(count(&t).await, 2);
    t.finish().await;
}

#[tokio::test]
async fn a_batch_is_registered_once_per_idempotency_key() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let body = json!({ "watches": [{ "jobId": "job_1", "notify": [] }, { "jobId": "" }] });
    let first = keyed(&t, "k1", &body).await;
    assert_eq!(items(&first)[1]["status"], 422);
    t.crash().await;
    t.restart().await;
    let again = keyed(&t, "k1", &body).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(count(&t).await, 1);
    keyed(&t, "k1", &json!({ "watches": [{ "jobId": "job_1", "notify": [] }] })).await.expect(422);

    // An answer without any valid item is not stored: it can be large, and a repetition gives the same one.
    let wrong = json!({ "watches": [{ "jobId": "" }] });
    let first = keyed(&t, "k2", &wrong).await;
    let again = keyed(&t, "k2", &wrong).await;
    assert_eq!((again.header("idempotent-replayed"), &again.body), (None, &first.body));
    assert_eq!(items(&first)[0]["status"], 422);
    // The refusal of a whole batch is not stored.
    keyed(&t, "k3", &json!({ "watches": [] })).await.expect(422);
    keyed(&t, "k3", &body).await.expect(200);
    t.finish().await;
}

#[tokio::test]
async fn concurrent_batches_with_one_key_register_once() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let body = json!({ "watches": [{ "jobId": "job_1", "notify": [] }] }).to_string();
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let bytes = wire::request("POST", PATH, &headers, body.as_bytes());
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (address, bytes) = (t.address(), bytes.clone());
        requests.spawn(async move { wire::exchange(address, &bytes).await.unwrap() });
    }
    let answers = requests.join_all().await;
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 409)), "{answers:?}");
    assert_eq!(count(&t).await, 1);
    t.finish().await;
}

#[tokio::test]
async fn a_batch_resolves_each_name_once_within_five_seconds() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let slow = t.resolve_slowly("slow.example.com", &["10.0.0.1"]);
    t.resolve("inside.example.com", &["10.0.0.1"]);
    // With a timeout of one second and 64 lookups at a time, these names would take 15 seconds.
    let mut watches = vec![json!({ "jobId": "job_1", "callbackUrl": "https://slow.example.com/" }); 90];
    for n in 0..900 {
        let name = format!("slow{n}.example.com");
        t.resolve_slowly(&name, &["10.0.0.1"]);
        watches.push(json!({ "jobId": "job_1", "callbackUrl": format!("https://{name}/") }));
    }
    watches.push(json!({ "jobId": "job_1", "callbackUrl": "https://inside.example.com/" }));
    let body = json!({ "watches": watches });
    let answer = guarded("the batch", async {
        let response = t.post(PATH, &body);
        let some_seconds = async {
            slow.requested().await;
            // More than five seconds: a wait that begins while the clock moves ends one tick later.
            for _ in 0..8 {
                t.clock.advance(seconds(1));
                t.get_without_key("/healthz").await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = response => answer,
            () = some_seconds => unreachable!("the clock stops only with the answer"),
        }
    });
    let answer = answer.await;
    // A name that does not resolve, or not in time, is accepted.
    let items = items(&answer);
    assert!(items[..990].iter().all(|item| item["status"] == 201), "{items:?}");
    t.give_up().await;
}

// Once: the test writes into the SQLite file.
#[tokio::test]
async fn a_batch_that_fails_half_way_registers_nothing() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let other = rusqlite::Connection::open(t.file()).unwrap();
    other
        .execute_batch(
            "create trigger no before insert on watch_destinations begin select raise(abort, 'no'); end",
        )
        .unwrap();
    let hook = t.receiver.url("/hook");
    let body =
        json!({ "watches": [{ "jobId": "job_1", "notify": [] }, { "jobId": "job_1", "callbackUrl": hook }] });
    t.post(PATH, &body).await.expect(500);
    assert_eq!(count(&t).await, 0);
    other.execute_batch("drop trigger no").unwrap();
    t.post(PATH, &body).await.expect(200);
    t.give_up().await;
}

#[tokio::test]
async fn a_batch_lists_at_most_a_thousand_errors_of_its_items() {
    let t = Harness::start().await;
    let listed = |items: &[Value]| -> Vec<usize> {
        items.iter().map(|item| item["problem"]["errors"].as_array().map_or(0, Vec::len)).collect()
    };
    let wide = json!({ "jobId": "a", "notify": [], "events": vec![1; 256] });
    let answer = t.post(PATH, &json!({ "watches": vec![wide; 15] })).await;
    let found = items(&answer);
    // The first items list everything, and each of the others its first error.
    let expected = [vec![256; 3], vec![221], vec![1; 11]].concat();
    assert_eq!((listed(&found), expected.iter().sum::<usize>()), (expected, 1_000));
    let detail = |n: usize| found[n]["problem"]["detail"].as_str().unwrap();
    assert_eq!(detail(0), "256 fields are invalid");
    assert_eq!(detail(3), "256 fields are invalid; errors lists the first 221");
    assert_eq!(detail(14), "256 fields are invalid; errors lists the first");

    let empty = items(&t.post(PATH, &json!({ "watches": vec![json!({}); 1_000] })).await);
    assert_eq!(listed(&empty), [1; 1_000]);
    assert_eq!(empty[999]["problem"]["detail"], "2 fields are invalid; errors lists the first");
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    valid_items_of_a_batch_are_registered_and_others_refused,
    a_batch_of_a_thousand_is_on_disk_when_it_is_answered,
    a_malformed_batch_is_refused_as_a_whole,
    an_oversized_or_deep_item_of_a_batch_is_refused_alone,
    a_batch_is_registered_once_per_idempotency_key,
    concurrent_batches_with_one_key_register_once,
    a_batch_resolves_each_name_once_within_five_seconds,
    a_batch_lists_at_most_a_thousand_errors_of_its_items,
}
