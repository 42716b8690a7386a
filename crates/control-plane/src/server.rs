//! A control plane from its start to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::ServiceExt;
use axum::extract::Request;
use axum::serve::ListenerExt;
use jiff::Timestamp;
use model::{HostId, Patience};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, KnownHosts, service};
use crate::config::Config;
use crate::host::HostAgent;
use crate::lifecycle::Lifecycle;
use crate::reconcile::{Memory, Reconciler, Report};
use crate::store::{OpenError, Store};

/// The one host's name in the records, as the seed has it.
const HOST: &str = "default";

/// Longer than any call to a host agent may take: a record that is on its way for longer has nobody who works on it.
const GIVEN_UP: Duration = Duration::from_secs(300);

/// How often what is running is looked at.
const SAMPLE: Duration = Duration::from_secs(10);

/// A control plane that is ready to serve.
pub struct ControlPlane {
    config: Config,
    store: Store,
    host: HostAgent,
    lifecycle: Lifecycle,
    reconciler: Reconciler,
    nudge: Arc<Notify>,
    tasks: TaskTracker,
    host_id: HostId,
}

/// A server that ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket to listen on has no address.
    #[error("cannot tell the listen address")]
    Address(#[source] io::Error),
    /// No more connections can be accepted.
    #[error("cannot serve on {address}")]
    Serve {
        /// The listen address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl ControlPlane {
    /// Opens the store and settles what an earlier process left unfinished, if the host agent answers. If it does
    /// not, that is done as soon as it does.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        // Before anything else: what is younger than this is our own work.
        let since = Timestamp::now();
        let store = Store::open(&config.store).await?;
        let host = HostAgent::new(&config.host_agent);
        let tasks = TaskTracker::new();
        let nudge = Arc::new(Notify::new());
        let lifecycle = Lifecycle::new(store.clone(), host.clone(), tasks.clone(), nudge.clone());
        let host_id: HostId = HOST.parse().expect("the constant is a host id");
        let patience = Patience {
            started: since,
            transient: GIVEN_UP,
            orphan: config.orphan_grace,
            silence: config.missing_after,
        };
        let mut reconciler = Reconciler {
            host_id: host_id.clone(),
            host: host.clone(),
            store: store.clone(),
            lifecycle: lifecycle.clone(),
            patience,
            report: watch::Sender::new(Report::default()),
            memory: Memory { heard: since, unclaimed: Default::default() },
        };
        reconciler.pass().await;
        Ok(Self { config, store, host, lifecycle, reconciler, nudge, tasks, host_id })
    }

    /// Serves until `shutdown` is cancelled, then lets requests and lifecycle work end within the configured time.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), RunError> {
        let address = listener.local_addr().map_err(RunError::Address)?;
        let api = Api {
            store: self.store.clone(),
            host: self.host,
            host_id: self.host_id,
            lifecycle: self.lifecycle,
            reconciler: self.reconciler.report.subscribe(),
            limits: self.config.limits,
            tasks: self.tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let service = service(Arc::new(api), KnownHosts::new(address, &self.config.allowed_hosts));
        let listener = listener.tap_io(|stream| {
            // An answer that waits for more to send is only late.
            let _ = stream.set_nodelay(true);
        });
        let serve = axum::serve(listener, ServiceExt::<Request>::into_make_service(service))
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let sampler = tokio::spawn(sample(self.store.clone()));
        let watch = tokio::spawn(self.reconciler.watch(self.config.reconcile_interval, self.nudge));
        let drained = async {
            let served = serve.await;
            self.tasks.close();
            self.tasks.wait().await;
            served
        };
        let cut_off = async {
            shutdown.cancelled().await;
            tokio::time::sleep(self.config.drain).await;
        };
        let served = tokio::select! {
            served = drained => served,
            () = cut_off => {
                tracing::warn!("requests or lifecycle work were cut short");
                Ok(())
            }
        };
        watch.abort();
        sampler.abort();
        self.store.close().await;
        served.map_err(|source| RunError::Serve { address, source })
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
