//! Registering watches, recording observations, ending and stopping.

use std::time::Duration;

use ringback::domain::{
    AppsApart, CancelScope, DeliveryStatus, DispatcherMessage, EndingKind, EventType, JobError, JobNo,
    JobStatus, Known, NewWatch, Observation, Payload, PollerMessage, ProgressRound, Reason, Timestamp,
    WatchId, WatchStatus,
};
use ringback::store::{
    EndNotFound, ExpireWatches, IdempotencyKey, Idempotent, KeepAnswer, NotFound, NotFoundEnd, Notified,
    NotifyWatches, PollNow, RefreshEnding, RegisterMany, Replay, StopWatch, StoreError, StoredResponse,
    WatchFilter,
};

use EventType::{JobProcessing, JobProgress};

use super::{
    StoreFixture, at, ended, observed, register_command, seen, take_deliveries, take_poller_messages,
};

#[tokio::test]
async fn watches_of_one_job_share_it_and_each_reaches_the_poller() {
    let fixture = StoreFixture::new().await;
    let first = fixture.register(fixture.watch("job_1")).await;
    let second = fixture.register(fixture.watch("job_1")).await;
    let other = fixture.register(fixture.watch("job_2")).await;
    assert_eq!(first.job_no, second.job_no);
    assert_ne!(first.job_no, other.job_no);
    assert_eq!((first.status, first.seen.status), (WatchStatus::Watching, JobStatus::Unknown));
    let messages: Vec<(JobNo, u32)> = take_poller_messages(&fixture.store)
        .into_iter()
        .map(|plan| match plan {
            PollerMessage::Watch(facts) => (facts.no, facts.watching),
            other @ (PollerMessage::WatchersChanged { .. }
            | PollerMessage::PollNow(_)
            | PollerMessage::CancelJob(_)) => {
                panic!("{other:?}")
            }
        })
        .collect();
    assert_eq!(messages, [(first.job_no, 1), (first.job_no, 1), (other.job_no, 1)]);
    let jobs = fixture.store.jobs(JobNo(0), 10, at(0)).await.expect("read").jobs;
    let waiting: Vec<(JobNo, u32)> = jobs.iter().map(|facts| (facts.no, facts.watching)).collect();
    assert_eq!(waiting, [(first.job_no, 2), (other.job_no, 1)]);
}

#[tokio::test]
async fn a_registration_returns_what_is_read_back_later() {
    let fixture = StoreFixture::new().await;
    let made = fixture.register(fixture.watch("job_1")).await;
    let read = fixture.shown(made.id).await;
    assert_eq!(format!("{made:?}"), format!("{read:?}"));
    let other = super::app(&fixture.store, "other").await;
    assert!(fixture.store.watch(other, made.id).await.expect("read").is_none(), "another app's");
}

#[tokio::test]
async fn a_registration_of_an_ended_job_polls_it_again() {
    let fixture = StoreFixture::new().await;
    let before = fixture.register(fixture.watch("job_1")).await;
    fixture.end(before.job_no, 0).await;
    take_poller_messages(&fixture.store);
    let after = fixture.register(fixture.watch("job_1")).await;
    assert_eq!(after.job_no, before.job_no);
    assert_eq!(after.seen.status, JobStatus::Unknown);
    let [PollerMessage::Watch(facts)] = &take_poller_messages(&fixture.store)[..] else { panic!("one plan") };
    assert_eq!(facts.generation, 1);
    // Later observations of the first generation do not change it.
    fixture.end(before.job_no, 0).await;
    fixture.store.record_observation(observed(before.job_no, 0, 50, at(5))).await.expect("taken");
    assert_eq!(fixture.shown(after.id).await.status, WatchStatus::Watching);
    assert_eq!(fixture.shown(after.id).await.seen.status, JobStatus::Unknown);
    fixture.store.end_job(ended(after.job_no, 1, EndingKind::Failed, at(90))).await.expect("ended");
    assert_eq!(fixture.shown(after.id).await.status, WatchStatus::Failed);
    assert_eq!(fixture.shown(before.id).await.seen.status, JobStatus::Completed, "each shows its own ending");
}

fn key(fixture: &StoreFixture, request: u8, now: Timestamp) -> IdempotencyKey {
    IdempotencyKey {
        app: fixture.app,
        path: "/v1/watches".to_owned(),
        key: "k".to_owned(),
        request_hash: [request; 32],
        now,
        seal: None,
    }
}

#[tokio::test]
async fn an_idempotency_key_replays_the_response_for_a_day() {
    let fixture = StoreFixture::new().await;
    let ask = |request, now| {
        fixture.store.register(register_command(fixture.watch("job_1"), Some(key(&fixture, request, now))))
    };
    let Ok(Ok(made)) = ask(1, at(0)).await.expect("made") else { panic!("new") };
    let location = Some(format!("/{}", made.id));
    let day = 24 * 3600;
    let Err(replay) = ask(1, at(day - 1)).await.expect("replayed") else { panic!("known") };
    assert_eq!(replay, Replay::Response(StoredResponse { status: 201, location, body: b"created".to_vec() }));
    let Err(replay) = ask(2, at(day - 1)).await.expect("refused") else { panic!("known") };
    assert_eq!(replay, Replay::OtherRequest);
    assert!(matches!(ask(2, at(day)).await.expect("made"), Ok(Ok(_))), "not valid after a day");
    assert_eq!(
        fixture.store.watches(fixture.app, WatchFilter::default(), 10).await.expect("read").rows.len(),
        2
    );
}

#[tokio::test]
async fn the_kept_answers_of_an_app_are_limited_in_bytes() {
    let fixture = StoreFixture::new().await;
    let keep = async |n: u8, size: usize| {
        let key = IdempotencyKey { key: format!("k{n}"), ..key(&fixture, 1, at(n.into())) };
        let location = Some(format!("/v1/watches/{n}"));
        let response = StoredResponse { status: 201, location, body: vec![b'x'; size] };
        let keep = Idempotent::with_response(KeepAnswer, Some(key), &response);
        fixture.store.keep_answer(keep).await.expect("kept")
    };
    // A small one is not counted.
    assert!(keep(0, 16 * 1024).await.is_ok());
    for n in 1..=8 {
        assert!(keep(n, 8 * 1024 * 1024).await.is_ok());
    }
    assert!(matches!(keep(1, 1).await, Err(Replay::Response(_))), "64 MiB fit");
    assert!(keep(9, 20_000).await.is_ok());
    for n in [1, 2] {
        let location = Some(format!("/v1/watches/{n}"));
        assert_eq!(keep(n, 1).await, Err(Replay::Gone { location }), "it is not applied again");
    }
    for n in [0, 3, 8, 9] {
        assert!(matches!(keep(n, 1).await, Err(Replay::Response(_))), "{n}");
    }
}

#[tokio::test]
async fn concurrent_requests_with_one_key_create_one_watch() {
    let fixture = StoreFixture::new().await;
    let ask =
        || fixture.store.register(register_command(fixture.watch("job_1"), Some(key(&fixture, 1, at(0)))));
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    let new = [a, b, c].into_iter().filter(|one| matches!(one, Ok(Ok(Ok(_))))).count();
    assert_eq!(new, 1);
    assert_eq!(
        fixture.store.watches(fixture.app, WatchFilter::default(), 10).await.expect("read").rows.len(),
        1
    );
}

#[tokio::test]
async fn an_invalid_command_fails_alone() {
    let fixture = StoreFixture::new().await;
    let taken = fixture.watch("job_0");
    fixture.register(taken.clone()).await;
    let asks = (0..50).map(|n| {
        let watch = if n == 20 { taken.clone() } else { fixture.watch(&format!("job_{n}")) };
        let store = fixture.store.clone();
        tokio::spawn(async move { store.register(register_command(watch, None)).await })
    });
    for (n, ask) in asks.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = ask.await.expect("ran");
        if n == 20 {
            assert!(matches!(answer, Err(StoreError::Inconsistent(_))), "{answer:?}");
        } else {
            assert!(matches!(answer, Ok(Ok(Ok(_)))), "{n}: {answer:?}");
        }
    }
    assert!(!fixture.store.refusing(), "a bad item is not an error of the store");
}

#[tokio::test]
async fn processing_is_notified_once_and_progress_is_numbered() {
    let fixture = StoreFixture::new().await;
    let quiet = fixture.register(fixture.watch("job_1")).await;
    let follower = fixture.register(fixture.follower("job_1")).await;
    for (progress, seconds) in [(10, 5), (20, 10), (30, 15)] {
        let observed = observed(follower.job_no, 0, progress, at(seconds));
        assert_eq!(fixture.store.record_observation(observed).await.expect("taken").next, []);
    }
    assert_eq!(fixture.events().await, [JobProcessing, JobProgress, JobProgress, JobProgress]);
    let sent = take_deliveries(&fixture.store);
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|send| send.watch == follower.id));
    assert_eq!(fixture.shown(quiet.id).await.seen.progress, Some(30));
    // The ending supersedes pending progress.
    fixture.end(follower.job_no, 0).await;
    let messages = fixture.store.dispatcher_messages().take();
    let off = DispatcherMessage::Skip { watch: follower.id, which: CancelScope::Progress };
    assert!(messages.iter().any(|message| format!("{message:?}") == format!("{off:?}")));
    let (overtaken, _) = fixture.shown_delivery(sent[0].id).await;
    assert_eq!((overtaken.status, overtaken.reason), (DeliveryStatus::Skipped, Some(Reason::Superseded)));
    assert_eq!(overtaken.next_attempt_at, None);
}

#[tokio::test]
async fn progress_reaches_every_watch_of_a_job_with_many() {
    let fixture = StoreFixture::new().await;
    let mut job = JobNo(0);
    for _ in 0..450 {
        job = fixture.register(fixture.follower("job_1")).await.job_no;
    }
    let mut observed = observed(job, 0, 10, at(5));
    let mut chunks = 1;
    loop {
        observed.after = fixture.store.record_observation(observed.clone()).await.expect("taken").next;
        if observed.after.is_empty() {
            break;
        }
        chunks += 1;
    }
    assert_eq!(chunks, 3);
    assert_eq!(fixture.events().await.len(), 900, "one processing and one progress each");
}

#[tokio::test]
async fn the_bytes_of_a_round_of_progress_are_stored_with_its_events() {
    let fixture = StoreFixture::new().await;
    let mut job = JobNo(0);
    for _ in 0..250 {
        job = fixture.register(fixture.follower("job_1")).await.job_no;
    }
    let bytes = |notified: &Notified| notified.rounds.iter().map(|round| round.bytes).sum::<u64>();
    let mut rounds = Vec::new();
    for (progress, second) in [(10, 5), (20, 10)] {
        let mut observed = observed(job, 0, progress, at(second));
        let first = fixture.store.record_observation(observed.clone()).await.expect("taken");
        observed.after.clone_from(&first.next);
        // The second time, as after a commit whose outcome was unknown.
        for _ in 0..2 {
            let last = fixture.store.record_observation(observed.clone()).await.expect("taken");
            assert_eq!(last.next, []);
            rounds.push((bytes(&first), bytes(&last)));
        }
    }
    let (first, all) = rounds[0];
    assert!(all > 250 * 1_024 && first == all / 250 * 200, "{rounds:?}");
    assert_eq!(rounds, [(first, all); 4], "each round anew");
    let fixture = fixture.reopen(at(12)).await;
    let stored = fixture.store.jobs(JobNo(0), 10, at(12)).await.expect("read").jobs.remove(0);
    let round = ProgressRound { app: fixture.app, at: at(10), bytes: all, progress: Some(20) };
    let known = Known::new(&seen(JobStatus::Processing, Some(20)), &[round], at(12));
    assert_eq!((stored.known, stored.apart), (known, AppsApart::NONE));
    // A job that is registered again has other watches.
    fixture.end(job, 0).await;
    fixture.register(fixture.watch("job_1")).await;
    let stored = fixture.store.jobs(JobNo(0), 10, at(20)).await.expect("read").jobs.remove(0);
    assert_eq!(stored.known, Known::new(&Observation::default(), &[], at(20)));
}

#[tokio::test]
async fn only_the_first_ending_of_a_job_creates_events() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.watch("job_1")).await;
    let bell = fixture.store.watch_ends(watch.id);
    let rung = bell.armed();
    fixture.end(watch.job_no, 0).await;
    rung.await;
    fixture.store.end_job(ended(watch.job_no, 0, EndingKind::Failed, at(61))).await.expect("taken");
    assert_eq!(fixture.events().await, [EventType::JobCompleted]);
    let shown = fixture.shown(watch.id).await;
    assert_eq!((shown.status, shown.ended_at), (WatchStatus::Completed, Some(at(60))));
    assert_eq!(shown.seen.progress, Some(100));
    let sent = take_deliveries(&fixture.store);
    assert_eq!(sent.len(), 1);
    let body = String::from_utf8(sent[0].body.to_vec()).expect("text");
    assert!(body.contains(r#""metadata":{"orderId": 42}"#), "byte for byte: {body}");
    assert_eq!(fixture.statuses(watch.id).await, [Some(DeliveryStatus::Pending)]);
}

#[tokio::test]
async fn an_unwanted_ending_is_recorded_and_not_sent() {
    let fixture = StoreFixture::new().await;
    let mut watch = fixture.watch("job_1");
    watch.events = [EventType::JobFailed].into_iter().collect();
    let watch = fixture.register(watch).await;
    fixture.end(watch.job_no, 0).await;
    assert_eq!(fixture.events().await, [EventType::JobCompleted]);
    assert!(take_deliveries(&fixture.store).is_empty());
}

#[tokio::test]
async fn the_raw_answer_goes_only_to_watches_that_want_it() {
    let fixture = StoreFixture::new().await;
    let raw: &[u8] = b"{\"data\": \xff}";
    let mut raw_watch = fixture.watch("job_1");
    raw_watch.payload = Payload::Raw;
    let raw_watch = fixture.register(raw_watch).await;
    let other = fixture.register(fixture.watch("job_1")).await;
    let mut end = ended(raw_watch.job_no, 0, EndingKind::Completed, at(60));
    end.raw = Some(raw.into());
    fixture.store.end_job(end).await.expect("ended");
    for messages in [
        take_deliveries(&fixture.store),
        fixture.page(at(60), 10, &[]).await.deliveries.into_iter().map(Box::new).collect(),
    ] {
        assert_eq!(messages.len(), 2);
        for send in messages {
            assert_eq!(&*send.body == raw, send.watch == raw_watch.id, "{}", send.watch == other.id);
        }
    }
}

#[tokio::test]
async fn ending_many_watches_continues_after_a_crash() {
    let fixture = StoreFixture::new().await;
    let mut job = JobNo(0);
    for _ in 0..450 {
        job = fixture.register(fixture.watch("job_1")).await.job_no;
    }
    assert!(fixture.end(job, 0).await, "more watches remain");
    assert_eq!(fixture.events().await.len(), 200);
    // A watch that is registered meanwhile belongs to the next generation.
    let next = fixture.register(fixture.watch("job_1")).await;
    let fixture = fixture.reopen(at(100)).await;
    let open = fixture.store.unfinished_endings().await.expect("read");
    let [NotifyWatches { job: found, generation: 0 }] = open[..] else { panic!("{open:?}") };
    assert_eq!(found, job);
    let notify = || fixture.store.notify_watches(NotifyWatches { job, generation: 0 });
    assert!(notify().await.expect("notified"), "more watches remain");
    assert!(!notify().await.expect("notified"));
    assert!(!notify().await.expect("notified"), "again is nothing");
    assert_eq!(fixture.events().await.len(), 450);
    assert!(fixture.store.unfinished_endings().await.expect("read").is_empty());
    assert_eq!(fixture.shown(next.id).await.status, WatchStatus::Watching);
}

#[tokio::test]
async fn a_missing_ending_notifies_no_watch() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.watch("job_1")).await;
    fixture.store.end_job(ended(watch.job_no, 0, EndingKind::Completed, at(1))).await.expect("ended");
    let (none, one) = tokio::join!(
        fixture.store.notify_watches(NotifyWatches { job: JobNo(999), generation: 0 }),
        fixture.store.notify_watches(NotifyWatches { job: watch.job_no, generation: 0 })
    );
    assert_eq!((none.expect("notified"), one.expect("notified")), (false, false));
}

#[tokio::test]
async fn only_expired_watches_end_with_the_last_observation() {
    let fixture = StoreFixture::new().await;
    let mut short = fixture.follower("job_1");
    short.terms.expires_at = at(100);
    let short = fixture.register(short).await;
    let long = fixture.register(fixture.watch("job_1")).await;
    fixture.store.record_observation(observed(short.job_no, 0, 40, at(5))).await.expect("taken");
    take_poller_messages(&fixture.store);
    let error = JobError { code: Some("deadline".to_owned()), message: None };
    let expire = ExpireWatches { job: short.job_no, until: at(101), error, now: at(102) };
    assert!(!fixture.store.expire_watches(expire.clone()).await.expect("expired"), "no more expired");
    fixture.store.expire_watches(expire).await.expect("again is nothing");
    assert_eq!(fixture.shown(short.id).await.status, WatchStatus::Expired);
    assert_eq!(fixture.shown(long.id).await.status, WatchStatus::Watching);
    let messages = take_poller_messages(&fixture.store);
    let [
        PollerMessage::WatchersChanged { ended: 1, terms: Some(terms), .. },
        PollerMessage::WatchersChanged { ended: 0, .. },
    ] = messages[..]
    else {
        panic!("one waits: {messages:?}")
    };
    assert_eq!(terms.expires_at, at(86_400));
    let body = String::from_utf8(take_deliveries(&fixture.store).pop().expect("notified").body.to_vec())
        .expect("text");
    assert!(body.contains(r#""status":"expired""#) && body.contains("deadline"), "{body}");
    assert!(body.contains(r#""progress":40"#), "the rest is as last seen: {body}");
}

#[tokio::test]
async fn only_early_watches_of_an_unknown_job_end() {
    let fixture = StoreFixture::new().await;
    let mut job = JobNo(0);
    let mut late = Vec::new();
    for n in 0..450 {
        // Watches that are registered late, and expire in between.
        let (created_at, expires_at) = if n % 100 == 7 { (at(50), at(900 + n)) } else { (at(0), at(1_000)) };
        let mut watch = fixture.watch("job_1");
        (watch.created_at, watch.terms.expires_at) = (created_at, expires_at);
        let watch = fixture.register(watch).await;
        job = watch.job_no;
        if created_at == at(50) {
            late.push(watch.id);
        }
    }
    take_poller_messages(&fixture.store);
    let error = JobError { code: Some("not_found".to_owned()), message: None };
    let (registered_until, now) = (at(49), at(70));
    let mut command = EndNotFound { job, generation: 0, registered_until, error, now, after: Vec::new() };
    let end = async |fixture: &StoreFixture, command: &EndNotFound| {
        fixture.store.end_not_found(command.clone()).await.expect("ended")
    };
    let NotFoundEnd::More(positions) = end(&fixture, &command).await else { panic!("more remain") };
    // A crash: the next end begins again.
    let fixture = fixture.reopen(at(100)).await;
    let NotFoundEnd::More(_) = end(&fixture, &command).await else { panic!("more remain") };
    command.after = positions;
    while let NotFoundEnd::More(positions) = end(&fixture, &command).await {
        command.after = positions;
    }
    assert_eq!(fixture.events().await.len(), 445);
    for watch in &late {
        assert_eq!(fixture.shown(*watch).await.status, WatchStatus::Watching);
    }
    let jobs = fixture.store.jobs(JobNo(0), 10, at(100)).await.expect("read").jobs;
    assert_eq!((jobs[0].generation, jobs[0].watching), (0, 5));
    // The job ends with its last watch, and begins another generation with the next.
    command.registered_until = at(50);
    command.after = Vec::new();
    assert_eq!(end(&fixture, &command).await, NotFoundEnd::Job);
    assert_eq!(end(&fixture, &command).await, NotFoundEnd::Job, "again is nothing");
    assert_eq!(fixture.shown(late[0]).await.status, WatchStatus::NotFound);
    assert_eq!(fixture.events().await.len(), 450);
    let next = fixture.register(fixture.watch("job_1")).await;
    let jobs = fixture.store.jobs(JobNo(0), 10, at(100)).await.expect("read").jobs;
    assert_eq!((jobs[0].generation, jobs[0].watching, next.job_no), (1, 1, job));
}

#[tokio::test]
async fn a_stop_skips_deliveries_and_keeps_an_earlier_ending() {
    let fixture = StoreFixture::new().await;
    let running = fixture.register(fixture.watch("job_1")).await;
    let over = fixture.register(fixture.watch("job_2")).await;
    fixture.end(over.job_no, 0).await;
    let send = take_deliveries(&fixture.store).pop().expect("a delivery");
    take_poller_messages(&fixture.store);
    fixture.stop(running.id).await;
    fixture.stop(over.id).await;
    assert_eq!(fixture.shown(running.id).await.status, WatchStatus::Stopped);
    assert_eq!(fixture.shown(over.id).await.status, WatchStatus::Completed);
    let (delivery, _) = fixture.shown_delivery(send.id).await;
    assert_eq!(delivery.status, DeliveryStatus::Skipped);
    assert_eq!(delivery.reason.map(|reason| reason.as_str()), Some("stopped"));
    let messages = take_poller_messages(&fixture.store);
    let [PollerMessage::WatchersChanged { job, ended: 1, terms: None }] = messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!(job, running.job_no);
    let unknown = StopWatch { app: super::app(&fixture.store, "other").await, watch: running.id, now: at(1) };
    assert!(matches!(fixture.store.stop_watch(unknown).await, Ok(Ok(Err(NotFound)))));
}

#[tokio::test]
async fn a_concurrent_stop_and_ending_do_not_both_apply() {
    let fixture = StoreFixture::new().await;
    for n in 0..40 {
        let watch = fixture.register(fixture.watch(&format!("job_{n}"))).await;
        let end = ended(watch.job_no, 0, EndingKind::Completed, at(60));
        let stop = StopWatch { app: fixture.app, watch: watch.id, now: at(60) };
        let (stopped, has_more) = tokio::join!(fixture.store.stop_watch(stop), fixture.store.end_job(end));
        let status = fixture.shown(watch.id).await.status;
        let stopped = stopped.expect("stopped").expect("no key").expect("a watch");
        assert_eq!((stopped.status, has_more.expect("notified")), (status, false));
        let events = fixture.events().await.len();
        match status {
            WatchStatus::Stopped => assert_eq!(events, 0),
            WatchStatus::Completed => {
                assert_eq!(events, 1);
                let skipped = Some(DeliveryStatus::Skipped);
                assert_eq!(
                    fixture.statuses(watch.id).await,
                    [skipped],
                    "the stop still calls off what waits"
                );
                return;
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_requested_poll_survives_a_restart() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.watch("job_1")).await;
    fixture.end(watch.job_no, 0).await;
    take_poller_messages(&fixture.store);
    let poll = PollNow { app: fixture.app, watch: watch.id, now: at(70) };
    assert!(matches!(fixture.store.poll_now(poll.clone()).await.expect("taken"), Ok(Ok(()))));
    let messages = take_poller_messages(&fixture.store);
    let [PollerMessage::PollNow(facts)] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((facts.watching, facts.poll_requested), (0, true));
    let fixture = fixture.reopen(at(80)).await;
    let jobs = fixture.store.jobs(JobNo(0), 10, at(80)).await.expect("read").jobs;
    assert!(jobs.len() == 1 && jobs[0].poll_requested && jobs[0].terms.is_none());
    let mut fresh = seen(JobStatus::Completed, Some(100));
    fresh.output = Some("https://cdn.example/fresh".to_owned());
    let refresh =
        |seen| fixture.store.refresh_ending(RefreshEnding { job: watch.job_no, seen, has_status: true });
    refresh(Some(fresh.clone())).await.expect("written");
    assert_eq!(fixture.shown(watch.id).await.seen.output, fresh.output);
    assert!(fixture.store.jobs(JobNo(0), 10, at(80)).await.expect("read").jobs.is_empty(), "one poll");
    refresh(Some(seen(JobStatus::Failed, None))).await.expect("written");
    assert_eq!(fixture.shown(watch.id).await.seen.output, fresh.output, "another ending changes nothing");
    let unknown = PollNow { app: super::app(&fixture.store, "other").await, ..poll };
    assert!(matches!(fixture.store.poll_now(unknown).await.expect("answered"), Ok(Err(NotFound))));
}

#[tokio::test]
async fn jobs_to_poll_are_paged_and_exclude_ended_watches() {
    let fixture = StoreFixture::new().await;
    let mut waited_for = Vec::new();
    for n in 0..25 {
        let watch = fixture.register(fixture.watch(&format!("job_{n}"))).await;
        match n % 3 {
            0 => fixture.stop(watch.id).await,
            1 => {
                fixture.end(watch.job_no, 0).await;
            }
            _ => waited_for.push(watch.job_no),
        }
    }
    let (mut after, mut found) = (JobNo(0), Vec::new());
    loop {
        let page = fixture.store.jobs(after, 3, at(0)).await.expect("read").jobs;
        let Some(last) = page.last() else { break };
        after = last.no;
        found.extend(page.iter().map(|facts| facts.no));
    }
    assert_eq!(found, waited_for);
}

#[tokio::test]
async fn the_terms_of_a_jobs_watches_are_combined() {
    let fixture = StoreFixture::new().await;
    let mut one = fixture.follower("job_1");
    (one.terms.poll_interval, one.terms.expires_at) = (Some(Duration::from_secs(10)), at(500));
    let mut two = fixture.watch("job_1");
    (two.terms.expected_at, two.terms.poll_interval) = (Some(at(50)), Some(Duration::from_secs(20)));
    let expected = one.terms.and(two.terms);
    fixture.register(one).await;
    fixture.register(two).await;
    let jobs = fixture.store.jobs(JobNo(0), 10, at(0)).await.expect("read").jobs;
    assert_eq!(jobs[0].terms, Some(expected));
    assert_eq!(jobs[0].registered_at, at(0));
}

#[tokio::test]
async fn watches_are_listed_newest_first_with_filters_and_a_cursor() {
    let fixture = StoreFixture::new().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let watch = fixture.register(fixture.watch(&format!("job_{}", n % 2))).await;
        ids.insert(0, watch.id);
    }
    let list = async |filter, limit| {
        let found = fixture.store.watches(fixture.app, filter, limit).await.expect("read").rows;
        found.into_iter().map(|watch| watch.id).collect::<Vec<_>>()
    };
    let first = list(WatchFilter::default(), 4).await;
    assert_eq!(first, ids[..4]);
    let rest = WatchFilter { before: Some(first[3]), ..WatchFilter::default() };
    assert_eq!(list(rest, 4).await, ids[4..]);
    fixture.stop(ids[0]).await;
    let count = async |filter| fixture.store.watches(fixture.app, filter, 50).await.expect("read").rows.len();
    let by = WatchFilter::default;
    assert_eq!(count(WatchFilter { status: Some(WatchStatus::Stopped), ..by() }).await, 1);
    assert_eq!(count(WatchFilter { job_id: Some("job_1".to_owned()), ..by() }).await, 3);
    assert_eq!(count(WatchFilter { provider: Some("muvi".to_owned()), ..by() }).await, 7);
    assert_eq!(count(WatchFilter { provider: Some("other".to_owned()), ..by() }).await, 0);
    let all = WatchFilter {
        status: Some(WatchStatus::Watching),
        provider: Some("muvi".to_owned()),
        job_id: Some("job_0".to_owned()),
        reference: None,
        group: None,
        before: Some(ids[0]),
    };
    assert_eq!(count(all).await, 3);
}

/// An index row of PostgreSQL holds 2,704 bytes.
#[tokio::test]
async fn a_job_is_found_by_parameters_of_any_length() {
    let fixture = StoreFixture::new().await;
    let mut draw = crate::harness::Draw(7);
    // Values that cannot be compressed.
    let mut value = || (0..16).map(|_| format!("{:016x}", draw.below(u64::MAX))).collect::<String>();
    let all: serde_json::Map<_, _> = (0..40).map(|n| (format!("p{n}"), value().into())).collect();
    let params = serde_json::Value::from(all).to_string();
    assert!(params.len() > 10_000);
    let mut watch = fixture.watch("job_1");
    watch.job.params.clone_from(&params);
    let first = fixture.register(watch.clone()).await;
    watch.id = ringback::domain::WatchId(fixture.store.ids().draw(at(1)));
    let mut other = fixture.watch("job_1");
    other.job.params = params.replacen("p39", "p99", 1);
    assert_eq!(fixture.register(watch).await.job_no, first.job_no);
    assert_ne!(fixture.register(other).await.job_no, first.job_no);
    assert_eq!(fixture.shown(first.id).await.job.params, params);
    let jobs = fixture.store.jobs(ringback::domain::JobNo(0), 9, at(1)).await.expect("read").jobs;
    assert_eq!((jobs.len(), &jobs[0].name.params), (2, &params));
    fixture.end(first.job_no, 0).await;
    assert_eq!(fixture.shown(first.id).await.status, ringback::domain::WatchStatus::Completed);
}

#[tokio::test]
async fn a_filter_finds_what_lies_behind_many_others() {
    let fixture = StoreFixture::new().await;
    let first = fixture.register(fixture.watch("job_1")).await.id;
    // More than one read looks at.
    for chunk in 0..6 {
        let watches = (0..1_000)
            .map(|n| NewWatch { destinations: Vec::new(), ..fixture.watch(&format!("job_{chunk}_{n}")) });
        let many = Idempotent::new(RegisterMany(watches.collect()), None, |_: &Vec<_>| None);
        let made = fixture.store.register_many(many).await.expect("taken").expect("new").expect("all exist");
        assert_eq!(made.len(), 1_000);
    }
    fixture.stop(first).await;
    let by = WatchFilter::default;
    for (filter, expected) in [
        (WatchFilter { status: Some(WatchStatus::Stopped), ..by() }, vec![first]),
        (WatchFilter { status: Some(WatchStatus::Failed), ..by() }, vec![]),
        (WatchFilter { provider: Some("other".to_owned()), ..by() }, vec![]),
        (WatchFilter { job_id: Some("job_1".to_owned()), ..by() }, vec![first]),
    ] {
        let page = fixture.store.watches(fixture.app, filter.clone(), 50).await.expect("read");
        let found: Vec<WatchId> = page.rows.iter().map(|watch| watch.id).collect();
        assert_eq!((found, page.next), (expected, None), "{filter:?}");
    }
    // Pages of a filter that matches all have no gap at the end of a read.
    let (mut before, mut count) = (None, 0);
    loop {
        let filter = WatchFilter { provider: Some("muvi".to_owned()), before, ..by() };
        let page = fixture.store.watches(fixture.app, filter, 700).await.expect("read");
        count += page.rows.len();
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(count, 6_001);
}

crate::postgres::on_postgres_too! {
    a_filter_finds_what_lies_behind_many_others,
    a_job_is_found_by_parameters_of_any_length,
    watches_of_one_job_share_it_and_each_reaches_the_poller,
    a_registration_returns_what_is_read_back_later,
    a_registration_of_an_ended_job_polls_it_again,
    an_idempotency_key_replays_the_response_for_a_day,
    the_kept_answers_of_an_app_are_limited_in_bytes,
    concurrent_requests_with_one_key_create_one_watch,
    an_invalid_command_fails_alone,
    processing_is_notified_once_and_progress_is_numbered,
    progress_reaches_every_watch_of_a_job_with_many,
    the_bytes_of_a_round_of_progress_are_stored_with_its_events,
    only_the_first_ending_of_a_job_creates_events,
    an_unwanted_ending_is_recorded_and_not_sent,
    the_raw_answer_goes_only_to_watches_that_want_it,
    ending_many_watches_continues_after_a_crash,
    a_missing_ending_notifies_no_watch,
    only_expired_watches_end_with_the_last_observation,
    only_early_watches_of_an_unknown_job_end,
    a_stop_skips_deliveries_and_keeps_an_earlier_ending,
    a_concurrent_stop_and_ending_do_not_both_apply,
    a_requested_poll_survives_a_restart,
    jobs_to_poll_are_paged_and_exclude_ended_watches,
    the_terms_of_a_jobs_watches_are_combined,
    watches_are_listed_newest_first_with_filters_and_a_cursor,
}
