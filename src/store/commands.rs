//! The generator of the command set.
//!
//! `commands!` takes the declaration of each command, as `kind method of app: Request => Answer, function;`. It
//! generates the enum `Command`, the dispatch to the functions, and the methods of `Store`. The declarations
//! are in `src/store.rs`. Their order is the order in which the kinds of a batch are applied. `each(function)` applies
//! a function to one request at a time.
//!
//! - `write`: the command may change rows. `function` takes all requests of a batch and returns their answers.
//! - `read`: the command changes nothing, and runs on the writer because it must not see an older snapshot
//!   than the last commit.
//! - `idempotent`: a write whose request may carry an idempotency key. `=> T | R` declares its result and its
//!   refusal. `function` returns a `Result<T, R>` for each request, and knows nothing of the key:
//!   `idempotency::apply` replays the stored response or stores a new one.
//!
//! **A deleted app gets no new row.** A request can be in progress while its app is deleted, and its command can be
//! applied after the erasure has finished: nothing would delete its rows. `of` therefore names the app of each command:
//! a field of the request, or `none` for a command that inserts no row of an app that can be deleted meanwhile. The
//! writer refuses a command whose app, or the app of whose idempotency key, is deleted, with
//! [`StoreError::AppDeleted`](crate::store::StoreError::AppDeleted). It reads the apps in memory, which only its own
//! commits change, so it decides in the transaction of the command. What is inserted in the transaction of the deletion
//! itself is erased: the erasure begins in a later one.

/// The request of a command as the queue carries it.
macro_rules! request {
    (idempotent $request:ty, $answer:ty $(, $refusal:ty)?) => {
        $crate::store::idempotency::Idempotent<$request, $answer>
    };
    ($kind:ident $request:ty, $answer:ty) => { $request };
}

/// The answer of a command as the queue carries it.
macro_rules! answer {
    (idempotent $answer:ty $(, $refusal:ty)?) => { $crate::store::idempotency::Replayable<$answer $(, $refusal)?> };
    ($kind:ident $answer:ty) => { $answer };
}

/// The app of a request.
macro_rules! app_of {
    (none, $request:expr) => {
        None
    };
    // A registration, or a saved destination.
    (inner, $request:expr) => {
        Some($request.0.app)
    };
    // All watches of a batch belong to one app.
    (watches, $request:expr) => {
        $request.0.first().map(|new| new.app)
    };
    ($field:ident, $request:expr) => {
        Some($request.$field)
    };
}

/// The apps that must exist when the command of a request is applied.
macro_rules! apps_of {
    (idempotent $app:ident, $request:expr) => {
        [app_of!($app, $request.command), $request.key.as_ref().map(|(key, _)| key.app)]
    };
    ($kind:ident $app:ident, $request:expr) => {
        [app_of!($app, $request)]
    };
}

macro_rules! apply {
    (idempotent $apply:expr, $batch:expr, $requests:expr) => {
        $crate::store::idempotency::apply($batch, $requests, $apply)?
    };
    ($kind:ident $apply:expr, $batch:expr, $requests:expr) => {
        $apply($batch, $requests)?
    };
}

macro_rules! commands {
    ($(
        $(#[$doc:meta])*
        $kind:ident $method:ident of $app:ident: $request:ident => $answer:ty $(| $refusal:ty)?, $apply:expr;
    )*) => {
        /// A command, boxed because the queue moves it several times.
        enum Command {
            $($request(Box<$crate::store::writer::Item<
                request!($kind $request, $answer $(, $refusal)?),
                answer!($kind $answer $(, $refusal)?),
            >>),)*
        }

        impl Store {
            $(
                $(#[$doc])*
                pub async fn $method(
                    &self,
                    request: impl Into<request!($kind $request, $answer $(, $refusal)?)>,
                ) -> $crate::store::db::Result<answer!($kind $answer $(, $refusal)?)> {
                    // A command stays queued after the timeout, and may still be applied.
                    let answer = $crate::store::writer::send(&self.queue, Command::$request, request.into());
                    self.in_time(answer, $crate::store::db::StoreError::Unknown).await
                }
            )*
        }

        impl $crate::store::writer::CommandSet for Command {
            fn only_reads(&self) -> bool {
                match self { $(Self::$request(_) => stringify!($kind) == "read",)* }
            }

            fn apply(
                batch: &mut $crate::store::batch::Batch<'_>,
                commands: &mut [Self],
            ) -> $crate::store::db::Result<()> {
                $({
                    let mut items: Vec<_> = commands
                        .iter_mut()
                        .filter_map(|command| match command { Self::$request(item) => Some(&mut **item), _ => None })
                        .filter_map(|item| {
                            let apps: &[Option<$crate::domain::AppNo>] = &apps_of!($kind $app, item.request);
                            item.is_refused = !batch.shared.are_live(apps.iter().copied().flatten());
                            (!item.is_refused).then_some(item)
                        })
                        .collect();
                    if !items.is_empty() {
                        let requests: Vec<_> = items.iter().map(|item| &item.request).collect();
                        let answers = apply!($kind $apply, batch, &requests);
                        $crate::store::operational_events::create(batch)?;
                        $crate::store::deliveries::create_deliveries(batch)?;
                        for (item, answer) in items.iter_mut().zip(answers) {
                            item.answer = Some(answer);
                        }
                    }
                })*
                $crate::store::groups::settle(batch)?;
                $crate::store::deliveries::create_deliveries(batch)?;
                $crate::store::operations::create_skips(batch)?;
                $crate::store::jobs::notify_poller(batch)?;
                $crate::store::events::append(batch)
            }

            fn settle(self, failure: Option<&$crate::store::db::StoreError>) {
                match self { $(Self::$request(item) => item.settle(failure),)* }
            }
        }
    };
}
