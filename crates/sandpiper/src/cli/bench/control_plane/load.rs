//! Requests, at a rate or as fast as they are answered, from a thread of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::body::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::thread::{ClockId, Timespec, clock_nanosleep_absolute};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::report::{ClosedLoop, Latency, List, OpenLoop};

/// What a request may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where requests go, and with which key.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub key: String,
}

/// Sends requests over connections that it keeps.
#[derive(Clone)]
struct Sender {
    http: Client<HttpConnector, Empty<Bytes>>,
    target: Arc<Target>,
}

impl Sender {
    fn new(target: Target) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { http: Client::builder(TokioExecutor::new()).build(connector), target: Arc::new(target) }
    }

    async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let request = Request::get(format!("http://{}{path}", self.target.address))
            .header("x-api-key", &self.target.key)
            .body(Empty::new())?;
        let answered = async {
            let answer = self.http.request(request).await?;
            if !answer.status().is_success() {
                bail!("{path} was answered with {}", answer.status());
            }
            Ok(answer.into_body().collect().await?.to_bytes())
        };
        tokio::time::timeout(PATIENCE, answered).await.with_context(|| format!("no answer to {path}"))?
    }
}

impl Target {
    /// `rate` requests a second for `duration`, each sent when it is due.
    pub async fn open_loop(&self, rate: u32, duration: Duration, paths: &[String]) -> anyhow::Result<OpenLoop> {
        let count = (duration.as_secs_f64() * f64::from(rate)) as usize;
        let paths = paths.to_owned();
        let times = self.apart(async move |sender| {
            let (due, mut times_due) = mpsc::unbounded_channel();
            let pacing = std::thread::spawn(move || pace(count, rate, &due));
            let mut requests = JoinSet::new();
            for number in 0..count {
                let due = times_due.recv().await.context("the clock stopped")?;
                let (sender, path) = (sender.clone(), paths[number % paths.len()].clone());
                requests.spawn(async move { sender.get(&path).await.map(|_| due.elapsed()) });
            }
            let times = requests.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>();
            pacing.join().map_err(|_| anyhow::Error::msg("the clock broke"))?;
            times
        });
        Ok(OpenLoop { requests_per_second: rate, latency: Latency::of(times.await?) })
    }

    /// As many requests as are answered, over a number of connections.
    pub async fn closed_loop(
        &self,
        connections: usize,
        duration: Duration,
        paths: &[String],
    ) -> anyhow::Result<ClosedLoop> {
        let paths: Arc<[String]> = paths.into();
        let (times, took) = self
            .apart(async move |sender| {
                let start = Instant::now();
                let mut loops = JoinSet::new();
                for connection in 0..connections {
                    let (sender, paths) = (sender.clone(), paths.clone());
                    loops.spawn(async move {
                        let mut times = Vec::new();
                        let mut number = connection;
                        while start.elapsed() < duration {
                            let sent = Instant::now();
                            sender.get(&paths[number % paths.len()]).await?;
                            times.push(sent.elapsed());
                            number += connections;
                        }
                        anyhow::Ok(times)
                    });
                }
                let times = loops.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
                Ok((times.concat(), start.elapsed()))
            })
            .await?;
        let requests_per_second = times.len() as f64 / took.as_secs_f64();
        Ok(ClosedLoop { connections, requests_per_second, latency: Latency::of(times) })
    }

    /// A list, read to its end a number of times, one after another.
    pub async fn list(&self, runs: usize, path: &str) -> anyhow::Result<List> {
        let path = path.to_owned();
        let (times, rows) = self
            .apart(async move |sender| {
                let (mut times, mut last) = (Vec::with_capacity(runs), Bytes::new());
                for _ in 0..runs {
                    let sent = Instant::now();
                    last = sender.get(&path).await?;
                    times.push(sent.elapsed());
                }
                let list: Vec<serde::de::IgnoredAny> = serde_json::from_slice(&last).context("the list is none")?;
                Ok((times, list.len()))
            })
            .await?;
        Ok(List { rows, latency: Latency::of(times) })
    }

    /// Runs `work` in a runtime of its own on a thread of its own.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Sender) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let target = self.clone();
        let working = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { work(Sender::new(target)).await })
        });
        working.await.context("the load ended")?
    }
}

/// Says when each request is due. The runtime's own timers are a millisecond late or more.
fn pace(count: usize, rate: u32, due: &mpsc::UnboundedSender<Instant>) {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let start = Instant::now();
    for number in 0..count {
        let after = Duration::from_secs_f64(number as f64 / f64::from(rate));
        let at = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32) + after;
        let at = Timespec { tv_sec: at.as_secs() as i64, tv_nsec: at.subsec_nanos().into() };
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &at);
        if due.send(start + after).is_err() {
            return;
        }
    }
}
