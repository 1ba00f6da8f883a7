//! The apps that watch one job take turns when its watches end: an app with many watches delays no other.

use ringback::domain::{AppId, AppNo, JobError, JobNo, Masked, NewWatch, Timestamp, WatchId, WatchStatus};
use ringback::store::{
    CreateApp, EndNotFound, ExpireWatches, Idempotent, NotFoundEnd, NotifyWatches, RegisterMany,
};

use super::{StoreFixture, at};

/// Number of watches of the app that has many: more than ten transactions end.
const MANY: usize = 2_500;

/// Creates another app.
async fn another_app(fixture: &StoreFixture) -> AppNo {
    let create = CreateApp {
        id: AppId(fixture.store.ids().draw(at(0))),
        name: "another".to_owned(),
        signing_secret: Masked::new("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"),
        private_key: Masked::new(super::PRIVATE_KEY),
        now: at(0),
    };
    match fixture.store.create_app(create).await.expect("taken") {
        Ok(Ok(app)) => app.no,
        other => panic!("{other:?}"),
    }
}

/// Registers watches on `job_1` without destinations. Returns the job and the ids.
async fn register(
    fixture: &StoreFixture,
    app: AppNo,
    count: usize,
    expires_at: Timestamp,
) -> (JobNo, Vec<WatchId>) {
    let watch = || {
        let mut watch = NewWatch { app, destinations: Vec::new(), ..fixture.watch("job_1") };
        watch.terms.expires_at = expires_at;
        watch
    };
    let mut made = Vec::new();
    for first in (0..count).step_by(1_000) {
        let watches = (first..count.min(first + 1_000)).map(|_| watch()).collect();
        let many = Idempotent::new(RegisterMany(watches), None, |_: &Vec<_>| None);
        let watches =
            fixture.store.register_many(many).await.expect("taken").expect("new").expect("registered");
        made.extend(watches.into_iter().map(|made| made.expect("registered")));
    }
    (made[0].job_no, made.into_iter().map(|watch| watch.id).collect())
}

async fn status(fixture: &StoreFixture, app: AppNo, id: WatchId) -> WatchStatus {
    fixture.store.watch(app, id).await.expect("read").expect("there").status
}

#[tokio::test]
async fn an_app_with_one_watch_does_not_wait_for_another_with_many() {
    let fixture = StoreFixture::new().await;
    let another = another_app(&fixture).await;
    register(&fixture, fixture.app, MANY, at(100)).await;
    // It expires last, so it would be the last to end.
    let (job, one) = register(&fixture, another, 1, at(86_400)).await;
    assert!(fixture.end(job, 0).await, "more remain");
    assert_eq!(status(&fixture, another, one[0]).await, WatchStatus::Completed);
    let mut rounds = 1;
    while fixture.store.notify_watches(NotifyWatches { job, generation: 0 }).await.expect("notified") {
        rounds += 1;
    }
    assert!(rounds <= MANY / 200 + 1, "{rounds} full transactions");
    assert_eq!(fixture.events().await.len(), MANY);
}

#[tokio::test]
async fn an_expired_watch_does_not_wait_for_many_of_another_app() {
    let fixture = StoreFixture::new().await;
    let another = another_app(&fixture).await;
    register(&fixture, fixture.app, MANY, at(100)).await;
    let (job, one) = register(&fixture, another, 1, at(200)).await;
    let (_, later) = register(&fixture, another, 1, at(400)).await;
    let error = JobError { code: None, message: None };
    let expire = || ExpireWatches { job, until: at(300), error: error.clone(), now: at(300) };
    assert!(fixture.store.expire_watches(expire()).await.expect("expired"), "more remain");
    assert_eq!(status(&fixture, another, one[0]).await, WatchStatus::Expired);
    while fixture.store.expire_watches(expire()).await.expect("expired") {}
    assert_eq!(fixture.events().await.len(), MANY);
    assert_eq!(status(&fixture, another, later[0]).await, WatchStatus::Watching);
}

#[tokio::test]
async fn a_watch_of_an_unknown_job_does_not_wait_for_many_of_another_app() {
    let fixture = StoreFixture::new().await;
    let another = another_app(&fixture).await;
    register(&fixture, fixture.app, MANY, at(100)).await;
    let (job, one) = register(&fixture, another, 1, at(86_400)).await;
    let error = JobError { code: Some("not_found".to_owned()), message: None };
    let (registered_until, now) = (at(60), at(70));
    let mut command = EndNotFound { job, generation: 0, registered_until, error, now, after: Vec::new() };
    let end =
        async |command: &EndNotFound| fixture.store.end_not_found(command.clone()).await.expect("ended");
    let NotFoundEnd::More(positions) = end(&command).await else { panic!("more remain") };
    assert_eq!(status(&fixture, another, one[0]).await, WatchStatus::NotFound);
    command.after = positions;
    while let NotFoundEnd::More(positions) = end(&command).await {
        command.after = positions;
    }
    assert_eq!(end(&command).await, NotFoundEnd::Job, "again is nothing");
    assert_eq!(fixture.events().await.len(), MANY);
}

crate::postgres::on_postgres_too! {
    a_watch_of_an_unknown_job_does_not_wait_for_many_of_another_app,
    an_app_with_one_watch_does_not_wait_for_another_with_many,
    an_expired_watch_does_not_wait_for_many_of_another_app,
}
