//! Commands of requests that are in progress while their app is deleted.

use std::collections::BTreeSet;
use std::pin::Pin;

use ringback::domain::{
    AppNo, Credential, CredentialKind, DefinitionSummary, DeliveryId, Id, KeyId, Limits, Masked, NewWatch,
    OperationId, Pace, PollPolicy, Rate, Scope,
};
use ringback::store::{
    AmendWatch, Change, CreateCredential, CreateDestination, CreateKey, CreateOperation, DeleteApp,
    DeleteCredential, DeleteDefinition, DeleteDestination, DeliveryFilter, DestinationChange,
    EnableDestination, EraseWatch, IdempotencyKey, Idempotent, KeepAnswer, KeyRow, OperationTurns, PollNow,
    PutDefinition, Register, RegisterMany, RetryDelivery, RotateDestinationSecret, RotateSecret,
    StopAndCancel, StopWatch, StoreError, StoredResponse, Subject, UpdateDestination,
};

use super::operating::step;
use super::sealing::{save, saved};
use super::{PRIVATE_KEY, StoreFixture, app, at};

/// A command as a request sends it, with its name.
type Attempt<'f> = (&'static str, Pin<Box<dyn Future<Output = Result<(), StoreError>> + 'f>>);

fn boxed<'f>(
    work: impl Future<Output = Result<(), StoreError>> + 'f,
) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + 'f>> {
    Box::pin(work)
}

/// Returns an idempotency key of an app.
fn key(app: AppNo, name: &str) -> IdempotencyKey {
    let (path, key) = ("/v1/x".to_owned(), name.to_owned());
    IdempotencyKey { app, path, key, request_hash: [1; 32], now: at(50), seal: None }
}

/// Adds an idempotency key of the app to a command.
fn keyed<C, T: 'static>(command: C, app: AppNo, name: &str) -> Idempotent<C, T> {
    let answer = StoredResponse { status: 200, location: None, body: b"kept".to_vec() };
    Idempotent::with_response(command, Some(key(app, name)), &answer)
}

/// Returns the commands that belong to an app, each with an idempotency key if it can have one. `n` makes them
/// distinct.
fn commands(fixture: &StoreFixture, app: AppNo, n: u8) -> Vec<Attempt<'_>> {
    let (store, now) = (&fixture.store, at(50));
    let draw = || store.ids().draw(now);
    let watch = |job: &str| NewWatch { app, ..fixture.watch(job) };
    let unknown = Id::from_bytes([9; 16]);
    let mut destination = saved(fixture, "hush");
    destination.app = app;
    let id = destination.id;
    let row = KeyRow {
        id: KeyId(draw()),
        app_id: store.app(fixture.app).expect("an app").id,
        name: None,
        scope: Scope::Read,
        created_at: now,
        expires_at: None,
        last_used_at: None,
    };
    let (secret, private_key) = (Masked::new("whsec_x"), Masked::new(PRIVATE_KEY));
    let rotate = RotateSecret {
        app,
        signing_secret: secret.clone(),
        private_key,
        grace: std::time::Duration::ZERO,
        now,
    };
    let change = DestinationChange { name: Change::Set(None), ..DestinationChange::default() };
    let amend = AmendWatch {
        app,
        watch: ringback::domain::WatchId(unknown),
        expires_at: None,
        metadata: None,
        name: Change::Kept,
        reference: Change::Kept,
        destinations: fixture.watch("job_1").destinations,
        destinations_max: 20,
    };
    let unknown_watch = ringback::domain::WatchId(unknown);
    let operation = CreateOperation {
        id: OperationId(draw()),
        app,
        subject: Subject::RetryDeliveries(DeliveryFilter::default()),
        total: 0,
        now,
    };
    let owned = DeleteApp { app: AppNo(i64::MAX), owner: app, operation: OperationId(draw()), total: 0, now };
    let rotated = RotateDestinationSecret { app, id, secret: secret.clone(), old_until: None, now };
    let text = |name: &str| format!("{name}-{n}");
    let credential = CreateCredential {
        app,
        credential: Credential {
            id: draw(),
            name: text("credential"),
            kind: CredentialKind::Bearer,
            send_to: vec!["api.example.com".to_owned()],
            created_at: now,
        },
        secret: Masked::new("hush"),
    };
    macro_rules! list {
        ($($name:ident: $command:expr;)*) => {
            vec![$((stringify!($name), {
                let command = $command;
                boxed(async move { store.$name(command).await.map(|_| ()) })
            }),)*]
        };
    }
    list! {
        create_key: keyed(CreateKey { row, app, hash: [100 + n; 32] }, app, &text("create_key"));
        delete_app: owned;
        rotate_secret: keyed(rotate, app, &text("rotate_secret"));
        keep_answer: keyed(KeepAnswer, app, &text("keep_answer"));
        create_destination: keyed(CreateDestination(destination), app, &text("create_destination"));
        update_destination: UpdateDestination { app, id, change, now };
        enable_destination:
            keyed(EnableDestination { app, id, retry_skipped: true, now }, app, &text("enable"));
        rotate_destination_secret: keyed(rotated, app, &text("rotate_destination_secret"));
        delete_destination: DeleteDestination { app, id, now };
        create_credential: keyed(credential, app, &text("create_credential"));
        delete_credential: DeleteCredential { app, name: text("unknown") };
        put_definition: PutDefinition {
            app,
            id: draw(),
            provider: text("definition"),
            text: Masked::new("schema = 2"),
            summary: summary(),
            is_taken: false,
            now,
        };
        delete_definition: DeleteDefinition { app, provider: text("unknown"), now };
        register: keyed(Register(watch(&text("job"))), app, &text("register"));
        register_many:
            keyed(RegisterMany(vec![watch(&text("a")), watch(&text("b"))]), app, &text("register_many"));
        amend_watch: amend;
        stop_watch: keyed(StopWatch { app, watch: unknown_watch, now }, app, &text("stop_watch"));
        stop_and_cancel: keyed(StopAndCancel(StopWatch { app, watch: unknown_watch, now }), app, &text("cancel"));
        erase_watch:
            EraseWatch { operation: OperationId(draw()), app, watch: unknown_watch, rows: 100, now };
        create_operation: keyed(operation, app, &text("create_operation"));
        poll_now: keyed(PollNow { app, watch: unknown_watch, now }, app, &text("poll_now"));
        retry_delivery:
            keyed(RetryDelivery { app, delivery: DeliveryId(unknown), now }, app, &text("retry_delivery"));
    }
}

/// Returns what is known of a definition.
pub fn summary() -> DefinitionSummary {
    let limits = Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 1 };
    let pace = Pace::of(&PollPolicy::default(), limits);
    DefinitionSummary { name: "Acme".to_owned(), needs_credential: false, pace }
}

/// Number of rows of each table that has rows of apps.
fn rows(fixture: &StoreFixture) -> Vec<(&'static str, usize)> {
    let tables = [
        "apps",
        "keys",
        "watches",
        "watch_destinations",
        "watch_groups",
        "destinations",
        "events",
        "deliveries",
        "idempotency",
        "operations",
        "operational_events",
        "credentials",
        "job_cancels",
        "definitions",
    ];
    tables.map(|table| (table, fixture.count(table))).to_vec()
}

// Once: the test reads the source.
#[test]
fn the_list_has_every_command_of_an_app() {
    let source = include_str!("../../../src/store.rs");
    let of_an_app = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], ["write" | "idempotent" | "read", _, "of", app, ..] if app != "none:")
    };
    let declared = source.lines().filter(of_an_app).filter_map(|line| line.split_whitespace().nth(1));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let fixture = StoreFixture::new().await;
        // This one belongs to an app only by its idempotency key.
        let mut listed: BTreeSet<&str> =
            commands(&fixture, fixture.app, 0).iter().map(|(name, _)| *name).collect();
        assert!(listed.remove("keep_answer"));
        assert_eq!(listed, declared.collect::<BTreeSet<&str>>());
    });
}

#[tokio::test]
async fn no_command_inserts_a_row_of_a_deleted_app() {
    let fixture = StoreFixture::new().await;
    let gone = app(&fixture.store, "gone").await;
    save(&fixture, "kept").await;
    let before = rows(&fixture);
    // The same commands succeed, or have their own refusal, while the app exists.
    for (name, attempt) in commands(&fixture, gone, 0) {
        attempt.await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let operation = OperationId(fixture.store.ids().draw(at(50)));
    let delete = DeleteApp { app: gone, owner: fixture.app, operation, total: 0, now: at(50) };
    // Some in the transaction of the deletion, some between the steps of the erasure, and some after it.
    let (_, deleted) = tokio::join!(
        futures_util::future::join_all(commands(&fixture, gone, 1).into_iter().map(|(_, attempt)| attempt)),
        fixture.store.delete_app(delete),
    );
    assert!(deleted.expect("taken"));
    let mut n = 2;
    loop {
        for (name, attempt) in commands(&fixture, gone, n) {
            let refused = attempt.await;
            assert!(matches!(refused, Err(StoreError::AppDeleted)), "{name}: {refused:?}");
        }
        n += 1;
        let Some(running) = fixture.store.next_operation(&mut OperationTurns::default()).await.expect("read")
        else {
            break;
        };
        step(&fixture, &running, 5).await;
    }
    assert!(n > 3, "the erasure has several steps");
    assert!(fixture.store.app(gone).is_none());
    assert!(!fixture.store.delete_app(delete).await.expect("taken"));
    let mut expected = before;
    for (table, count) in &mut expected {
        match *table {
            "apps" => *count -= 1,
            // That of the deletion, which belongs to the first app.
            "operations" => *count += 1,
            _ => {}
        }
    }
    assert_eq!(rows(&fixture), expected);
    // What a late request writes must not belong to another app.
    assert!(app(&fixture.store, "next").await > gone);
    fixture.register(fixture.watch("job_1")).await;
}

crate::postgres::on_postgres_too! {
    no_command_inserts_a_row_of_a_deleted_app,
}
