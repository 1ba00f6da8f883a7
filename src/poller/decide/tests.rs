//! Tests of the decisions about polls.

use super::*;
use crate::domain::{
    AppNo, AppsApart, JobSnapshot, Known, Limits, Observation, PollPolicy, PollerMessage, Rate, Terms,
};
use crate::poller::app_memory::AppMemory;
use crate::poller::decide_result::give_up_result;
use crate::poller::scheduler::{Action, FinishedPoll};
use crate::providers::{Answer, Definition};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000 + seconds * 1000)
}

/// A job with a watch that expires at 20.
fn snapshot(job: i64) -> JobSnapshot {
    let terms = Terms { expires_at: at(20), poll_interval: None, expected_at: None, wants_progress: false };
    JobSnapshot {
        no: JobNo(job),
        name: JobName {
            provider: "muvi".to_owned(),
            account: "default".to_owned(),
            job_id: format!("job_{job}"),
            params: "{}".to_owned(),
        },
        app: AppNo(1),
        poll: None,
        other_app: None,
        generation: 0,
        known: Known::new(&Observation::default(), &[], at(0)),
        apart: AppsApart::NONE,
        had_status: false,
        registered_at: at(0),
        watching: 1,
        terms: Some(terms),
        poll_requested: false,
        traced: None,
    }
}

/// A scheduler with jobs 1 to `count`, whose watches expire at 20.
fn scheduler(count: i64) -> Scheduler {
    let policy =
        PollPolicy { first: SECOND, min_interval: SECOND, max_interval: SECOND, ..PollPolicy::default() };
    let limits = Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 100 };
    let queue = ProviderQueue::new("muvi".to_owned(), policy, limits, at(0));
    let mut scheduler = Scheduler::new(vec![queue], (policy, limits), at(0));
    for job in 1..=count {
        scheduler.apply(PollerMessage::Watch(Box::new(snapshot(job))), at(0));
    }
    scheduler
}

/// Ends a poll that has not ended its job.
fn finish(scheduler: &mut Scheduler, decision: &Decision, now: Timestamp) {
    let Decision { job, generation, not_before, backoff_until, .. } = *decision;
    let poll =
        FinishedPoll { job, generation, ended: false, repeats_request: false, not_before, backoff_until };
    scheduler.finish_poll(poll, now);
}

fn failed(failure: PollFailure, http_status: Option<u16>) -> PollResponse {
    let meaning = Interpretation::Failed { failure, message: "why".to_owned() };
    PollResponse {
        meaning,
        http_status,
        retry_after: None,
        no_answer: None,
        raw: None,
        memory: None,
        redirects: 0,
    }
}

/// Ends the poll of a job with a failure.
fn end(scheduler: &mut Scheduler, job: i64, response: PollResponse, second: i64) {
    end_at(scheduler, job, response, at(second));
}

fn end_at(scheduler: &mut Scheduler, job: i64, response: PollResponse, now: Timestamp) {
    let decision = decide(scheduler, JobNo(job), response, now, now);
    let Decision { generation, repeats_request, not_before, backoff_until, .. } = decision;
    let (job, ended) = (JobNo(job), false);
    let poll = FinishedPoll { job, generation, ended, repeats_request, not_before, backoff_until };
    scheduler.finish_poll(poll, now);
}

#[test]
fn a_poll_that_was_not_made_counts_for_nothing() {
    let mut scheduler = scheduler(10);
    for second in 1..20 {
        assert_eq!(scheduler.take_due(at(second)).len(), 10, "repeated after a second");
        for job in 1..=10 {
            end(&mut scheduler, job, failed(PollFailure::NotMade, None), second);
        }
    }
    let queue = &scheduler.queues[0];
    assert!(!queue.budget.is_held_back() && queue.last_error.is_none());
    assert_eq!(queue.budget.health(at(20)).0, ProviderHealth::Ok);
    let stats = scheduler.stats(JobNo(1), at(20)).expect("scheduled");
    assert_eq!((stats.polls, stats.last_error.as_deref()), (0, Some("why")));
    // The minute of the final poll begins when the poll can be made.
    for second in 20..100 {
        let due = scheduler.take_due(at(second));
        assert!(due.len() == 10 && !due.iter().any(|one| matches!(one, Action::GiveUp(..))), "{due:?}");
        for job in 1..=10 {
            end(&mut scheduler, job, failed(PollFailure::NotMade, None), second);
        }
    }
}

#[test]
fn a_good_answer_without_news_is_no_failure_and_changes_nothing() {
    let not_yet = || PollResponse {
        meaning: Interpretation::NotYet,
        http_status: Some(202),
        retry_after: None,
        no_answer: None,
        raw: None,
        memory: None,
        redirects: 0,
    };
    let mut scheduler = scheduler(1);
    for second in 1..10 {
        assert_eq!(scheduler.take_due(at(second)), [Action::Poll(JobNo(1))], "by the schedule");
        // A failure before it is forgotten.
        if second == 4 {
            end(&mut scheduler, 1, failed(PollFailure::Error, Some(500)), second);
            continue;
        }
        let decision = decide(&mut scheduler, JobNo(1), not_yet(), at(second), at(second));
        assert!(decision.observed.is_none() && decision.ended.is_none() && decision.expire.is_none());
        assert!(decision.refresh.is_none() && decision.first_error.is_none());
        assert_eq!((decision.not_before, decision.backoff_until), (None, None));
        end(&mut scheduler, 1, not_yet(), second);
        let stats = scheduler.stats(JobNo(1), at(second)).expect("scheduled");
        assert_eq!(stats.last_error, None, "at {second}");
        assert_eq!(scheduler.queues[0].budget.health(at(second)).0, ProviderHealth::Ok);
    }
    assert!(!scheduler.jobs[&JobNo(1)].had_status);
    // The final poll ends the watch.
    assert_eq!(scheduler.take_due(at(20)), [Action::Poll(JobNo(1))]);
    let decision = decide(&mut scheduler, JobNo(1), not_yet(), at(20), at(20));
    assert_eq!(decision.expire.and_then(|expire| expire.error.code).as_deref(), Some("deadline"));
}

#[test]
fn a_poll_on_a_closed_connection_is_repeated_within_the_limits() {
    let mut scheduler = scheduler(1);
    let interval: i64 = 5;
    scheduler.queues[0].policy.min_interval = Duration::from_secs(5);
    assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
    end(&mut scheduler, 1, failed(PollFailure::Closed, None), 1);
    assert!(scheduler.take_due(at(interval)).is_empty(), "the poll may have arrived");
    assert_eq!(scheduler.take_due(at(1 + interval)), [Action::Poll(JobNo(1))]);
    assert_eq!(scheduler.queues[0].budget.health(at(2)).0, ProviderHealth::Ok);
}

#[test]
fn a_job_whose_polls_are_always_cut_off_backs_off_and_expires() {
    // Its watch expires at 20 s.
    let mut scheduler = scheduler(1);
    let (mut polls, mut given_up_at) = (0, None);
    for second in 1..=90 {
        for action in scheduler.take_due(at(second)) {
            let Action::Poll(_) = action else {
                given_up_at = Some(second);
                continue;
            };
            polls += 1;
            end(&mut scheduler, 1, failed(PollFailure::Closed, None), second);
        }
    }
    assert!((5..=20).contains(&polls) && given_up_at.is_some_and(|at| at <= 85), "{polls} {given_up_at:?}");
}

#[test]
fn a_requested_poll_that_was_not_made_is_repeated() {
    let mut scheduler = scheduler(1);
    let ended = PollerMessage::WatchersChanged { job: JobNo(1), ended: 1, terms: None };
    assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
    scheduler.jobs.get_mut(&JobNo(1)).expect("scheduled").poll_again = true;
    scheduler.apply(ended, at(1));
    end(&mut scheduler, 1, failed(PollFailure::Error, Some(500)), 1);
    for second in [2, 3, 4] {
        assert_eq!(scheduler.take_due(at(second)), [Action::Poll(JobNo(1))], "at {second}");
        end(&mut scheduler, 1, failed(PollFailure::NotMade, None), second);
    }
    // A poll that was made ends the request, although it failed.
    assert_eq!(scheduler.take_due(at(5)), [Action::Poll(JobNo(1))]);
    end(&mut scheduler, 1, failed(PollFailure::Error, Some(500)), 5);
    assert!(scheduler.jobs.is_empty());
}

#[test]
fn failed_jobs_of_one_app_do_not_keep_an_unknown_job_of_another() {
    let mut scheduler = scheduler(21);
    scheduler.queues[0].policy.not_found_grace = Duration::from_secs(2);
    scheduler.jobs.get_mut(&JobNo(21)).expect("scheduled").app = AppNo(2);
    scheduler.queues[0].turns.add_job(AppNo(2));
    for second in 1..=4 {
        for job in 1..=20 {
            decide(&mut scheduler, JobNo(job), failed(PollFailure::Error, Some(500)), at(second), at(second));
        }
        assert!(!scheduler.queues[0].budget.is_open());
        let response = failed(PollFailure::NotFound, Some(404));
        let decision = decide(&mut scheduler, JobNo(21), response, at(second), at(second));
        let expected = (second >= 3).then_some(EndingKind::NotFound);
        assert_eq!(decision.ending(), expected, "at {second}");
        if expected.is_some() {
            return;
        }
    }
}

#[test]
fn a_missing_api_key_is_no_poll_and_pauses_the_provider() {
    let mut scheduler = scheduler(1);
    assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
    end(&mut scheduler, 1, failed(PollFailure::NoCredential, None), 1);
    let stats = scheduler.stats(JobNo(1), at(2)).expect("scheduled");
    assert_eq!((stats.polls, stats.last_polled_at), (0, None));
    assert_eq!(stats.last_error.as_deref(), Some("why"));
    assert_eq!(scheduler.take_due(at(10)), [], "one attempt a minute");
    assert_eq!(scheduler.queues[0].budget.health(at(10)).0, ProviderHealth::Paused);
}

#[test]
fn an_unknown_job_whose_watch_expires_early_ends_as_not_found() {
    // Which of the two takes longer, the first answer or the last, decides nothing.
    for (first, last) in [(400, 1), (1, 400)] {
        let mut scheduler = scheduler(1);
        scheduler.queues[0].policy.not_found_grace = Duration::from_secs(60);
        // The first poll is the final one.
        let (mut now, mut polls) = (at(20), Vec::new());
        let ended = loop {
            let [Action::Poll(job)] = scheduler.take_due(now)[..] else { panic!("given up at {now}") };
            polls.push(now.since(at(20)).as_secs());
            let took = if polls.len() == 1 { first } else { last };
            let answered = now.plus(Duration::from_millis(took));
            let response = failed(PollFailure::NotFound, Some(404));
            let decision = decide(&mut scheduler, job, response, now, answered);
            let Decision { generation, repeats_request, not_before, backoff_until, .. } = decision;
            if let Some(kind) = decision.ending() {
                break kind;
            }
            let ended = false;
            let poll = FinishedPoll { job, generation, ended, repeats_request, not_before, backoff_until };
            scheduler.finish_poll(poll, answered);
            now = scheduler.next_due(answered).expect("scheduled").max(answered);
        };
        assert_eq!(ended, EndingKind::NotFound);
        assert_eq!(polls.last(), Some(&60), "{polls:?}");
    }
}

#[test]
fn the_error_of_an_unknown_job_names_the_grace() {
    let mut scheduler = scheduler(1);
    scheduler.queues[0].policy.not_found_grace = Duration::from_secs(60);
    assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
    end(&mut scheduler, 1, failed(PollFailure::NotFound, Some(404)), 1);
    let stats = scheduler.stats(JobNo(1), at(2)).expect("scheduled");
    let says = "the provider does not know the job, which counts as not found after 1m of such answers: why";
    assert_eq!((stats.polls, stats.last_error.as_deref()), (1, Some(says)));
}

#[test]
fn a_status_of_an_earlier_generation_lengthens_the_grace() {
    // The new generation has no observation.
    let mut scheduler = scheduler(1);
    let job = scheduler.jobs.get_mut(&JobNo(1)).expect("scheduled");
    assert_eq!(not_found_grace(job, Duration::from_secs(60)), Duration::from_secs(60));
    job.had_status = true;
    assert_eq!(job.known, Known::new(&Observation::default(), &[], at(0)));
    assert_eq!(not_found_grace(job, Duration::from_secs(60)), GRACE_KNOWN);
    assert_eq!(not_found_grace(job, 2 * GRACE_KNOWN), 2 * GRACE_KNOWN);
    let response = failed(PollFailure::NotFound, Some(404));
    end(&mut scheduler, 1, response, 1);
    let error = scheduler.stats(JobNo(1), at(2)).and_then(|stats| stats.last_error);
    assert!(error.is_some_and(|error| error.contains("counts as not found after 15m")));
}

#[test]
fn the_first_failed_poll_since_a_success_is_logged() {
    let mut scheduler = scheduler(10);
    let not_found = || failed(PollFailure::NotFound, Some(404));
    let ok = || {
        let report = JobReport::of(Observation::default());
        let meaning = Interpretation::Ok(Box::new(report));
        PollResponse {
            meaning,
            http_status: Some(200),
            retry_after: None,
            no_answer: None,
            raw: None,
            memory: None,
            redirects: 0,
        }
    };
    let mut logs = |job: i64, second: i64, response: PollResponse| {
        let decision = decide(&mut scheduler, JobNo(job), response, at(second), at(second));
        decision.first_error.is_some()
    };
    // A wrong base URL.
    assert!(logs(1, 1, not_found()));
    assert!(!logs(2, 1, not_found()) && !logs(1, 300, not_found()));
    // A provider that answers, but not every poll.
    assert!(!logs(2, 301, ok()) && !logs(1, 302, not_found()) && !logs(1, 303, not_found()));
    assert!(logs(1, 361, not_found()) && !logs(1, 362, not_found()));
    // A rejected credential has its own line.
    let rejected = failed(PollFailure::Unauthorized { code: "x".to_owned() }, Some(401));
    assert!(!logs(2, 370, ok()) && !logs(1, 500, rejected));
}

#[test]
fn every_tenant_sees_the_status_and_the_code_of_an_error() {
    let account = |code: &str| PollFailure::Unauthorized { code: code.to_owned() };
    let table = [
        (account("UNAUTHORIZED"), Some(401), None, "HTTP 401 UNAUTHORIZED"),
        (account("no job_1 for jane@example.com"), Some(403), None, "HTTP 403"),
        (account("JOB_1.gone"), Some(403), None, "HTTP 403"),
        (PollFailure::NoCredential, None, None, "no_api_key"),
        (PollFailure::NotFound, Some(404), None, "HTTP 404 not_found"),
        (PollFailure::RateLimited, Some(429), None, "HTTP 429"),
        (PollFailure::Error, Some(502), None, "HTTP 502"),
        (PollFailure::Error, Some(200), None, "HTTP 200, but the answer cannot be read"),
        (PollFailure::Error, None, Some("timeout"), "no answer: timeout"),
        (PollFailure::Error, None, None, "no answer"),
    ];
    for (failure, status, no_answer, expected) in table {
        assert_eq!(public_error(&failure, status, no_answer, "job_1"), expected);
    }
}

#[test]
fn unreachable_means_that_no_final_poll_was_answered() {
    let table = [
        (PollFailure::Error, None, "provider_unreachable"),
        (PollFailure::Error, Some(500), "deadline"),
        (PollFailure::NotFound, Some(404), "deadline"),
    ];
    for (failure, status, expected) in table {
        let mut scheduler = scheduler(1);
        assert_eq!(scheduler.take_due(at(20)), [Action::Poll(JobNo(1))]);
        end(&mut scheduler, 1, failed(failure, status), 20);
        let expired = give_up(&scheduler, JobNo(1), at(20), at(80));
        assert_eq!(expired.error.code.as_deref(), Some(expected));
        let message = expired.error.message.unwrap_or_default();
        assert!(message.contains("; last error: ") && message.ends_with("why"), "{message}");
        assert!(!message.contains("had not ended"), "{message}");
    }
}

#[test]
fn a_repeated_final_poll_waits_for_retry_after_up_to_an_hour() {
    let limited = |seconds| PollResponse {
        retry_after: Some(Duration::from_secs(seconds)),
        ..failed(PollFailure::Error, Some(503))
    };
    let polls = |answers: &[u64]| {
        let mut scheduler = scheduler(1);
        let (mut now, mut polls) = (at(20), Vec::new());
        loop {
            match scheduler.take_due(now)[..] {
                [Action::Poll(_)] => {
                    let answer = answers.get(polls.len()).copied().unwrap_or_default();
                    polls.push(now.since(at(20)).as_secs());
                    end_at(&mut scheduler, 1, limited(answer), now);
                }
                [Action::GiveUp(_, cutoff)] => {
                    assert_eq!(cutoff, at(20), "the first final poll is the cutoff");
                    return (polls, now.since(at(20)).as_secs());
                }
                [] => now = scheduler.next_due(now).expect("scheduled"),
                ref actions => panic!("{actions:?}"),
            }
        }
    };
    assert_eq!(polls(&[120]).0[..2], [0, 120]);
    assert_eq!(polls(&[1_800, 1_700, 1_000]), (vec![0, 1_800, 3_500], 3_600));
}

/// Returns the answer to a poll of a completed job with a result.
fn completed(job: i64, memory: Option<AppSpace>) -> PollResponse {
    let text = r#"
        schema = 2
        id = "muvi"
        name = "Muvi"
        docs = "https://muvi.example/docs"
        [params.job_id]
        pattern = "[a-z0-9_]+"
        [auth]
        type = "none"
        [request]
        url = "https://api.muvi.example/jobs/{job_id}"
        [status]
        path = "$.s"
        [status.map]
        processing = ["run"]
        completed = ["ok"]
        failed = ["bad"]
        [extract]
        job_id = "none"
        output = "$.url"
        [[result]]
        url = "https://api.muvi.example/jobs/{job_id}/result"
        extract = { output = "$.url" }
        [[example]]
        job_id = "job_1"
        body = '{"s": "run"}'
        expect = { answer = "seen", status = "processing", raw_status = "run" }
        [[example]]
        job_id = "job_1"
        body = '{"s": "bad"}'
        expect = { answer = "seen", status = "failed", raw_status = "bad" }
        [[example]]
        job_id = "job_1"
        body = '{"s": "ok"}'
        results = [{ body = '{"url": "x"}' }]
        expect = { answer = "seen", status = "completed", raw_status = "ok", output = "x" }
    "#;
    let definition = Definition::parse(text).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let body = br#"{"s": "ok", "url": "y"}"#;
    let meaning = definition.interpret(&format!("job_{job}"), Answer { status: 200, headers: &[], body });
    PollResponse {
        meaning,
        http_status: Some(200),
        retry_after: None,
        no_answer: None,
        raw: Some(Bytes::from_static(body)),
        memory,
        redirects: 0,
    }
}

#[test]
fn without_memory_a_completed_job_is_polled_again_until_it_expires() {
    let mut scheduler = scheduler(1);
    assert_eq!(scheduler.take_due(at(5)), [Action::Poll(JobNo(1))]);
    let decision = decide(&mut scheduler, JobNo(1), completed(1, None), at(5), at(5));
    assert!(decision.ended.is_none() && decision.not_before == Some(at(35)));
    finish(&mut scheduler, &decision, at(5));
    // The watch expires at 20.
    assert_eq!(scheduler.next_due(at(5)), Some(at(20)));
    let _ = scheduler.take_due(at(20));
    assert_eq!(scheduler.next_due(at(20)), Some(at(35)));
    assert_eq!(scheduler.take_due(at(35)), [Action::Poll(JobNo(1))]);
    let decision = decide(&mut scheduler, JobNo(1), completed(1, None), at(35), at(35));
    let ended = decision.ended.expect("the end of the job");
    let error = ended.seen.error.expect("an error");
    assert_eq!((ended.kind, error.code.as_deref()), (EndingKind::Completed, Some("result_unavailable")));
    assert_eq!(ended.seen.output.as_deref(), Some("y"));
}

#[test]
fn a_clock_that_is_set_back_delays_no_pending_result() {
    let mut scheduler = scheduler(1);
    let memory = AppMemory::new();
    let half = memory.take(AppNo(2), 32 * 1024);
    let permit = memory.take(AppNo(1), 16 * 1024);
    assert_eq!(scheduler.take_due(at(5)), [Action::Poll(JobNo(1))]);
    let decision = decide(&mut scheduler, JobNo(1), completed(1, permit), at(5), at(5));
    assert!(decision.ended.is_none());
    finish(&mut scheduler, &decision, at(5));
    // The next request is due at once, and neither a requested poll nor the expiry at 20 replaces it.
    assert_eq!(scheduler.next_due(at(5)), Some(at(5)));
    scheduler.follow_clock(at(5));
    scheduler.follow_clock(Timestamp::from_millis(at(5).millis() - 3_600_000));
    let now = Timestamp::from_millis(at(5).millis() - 3_600_000);
    assert_eq!(scheduler.take_due(now), [Action::Poll(JobNo(1))]);
    let found = scheduler.jobs.get(&JobNo(1)).expect("the job");
    let give_up_at = found.pending_result().expect("a pending result").give_up_at;
    assert_eq!(give_up_at, now.plus(WAIT_MAX));
    assert!(half.is_some() && memory.take(AppNo(1), 1).is_none());
    drop(scheduler);
    assert!(memory.take(AppNo(1), 1).is_some(), "the memory is free again");
}

#[test]
fn a_poll_requested_while_a_job_ends_without_its_result_is_made() {
    for has_ended in [true, false] {
        let mut scheduler = scheduler(1);
        let memory = AppMemory::new().take(AppNo(1), 1);
        assert_eq!(scheduler.take_due(at(5)), [Action::Poll(JobNo(1))]);
        let decision = decide(&mut scheduler, JobNo(1), completed(1, memory), at(5), at(5));
        finish(&mut scheduler, &decision, at(5));
        let given_up = at(5).plus(WAIT_MAX);
        let decision = give_up_result(&mut scheduler, JobNo(1), given_up).expect("a pending result");
        assert!(decision.ended.is_some());
        scheduler.apply(PollerMessage::PollNow(Box::new(snapshot(1))), given_up);
        scheduler.end_wait(JobNo(1), 0, has_ended, 60 * SECOND, given_up);
        assert_eq!(scheduler.jobs[&JobNo(1)].poll_at, given_up);
    }
}
