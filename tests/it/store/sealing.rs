//! Secrets at rest: the contents of the file, the keys that a start needs, and the change of the key.

use std::path::Path;

use ringback::domain::{
    Access, Auth, BasicAuth, ChannelKind, DestinationHealth, DestinationId, EventSet, JobNo, Masked,
    NewWatch, PollSource, Rate, SavedAddress, SavedDestination, SavedNo, SavedQueue, SignatureForm, Signing,
    TlsPem, TlsSummary, Watch, WatchStatus,
};
use ringback::store::{
    BootstrapTenant, CreateApp, CreateDestination, Keyring, PutDefinition, RotateDestinationSecret,
    RotateSecret,
};

use super::{START, StoreFixture, at, file, open_with};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

/// Secrets without a common prefix, so that remains of each are found.
const CANARIES: [&str; 11] = [
    "whsec_Y2FuYXJ5LW9mLXRoZS1hcHAtMDEyMzQ1Njc4OTA=",
    "whsec_b2xkLWNhbmFyeS1vZi10aGUtYXBwLTEyMzQ1Njc4",
    "whsec_ZGVzdGluYXRpb24tY2FuYXJ5LTAxMjM0NTY3ODkw",
    "canary-in-a-header",
    "T00/B00/canary-of-a-hook",
    "whsec_bmV3LWNhbmFyeS1vZi10aGUtYXBwLTEyMzQ1Njc4",
    "whsk_cHJpdmF0ZS1jYW5hcnktb2YtdGhlLWFwcC0xMjM0NTY=",
    "whsk_b2xkLXByaXZhdGUtY2FuYXJ5LW9mLWFuLWFwcC0xMjM=",
    "whsk_bmV3LXByaXZhdGUtY2FuYXJ5LW9mLWFuLWFwcC00NTY=",
    "canary-in-a-poll",
    "canary-in-a-definition",
];

fn ring(keys: &[[u8; 32]]) -> Keyring {
    Keyring::new(keys)
}

async fn fixture_with(keys: &[[u8; 32]]) -> StoreFixture {
    let (folder, location) = StoreFixture::new().await.close().await;
    StoreFixture::with(folder, location, START, ring(keys)).await
}

async fn reopen_with(fixture: StoreFixture, keys: &[[u8; 32]]) -> StoreFixture {
    let (folder, location) = fixture.close().await;
    StoreFixture::with(folder, location, START, ring(keys)).await
}

/// Returns the error of a start with these keys.
async fn refused(fixture: StoreFixture, keys: &[[u8; 32]]) -> (StoreFixture, String) {
    let (folder, location) = fixture.close().await;
    let error = format!("{:#}", open_with(&location, START, ring(keys)).expect_err("refused"));
    // The caller opens the store again with the right keys.
    (StoreFixture::with(folder, location, START, ring(&[OLD, NEW])).await, error)
}

/// Returns a watch whose destinations hold every kind of secret.
fn secretive(fixture: &StoreFixture, job: &str) -> NewWatch {
    let mut watch = fixture.watch(job);
    watch.destinations[0].secret = Some(CANARIES[2].to_owned());
    let signing = Signing { form: SignatureForm::Stripe, ..Signing::default() };
    watch.destinations[0].signing = Some(Box::new(signing));
    watch.destinations[0].headers = vec![("authorization".to_owned(), CANARIES[3].to_owned())];
    let mut slack = fixture.destination("b.example");
    slack.channel = ChannelKind::Slack;
    slack.address = format!("https://hooks.slack.com/services/{}", CANARIES[4]);
    slack.headers = Vec::new();
    watch.destinations.push(slack);
    let poll = fixture.store.new_poll(watch.app, source(), "shown".to_owned(), None);
    watch.job.account = format!("{:?}", poll.id);
    watch.poll = Some(Box::new(poll));
    watch
}

/// Returns how the jobs are polled.
fn source() -> PollSource {
    PollSource::Inline { poll: Masked::new(CANARIES[9]), credential: None }
}

async fn create_app(fixture: &StoreFixture) -> ringback::domain::App {
    let create = CreateApp {
        id: ringback::domain::AppId(fixture.store.ids().draw(START)),
        name: "b".to_owned(),
        signing_secret: Masked::new(CANARIES[1]),
        private_key: Masked::new(CANARIES[7]),
        now: START,
    };
    match fixture.store.create_app(create).await.expect("made") {
        Ok(Ok(app)) => app,
        other => panic!("{other:?}"),
    }
}

/// Uses every kind of secret: an app with an old and a new secret, and `count` watches.
async fn fill(fixture: &StoreFixture, count: usize) -> Vec<Watch> {
    let found = BootstrapTenant {
        name: "c".to_owned(),
        signing_secret: Masked::new(CANARIES[0]),
        private_key: Masked::new(CANARIES[6]),
        key_hash: None,
        now: START,
    };
    fixture.store.bootstrap(found).await.expect("made");
    let app = create_app(fixture).await;
    let rotate = RotateSecret {
        app: app.no,
        signing_secret: Masked::new(CANARIES[5]),
        private_key: Masked::new(CANARIES[8]),
        grace: std::time::Duration::from_secs(60),
        now: START,
    };
    assert!(matches!(fixture.store.rotate_secret(rotate).await.expect("rotated"), Ok(Ok(()))));
    let put = PutDefinition {
        app: fixture.app,
        id: fixture.store.ids().draw(START),
        provider: "mine".to_owned(),
        text: Masked::new(CANARIES[10]),
        summary: super::deleted_apps::summary(),
        is_taken: false,
        now: START,
    };
    assert!(fixture.store.put_definition(put).await.expect("put").is_ok());
    let mut watches = Vec::with_capacity(count);
    for n in 0..count {
        watches.push(fixture.register(secretive(fixture, &format!("job_{n}"))).await);
    }
    watches
}

/// Checks that reads and deliveries get all secrets as they were written.
async fn check(fixture: &StoreFixture, watches: &[Watch]) {
    let mut polls = fixture.store.jobs(JobNo(0), 1_000, at(0)).await.expect("read").jobs;
    polls.retain(|job| job.poll.as_ref().is_some_and(|poll| poll.text() == CANARIES[9]));
    for watch in watches {
        let shown = fixture.shown(watch.id).await;
        let is_polled = shown.status == WatchStatus::Watching;
        assert_eq!(polls.iter().any(|job| job.no == watch.job_no), is_polled, "{polls:?}");
        let given: Vec<_> = watch.destinations.iter().map(|(one, _)| one).collect();
        assert_eq!(shown.destinations.iter().map(|(one, _)| one).collect::<Vec<_>>(), given);
    }
    // The identity does not depend on the encryption key.
    let again = fixture.store.new_poll(fixture.app, source(), String::new(), None);
    let definition = fixture.store.definition(fixture.app, "mine".to_owned()).await.expect("read");
    assert_eq!(definition.expect("a definition").1.reveal(), CANARIES[10]);
    assert!(polls.iter().all(|job| job.name.account == format!("{:?}", again.id)));
    let secrets = |name: &str| {
        let app = fixture.store.apps(None, 10).into_iter().find(|app| app.name == name).expect("an app");
        app.secrets(at(59)).map(|secret| secret.reveal().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(secrets("c"), [CANARIES[0]]);
    assert_eq!(secrets("b"), [CANARIES[5], CANARIES[1]]);
    let keys = |name: &str| {
        let app = fixture.store.apps(None, 10).into_iter().find(|app| app.name == name).expect("an app");
        app.private_keys(at(59)).map(|key| key.reveal().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("c"), [CANARIES[6]]);
    assert_eq!(keys("b"), [CANARIES[8], CANARIES[7]]);
}

/// Returns those of `wanted` that the files of the database contain, the log included.
fn found_in(path: &Path, wanted: &[&str]) -> Vec<String> {
    let mut bytes = Vec::new();
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        bytes.extend(std::fs::read(name).unwrap_or_default());
    }
    let is_in = |text: &&&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    wanted.iter().filter(is_in).map(|text| (*text).to_owned()).collect()
}

/// Returns the name of a key in the database.
fn name(key: &[u8; 32]) -> String {
    use sha2::Digest as _;
    let [a, b, c, d, ..]: [u8; 32] = sha2::Sha256::digest(key).into();
    [a, b, c, d].map(|byte| format!("{byte:02x}")).concat()
}

// Once: it reads the bytes of the file.
#[tokio::test]
async fn with_an_encryption_key_the_file_holds_no_plain_secret() {
    let fixture = fixture_with(&[OLD]).await;
    let watches = fill(&fixture, 3).await;
    let job = watches[0].job_no;
    fixture.end(job, 0).await;
    let send = super::take_deliveries(&fixture.store).pop().expect("a delivery");
    assert!(send.destination.address.ends_with(CANARIES[4]), "the dispatcher gets the address");
    let (delivery, _) = fixture.shown_delivery(send.id).await;
    assert!(delivery.address.ends_with(CANARIES[4]));
    assert_eq!(found_in(file(&fixture.location), &CANARIES), [""; 0], "while it runs, in the log too");
    check(&fixture, &watches).await;
    let fixture = reopen_with(fixture, &[OLD]).await;
    check(&fixture, &watches).await;
    assert_eq!(found_in(file(&fixture.location), &CANARIES), [""; 0]);
}

// Once: it reads the bytes of the file.
#[tokio::test]
async fn the_first_start_with_a_key_seals_everything_without_a_trace() {
    let fixture = StoreFixture::new().await;
    let watches = fill(&fixture, 700).await;
    assert_eq!(found_in(file(&fixture.location), &CANARIES), CANARIES, "without a key they are there");
    let fixture = reopen_with(fixture, &[OLD]).await;
    check(&fixture, &watches).await;
    assert_eq!(found_in(file(&fixture.location), &CANARIES), [""; 0]);
    let (folder, location) = fixture.close().await;
    assert_eq!(found_in(file(&location), &CANARIES), [""; 0]);
    drop(folder);
}

#[tokio::test]
async fn a_start_without_a_needed_key_is_refused_and_names_the_key() {
    let fixture = fixture_with(&[OLD]).await;
    let watches = fill(&fixture, 1).await;
    let (fixture, none) = refused(fixture, &[]).await;
    assert!(none.contains(&name(&OLD)) && none.contains("configured: none"), "{none}");
    let fixture = reopen_with(fixture, &[OLD]).await;
    let (fixture, other) = refused(fixture, &[NEW]).await;
    assert!(other.contains(&name(&OLD)) && other.contains(&name(&NEW)), "{other}");
    assert!(other.contains("encryption_key"), "{other}");
    check(&fixture, &watches).await;
}

#[tokio::test]
async fn after_a_start_with_both_keys_the_new_key_is_sufficient() {
    let fixture = fixture_with(&[OLD]).await;
    let watches = fill(&fixture, 600).await;
    let fixture = reopen_with(fixture, &[NEW, OLD]).await;
    check(&fixture, &watches).await;
    let more = fixture.register(secretive(&fixture, "job_more")).await;
    let fixture = reopen_with(fixture, &[NEW]).await;
    check(&fixture, &watches).await;
    check(&fixture, &[more]).await;
    let (folder, location) = fixture.close().await;
    let error = format!("{:#}", open_with(&location, START, ring(&[OLD])).expect_err("refused"));
    assert!(error.contains(&name(&NEW)), "{error}");
    let fixture = StoreFixture::with(folder, location, START, ring(&[NEW])).await;
    check(&fixture, &watches).await;
}

// Once: it writes into the file.
#[tokio::test]
async fn re_sealing_continues_after_a_crash() {
    let fixture = fixture_with(&[OLD]).await;
    let watches = fill(&fixture, 600).await;
    let (folder, location) = fixture.close().await;
    let db = rusqlite::Connection::open(file(&location)).expect("opens");
    // The second transaction of the re-sealing fails, and the first is on disk.
    let trip = "create trigger trip before update on watch_destinations
                when new.secret is not null and (select count(*) from watch_destinations
                  where secret like 'sealed:' || (select id from seals where complete = 0) || '%') >= 250
                begin select raise(abort, 'tripped'); end";
    db.execute_batch(trip).expect("set");
    let sealed = |key: &[u8; 32]| -> i64 {
        let form = format!("sealed:{}:%", name(key));
        let sql = "select count(*) from watch_destinations where secret like $1";
        db.query_row(sql, [form], |row| row.get(0)).expect("counted")
    };
    let error = format!("{:#}", open_with(&location, START, ring(&[NEW, OLD])).expect_err("tripped"));
    assert!(error.contains("tripped"), "{error}");
    assert!(sealed(&NEW) > 0 && sealed(&OLD) > 0, "half-way: {} {}", sealed(&NEW), sealed(&OLD));
    for alone in [NEW, OLD] {
        let error =
            format!("{:#}", open_with(&location, START, ring(&[alone])).expect_err("both are needed"));
        assert!(error.contains("which is not configured"), "{error}");
    }
    db.execute_batch("drop trigger trip").expect("dropped");
    let fixture = StoreFixture::with(folder, location, START, ring(&[NEW, OLD])).await;
    assert_eq!((sealed(&NEW), sealed(&OLD)), (600, 0));
    check(&fixture, &watches).await;
    let fixture = reopen_with(fixture, &[NEW]).await;
    check(&fixture, &watches).await;
}

// Once: it writes into the file.
#[tokio::test]
async fn a_sealed_value_copied_to_another_row_does_not_open() {
    let fixture = fixture_with(&[OLD]).await;
    let watches = fill(&fixture, 2).await;
    let (folder, location) = fixture.close().await;
    let db = rusqlite::Connection::open(file(&location)).expect("opens");
    let (from, to) = (watches[0].id.to_bytes(), watches[1].id.to_bytes());
    db.execute(
        "update watch_destinations set secret = (select secret from watch_destinations where watch = $1 and n = 0)
         where watch = $2 and n = 0",
        [from, to],
    )
    .expect("moved");
    let fixture = StoreFixture::with(folder, location, START, ring(&[OLD])).await;
    // The destination is left out, as every row that cannot be read.
    let (one, other) = (fixture.shown(watches[0].id).await, fixture.shown(watches[1].id).await);
    assert_eq!(one.destinations.len(), other.destinations.len() + 1);
}

/// Saves a destination whose every secret contains this text.
pub async fn save(fixture: &StoreFixture, text: &str) -> SavedDestination {
    let destination = saved(fixture, text);
    let created = fixture.store.create_destination(CreateDestination(destination.clone())).await;
    created.expect("taken").expect("no key").expect("created");
    let rotate = RotateDestinationSecret {
        app: fixture.app,
        id: destination.id,
        secret: Masked::new(format!("whsec_{text}-the-second-one")),
        old_until: Some(at(60)),
        now: START,
    };
    assert!(matches!(fixture.store.rotate_destination_secret(rotate).await.expect("rotated"), Ok(Ok(()))));
    destination
}

/// Returns such a destination, which is not saved.
pub fn saved(fixture: &StoreFixture, text: &str) -> SavedDestination {
    let hook = format!("https://hooks.slack.com/services/T00/B00/{text}");
    let secret = format!("whsec_{text}-the-first-one-of-two");
    SavedDestination {
        app: fixture.app,
        id: DestinationId(fixture.store.ids().draw(START)),
        name: Some("ops".to_owned()),
        description: None,
        address: SavedAddress {
            channel: ChannelKind::Slack,
            address: hook,
            headers: vec![("authorization".to_owned(), text.to_owned())],
            secret: Some(secret),
            signing: None,
            access: Access::of(
                Some(Auth::Basic(BasicAuth { username: "u".to_owned(), password: Masked::new(text) })),
                Some(TlsSummary { fingerprint: "ab".to_owned(), certificate: None, authorities: 1 }),
            ),
            new_tls: Some(Box::new(TlsPem { key: Some(Masked::new(text)), ..TlsPem::default() })),
        },
        events: EventSet::endings(),
        is_default: true,
        queue: SavedQueue {
            no: SavedNo(0),
            target: "1 slack 0123456789abcdef".to_owned(),
            rate: Rate::default(),
            concurrency: None,
            is_ordered: false,
            old_secret: None,
        },
        is_managed: false,
        disabled: None,
        health: DestinationHealth::default(),
        created_at: START,
    }
}

#[tokio::test]
async fn the_secrets_of_a_saved_destination_are_sealed_and_sealed_again() {
    let canary = "canary-of-a-saved-destination";
    let mut fixture = fixture_with(&[OLD]).await;
    let saved = save(&fixture, canary).await;
    for keys in [&[OLD][..], &[NEW, OLD], &[NEW]] {
        fixture = reopen_with(fixture, keys).await;
        let found = fixture.store.saved_destination(fixture.app, saved.id, START).await;
        let found = found.expect("read").expect("there");
        assert_eq!(found.address.address, saved.address.address);
        assert_eq!(found.address.headers, saved.address.headers);
        assert_eq!(found.address.secret, Some(format!("whsec_{canary}-the-second-one")));
        assert_eq!(found.address.access, saved.address.access);
        let pem = fixture.store.tls_identity(fixture.app, found.queue.no).await.expect("read");
        assert_eq!(pem.as_ref(), saved.address.new_tls.as_deref());
        let old = found.queue.old_secret.map(|(secret, until)| (secret.reveal().to_owned(), until));
        assert_eq!(old, saved.address.secret.clone().map(|secret| (secret, at(60))));
        // The same secrets reach a delivery.
        let used = fixture.store.default_destinations(fixture.app, 1).await.expect("read");
        assert_eq!(used[0].0.secret, found.address.secret);
        assert_eq!(used[0].0.access, found.address.access);
        if let ringback::store::DatabaseLocation::File(path) = &fixture.location {
            assert_eq!(found_in(path, &[canary]), [""; 0], "in no file");
        }
    }
}

crate::postgres::on_postgres_too! {
    the_secrets_of_a_saved_destination_are_sealed_and_sealed_again,
    a_start_without_a_needed_key_is_refused_and_names_the_key,
    after_a_start_with_both_keys_the_new_key_is_sufficient,
}
