//! RegistrationSpan, observing, ending, stopping.

use std::time::Duration;

use ringback::domain::{
    CancelScope, DeliveryStatus, DispatcherMessage, EndingKind, EventType, JobError, JobNo, JobStatus,
    Payload, PollerMessage, Reason, WatchStatus,
};
use ringback::store::{
    Expire, FirstAnswer, NotifyProgress, NotifyWatches, OpenEnding, PollNow, PollNowResult, Refresh,
    Registered, Remember, Replay, Stop, Stopped, StoreError, WatchFilter,
};

use EventType::{JobProcessing, JobProgress};

use super::{StoreFixture, asked, at, ended, observed, plans, seen, sends};

#[tokio::test]
async fn watches_of_one_job_share_it_and_the_plan_of_each_is_told() {
    let house = StoreFixture::new().await;
    let first = house.register(house.watch("job_1")).await;
    let second = house.register(house.watch("job_1")).await;
    let other = house.register(house.watch("job_2")).await;
    assert_eq!(first.job_no, second.job_no);
    assert_ne!(first.job_no, other.job_no);
    assert_eq!((first.status, first.seen.status), (WatchStatus::Watching, JobStatus::Unknown));
    let told: Vec<(JobNo, u32)> = plans(&house.store)
        .into_iter()
        .map(|plan| match plan {
            PollerMessage::Watch(facts) => (facts.no, facts.watching),
            other @ (PollerMessage::WatchersChanged { .. } | PollerMessage::PollNow(_)) => {
                panic!("{other:?}")
            }
        })
        .collect();
    assert_eq!(told, [(first.job_no, 1), (first.job_no, 1), (other.job_no, 1)]);
    let jobs = house.store.jobs(JobNo(0), 10, at(0)).await.expect("read");
    let waiting: Vec<(JobNo, u32)> = jobs.iter().map(|facts| (facts.no, facts.watching)).collect();
    assert_eq!(waiting, [(first.job_no, 2), (other.job_no, 1)]);
}

#[tokio::test]
async fn what_a_registration_was_answered_is_what_is_read_back() {
    let house = StoreFixture::new().await;
    let made = house.register(house.watch("job_1")).await;
    let read = house.shown(made.id).await;
    assert_eq!(format!("{made:?}"), format!("{read:?}"));
    let other = super::app(&house.store, "other").await;
    assert!(house.store.watch(other, made.id).await.expect("read").is_none(), "another app's");
}

#[tokio::test]
async fn a_registration_that_finds_the_job_ended_is_looked_for_anew() {
    let house = StoreFixture::new().await;
    let before = house.register(house.watch("job_1")).await;
    house.end(before.job_no, 0).await;
    plans(&house.store);
    let after = house.register(house.watch("job_1")).await;
    assert_eq!(after.job_no, before.job_no);
    assert_eq!(after.seen.status, JobStatus::Unknown);
    let [PollerMessage::Watch(facts)] = &plans(&house.store)[..] else { panic!("one plan") };
    assert_eq!(facts.generation, 1);
    // What is still said of the first generation does not reach it.
    house.end(before.job_no, 0).await;
    house.store.observe(observed(before.job_no, 0, 50, at(5))).await.expect("taken");
    assert_eq!(house.shown(after.id).await.status, WatchStatus::Watching);
    assert_eq!(house.shown(after.id).await.seen.status, JobStatus::Unknown);
    house.store.end(ended(after.job_no, 1, EndingKind::Failed, at(90))).await.expect("ended");
    assert_eq!(house.shown(after.id).await.status, WatchStatus::Failed);
    assert_eq!(house.shown(before.id).await.seen.status, JobStatus::Completed, "each shows its own ending");
}

fn remember(house: &StoreFixture, request: u8) -> Remember {
    Remember {
        app: house.app,
        path: "/v1/watches".to_owned(),
        key: "k".to_owned(),
        request: [request; 32],
        seal: None,
    }
}

#[tokio::test]
async fn a_key_answers_the_same_again_for_a_day_and_refuses_another_body() {
    let house = StoreFixture::new().await;
    let ask = |request, created_at| {
        let mut watch = house.watch("job_1");
        watch.created_at = created_at;
        house.store.register(asked(watch, Some(remember(&house, request))))
    };
    let Registered::New(made) = ask(1, at(0)).await.expect("made") else { panic!("new") };
    let location = Some(format!("/{}", made.id));
    let day = 24 * 3600;
    let Registered::Replayed(replay) = ask(1, at(day - 1)).await.expect("replayed") else { panic!("known") };
    assert_eq!(replay, Replay::Answer(FirstAnswer { status: 201, location, body: b"made".to_vec() }));
    let Registered::Replayed(replay) = ask(2, at(day - 1)).await.expect("refused") else { panic!("known") };
    assert_eq!(replay, Replay::Different);
    assert!(matches!(ask(2, at(day)).await.expect("made"), Registered::New(_)), "forgotten after a day");
    assert_eq!(house.store.watches(house.app, WatchFilter::default(), 10).await.expect("read").len(), 2);
}

#[tokio::test]
async fn one_key_makes_one_watch_even_when_both_arrive_at_once() {
    let house = StoreFixture::new().await;
    let ask = || house.store.register(asked(house.watch("job_1"), Some(remember(&house, 1))));
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    let new = [a, b, c].into_iter().filter(|one| matches!(one, Ok(Registered::New(_)))).count();
    assert_eq!(new, 1);
    assert_eq!(house.store.watches(house.app, WatchFilter::default(), 10).await.expect("read").len(), 1);
}

#[tokio::test]
async fn an_item_that_cannot_be_written_fails_alone() {
    let house = StoreFixture::new().await;
    let taken = house.watch("job_0");
    house.register(taken.clone()).await;
    let asks = (0..50).map(|n| {
        let watch = if n == 20 { taken.clone() } else { house.watch(&format!("job_{n}")) };
        let store = house.store.clone();
        tokio::spawn(async move { store.register(asked(watch, None)).await })
    });
    for (n, ask) in asks.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = ask.await.expect("ran");
        if n == 20 {
            assert!(matches!(answer, Err(StoreError::Inconsistent(_))), "{answer:?}");
        } else {
            assert!(matches!(answer, Ok(Registered::New(_))), "{n}: {answer:?}");
        }
    }
    assert!(!house.store.refusing(), "a bad item is not the store's trouble");
}

#[tokio::test]
async fn processing_is_told_once_and_progress_is_numbered() {
    let house = StoreFixture::new().await;
    let quiet = house.register(house.watch("job_1")).await;
    let follower = house.register(house.follower("job_1")).await;
    for (progress, seconds) in [(10, 5), (20, 10), (30, 15)] {
        let observed = observed(follower.job_no, 0, progress, at(seconds));
        assert_eq!(house.store.observe(observed).await.expect("taken"), None);
    }
    assert_eq!(house.events().await, [JobProcessing, JobProgress, JobProgress, JobProgress]);
    let sent = sends(&house.store);
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|send| send.watch == follower.id));
    assert_eq!(house.shown(quiet.id).await.seen.progress, Some(30));
    // The ending overtakes what was not sent yet.
    house.end(follower.job_no, 0).await;
    let told = house.store.dispatcher_messages().take();
    let off = DispatcherMessage::Skip { watch: follower.id, which: CancelScope::Progress };
    assert!(told.iter().any(|errand| format!("{errand:?}") == format!("{off:?}")));
    let (overtaken, _) = house.shown_delivery(sent[0].id).await;
    assert_eq!((overtaken.status, overtaken.reason), (DeliveryStatus::Skipped, Some(Reason::Superseded)));
    assert_eq!(overtaken.next_attempt_at, None);
}

#[tokio::test]
async fn progress_reaches_every_follower_of_a_crowded_job() {
    let house = StoreFixture::new().await;
    let mut job = JobNo(0);
    for _ in 0..450 {
        job = house.register(house.follower("job_1")).await.job_no;
    }
    let mut observed = observed(job, 0, 10, at(5));
    let mut chunks = 1;
    while let Some(last) = house.store.observe(observed.clone()).await.expect("taken") {
        observed.after = Some(last);
        chunks += 1;
    }
    assert_eq!(chunks, 3);
    assert_eq!(house.events().await.len(), 900, "one processing and one progress each");
}

#[tokio::test]
async fn an_ending_is_told_once_and_a_second_one_is_nothing() {
    let house = StoreFixture::new().await;
    let watch = house.register(house.watch("job_1")).await;
    let bell = house.store.watch_ends(watch.id);
    let rung = bell.armed();
    house.end(watch.job_no, 0).await;
    rung.await;
    house.store.end(ended(watch.job_no, 0, EndingKind::Failed, at(61))).await.expect("taken");
    assert_eq!(house.events().await, [EventType::JobCompleted]);
    let shown = house.shown(watch.id).await;
    assert_eq!((shown.status, shown.ended_at), (WatchStatus::Completed, Some(at(60))));
    assert_eq!(shown.seen.progress, Some(100));
    let sent = sends(&house.store);
    assert_eq!(sent.len(), 1);
    let body = String::from_utf8(sent[0].body.to_vec()).expect("text");
    assert!(body.contains(r#""metadata":{"orderId": 42}"#), "byte for byte: {body}");
    assert_eq!(house.statuses(watch.id).await, [Some(DeliveryStatus::Pending)]);
}

#[tokio::test]
async fn an_ending_that_nobody_wants_is_recorded_and_not_sent() {
    let house = StoreFixture::new().await;
    let mut watch = house.watch("job_1");
    watch.events = [EventType::JobFailed].into_iter().collect();
    let watch = house.register(watch).await;
    house.end(watch.job_no, 0).await;
    assert_eq!(house.events().await, [EventType::JobCompleted]);
    assert!(sends(&house.store).is_empty());
}

#[tokio::test]
async fn the_raw_answer_is_kept_where_a_watch_asks_for_it_and_sent_to_it_alone() {
    let house = StoreFixture::new().await;
    let raw: &[u8] = b"{\"data\": \xff}";
    let mut wants = house.watch("job_1");
    wants.payload = Payload::Raw;
    let wants = house.register(wants).await;
    let other = house.register(house.watch("job_1")).await;
    let mut end = ended(wants.job_no, 0, EndingKind::Completed, at(60));
    end.raw = Some(raw.into());
    house.store.end(end).await.expect("ended");
    for told in
        [sends(&house.store), house.page(at(60), 10, &[]).await.sends.into_iter().map(Box::new).collect()]
    {
        assert_eq!(told.len(), 2);
        for send in told {
            assert_eq!(&*send.body == raw, send.watch == wants.id, "{}", send.watch == other.id);
        }
    }
}

#[tokio::test]
async fn a_crowded_job_is_ended_in_chunks_and_a_restart_goes_on_where_the_crash_was() {
    let house = StoreFixture::new().await;
    let mut job = JobNo(0);
    for _ in 0..450 {
        job = house.register(house.watch("job_1")).await.job_no;
    }
    assert_eq!(house.end(job, 0).await, NotifyProgress { more: true });
    assert_eq!(house.events().await.len(), 200);
    // One that registers in between belongs to the next generation.
    let next = house.register(house.watch("job_1")).await;
    let house = house.reopen(at(100)).await;
    let open = house.store.open_endings().await.expect("read");
    let [OpenEnding { job: found, generation: 0 }] = open[..] else { panic!("{open:?}") };
    assert_eq!(found, job);
    let tell = || house.store.notify_watches(NotifyWatches { job, generation: 0 });
    assert_eq!(tell().await.expect("told"), NotifyProgress { more: true });
    assert_eq!(tell().await.expect("told"), NotifyProgress { more: false });
    assert_eq!(tell().await.expect("told"), NotifyProgress { more: false }, "again is nothing");
    assert_eq!(house.events().await.len(), 450);
    assert!(house.store.open_endings().await.expect("read").is_empty());
    assert_eq!(house.shown(next.id).await.status, WatchStatus::Watching);
}

#[tokio::test]
async fn an_ending_that_is_not_there_has_nobody_to_tell() {
    let house = StoreFixture::new().await;
    let watch = house.register(house.watch("job_1")).await;
    house.store.end(ended(watch.job_no, 0, EndingKind::Completed, at(1))).await.expect("ended");
    let (none, one) = tokio::join!(
        house.store.notify_watches(NotifyWatches { job: JobNo(999), generation: 0 }),
        house.store.notify_watches(NotifyWatches { job: watch.job_no, generation: 0 })
    );
    assert_eq!(
        (none.expect("told"), one.expect("told")),
        (NotifyProgress { more: false }, NotifyProgress { more: false })
    );
}

#[tokio::test]
async fn what_expires_is_ended_as_last_seen_and_the_others_wait_on() {
    let house = StoreFixture::new().await;
    let mut short = house.follower("job_1");
    short.terms.expires_at = at(100);
    let short = house.register(short).await;
    let long = house.register(house.watch("job_1")).await;
    house.store.observe(observed(short.job_no, 0, 40, at(5))).await.expect("taken");
    plans(&house.store);
    let error = JobError { code: Some("deadline".to_owned()), message: None };
    let expire = Expire { job: short.job_no, until: at(101), error, at: at(102) };
    assert_eq!(house.store.expire(expire.clone()).await.expect("expired"), NotifyProgress { more: false });
    house.store.expire(expire).await.expect("again is nothing");
    assert_eq!(house.shown(short.id).await.status, WatchStatus::Expired);
    assert_eq!(house.shown(long.id).await.status, WatchStatus::Watching);
    let Some(PollerMessage::WatchersChanged { watching: 1, terms: Some(terms), .. }) =
        plans(&house.store).pop()
    else {
        panic!("one waits")
    };
    assert_eq!(terms.expires_at, at(86_400));
    let body = String::from_utf8(sends(&house.store).pop().expect("told").body.to_vec()).expect("text");
    assert!(body.contains(r#""status":"expired""#) && body.contains("deadline"), "{body}");
    assert!(body.contains(r#""progress":40"#), "the rest is as last seen: {body}");
}

#[tokio::test]
async fn a_stop_calls_off_what_waits_and_keeps_an_ending_that_came_first() {
    let house = StoreFixture::new().await;
    let running = house.register(house.watch("job_1")).await;
    let over = house.register(house.watch("job_2")).await;
    house.end(over.job_no, 0).await;
    let send = sends(&house.store).pop().expect("a delivery");
    plans(&house.store);
    house.stop(running.id).await;
    house.stop(over.id).await;
    assert_eq!(house.shown(running.id).await.status, WatchStatus::Stopped);
    assert_eq!(house.shown(over.id).await.status, WatchStatus::Completed);
    let (delivery, _) = house.shown_delivery(send.id).await;
    assert_eq!(delivery.status, DeliveryStatus::Skipped);
    assert_eq!(delivery.reason.map(|reason| reason.as_str()), Some("stopped"));
    let told = plans(&house.store);
    let [PollerMessage::WatchersChanged { job, watching: 0, terms: None }] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(job, running.job_no);
    let nobody = Stop { app: super::app(&house.store, "other").await, watch: running.id, now: at(1) };
    assert_eq!(house.store.stop(nobody).await.expect("answered"), Stopped::Unknown);
}

#[tokio::test]
async fn of_a_stop_and_an_ending_at_once_exactly_one_comes_first() {
    let house = StoreFixture::new().await;
    for n in 0..40 {
        let watch = house.register(house.watch(&format!("job_{n}"))).await;
        let end = ended(watch.job_no, 0, EndingKind::Completed, at(60));
        let stop = Stop { app: house.app, watch: watch.id, now: at(60) };
        let (stopped, told) = tokio::join!(house.store.stop(stop), house.store.end(end));
        assert_eq!(
            (stopped.expect("stopped"), told.expect("told")),
            (Stopped::Done, NotifyProgress { more: false })
        );
        let status = house.shown(watch.id).await.status;
        let events = house.events().await.len();
        match status {
            WatchStatus::Stopped => assert_eq!(events, 0),
            WatchStatus::Completed => {
                assert_eq!(events, 1);
                let skipped = Some(DeliveryStatus::Skipped);
                assert_eq!(house.statuses(watch.id).await, [skipped], "the stop still calls off what waits");
                return;
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_look_asked_for_by_hand_outlives_a_restart_until_it_was_made() {
    let house = StoreFixture::new().await;
    let watch = house.register(house.watch("job_1")).await;
    house.end(watch.job_no, 0).await;
    plans(&house.store);
    let look = PollNow { app: house.app, watch: watch.id, remember: None, now: at(70) };
    assert!(matches!(house.store.poll_now(look.clone()).await.expect("taken"), PollNowResult::Wanted));
    let told = plans(&house.store);
    let [PollerMessage::PollNow(facts)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((facts.watching, facts.poll_requested), (0, true));
    let house = house.reopen(at(80)).await;
    let jobs = house.store.jobs(JobNo(0), 10, at(80)).await.expect("read");
    assert!(jobs.len() == 1 && jobs[0].poll_requested && jobs[0].terms.is_none());
    let mut fresh = seen(JobStatus::Completed, Some(100));
    fresh.output = Some("https://cdn.example/fresh".to_owned());
    let refresh = |seen| house.store.refresh(Refresh { job: watch.job_no, seen });
    refresh(Some(fresh.clone())).await.expect("written");
    assert_eq!(house.shown(watch.id).await.seen.output, fresh.output);
    assert!(house.store.jobs(JobNo(0), 10, at(80)).await.expect("read").is_empty(), "one look");
    refresh(Some(seen(JobStatus::Failed, None))).await.expect("written");
    assert_eq!(house.shown(watch.id).await.seen.output, fresh.output, "another ending changes nothing");
    let unknown = PollNow { app: super::app(&house.store, "other").await, ..look };
    assert!(matches!(house.store.poll_now(unknown).await.expect("answered"), PollNowResult::Unknown));
}

#[tokio::test]
async fn the_jobs_to_look_at_are_listed_page_by_page_without_those_nobody_waits_for() {
    let house = StoreFixture::new().await;
    let mut waited_for = Vec::new();
    for n in 0..25 {
        let watch = house.register(house.watch(&format!("job_{n}"))).await;
        match n % 3 {
            0 => house.stop(watch.id).await,
            1 => {
                house.end(watch.job_no, 0).await;
            }
            _ => waited_for.push(watch.job_no),
        }
    }
    let (mut after, mut found) = (JobNo(0), Vec::new());
    loop {
        let page = house.store.jobs(after, 3, at(0)).await.expect("read");
        let Some(last) = page.last() else { break };
        after = last.no;
        found.extend(page.iter().map(|facts| facts.no));
    }
    assert_eq!(found, waited_for);
}

#[tokio::test]
async fn all_watches_of_a_job_ask_together() {
    let house = StoreFixture::new().await;
    let mut one = house.follower("job_1");
    (one.terms.poll_interval, one.terms.expires_at) = (Some(Duration::from_secs(10)), at(500));
    let mut two = house.watch("job_1");
    (two.terms.expected_at, two.terms.poll_interval) = (Some(at(50)), Some(Duration::from_secs(20)));
    let expected = one.terms.and(two.terms);
    house.register(one).await;
    house.register(two).await;
    let jobs = house.store.jobs(JobNo(0), 10, at(0)).await.expect("read");
    assert_eq!(jobs[0].terms, Some(expected));
    assert_eq!(jobs[0].registered_at, at(0));
}

#[tokio::test]
async fn watches_are_listed_newest_first_with_filters_and_a_cursor() {
    let house = StoreFixture::new().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let watch = house.register(house.watch(&format!("job_{}", n % 2))).await;
        ids.insert(0, watch.id);
    }
    let list = async |filter, limit| {
        let found = house.store.watches(house.app, filter, limit).await.expect("read");
        found.into_iter().map(|watch| watch.id).collect::<Vec<_>>()
    };
    let first = list(WatchFilter::default(), 4).await;
    assert_eq!(first, ids[..4]);
    let rest = WatchFilter { before: Some(first[3]), ..WatchFilter::default() };
    assert_eq!(list(rest, 4).await, ids[4..]);
    house.stop(ids[0]).await;
    let count = async |filter| house.store.watches(house.app, filter, 50).await.expect("read").len();
    let by = WatchFilter::default;
    assert_eq!(count(WatchFilter { status: Some(WatchStatus::Stopped), ..by() }).await, 1);
    assert_eq!(count(WatchFilter { job_id: Some("job_1".to_owned()), ..by() }).await, 3);
    assert_eq!(count(WatchFilter { provider: Some("muvi".to_owned()), ..by() }).await, 7);
    assert_eq!(count(WatchFilter { provider: Some("other".to_owned()), ..by() }).await, 0);
    let all = WatchFilter {
        status: Some(WatchStatus::Watching),
        provider: Some("muvi".to_owned()),
        job_id: Some("job_0".to_owned()),
        before: Some(ids[0]),
    };
    assert_eq!(count(all).await, 3);
}

crate::postgres::on_postgres_too! {
    watches_of_one_job_share_it_and_the_plan_of_each_is_told,
    what_a_registration_was_answered_is_what_is_read_back,
    a_registration_that_finds_the_job_ended_is_looked_for_anew,
    a_key_answers_the_same_again_for_a_day_and_refuses_another_body,
    one_key_makes_one_watch_even_when_both_arrive_at_once,
    an_item_that_cannot_be_written_fails_alone,
    processing_is_told_once_and_progress_is_numbered,
    progress_reaches_every_follower_of_a_crowded_job,
    an_ending_is_told_once_and_a_second_one_is_nothing,
    an_ending_that_nobody_wants_is_recorded_and_not_sent,
    the_raw_answer_is_kept_where_a_watch_asks_for_it_and_sent_to_it_alone,
    a_crowded_job_is_ended_in_chunks_and_a_restart_goes_on_where_the_crash_was,
    an_ending_that_is_not_there_has_nobody_to_tell,
    what_expires_is_ended_as_last_seen_and_the_others_wait_on,
    a_stop_calls_off_what_waits_and_keeps_an_ending_that_came_first,
    of_a_stop_and_an_ending_at_once_exactly_one_comes_first,
    a_look_asked_for_by_hand_outlives_a_restart_until_it_was_made,
    the_jobs_to_look_at_are_listed_page_by_page_without_those_nobody_waits_for,
    all_watches_of_a_job_ask_together,
    watches_are_listed_newest_first_with_filters_and_a_cursor,
}
