//! The steps of a simulation: what clients, the provider, the receivers, the clock and the machine do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::disk::{Disk, Image, written};
use super::world::{ProviderMode, ReceiverMode, Truth};
use super::{Answered, JOBS, PATHS, Registration, Simulation};
use crate::harness::{AUTH, JSON, id, minutes, seconds};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Simulation<'_> {
    fn trace(&mut self, line: String) {
        self.trace.0.push(line);
    }

    fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.draw.below(choices.len() as u64)).unwrap()]
    }

    /// Makes one step, and perhaps lets the machine crash in it.
    pub(super) async fn step(&mut self, number: u64, may_jump: bool) {
        let since = written(&self.t.file());
        let done = match self.draw.below(20) {
            0..=4 => self.register_some().await,
            5..=8 => self.change_a_job(),
            9 => self.change_the_provider(),
            10 | 11 => self.change_a_receiver(),
            12 => self.stop_one().await,
            13 => self.poll_now().await,
            14 => return self.restart_in_order(number).await,
            15 if may_jump => self.jump(),
            _ => String::new(),
        };
        let span = if self.draw.below(3) == 0 { Duration::ZERO } else { seconds(1 + self.draw.below(600)) };
        self.t.pass(span).await;
        self.trace(format!("{number}: {done}, {span:?} pass"));
        if self.draw.below(2) == 0 {
            self.crash_since(since).await;
        } else {
            self.accept_answers();
        }
    }

    /// Takes over what clients were answered.
    fn accept_answers(&mut self) {
        for (_, answered) in std::mem::take(&mut self.answers) {
            match answered {
                Answered::Registered(registration, watch) => {
                    let known = self.watches.insert(watch.clone(), registration.clone());
                    let same = known.is_none_or(|known| known.key == registration.key);
                    assert!(same, "one key, one watch: {watch} was the answer to {registration:?} as well");
                }
                Answered::Stopped(watch) => _ = self.stopped.insert(watch),
            }
        }
    }

    /// Lets the machine crash at a moment after the log had the length `since`, and starts it again.
    async fn crash_since(&mut self, since: u64) {
        let image = self.disk.image();
        let points = image.crash_points(since);
        let index = usize::try_from(self.draw.below(points.len() as u64)).unwrap();
        self.crash_at(&image, since, index).await;
    }

    /// Lets the machine crash at one of the moments after the log had the length `since`.
    async fn crash_at(&mut self, image: &Image, since: u64, index: usize) {
        let points = image.crash_points(since);
        let point = points[index];
        let torn = self.draw.below(5_000);
        self.trace(format!("  crash after commit {index} of {} of this step", points.len() - 1));
        self.figures.count(|figures| &figures.crashes, 1);
        self.figures.count(|figures| &figures.commits, points.len() - 1);
        self.t.crash().await;
        self.world.state.change(|state| {
            state.forget(point);
            state.starts += 1;
        });
        image.restore(&self.t.file(), point, torn);
        self.disk = Disk::before_start(&self.t.file());
        self.t.restart().await;
        // Clients that have read no answer repeat their requests.
        let (read, unread): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.answers).into_iter().partition(|(written, _)| point.includes(*written));
        self.answers = read;
        for (_, answered) in unread {
            match answered {
                Answered::Registered(registration, _) => self.register(registration).await,
                Answered::Stopped(watch) => self.stop(watch).await,
            }
        }
        self.accept_answers();
    }

    async fn restart_in_order(&mut self, number: u64) {
        self.trace(format!("{number}: stop in order"));
        self.stop_in_order().await;
        self.world.state.change(|state| state.starts += 1);
        self.disk = Disk::before_start(&self.t.file());
        self.t.restart().await;
    }

    /// Stops the application, which finishes the requests in flight. Time passes while a peer does not answer.
    async fn stop_in_order(&mut self) {
        let stopping = self.t.begin_stop();
        let (clock, held) = (self.t.clock.clone(), self.t.held.clone());
        let mut ended = std::pin::pin!(stopping.ended());
        while crate::crash::within(50, &mut ended).await.is_none() {
            if held.count() > 0 {
                clock.advance(seconds(1));
            }
        }
    }

    async fn register_some(&mut self) -> String {
        let mut done = Vec::new();
        for _ in 0..=self.draw.below(3) {
            let job = format!("job_{}", self.draw.below(JOBS));
            self.world
                .state
                .change(|state| _ = state.jobs.entry(job.clone()).or_insert(Truth::Processing(0)));
            let events = [json!(["job.*", "watch.*"]), json!(["job.completed", "job.failed"]), Value::Null];
            let payload = self.choose(&["event", "event", "raw", "cloudevents"]);
            let first = self.choose(&PATHS);
            let mut to = vec![self.world.receiver_url(first)];
            if self.draw.below(3) == 0 {
                let second = PATHS.iter().find(|path| **path != first).unwrap();
                to.push(self.world.receiver_url(second));
            }
            let mut body = json!({
                "jobId": job, "payload": payload, "notify": to,
                "expiresIn": format!("{}m", 5 + self.draw.below(120)),
            });
            let events = &events[usize::try_from(self.draw.below(3)).unwrap()];
            if !events.is_null() {
                body["events"] = events.clone();
            }
            let key = format!("key_{:x}", self.draw.below(u64::MAX));
            done.push(format!("register {body}"));
            self.register(Registration { key, body }).await;
        }
        done.join("; ")
    }

    async fn register(&mut self, registration: Registration) {
        let headers = [AUTH, JSON, ("idempotency-key", registration.key.as_str())];
        let body = registration.body.to_string();
        let answer = self.t.send("POST", "/v1/watches", &headers, body.as_bytes()).await;
        let watch = id(&answer.expect(201));
        let written = written(&self.t.file());
        self.answers.push((written, Answered::Registered(registration, watch)));
    }

    fn change_a_job(&mut self) -> String {
        let job = format!("job_{}", self.draw.below(JOBS));
        let progress = u8::try_from(self.draw.below(100)).unwrap();
        let truth = self.choose(&[
            Truth::Completed,
            Truth::Completed,
            Truth::Failed,
            Truth::Cancelled,
            Truth::Absent,
            Truth::Processing(progress),
            Truth::Processing(progress),
        ]);
        self.world.state.change(|state| _ = state.jobs.insert(job.clone(), truth));
        format!("{job} becomes {truth:?}")
    }

    fn change_the_provider(&mut self) -> String {
        let mode = self.choose(&[
            ProviderMode::Healthy,
            ProviderMode::Healthy,
            ProviderMode::Healthy,
            ProviderMode::Error,
            ProviderMode::Unauthorized,
            ProviderMode::Reset,
            ProviderMode::Html,
            ProviderMode::Truncated,
            ProviderMode::UnknownStatus,
            ProviderMode::Busy,
            ProviderMode::Stalled,
        ]);
        self.world.state.change(|state| state.provider = mode);
        format!("the provider becomes {mode:?}")
    }

    fn change_a_receiver(&mut self) -> String {
        let path = self.choose(&PATHS);
        let mode = self.choose(&[
            ReceiverMode::Accepts,
            ReceiverMode::Accepts,
            ReceiverMode::Accepts,
            ReceiverMode::Error,
            ReceiverMode::Busy,
            ReceiverMode::Gone,
            ReceiverMode::Redirect,
            ReceiverMode::Reset,
            ReceiverMode::LostAnswer,
            ReceiverMode::Stalled,
        ]);
        self.world.state.change(|state| _ = state.receivers.insert(path.to_owned(), mode));
        format!("{path} becomes {mode:?}")
    }

    fn any_watch(&mut self) -> Option<String> {
        let index = self.draw.below(self.watches.len().max(1) as u64);
        self.watches.keys().nth(usize::try_from(index).unwrap()).cloned()
    }

    async fn stop_one(&mut self) -> String {
        let Some(watch) = self.any_watch() else { return "nothing to stop".to_owned() };
        self.stop(watch.clone()).await;
        format!("stop {watch}")
    }

    async fn stop(&mut self, watch: String) {
        self.t.act(&format!("/v1/watches/{watch}/stop")).await.expect(200);
        let written = written(&self.t.file());
        self.answers.push((written, Answered::Stopped(watch)));
    }

    async fn poll_now(&mut self) -> String {
        let Some(watch) = self.any_watch() else { return "nothing to poll".to_owned() };
        self.t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
        format!("poll {watch}")
    }

    /// Sets the wall clock by a day. No time passes.
    fn jump(&mut self) -> String {
        let now = self.t.now();
        let to = if self.draw.below(2) == 0 { now.plus(DAY) } else { now.minus(DAY) };
        self.t.clock.set_wall(to);
        self.jumps += 1;
        format!("the wall clock jumps to {to}")
    }

    /// Follows one watch from its registration to its delivery, crashes at moment `index`, and checks everything.
    /// Returns the number of moments.
    pub(super) async fn crash_in_a_watch(mut self, index: usize) -> usize {
        self.trace(format!("a crash at moment {index} of a watch"));
        let since = written(&self.t.file());
        let job = "job_0".to_owned();
        self.world.state.change(|state| state.jobs = BTreeMap::from([(job.clone(), Truth::Processing(0))]));
        let to = self.world.receiver_url("/a");
        let body = json!({ "jobId": job, "notify": [to], "events": ["job.*"] });
        self.register(Registration { key: "key".to_owned(), body }).await;
        self.t.pass(minutes(1)).await;
        self.world.state.change(|state| {
            state.jobs.insert(job, Truth::Completed);
            state.receivers.insert("/a".to_owned(), ReceiverMode::Error);
        });
        self.t.pass(seconds(30)).await;
        self.world.state.change(|state| state.receivers.clear());
        self.t.pass(minutes(30)).await;
        let image = self.disk.image();
        let points = image.crash_points(since).len();
        self.crash_at(&image, since, index.min(points - 1)).await;
        self.check().await;
        self.end().await;
        points
    }

    /// Loses a commit that a client and a receiver have seen, as a disk does that confirms writes too early.
    pub(super) async fn lose_a_commit(mut self) {
        let since = written(&self.t.file());
        let job = "job_0".to_owned();
        self.world.state.change(|state| state.jobs = BTreeMap::from([(job.clone(), Truth::Completed)]));
        let body = json!({ "jobId": job, "notify": [self.world.receiver_url("/a")] });
        self.register(Registration { key: "key".to_owned(), body }).await;
        self.accept_answers();
        self.t.pass(minutes(1)).await;
        self.check().await;
        let image = self.disk.image();
        self.t.crash().await;
        image.restore(&self.t.file(), image.crash_points(since)[0], 0);
        self.disk = Disk::before_start(&self.t.file());
        self.t.restart().await;
        self.check().await;
    }
}
