//! A control plane from its start to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::HostId;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Drain, KnownHosts, service};
use crate::config::Config;
use crate::host::{HostAgent, HostError};
use crate::lifecycle::{Lifecycle, keep_deadlines};
use crate::listen::{self, Door, ServerIdentity};
use crate::metrics::Metrics;
use crate::proxy::{Connections, Front, Proxy, Secured};
use crate::reconcile::{Memory, Reconciler, Report};
use crate::retention::Retainer;
use crate::store::{OpenError, Others, Seat, Store};

/// The one host's name in the records, as the seed has it.
const HOST: &str = "default";

/// How often what is running is looked at.
const SAMPLE: Duration = Duration::from_secs(10);

/// How soon a host that is not heard any more is listened to again: at first, and at last.
const LISTEN_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// For those that are told to end because the time to drain is over.
const CUT: Duration = Duration::from_secs(3);

/// Where a domain's names are served, and what is shown there.
#[derive(Debug)]
pub struct Https {
    /// Several, where a name is more than one address.
    pub listeners: Vec<TcpListener>,
    /// What clients are shown.
    pub identity: ServerIdentity,
}

/// A control plane that is ready to serve.
pub struct ControlPlane {
    config: Config,
    store: Store,
    host: HostAgent,
    lifecycle: Lifecycle,
    reconciler: Reconciler,
    seat: Seat,
    nudge: Arc<Notify>,
    tasks: TaskTracker,
    host_id: HostId,
    metrics: Metrics,
}

/// A server that ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket to listen on has no address.
    #[error("cannot tell the listen address")]
    Address(#[source] io::Error),
    /// Whoever accepts connections panicked.
    #[error("the server broke down")]
    Serve(#[source] tokio::task::JoinError),
}

impl ControlPlane {
    /// Opens the store and settles what an earlier process left unfinished, if the host agent answers. If it does
    /// not, that is done as soon as it does.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        // Before anything else: what is younger than this is our own work.
        let since = Timestamp::now();
        let store = Store::open(&config.store).await?.sealing_with(config.token_key.clone()).await?;
        let seat = Seat::take(&config.store, store.worker()).await?;
        let metrics = Metrics::new();
        let host = HostAgent::new(&config.host_agent, metrics.clone());
        Ok(Self::with(config, since, store, seat, host, metrics).await)
    }

    /// The same with what is open already.
    pub(crate) async fn with(
        config: Config,
        since: Timestamp,
        store: Store,
        (mut seat, others): (Seat, Others),
        host: HostAgent,
        metrics: Metrics,
    ) -> Self {
        let tasks = TaskTracker::new();
        let nudge = Arc::new(Notify::new());
        let lifecycle = Lifecycle::new(store.clone(), host.clone(), tasks.clone(), nudge.clone(), metrics.clone());
        let host_id: HostId = HOST.parse().expect("the constant is a host id");
        let patience = model::Patience {
            // What others began, they may be working on.
            started: if others == Others::None { since } else { Timestamp::MIN },
            transient: config.given_up_after,
            // A control plane that lost its place takes it again at its next turn.
            abandoned: config.reconcile_interval * 2,
            orphan: config.orphan_grace,
            silence: config.missing_after,
        };
        let retainer = Retainer { store: store.clone(), lifecycle: lifecycle.clone(), policy: config.retention };
        let mut reconciler = Reconciler {
            host_id: host_id.clone(),
            host: host.clone(),
            store: store.clone(),
            lifecycle: lifecycle.clone(),
            retainer: retainer.clone(),
            patience,
            report: watch::Sender::new(Report::default()),
            memory: Memory::new(since),
        };
        reconciler.turn(&mut seat).await;
        Self { config, store, host, lifecycle, reconciler, seat, nudge, tasks, host_id, metrics }
    }

    /// Everything that goes on by itself goes on; whoever has what this answers changes sandboxes directly.
    pub(crate) fn go(self) -> (Lifecycle, HostId) {
        tokio::spawn(self.reconciler.watch(self.seat, self.config.reconcile_interval, self.nudge.clone()));
        tokio::spawn(listen_for_changes(self.host, self.nudge));
        tokio::spawn(sample(self.store));
        (self.lifecycle, self.host_id)
    }

    /// Serves in the clear and, where it has a domain, with TLS, until `shutdown` is cancelled. Then new requests are
    /// refused, and those under way and lifecycle work have the configured time to end.
    pub async fn run(
        self,
        listener: TcpListener,
        https: Option<Https>,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let address = listener.local_addr().map_err(RunError::Address)?;
        let deadlines = self.lifecycle.clone();
        let drain = Drain { asked: shutdown.clone(), over: CancellationToken::new(), tasks: self.tasks.clone() };
        let api = Api {
            store: self.store.clone(),
            host: self.host.clone(),
            host_id: self.host_id,
            lifecycle: self.lifecycle,
            retainer: self.reconciler.retainer.clone(),
            reconciler: self.reconciler.report.subscribe(),
            metrics: self.metrics.clone(),
            limits: self.config.limits,
            domain: self.config.domain.clone(),
            patience: self.config.patience,
            tasks: self.tasks.clone(),
            shutdown: shutdown.clone(),
            over: drain.over.clone(),
        };
        let known_hosts = KnownHosts::new(address, &self.config.allowed_hosts, self.config.domain.as_ref());
        let proxy = Proxy {
            store: self.store.clone(),
            lifecycle: api.lifecycle.clone(),
            host: self.host.clone(),
            metrics: self.metrics.clone(),
            known_hosts: known_hosts.clone(),
            drain: drain.clone(),
            connections: Connections::default(),
            patience: self.config.guest_patience,
            secured: Secured::new(),
        };
        let service = Front::new(proxy, service(Arc::new(api), known_hosts, drain.clone()));
        let closed = CancellationToken::new();
        let mut doors = vec![Door::Plain(listener)];
        if let Some(Https { listeners, identity }) = https {
            doors.extend(listeners.into_iter().map(|listener| Door::Secure(listener, identity.clone())));
        }
        let serving = doors
            .into_iter()
            .map(|door| tokio::spawn(listen::serve(door, service.clone(), self.config.patience, closed.clone())));
        let serving: Vec<_> = serving.collect();
        let background = [
            tokio::spawn(self.reconciler.watch(self.seat, self.config.reconcile_interval, self.nudge.clone())),
            tokio::spawn(listen_for_changes(self.host, self.nudge)),
            tokio::spawn(self.metrics.keep_up()),
            tokio::spawn(sample(self.store.clone())),
            tokio::spawn(keep_deadlines(deadlines)),
        ];
        shutdown.cancelled().await;
        // Refused requests come and go meanwhile, also on new connections.
        end_tasks(&drain, self.config.drain).await;
        closed.cancel();
        let served = futures::future::try_join_all(serving).await;
        background.iter().for_each(tokio::task::JoinHandle::abort);
        self.store.close().await;
        served.map(drop).map_err(RunError::Serve)
    }
}

/// Nudges whenever the host says that something has changed there, for as long as the server runs.
async fn listen_for_changes(host: HostAgent, nudge: Arc<Notify>) {
    let (first, last) = LISTEN_AGAIN;
    let mut pause = first;
    loop {
        let heard = async {
            let mut changes = host.watch().await?;
            while changes.next().await? {
                pause = first;
                nudge.notify_one();
            }
            Ok::<_, HostError>(())
        };
        if let Err(error) = heard.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the host is not heard");
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(last);
    }
}

/// Looks at what is running, for as long as the server does.
async fn sample(store: Store) {
    let mut ticks = tokio::time::interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = ticks.tick().await;
    loop {
        let now = ticks.tick().await;
        // A machine that slept used nothing meanwhile.
        let elapsed = now.duration_since(last).min(2 * SAMPLE);
        last = now;
        if let Err(error) = store.sample(Timestamp::now(), elapsed).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the usage is not recorded");
        }
    }
}

/// Waits for everything that is under way; what is still there after `patience` is told to end.
async fn end_tasks(drain: &Drain, patience: Duration) {
    drain.tasks.close();
    if tokio::time::timeout(patience, drain.tasks.wait()).await.is_ok() {
        return;
    }
    tracing::warn!("requests or lifecycle work were cut short");
    drain.over.cancel();
    let _ = tokio::time::timeout(CUT, drain.tasks.wait()).await;
}
