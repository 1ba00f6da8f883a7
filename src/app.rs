//! Wiring of the components. This is the only module that runs loops.
//!
//! [`App::build`] creates every component from the configuration and its environment (clock, resolver, trusted
//! certificate authorities). [`App::run`] drives them until a shutdown. The tests run the same object in another
//! environment.
//!
//! **Start.** The listeners are served from the bind on, with 503 for almost all requests, until the database is open
//! and the schedules are loaded ([`listener`]). Both can take minutes, and a stop ends either wait. The database is
//! opened on a thread of its own, which the process does not wait for: the end of the process interrupts a migration or
//! a rewrite as a crash does. Each of them is a transaction, so the next start finds the database as it was, or done.
//!
//! **Shutdown.** The app answers waiting requests, accepts no more connections, and starts no more polls and attempts.
//! It waits for the work in progress, for at most `shutdown_grace`, and closes the database. Work that is interrupted
//! then is in the same state as after a crash; the next start continues it.

mod background;
mod descriptors;
mod destinations;
mod group_timer;
mod instances;
mod listener;
mod operations;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::api::{self, Api, ConcurrencyLimiter, Front, InProgressKeys, ProviderAccess};
use crate::channels::templates::Templates;
use crate::channels::webhook::Secret;
use crate::channels::{AttemptResult, Channels, Services, load_templates};
use crate::clock::Clock;
use crate::clock::trust::ClockTrust;
use crate::config::{Config, ConfigError, Database, Environment, ProviderConfig};
use crate::dispatcher::Dispatcher;
use crate::domain::{
    Activity, AppNo, INLINE, Limits, Masked, PendingDelivery, PollPolicy, ProviderState, Timestamp,
    credential_variable, draw_private_key,
};
use crate::egress::{Allowed, Egress, Proxy, Resolver, Settings, SocketLimits};
use crate::poller::Poller;
pub use crate::poller::{Provider, Purpose};
use crate::providers::{Definition, InlinePoll, InvalidDefinition, Providers, load_providers};
use crate::store::{
    BootstrapTenant, DatabaseLocation, Keyring, Store, StoreError, StoreOptions, WRITE_RETRY_PAUSE, Writer,
};
use crate::telemetry::metrics::Load;
use crate::telemetry::traces::Exporter;
use crate::tenants::{DEFAULT_APP, draw_key, hash_key};
use crate::tls;
use background::{Background, Never, write_key_uses};
use descriptors::DescriptorShares;
use group_timer::GroupTimer;
use listener::Listener;

/// Dependencies of the app on the system.
pub struct HostEnvironment {
    /// Clock.
    pub clock: Clock,
    /// DNS resolver.
    pub resolver: Resolver,
    /// Certificate authorities that are trusted in addition to those of the system.
    pub roots: Vec<CertificateDer<'static>>,
    /// Maximum number of open files.
    pub descriptors: u64,
    /// Whether what the first start prints is lost.
    pub discards_output: bool,
}

impl HostEnvironment {
    /// Returns the clock, the resolver and the certificate authorities of the system, and raises the limit of open
    /// files.
    pub fn system() -> Result<Self> {
        let env = Environment::of_process();
        let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| env.raw(name).map(OsStr::new));
        tls::check_named(named[0], named[1])?;
        tls::watch_named(named[0], named[1]);
        let (clock, resolver, roots) = (Clock::System, Resolver::system(), Vec::new());
        let descriptors = descriptors::raise_limit();
        Ok(Self { clock, resolver, roots, descriptors, discards_output: false })
    }
}

/// Secrets that the first start made, to be shown once.
#[derive(Clone)]
pub struct FirstStart {
    /// Admin key; `None` if one is configured or exists.
    pub admin_key: Option<String>,
    /// Signing secret of app `default`; `None` if one is configured or exists.
    pub signing_secret: Option<String>,
}

/// The service.
#[derive(Debug)]
pub struct App {
    listener: Listener,
    metrics: Option<Listener>,
    exporter: Option<Exporter>,
    api: Arc<Api>,
    poller: Arc<Poller>,
    polls_ended: mpsc::Receiver<()>,
    dispatcher: Arc<Dispatcher>,
    attempts_ended: mpsc::Receiver<()>,
    store: Store,
    writer: Writer,
    draining: watch::Sender<bool>,
    /// Whether the poller and the dispatcher have loaded their work from the store.
    loaded: Arc<AtomicBool>,
    clock_trust: ClockTrust,
    background: Arc<Background>,
    groups: Arc<GroupTimer>,
    /// Secrets that this start made.
    pub first_start: FirstStart,
    config: Config,
}

impl App {
    /// Creates every component, serves the ports and opens the database. Nothing is loaded yet.
    pub async fn build(config: Config, environment: HostEnvironment) -> Result<Self> {
        let built = Self::build_until(config, environment, std::future::pending()).await?;
        built.context("the start was interrupted")
    }

    /// Does the same, unless `stop` returns before the database is open. What follows is not interrupted: the first start
    /// stores a key that it must return.
    pub async fn build_until(
        config: Config,
        environment: HostEnvironment,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Self>> {
        let (ConfiguredProviders { definitions, providers, invalid, inline }, templates) =
            load(&config).map_err(|errors| anyhow!(errors.join("\n")))?;
        let egress = egress(&config, &environment)?;
        let shares = DescriptorShares::of(environment.descriptors);
        let clock = environment.clock;
        let services = Services { egress: Arc::clone(&egress), clock: clock.clone(), templates };
        let channels = Arc::new(Channels::new(services, &config.channels));
        let (draining, _) = watch::channel(false);
        let connections_max = api::CONNECTIONS_MAX.min(shares.connections);
        let places = Arc::new(Semaphore::new(connections_max));
        let memory = api::MemoryBudget::new(api::MEMORY_MAX);
        let front = Front { clock: clock.clone(), memory, places };
        let (listener, metrics) = listeners(&config, &front, &draining).await?;
        let opened = tokio::select! {
            biased;
            opened = open_aside(config.clone(), clock.now()) => opened,
            () = stop => return Ok(None),
        };
        let (store, writer) = opened?;
        let exporter = exporter(&config, &store, &egress, &clock)?;
        let discards_output = environment.discards_output;
        let (operator, first_start) = bootstrap(&store, &config, clock.now(), discards_output).await?;
        destinations::apply(&store, &config.destinations, (&channels, &egress), &clock).await?;

        log_invalid(&invalid);
        warn_without_credentials(&providers);
        let access = providers.iter().map(|provider| provider_access(&config, provider)).collect();
        let with_cancel = providers.iter().filter(|provider| provider.allow_cancel);
        let with_cancel = with_cancel.map(|provider| provider.definition.id.clone()).collect();
        let (poller, polls_ended) =
            Poller::new(store.clone(), Arc::clone(&egress), clock.clone(), providers, inline);
        let mut delivery = config.delivery.clone();
        delivery.concurrency = delivery.concurrency.min(shares.attempts);
        let (dispatcher, attempts_ended) =
            Dispatcher::new(store.clone(), Arc::clone(&channels), clock.clone(), delivery);
        let (poll_stats, provider_states) = (Arc::clone(&poller), Arc::clone(&poller));
        let load = load_of(&poller, &dispatcher);
        let clock_trust = ClockTrust::at_start(clock.now(), clock.moment());
        let background = Arc::new(Background::new(clock.clone()));
        let groups = Arc::new(GroupTimer::new(clock.clone(), &store));
        let api = Arc::new(Api {
            // A database does not follow a clock that a test moves.
            store: store.for_requests(Clock::System),
            egress,
            channels,
            clock,
            providers: definitions,
            with_cancel,
            access,
            own_definitions: api::OwnDefinitions::new(poller.own_work()),
            inline,
            bootstrap: config.api_key.as_ref().map(|key| hash_key(key.reveal())),
            operator,
            poll_stats: Box::new(move |job| poll_stats.stats(job)),
            provider_states: Box::new(move |app| {
                let mut states = provider_states.providers(app);
                states.extend(invalid.iter().map(|one| ProviderState::invalid(&one.id, &one.mistakes)));
                // The providers that can be polled come first.
                states.sort_by(|one, other| (!one.configured, &one.id).cmp(&(!other.configured, &other.id)));
                states
            }),
            delivery_waits: delivery_waits(&dispatcher),
            draining: draining.subscribe(),
            in_progress: InProgressKeys::default(),
            waits: ConcurrencyLimiter::new(api::WAITS_MAX.min(connections_max * 7 / 16)),
            connections: front.places,
            connections_max,
            load: Box::new(load),
            with_metrics: metrics.is_none(),
            batches: api::Batches::default(),
            memory: front.memory,
            wrong_keys: api::WrongKeys::default(),
            send_test: send_test(&dispatcher),
            tests: ConcurrencyLimiter::new(api::TESTS_MAX.min(shares.attempts)),
            send_rates: api::SendRates::default(),
            streams: ConcurrencyLimiter::new(api::STREAMS_MAX.min(connections_max * 7 / 32)),
        });
        Ok(Some(Self {
            listener,
            metrics,
            exporter,
            api,
            poller,
            polls_ended,
            dispatcher,
            attempts_ended,
            store,
            writer,
            draining,
            loaded: Arc::default(),
            clock_trust,
            background,
            groups,
            first_start,
            config,
        }))
    }

    /// Returns the address of the API.
    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }

    /// Returns the separate address of the metrics, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|metrics| metrics.address)
    }

    /// Returns a function that reports the work in progress and the time of the next work. Callers that move a manual
    /// clock must not move it while work is in progress.
    pub fn activity(&self) -> impl Fn() -> Activity + Send + Sync + use<> {
        // Weak references: the shutdown waits until the components are dropped.
        let (poller, dispatcher) = (Arc::downgrade(&self.poller), Arc::downgrade(&self.dispatcher));
        let (loaded, clock) = (Arc::clone(&self.loaded), self.api.clock.clone());
        let (background, groups) = (Arc::clone(&self.background), Arc::clone(&self.groups));
        let operations = self.store.operations_due();
        move || {
            if !loaded.load(Ordering::Acquire) {
                return Activity { in_progress: 1, next_at: Some(clock.now()), in_background: 0 };
            }
            // In this order: an operation can cause polls to end and deliveries to be sent, a poll can cause a delivery, and
            // a delivery causes neither.
            let working = usize::from(operations.is_due());
            let polling = poller.upgrade().map(|poller| poller.activity()).unwrap_or_default();
            let sending = dispatcher.upgrade().map(|dispatcher| dispatcher.activity()).unwrap_or_default();
            let next_at = polling.next_at.into_iter().chain(sending.next_at).chain(groups.next_at()).min();
            let in_progress = polling.in_progress + sending.in_progress + working;
            Activity { in_progress, next_at, in_background: background.count_due() }
        }
    }

    /// Loads the schedules. The listeners then serve everything. If this needs a table that is missing, it waits for the
    /// table.
    pub async fn load(&mut self) -> Result<()> {
        if self.loaded.load(Ordering::Acquire) {
            return Ok(());
        }
        // Says what is missing. Other failures show themselves in what follows.
        let _ = self.store.check_reads().await;
        if let Err(error) = self.store.warn_of_missing_indexes().await {
            tracing::debug!(%error, "the indexes of the database cannot be examined");
        }
        let mut noted = None;
        while let Err(error) = self.load_schedules(&mut noted).await {
            if !matches!(error.downcast_ref(), Some(StoreError::Schema(_))) {
                return Err(error);
            }
            self.api.clock.sleep(WRITE_RETRY_PAUSE).await;
            let _ = self.store.check_reads().await;
        }
        self.loaded.store(true, Ordering::Release);
        api::open(&self.listener.site, &self.api);
        if let Some(metrics) = &self.metrics {
            api::open_metrics(&metrics.site, &self.api);
        }
        tracing::info!(jobs = self.poller.load_now().jobs, "ready");
        Ok(())
    }

    /// Loads the schedules. `noted`: the time of the last run, once it is read.
    async fn load_schedules(&mut self, noted: &mut Option<Timestamp>) -> Result<()> {
        // Before the dispatcher notes the time of this start.
        if noted.is_none() {
            let at = self.api.store.running_at().await.context("the last run cannot be read")?;
            let (now, moment) = self.api.clock.reading();
            self.clock_trust = ClockTrust::at_start(*noted.insert(at.unwrap_or(now)), moment);
        }
        self.poller.load().await.context("the jobs cannot be loaded")?;
        self.dispatcher.load().await.context("the pending deliveries cannot be loaded")?;
        // Those that an earlier process has begun.
        self.store.operations_due().request();
        self.groups.load(&self.store).await.context("the open groups cannot be loaded")
    }

    /// Loads the schedules, and polls, delivers and serves until `stop` returns.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = pin!(stop);
        let is_stopped = tokio::select! {
            biased;
            () = &mut stop => true,
            loaded = self.load() => loaded.map(|()| false)?,
        };
        let Self { listener, metrics, api, poller, dispatcher, store, writer, .. } = self;
        let Self { draining, config, background, groups, .. } = self;
        let (mut polls_ended, mut attempts_ended) = (self.polls_ended, self.attempts_ended);
        let (clock, grace) = (api.clock.clone(), config.shutdown_grace);
        let (no_more_spans, closing) = watch::channel(false);
        let exporting = self.exporter.map(|exporter| tokio::spawn(exporter.run(closing)));
        let mut server = listener.server;
        let scraped = metrics.map(|metrics| metrics.server);
        // Each holds the store.
        drop((api, listener.site));
        if !is_stopped {
            // Tasks of their own: a message to one of them does not check all the others.
            let mut loops = JoinSet::new();
            loops.spawn(run_poller(Arc::clone(&poller), clock.clone()));
            loops.spawn(run_dispatcher(Arc::clone(&dispatcher), clock.clone()));
            loops.spawn(operations::run(store.clone(), clock.clone()));
            tokio::select! {
                () = stop => {}
                // A process without one of its parts must not stay.
                ended = &mut server => return Err(anyhow!("the API ended, which is a bug: {ended:?}")),
                Some(Err(ended)) = loops.join_next() => {
                    return Err(anyhow!("the poller, the dispatcher or the operations ended, which is a bug: {ended:?}"));
                }
                never = background.prune(&store, &config, self.clock_trust) => match never {},
                never = groups.run(&store) => match never {},
                never = background.write_key_uses(&store) => match never {},
                never = background.watch_files(&store) => match never {},
                never = background.watch_answers(&store) => match never {},
                never = background.note_running(&dispatcher) => match never {},
                never = watch_clock(&clock, &poller, &dispatcher) => match never {},
            }
            loops.shutdown().await;
        }
        // Nothing can be written, so there is no work to finish.
        // To copy a large database can take longer than the grace. A second signal ends the wait.
        store.save_files_at_stop().await;
        tracing::info!("stopping: finishing the work in progress");
        draining.send_replace(true);
        dispatcher.stop();
        // Each ends when its last task has dropped it.
        drop((poller, dispatcher));
        let stopping = clock.stopwatch();
        let drained = clock.timeout(grace, async move {
            for server in [Some(server), scraped].into_iter().flatten() {
                let _ = server.await;
            }
            let _ = polls_ended.recv().await;
            let _ = attempts_ended.recv().await;
            // After the last request.
            write_key_uses(&store).await;
        });
        if drained.await.is_none() {
            tracing::warn!(
                "the shutdown grace has passed: work in progress is interrupted, and the next start continues it"
            );
            return Ok(());
        }
        let closing = tokio::task::spawn_blocking(|| writer.join());
        let left = grace.saturating_sub(stopping.elapsed());
        let Some(closed) = clock.timeout(left, closing).await else {
            tracing::warn!("the shutdown grace has passed: the database does not answer and was not closed");
            return Ok(());
        };
        closed.context("the database was not closed cleanly")?;
        no_more_spans.send_replace(true);
        if let Some(exporting) = exporting {
            clock.timeout(grace.saturating_sub(stopping.elapsed()), exporting).await;
        }
        Ok(())
    }
}

/// Serves the ports.
async fn listeners(
    config: &Config,
    front: &Front,
    draining: &watch::Sender<bool>,
) -> Result<(Listener, Option<Listener>)> {
    let (site, front) = (api::starting(true), front.clone());
    let listener =
        Listener::start("listen", config.listen, site, front.clone(), draining.subscribe()).await?;
    let Some(address) = config.metrics_listen else { return Ok((listener, None)) };
    let front = Front { places: Arc::new(Semaphore::new(api::METRICS_CONNECTIONS_MAX)), ..front };
    let site = api::starting(false);
    let metrics = Listener::start("metrics_listen", address, site, front, draining.subscribe()).await?;
    Ok((listener, Some(metrics)))
}

/// Opens the database on a thread, so that the caller can stop to wait.
async fn open_aside(config: Config, now: Timestamp) -> Result<(Store, Writer)> {
    let opened = tokio::task::spawn_blocking(move || open_store(&config, now)).await;
    opened.context("opening the database panicked")?
}

async fn run_poller(poller: Arc<Poller>, clock: Clock) -> Never {
    loop {
        let next = poller.step();
        wait(&clock, next, poller.changed()).await;
    }
}

async fn run_dispatcher(dispatcher: Arc<Dispatcher>, clock: Clock) -> Never {
    loop {
        dispatcher.prepare().await;
        let next = dispatcher.step();
        wait(&clock, next, dispatcher.changed()).await;
        // The commit of a batch lets many attempts end at once. One step serves all of them.
        tokio::task::yield_now().await;
    }
}

/// Wakes the loops after the clock was set back, because they sleep until a time of the old clock.
async fn watch_clock(clock: &Clock, poller: &Poller, dispatcher: &Dispatcher) -> Never {
    loop {
        clock.set_back().await;
        poller.wake();
        dispatcher.wake();
    }
}

/// Returns at the time of the next step, or when `changed` returns.
async fn wait(clock: &Clock, next: Option<Timestamp>, changed: impl Future<Output = ()>) {
    tokio::select! {
        () = changed => {}
        () = clock.sleep_until(next.unwrap_or_default()), if next.is_some() => {}
    }
}

/// Returns the exporter of traces if a collector is configured, and gives its tracer to the store.
fn exporter(config: &Config, store: &Store, egress: &Arc<Egress>, clock: &Clock) -> Result<Option<Exporter>> {
    let Some(endpoint) = &config.telemetry.otlp_endpoint else { return Ok(None) };
    let (egress, metrics) = (Arc::clone(egress), Arc::clone(store.metrics()));
    let exporter = Exporter::new(endpoint, &config.telemetry, egress, clock.clone(), metrics);
    let (tracer, exporter) = exporter.context("[telemetry] otlp_endpoint")?;
    store.trace_with(tracer);
    Ok(Some(exporter))
}

/// Opens the configured database and locks it for this process.
pub fn open_store(config: &Config, now: Timestamp) -> Result<(Store, Writer)> {
    let location = match &config.database {
        Database::Sqlite(path) => DatabaseLocation::File(path.clone()),
        Database::Postgres(url) => DatabaseLocation::Server(url.clone()),
    };
    let keyring = Keyring::new(config.encryption_keys.iter().map(|key| &key.0));
    Store::open(StoreOptions { location, keyring, public_url: config.public_url.clone(), now })
}

/// Returns a function that returns the current load of the poller and the dispatcher.
fn load_of(poller: &Arc<Poller>, dispatcher: &Arc<Dispatcher>) -> impl Fn() -> Load + Send + Sync + 'static {
    // Weak references: the shutdown waits until the components are dropped.
    let (polls, sends) = (Arc::downgrade(poller), Arc::downgrade(dispatcher));
    move || {
        let polling = polls.upgrade().map(|poller| poller.load_now()).unwrap_or_default();
        let sending = sends.upgrade().map(|dispatcher| dispatcher.load_now()).unwrap_or_default();
        Load { loaded: sending.loaded, in_flight: sending.in_flight, down: sending.down, ..polling }
    }
}

/// Returns the function of the API that explains why deliveries wait.
fn delivery_waits(dispatcher: &Arc<Dispatcher>) -> api::DeliveryWaits {
    // A weak reference: the shutdown waits until the component is dropped.
    let dispatcher = Arc::downgrade(dispatcher);
    Box::new(move |deliveries| {
        let waits = dispatcher.upgrade().map(|dispatcher| dispatcher.waits(deliveries));
        waits.unwrap_or_else(|| vec![None; deliveries.len()])
    })
}

/// Returns the function of the API that sends a test.
fn send_test(
    dispatcher: &Arc<Dispatcher>,
) -> Box<dyn Fn(PendingDelivery) -> BoxFuture<'static, Option<AttemptResult>> + Send + Sync> {
    // A weak reference: the shutdown waits until the component is dropped.
    let dispatcher = Arc::downgrade(dispatcher);
    Box::new(move |delivery| {
        let dispatcher = dispatcher.upgrade();
        Box::pin(async move { dispatcher?.send_test(&delivery).await })
    })
}

/// The providers with their effective settings.
struct ConfiguredProviders {
    definitions: Providers,
    providers: Vec<Provider>,
    invalid: Vec<InvalidDefinition>,
    /// Settings of jobs without a definition.
    inline: (PollPolicy, Limits),
}

/// Loads definitions and templates, built-in ones and those of the configured folders. Returns every error.
fn load(config: &Config) -> Result<(ConfiguredProviders, Templates), Vec<String>> {
    match (configured_providers(config), configured_templates(config)) {
        (Ok(providers), Ok(templates)) => Ok((providers, templates)),
        (providers, templates) => {
            Err([providers.err(), templates.err()].into_iter().flatten().flatten().collect())
        }
    }
}

/// Returns every error in the files that the configuration names. A definition with mistakes disables only its provider, so
/// its mistakes do not refuse a start.
pub fn configuration_errors(config: &Config, is_start: bool) -> Vec<String> {
    let mut errors = match configured_providers(config) {
        Ok(_) if is_start => Vec::new(),
        Ok(loaded) => loaded.invalid.into_iter().flat_map(|one| one.mistakes).collect(),
        Err(errors) => errors,
    };
    errors.extend(configured_templates(config).err().unwrap_or_default());
    errors
}

fn configured_templates(config: &Config) -> Result<Templates, Vec<String>> {
    let located = |errors: Vec<String>| errors.into_iter().map(|error| config.located(error)).collect();
    load_templates(config.templates_path.as_deref()).map_err(located)
}

/// Returns every error in the destinations of the configuration file, as a start finds them, except whether their apps
/// exist.
pub async fn destination_errors(config: &Config, environment: HostEnvironment) -> Result<Vec<ConfigError>> {
    // They render nothing.
    let templates = load_templates(None).map_err(|errors| anyhow!(errors.join("\n")))?;
    let egress = egress(config, &environment)?;
    let clock = environment.clock;
    let services = Services { egress: Arc::clone(&egress), clock: clock.clone(), templates };
    let channels = Channels::new(services, &config.channels);
    Ok(destinations::errors(&config.destinations, (&channels, &egress), &clock).await)
}

/// Returns the providers with their effective settings. A definition with mistakes is an error.
pub fn providers(config: &Config) -> Result<Vec<Provider>> {
    let loaded = configured_providers(config).map_err(|errors| anyhow!(errors.join("\n")))?;
    let mistakes: Vec<String> = loaded.invalid.into_iter().flat_map(|one| one.mistakes).collect();
    if mistakes.is_empty() { Ok(loaded.providers) } else { Err(anyhow!(mistakes.join("\n"))) }
}

/// Returns the provider of a definition that is not configured, with the settings of the section of its id but the key.
pub fn provider_of(config: &Config, definition: Definition) -> Result<Provider> {
    let own = config.providers.get(&definition.id).cloned().unwrap_or_default();
    let own = ProviderConfig { api_key: None, ..own };
    let id = definition.id.clone();
    provider(&mut Arc::new(definition), own).map_err(|wrong| {
        let lines = wrong.iter().map(|(_, error)| format!("[providers.{id}] {error}"));
        anyhow!(lines.collect::<Vec<_>>().join("\n"))
    })
}

/// Returns the definitions and the providers with their effective settings. A section of an unknown provider is an
/// error.
fn configured_providers(config: &Config) -> Result<ConfiguredProviders, Vec<String>> {
    let loaded = load_providers(config.providers_path.as_deref());
    let all_read = loaded.errors.is_empty();
    let (mut definitions, mut invalid) = (loaded.valid, loaded.invalid);
    let mut errors: Vec<_> = loaded.errors.into_iter().map(|error| config.located(error)).collect();
    let wrong_instances = instances::add(config, &mut definitions, &mut invalid, all_read);
    errors.splice(0..0, wrong_instances.iter().map(ToString::to_string));
    let invalid_ids = invalid.iter().map(|one| one.id.as_str());
    let named =
        config.providers.iter().filter(|(_, own)| own.definition.is_some()).map(|(id, _)| id.as_str());
    let known = definitions.keys().map(String::as_str).chain(invalid_ids).chain(named).chain([INLINE]);
    let known: Vec<&str> = known.collect();
    let unknown = config.check_providers(&known, all_read);
    errors.splice(0..0, unknown.iter().map(ToString::to_string));
    let mut providers = Vec::new();
    for definition in definitions.values_mut() {
        let own = config.providers.get(&definition.id).cloned().unwrap_or_default();
        match provider(definition, own) {
            Ok(provider) => providers.push(provider),
            Err(wrong) => errors.extend(wrong.iter().map(|(key, error)| {
                let source = config.source(&format!("providers.{}.{key}", definition.id));
                format!("{source}: [providers.{}] {error}", definition.id)
            })),
        }
    }
    let inline = inline_settings(config, &mut errors);
    if errors.is_empty() {
        return Ok(ConfiguredProviders { definitions, providers, invalid, inline });
    }
    errors.extend(invalid.into_iter().flat_map(|one| one.mistakes));
    Err(errors)
}

/// Returns the settings of jobs without a definition, `[providers.inline]`, and adds the errors in them.
fn inline_settings(config: &Config, errors: &mut Vec<String>) -> (PollPolicy, Limits) {
    let own = config.providers.get(INLINE).cloned().unwrap_or_default();
    let mut wrong: Vec<(&str, &str)> = Vec::new();
    let settings = [
        ("api_key", own.api_key.is_some()),
        ("base_url", own.base_url.is_some()),
        ("hosts", own.hosts.is_some()),
        ("definition", own.definition.is_some()),
        ("token_url", own.token_url.is_some()),
        ("allow_cancel", own.allow_cancel.is_some()),
        ("shared", own.shared.is_some()),
    ];
    let why = "has no meaning for jobs without a definition, which use the address and the credential of the client; \
               remove it";
    wrong.extend(settings.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| (*key, why)));
    let (mut policy, mut limits) = (InlinePoll::POLICY, InlinePoll::LIMITS);
    if let Err(error) = replace_settings(&own, &mut policy, &mut limits) {
        wrong.push((error, MIN_ABOVE_MAX));
    }
    errors.extend(wrong.iter().map(|(key, why)| {
        let source = config.source(&format!("providers.{INLINE}.{key}"));
        format!("{source}: [providers.{INLINE}] {key}: {why}")
    }));
    (policy, limits)
}

const MIN_ABOVE_MAX: &str = "min_interval is greater than max_interval; lower it or raise max_interval";

/// Replaces the settings that the operator has set. The error is the key with a mistake.
fn replace_settings(
    own: &ProviderConfig,
    policy: &mut PollPolicy,
    limits: &mut Limits,
) -> Result<(), &'static str> {
    policy.first = own.first.unwrap_or(policy.first);
    policy.min_interval = own.min_interval.unwrap_or(policy.min_interval);
    policy.max_interval = own.max_interval.unwrap_or(policy.max_interval);
    limits.rate = own.rate.unwrap_or(limits.rate);
    limits.burst = own.burst.unwrap_or(limits.burst);
    limits.concurrency = own.concurrency.unwrap_or(limits.concurrency);
    if policy.min_interval > policy.max_interval {
        return Err(if own.min_interval.is_some() { "min_interval" } else { "max_interval" });
    }
    Ok(())
}

/// Logs the providers that are disabled.
fn log_invalid(invalid: &[InvalidDefinition]) {
    for InvalidDefinition { id: provider, mistakes } in invalid {
        let error = mistakes.join("; ");
        tracing::error!(
            provider,
            error,
            "the definition has mistakes: the provider is disabled; run `ringback provider check`"
        );
    }
}

/// Returns the client for outgoing requests.
pub fn egress(config: &Config, environment: &HostEnvironment) -> Result<Arc<Egress>> {
    let HostEnvironment { clock, resolver, roots, descriptors, discards_output: _ } = environment;
    let DescriptorShares { unused, lookups, .. } = DescriptorShares::of(*descriptors);
    let limits = SocketLimits::default().lowered_to(SocketLimits { unused, lookups });
    let allow = config.egress.allow.iter().map(|text| Allowed::parse(text));
    let allow = allow.collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    let proxy = config.egress.proxy.as_ref().map(|proxy| Proxy::parse(proxy.reveal()));
    let proxy = proxy.transpose().map_err(anyhow::Error::msg)?;
    let settings = Settings { allow, allow_http: config.egress.allow_http, proxy, limits };
    Egress::new(settings, resolver.clone(), clock.clone(), roots.clone())
}

/// Returns a provider with its effective settings, or the key and the error of each wrong one.
fn provider(
    definition: &mut Arc<Definition>,
    own: ProviderConfig,
) -> Result<Provider, Vec<(&'static str, String)>> {
    let mut errors = Vec::new();
    let base_url = own.base_url.as_deref().map(|base| definition.check_base_url(base)).transpose();
    let base_url = base_url.map_err(|error| errors.push(("base_url", format!("base_url: {error}")))).ok();
    if own.hosts.is_some() || own.base_url.is_some() {
        let hosts = own.hosts.as_deref().unwrap_or_default();
        let changed = Arc::make_mut(definition);
        let set = changed.set_operator_hosts(hosts, own.base_url.is_some());
        if let Err(error) = set.and_then(|()| changed.check_operator_hosts()) {
            errors.push(("hosts", format!("hosts: {error}")));
        }
    }
    if let Some(Err(error)) = own.token_url.as_ref().map(|url| Arc::make_mut(definition).set_token_url(url)) {
        errors.push(("token_url", format!("token_url: {error}")));
    }
    if own.shared == Some(false) && !definition.needs_credential() {
        let why = "shared: the provider needs no credential, so there is none to keep from apps; remove it";
        errors.push(("shared", why.to_owned()));
    }
    if let Some(Err(error)) = own.api_key.as_ref().map(|key| definition.check_credential(key.reveal())) {
        errors.push(("api_key", format!("api_key: {error}")));
    }
    let (mut policy, mut limits) = (definition.poll, definition.limits);
    if let Err(key) = replace_settings(&own, &mut policy, &mut limits) {
        errors.push((key, MIN_ABOVE_MAX.to_owned()));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let (definition, base_url) = (Arc::clone(definition), base_url.flatten());
    let mut provider = Provider::new(definition, own.api_key, base_url, policy, limits);
    provider.allow_cancel = own.allow_cancel.unwrap_or(false) && own.shared.unwrap_or(true);
    Ok(provider)
}

/// Returns the id of a provider, and what the settings say about its use by registrations.
fn provider_access(config: &Config, provider: &Provider) -> (String, ProviderAccess) {
    let id = provider.definition.id.clone();
    let is_shared = config.providers.get(&id).and_then(|own| own.shared).unwrap_or(true);
    let (has_key, base_url) = (provider.credential.is_some(), provider.base_url.clone());
    (id, ProviderAccess { has_key, is_shared, base_url })
}

/// Number of variables that a warning lists.
const VARIABLES_SHOWN: usize = 5;

/// Warns if no provider can be polled: a watch would be accepted and never end.
fn warn_without_credentials(providers: &[Provider]) {
    if providers.iter().any(|p| p.credential.is_some() || !p.definition.needs_credential()) {
        return;
    }
    // The first provider, and then in alphabetical order: a line with all of them would be too long to read.
    let mut variables: Vec<String> =
        providers.iter().map(|p| credential_variable(&p.definition.id)).collect();
    variables.sort_by_key(|variable| *variable != credential_variable("muvi"));
    let count = variables.len();
    variables.truncate(VARIABLES_SHOWN);
    let variables = variables.join(", ");
    tracing::warn!(
        variables,
        count,
        "no provider has an API key, so no job can be polled: set a variable such as one of these; `ringback provider \
         list` shows all providers"
    );
}

/// Creates the default app, its signing secret and the admin key, unless they exist or are configured.
async fn bootstrap(
    store: &Store,
    config: &Config,
    now: Timestamp,
    discards_output: bool,
) -> Result<(AppNo, FirstStart)> {
    // Before the key is stored: the next start would not make another one.
    if discards_output && config.api_key.is_none() && !store.has_keys() {
        bail!(
            "this first start makes an admin key and prints it once, but stdout is closed or the null device; set \
             RINGBACK_API_KEY to a key of your own, or keep stdout"
        );
    }
    let new_key = config.api_key.is_none().then(draw_key);
    let result = store
        .bootstrap(BootstrapTenant {
            name: DEFAULT_APP.to_owned(),
            signing_secret: Masked::new(Secret::generate().expose()),
            private_key: draw_private_key(),
            key_hash: new_key.as_ref().map(|key| hash_key(key.reveal())),
            now,
        })
        .await?;
    if let Some(secret) = &config.signing_secret {
        store.override_signing_secret(result.app.no, secret.clone());
    }
    let shown = result.new_app && config.signing_secret.is_none();
    let first_start = FirstStart {
        admin_key: new_key.filter(|_| result.new_key).map(|key| key.reveal().to_owned()),
        signing_secret: shown.then(|| result.app.signing_secret.reveal().to_owned()),
    };
    Ok((result.app.no, first_start))
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirstStart")
    }
}
