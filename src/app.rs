//! Wiring, and the only place where loops are driven.
//!
//! [`App::build`] makes every part from the configuration and its environment (the clock, the
//! resolver, the trusted authorities); [`App::run`] drives them until it is told to stop. The tests
//! run the same object, in other environment.
//!
//! **The end.** NotifyProgress to stop, the app answers waiting long polls, accepts no more connections and
//! starts no more looks and sends. It waits for what is in flight, as long as `shutdown_grace` allows,
//! and closes the database. What is cut off then is in the state in which a crash would have left it,
//! and the next start takes it up.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::api::{
    self, Api, BATCHES_MAX, CONNECTIONS_MAX, ConcurrencyLimiter, InProgressKeys, STREAMS_MAX, WAITS_MAX,
};
use crate::channels::templates::Templates;
use crate::channels::webhook::Secret;
use crate::channels::{Channels, Services, load_templates};
use crate::clock::Clock;
use crate::config::{Config, Database, EncryptionKey, ProviderConfig};
use crate::dispatcher::{DispatchPolicy, Dispatcher};
use crate::domain::{Activity, AppNo, Masked, RetryPolicy, Timestamp};
use crate::egress::{Allowed, Egress, Proxy, Resolver, Settings};
use crate::poller::Poller;
pub use crate::poller::Provider;
use crate::providers::{Definition, Providers};
use crate::store::{BootstrapTenant, DatabaseLocation, Keyring, Prune, Store, StoreOptions, Writer};
use crate::telemetry::metrics::Load;
use crate::telemetry::traces::{Collector, Exporter};
use crate::tenants::{DEFAULT_APP, draw_key, hash_key};

/// How often what is older than the retention is forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// How often it is written when keys were last used.
const USES_EVERY: Duration = Duration::from_secs(60);

/// What the app takes from outside itself.
pub struct HostEnvironment {
    /// Time.
    pub clock: Clock,
    /// Names.
    pub resolver: Resolver,
    /// Authorities to trust besides the machine's.
    pub roots: Vec<CertificateDer<'static>>,
}

impl HostEnvironment {
    /// The machine's.
    pub fn system() -> Result<Self> {
        Ok(Self { clock: Clock::System, resolver: Resolver::system()?, roots: Vec::new() })
    }
}

/// What was made on the first start, to be shown once.
#[derive(Clone)]
pub struct FirstStart {
    /// An admin key, where none is configured.
    pub admin_key: Option<String>,
    /// The app's signing secret, where none is configured.
    pub signing_secret: Option<String>,
}

/// The service.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    metrics: Option<TcpListener>,
    exporter: Option<Exporter>,
    api: Arc<Api>,
    poller: Arc<Poller>,
    polls_ended: mpsc::Receiver<()>,
    dispatcher: Arc<Dispatcher>,
    sends_ended: mpsc::Receiver<()>,
    store: Store,
    writer: Writer,
    clock: Clock,
    draining: watch::Sender<bool>,
    planned: Arc<AtomicBool>,
    first_start: FirstStart,
    retention: (Duration, Duration),
    grace: Duration,
}

impl App {
    /// Makes every part, opens the database and listens. Nothing runs yet.
    pub async fn build(config: Config, environment: HostEnvironment) -> Result<Self> {
        let Named { definitions, providers, templates } = named(&config).map_err(|wrong| lines(&wrong))?;
        let egress = egress(&config, &environment)?;
        let clock = environment.clock;
        let services = Services { egress: Arc::clone(&egress), clock: clock.clone(), templates };
        let channels = Arc::new(Channels::new(services, &config.channels));
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("{} cannot be listened on; is it taken?", config.listen))?;
        let metrics =
            match config.metrics_listen {
                None => None,
                Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
                    format!("metrics_listen {address} cannot be listened on; is it taken?")
                })?),
            };
        let (store, writer) = open_store(&config, clock.now())?;
        let exporter = exporter(&config, &store, &egress, &clock)?;
        let (operator, first_start) = found(&store, &config, clock.now()).await?;

        let with_credential: HashSet<String> = providers
            .iter()
            .filter(|provider| provider.credential.is_some())
            .map(|provider| provider.definition.id().to_owned())
            .collect();
        let (poller, polls_ended) = Poller::new(store.clone(), Arc::clone(&egress), clock.clone(), providers);
        let policy = DispatchPolicy {
            retries: RetryPolicy { schedule: config.delivery.retry_schedule.clone() },
            timeout: config.delivery.timeout,
            concurrency: config.delivery.concurrency,
            per_destination: config.delivery.per_destination,
        };
        let (dispatcher, sends_ended) =
            Dispatcher::new(store.clone(), Arc::clone(&channels), clock.clone(), policy);
        let (draining, is_draining) = watch::channel(false);
        let planned = Arc::new(AtomicBool::new(false));
        let (looks, states) = (Arc::clone(&poller), Arc::clone(&poller));
        let api = Arc::new(Api {
            store: store.clone(),
            egress,
            channels,
            clock: clock.clone(),
            providers: definitions,
            with_credential,
            bootstrap: config.api_key.as_ref().map(|key| hash_key(key.reveal())),
            operator,
            poll_stats: Box::new(move |job| looks.stats(job)),
            provider_states: Box::new(move || states.providers()),
            draining: is_draining,
            loaded: Arc::clone(&planned),
            in_progress: InProgressKeys::default(),
            waits: ConcurrencyLimiter::new(WAITS_MAX),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            load: load_of(&poller, &dispatcher),
            with_metrics: metrics.is_none(),
            batches: ConcurrencyLimiter::new(BATCHES_MAX),
            streams: ConcurrencyLimiter::new(STREAMS_MAX),
        });
        Ok(Self {
            listener,
            metrics,
            exporter,
            api,
            poller,
            polls_ended,
            dispatcher,
            sends_ended,
            store,
            writer,
            clock,
            draining,
            planned,
            first_start,
            retention: (config.retention.events, config.retention.watches),
            grace: config.shutdown_grace,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Where the metrics are, if not there.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// What was made on this start, and is shown once.
    pub fn first_start(&self) -> &FirstStart {
        &self.first_start
    }

    /// Feels, now and while it runs, how much is under way and when there is more to do: for whoever
    /// moves a manual clock, and must not move it while something is under way.
    pub fn activity(&self) -> impl Fn() -> Activity + Send + Sync + use<> {
        // Weak: what the drain waits for is not to be held up.
        let (poller, dispatcher) = (Arc::downgrade(&self.poller), Arc::downgrade(&self.dispatcher));
        let planned = Arc::clone(&self.planned);
        let now = self.clock.clone();
        move || {
            if !planned.load(Ordering::Acquire) {
                return Activity { in_progress: 1, next_at: Some(now.now()) };
            }
            // In this order: a look can make something to send, a send nothing to look at.
            let looking = poller.upgrade().map(|poller| poller.activity()).unwrap_or_default();
            let sending = dispatcher.upgrade().map(|dispatcher| dispatcher.activity()).unwrap_or_default();
            looking.and(sending)
        }
    }

    /// Makes the plans, and looks, sends and serves until `stop` returns.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self {
            listener,
            metrics,
            exporter,
            api,
            poller,
            mut polls_ended,
            dispatcher,
            mut sends_ended,
            ..
        } = self;
        let Self { store, writer, clock, draining, planned, retention, grace, .. } = self;
        poller.load().await.context("the plans cannot be made")?;
        dispatcher.load().await.context("the waiting deliveries cannot be found")?;
        planned.store(true, Ordering::Release);
        tracing::info!(jobs = poller.scheduled_jobs(), "ready");

        let (no_more_spans, closing) = watch::channel(false);
        let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(closing)));
        let scraped = metrics
            .map(|metrics| tokio::spawn(api::serve_metrics(metrics, Arc::clone(&api), draining.subscribe())));
        let server = tokio::spawn(api::serve(listener, api, draining.subscribe()));
        {
            let mut looking = std::pin::pin!(look(&poller, &clock));
            let mut sending = std::pin::pin!(send(&dispatcher, &clock));
            let mut forgetting = std::pin::pin!(forget(&store, &clock, retention));
            let mut noting = std::pin::pin!(note_uses(&store, &clock));
            let mut minding = std::pin::pin!(mind_the_clock(&clock, &poller, &dispatcher));
            let mut stop = std::pin::pin!(stop);
            tokio::select! {
                () = &mut stop => {}
                never = &mut looking => match never {},
                never = &mut sending => match never {},
                never = &mut forgetting => match never {},
                never = &mut noting => match never {},
                never = &mut minding => match never {},
            }
        }
        tracing::info!("stopping: what is in flight is finished");
        draining.send_replace(true);
        // Each ends when its last task has let go of it.
        drop((poller, dispatcher));
        let stopping = clock.stopwatch();
        let drained = clock.timeout(grace, async move {
            let _ = server.await;
            if let Some(scraped) = scraped {
                let _ = scraped.await;
            }
            let _ = polls_ended.recv().await;
            let _ = sends_ended.recv().await;
            // Now that nobody asks any more.
            write_key_uses(&store).await;
        });
        if drained.await.is_none() {
            tracing::warn!("what is still in flight is cut off; the next start takes it up");
            return Ok(());
        }
        let closing = tokio::task::spawn_blocking(|| writer.join());
        let left = grace.saturating_sub(stopping.elapsed());
        let Some(closed) = clock.timeout(left, closing).await else {
            tracing::warn!("the database does not answer, and is not waited for any longer");
            return Ok(());
        };
        closed.context("the database was not closed in order")?;
        no_more_spans.send_replace(true);
        if let Some(exporting) = exporting {
            clock.timeout(grace.saturating_sub(stopping.elapsed()), exporting).await;
        }
        Ok(())
    }
}

/// What is in hand, read when somebody asks. Weak: what the drain waits for is not to be held up.
fn load_of(poller: &Arc<Poller>, dispatcher: &Arc<Dispatcher>) -> Box<dyn Fn() -> Load + Send + Sync> {
    let (poller, dispatcher) = (Arc::downgrade(poller), Arc::downgrade(dispatcher));
    Box::new(move || {
        let looking = poller.upgrade().map(|poller| poller.load_now()).unwrap_or_default();
        let sending = dispatcher.upgrade().map(|dispatcher| dispatcher.load_now()).unwrap_or_default();
        Load { loaded: sending.loaded, in_flight: sending.in_flight, down: sending.down, ..looking }
    })
}

enum Never {}

async fn look(poller: &Arc<Poller>, clock: &Clock) -> Never {
    loop {
        let next = poller.step();
        tokio::select! {
            () = poller.changed() => {}
            () = reached(clock, next) => {}
        }
    }
}

async fn send(dispatcher: &Arc<Dispatcher>, clock: &Clock) -> Never {
    loop {
        dispatcher.prepare().await;
        let next = dispatcher.step();
        tokio::select! {
            () = dispatcher.changed() => {}
            () = reached(clock, next) => {}
        }
    }
}

async fn forget(store: &Store, clock: &Clock, (events, watches): (Duration, Duration)) -> Never {
    loop {
        let now = clock.now();
        let prune = Prune { events_before: now.minus(events), watches_before: now.minus(watches), now };
        match store.prune(prune).await {
            // From when it was decided, however long the store took.
            Ok(0) => clock.sleep_until(now.plus(PRUNE_EVERY)).await,
            Ok(count) => tracing::debug!(count, "forgotten"),
            Err(error) => {
                tracing::warn!(%error, "what is too old could not be forgotten");
                clock.sleep_until(now.plus(PRUNE_EVERY)).await;
            }
        }
    }
}

async fn note_uses(store: &Store, clock: &Clock) -> Never {
    loop {
        clock.sleep(USES_EVERY).await;
        write_key_uses(store).await;
    }
}

/// Whoever sleeps until a time by the old clock is woken.
async fn mind_the_clock(clock: &Clock, poller: &Poller, dispatcher: &Dispatcher) -> Never {
    loop {
        clock.set_back().await;
        poller.wake();
        dispatcher.wake();
    }
}

async fn write_key_uses(store: &Store) {
    if let Err(error) = store.write_key_uses().await {
        tracing::warn!(%error, "it could not be written when keys were last used");
    }
}

async fn reached(clock: &Clock, at: Option<Timestamp>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Where there is a collector, what brings spans to it; the store's tracer takes them.
fn exporter(config: &Config, store: &Store, egress: &Arc<Egress>, clock: &Clock) -> Result<Option<Exporter>> {
    let telemetry = &config.telemetry;
    let Some(endpoint) = telemetry.otlp_endpoint.clone() else { return Ok(None) };
    let collector = Collector {
        endpoint,
        headers: telemetry.otlp_headers.clone(),
        service_name: telemetry.service_name.clone(),
    };
    let (egress, metrics) = (Arc::clone(egress), Arc::clone(store.metrics()));
    let (tracer, exporter) =
        Exporter::new(collector, egress, clock.clone(), metrics).context("[telemetry] otlp_endpoint")?;
    store.trace_with(tracer);
    Ok(Some(exporter))
}

/// Opens the database that is configured, and takes it for this process.
pub fn open_store(config: &Config, now: Timestamp) -> Result<(Store, Writer)> {
    let location = match &config.database {
        Database::Sqlite(path) => DatabaseLocation::File(path.clone()),
        Database::Postgres(url) => DatabaseLocation::Server(url.reveal().to_owned()),
    };
    let keyring = Keyring::new(config.encryption_keys.iter().map(EncryptionKey::reveal));
    Store::open(StoreOptions { location, keyring, public_url: config.public_url.clone(), now })
}

/// What the configuration names: read from its folders, or embedded.
struct Named {
    definitions: Providers,
    providers: Vec<Provider>,
    templates: Templates,
}

/// Reads what the configuration names, or says every mistake in it.
fn named(config: &Config) -> Result<Named, Vec<String>> {
    let watchable = watchable(config);
    let templates = load_templates(config.templates_path.as_deref());
    match (watchable, templates) {
        (Ok((definitions, providers)), Ok(templates)) => Ok(Named { definitions, providers, templates }),
        (watchable, templates) => {
            Err([watchable.err(), templates.err()].into_iter().flatten().flatten().collect())
        }
    }
}

/// Every mistake in what the configuration names.
pub fn configuration_errors(config: &Config) -> Vec<String> {
    named(config).err().unwrap_or_default()
}

/// What can be watched, as it is configured here.
pub fn providers(config: &Config) -> Result<Vec<Provider>> {
    watchable(config).map(|(_, providers)| providers).map_err(|wrong| lines(&wrong))
}

/// The embedded definitions and the operator's, each as it is configured, and nothing configured beside.
fn watchable(config: &Config) -> Result<(Providers, Vec<Provider>), Vec<String>> {
    let definitions = Providers::load(config.providers_path.as_deref())?;
    let known: Vec<&str> = definitions.iter().map(|definition| definition.id()).collect();
    let unknown = config.check_providers(&known);
    let mut mistakes: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    let nothing = ProviderConfig::default();
    let mut providers = Vec::new();
    for definition in definitions.iter() {
        let own = config.providers.get(definition.id()).unwrap_or(&nothing);
        match provider(definition, own) {
            Ok(provider) => providers.push(provider),
            Err(wrong) => mistakes.push(format!("[providers.{}] {wrong}", definition.id())),
        }
    }
    if mistakes.is_empty() { Ok((definitions, providers)) } else { Err(mistakes) }
}

/// The way out, as it is configured.
pub fn egress(config: &Config, environment: &HostEnvironment) -> Result<Arc<Egress>> {
    let HostEnvironment { clock, resolver, roots } = environment;
    let allow = config.egress.allow.iter().map(|text| Allowed::parse(text));
    let allow = allow.collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    let proxy = config.egress.proxy.as_ref().map(|proxy| Proxy::parse(proxy.reveal()));
    let proxy = proxy.transpose().map_err(anyhow::Error::msg)?;
    let settings = Settings { allow, allow_http: config.egress.allow_http, proxy };
    Egress::new(settings, resolver.clone(), clock.clone(), roots.clone())
}

fn lines<T: ToString>(mistakes: &[T]) -> anyhow::Error {
    anyhow::Error::msg(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn provider(definition: &Arc<Definition>, own: &ProviderConfig) -> Result<Provider, String> {
    let base_url = own.base_url.as_deref().map(|base| definition.check_base_url(base)).transpose();
    let base_url = base_url.map_err(|wrong| format!("base_url: {wrong}"))?;
    let (mut policy, mut limits) = (*definition.poll(), *definition.limits());
    policy.first = own.first.unwrap_or(policy.first);
    policy.min_interval = own.min_interval.unwrap_or(policy.min_interval);
    policy.max_interval = own.max_interval.unwrap_or(policy.max_interval);
    if policy.min_interval > policy.max_interval {
        return Err("min_interval is greater than max_interval".to_owned());
    }
    limits.rate = own.rate.unwrap_or(limits.rate);
    limits.burst = own.burst.unwrap_or(limits.burst);
    limits.concurrency = own.concurrency.unwrap_or(limits.concurrency);
    let definition = Arc::clone(definition);
    Ok(Provider { definition, credential: own.api_key.clone(), base_url, policy, limits })
}

/// The default app with its secret, and the admin key: the configured one, or one that is made now.
async fn found(store: &Store, config: &Config, now: Timestamp) -> Result<(AppNo, FirstStart)> {
    let new_key = config.api_key.is_none().then(draw_key);
    let founded = store
        .bootstrap(BootstrapTenant {
            name: DEFAULT_APP.to_owned(),
            signing_secret: Masked::new(Secret::generate().expose()),
            key_hash: new_key.as_ref().map(|key| hash_key(key.reveal())),
            now,
        })
        .await?;
    if let Some(secret) = &config.signing_secret {
        store.override_signing_secret(founded.app.no, secret.clone());
    }
    let shown = founded.new_app && config.signing_secret.is_none();
    let first_start = FirstStart {
        admin_key: new_key.filter(|_| founded.new_key).map(|key| key.reveal().to_owned()),
        signing_secret: shown.then(|| founded.app.signing_secret.reveal().to_owned()),
    };
    Ok((founded.app.no, first_start))
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirstStart")
    }
}
