//! A random workload on real sandboxes while host agent and control planes, and the database, are killed at random. Then
//! nothing that was acknowledged is lost and nothing is left. `make chaos` does so for longer; a seed that was printed
//! makes the same choices again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Postgres, wait_for};
use tokio_util::sync::CancellationToken;

use super::integrity::Random;
use super::number;
use super::site::{Client, Site};

const WORKERS: usize = 3;

/// A sandbox that its worker was told of.
struct Owned {
    id: String,
    /// What was written, and acknowledged.
    written: BTreeSet<u64>,
}

/// Uses sandboxes, one after the other.
struct Worker<'a> {
    name: String,
    client: Client,
    random: Random,
    next: u64,
    sandbox: Option<Owned>,
    /// What all workers have done that worked, and when it is enough.
    operations: &'a AtomicUsize,
    enough: usize,
}

impl Worker<'_> {
    async fn work(&mut self) {
        while self.operations.load(Ordering::Relaxed) < self.enough {
            let worked = match &self.sandbox {
                None => self.create().await,
                Some(_) => self.step().await,
            };
            match worked {
                true => drop(self.operations.fetch_add(1, Ordering::Relaxed)),
                // What is gone comes again.
                false => drop(self.until("a server that answers", "GET", "/health", &[200]).await),
            }
        }
    }

    async fn call(&mut self, method: &str, path: &str, body: Value) -> Option<testkit::Answer> {
        let plane = self.random.below(16);
        self.client.call(plane, method, path, body).await
    }

    async fn create(&mut self) -> bool {
        let body = json!({ "memory_mb": 256, "timeout_sec": 3600, "metadata": { "of": self.name } });
        let answer = self.call("POST", "/v1/sandboxes", body).await;
        let Some(answer) = answer.filter(|answer| answer.status == 201) else {
            self.delete_unanswered().await;
            return false;
        };
        let id = answer.body["id"].as_str().unwrap().to_owned();
        self.sandbox = Some(Owned { id, written: BTreeSet::new() });
        true
    }

    /// What became of creates that were not answered takes room that the next one needs.
    async fn delete_unanswered(&mut self) {
        let path = format!("/v1/sandboxes?status=pending,running,paused,missing,stopping&metadata=of%3D{}", self.name);
        let list = self.until("a list", "GET", &path, &[200]).await.body;
        for row in list.as_array().unwrap() {
            let path = format!("/v1/sandboxes/{}", row["id"].as_str().unwrap());
            self.until("a deletion", "DELETE", &path, &[204]).await;
        }
    }

    /// Whether it worked.
    async fn step(&mut self) -> bool {
        let status = self.settled().await;
        match (status.as_str(), self.random.below(10)) {
            (_, 0) => self.delete().await,
            ("running", 1..=5) => self.write().await,
            ("running", 6) => self.verify().await,
            ("running", _) => self.change("pause").await,
            _ => self.change("resume").await,
        }
    }

    /// What it is in, once it is in something for more than a moment.
    async fn settled(&mut self) -> String {
        let path = format!("/v1/sandboxes/{}", self.id());
        let (client, random) = (self.client.clone(), &mut self.random);
        wait_for("a sandbox to settle", async || {
            let answer = client.call(random.below(16), "GET", &path, Value::Null).await?;
            match answer.body["status"].as_str()? {
                status @ ("running" | "paused") => Some(status.to_owned()),
                "stopped" | "error" => panic!("it is lost: {}", answer.body),
                _ => None,
            }
        })
        .await
    }

    /// Calls until the answer is one of these.
    async fn until(&mut self, what: &str, method: &str, path: &str, wanted: &[u16]) -> testkit::Answer {
        let (client, random) = (self.client.clone(), &mut self.random);
        wait_for(what, async || {
            let answer = client.call(random.below(16), method, path, Value::Null).await;
            answer.filter(|answer| wanted.contains(&answer.status))
        })
        .await
    }

    fn id(&self) -> &str {
        &self.sandbox.as_ref().unwrap().id
    }

    async fn change(&mut self, action: &str) -> bool {
        let path = format!("/v1/sandboxes/{}/{action}", self.id());
        self.call("POST", &path, Value::Null).await.is_some_and(|answer| answer.status == 200)
    }

    async fn delete(&mut self) -> bool {
        let path = format!("/v1/sandboxes/{}", self.id());
        self.until("a deletion", "DELETE", &path, &[204]).await;
        self.sandbox = None;
        true
    }

    async fn shell(&mut self, script: &str) -> Option<String> {
        let path = format!("/v1/sandboxes/{}/exec", self.id());
        let answer = self.call("POST", &path, json!({ "cmd": "bash", "args": ["-c", script] })).await?;
        let worked = answer.status == 200 && answer.body["exit_code"] == 0;
        worked.then(|| answer.body["stdout"].as_str().unwrap().to_owned())
    }

    async fn write(&mut self) -> bool {
        self.next += 1;
        let number = self.next;
        let written = self.shell(&format!("echo {number} >> /root/log && echo {number} >> /dev/shm/log")).await;
        written.is_some() && self.sandbox.as_mut().unwrap().written.insert(number)
    }

    /// Whether all that was acknowledged is on its disk and in its memory. Nothing is known where the call fails.
    async fn verify(&mut self) -> bool {
        let mut is_known = true;
        for file in ["/root/log", "/dev/shm/log"] {
            let Some(text) = self.shell(&format!("cat {file} 2>/dev/null; true")).await else {
                is_known = false;
                continue;
            };
            let there: BTreeSet<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
            let lost: Vec<_> = self.sandbox.as_ref().unwrap().written.difference(&there).collect();
            assert!(lost.is_empty(), "{file} of {} lacks {lost:?}", self.id());
        }
        is_known
    }

    /// Once nothing is killed any more.
    async fn verify_at_last(&mut self) {
        if self.sandbox.is_none() {
            return;
        }
        // What was killed last may be noticed by a call that fails.
        while self.settled().await == "paused" {
            let path = format!("/v1/sandboxes/{}/resume", self.id());
            let answer = self.until("an answer that is certain", "POST", &path, &[200, 409, 500]).await;
            // Somebody else's resume, which was cut, may have been carried out.
            assert_ne!(answer.status, 500, "{} cannot be resumed: {}", self.id(), answer.body);
        }
        while !self.verify().await {
            self.until("a server that answers", "GET", "/health", &[200]).await;
        }
    }
}

/// What is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Agent,
    Plane,
    Everything,
    Database,
}

/// Kills and starts again until `stop`. Returns how often.
async fn kill(
    site: &mut Site,
    victims: &[Victim],
    database: Option<&Postgres>,
    mut random: Random,
    stop: &CancellationToken,
) -> usize {
    let mut kills = 0;
    loop {
        let moment = Duration::from_millis(100 + u64::try_from(random.below(1500)).unwrap());
        if stop.run_until_cancelled(tokio::time::sleep(moment)).await.is_none() {
            return kills;
        }
        kills += 1;
        let plane = random.below(site.planes.len());
        match victims[random.below(victims.len())] {
            Victim::Agent => {
                site.agent.kill().await;
                site.agent.start_again().await;
            }
            Victim::Plane => {
                site.planes[plane].kill().await;
                site.planes[plane].start_again().await;
            }
            Victim::Everything => {
                site.agent.kill().await;
                for plane in &mut site.planes {
                    plane.kill().await;
                }
                site.agent.start_again().await;
                for plane in &mut site.planes {
                    plane.start_again().await;
                }
            }
            Victim::Database => {
                let database = database.unwrap();
                tokio::task::block_in_place(|| {
                    database.stop();
                    database.start();
                });
            }
        }
    }
}

async fn chaos(planes: usize, victims: &[Victim], database: Option<&Postgres>) {
    let seed = number("SANDPIPER_CHAOS_SEED", 20);
    let enough = usize::try_from(number("SANDPIPER_CHAOS_OPERATIONS", 40)).unwrap();
    let mut site = Site::start(planes, database).await;
    let (operations, stop) = (AtomicUsize::new(0), CancellationToken::new());
    let client = site.client();
    let worker = |number: usize| Worker {
        name: format!("worker{number}"),
        client: client.clone(),
        random: Random::new(seed + 1 + u64::try_from(number).unwrap()),
        next: 0,
        sandbox: None,
        operations: &operations,
        enough,
    };
    let mut workers: Vec<_> = (0..WORKERS).map(worker).collect();
    // Before anything is killed: the first sandbox of a kind takes long.
    for worker in &mut workers {
        assert!(worker.create().await);
    }
    let workload = async {
        futures::future::join_all(workers.iter_mut().map(Worker::work)).await;
        stop.cancel();
    };
    let (kills, ()) = tokio::join!(kill(&mut site, victims, database, Random::new(seed), &stop), workload);
    for worker in &mut workers {
        worker.verify_at_last().await;
    }
    let kept = workers.iter().filter(|worker| worker.sandbox.is_some()).count();
    end_all(&client, &site).await;
    eprintln!(
        "seed {seed}: {enough} operations, {kills} kills survived, {kept} sandboxes verified at the end, 0 lost, 0 left"
    );
}

/// Deletes what there is by its records, those too whose creates were never answered. Then nothing is on the machine.
async fn end_all(client: &Client, site: &Site) {
    wait_for("all sandboxes to be deleted", async || {
        let list = client.call(0, "GET", "/v1/sandboxes", Value::Null).await?.body;
        let is_open = |row: &&Value| !["stopped", "error"].contains(&row["status"].as_str().unwrap());
        let open: Vec<_> = list.as_array()?.iter().filter(is_open).collect();
        for row in &open {
            client.call(0, "DELETE", &format!("/v1/sandboxes/{}", row["id"].as_str().unwrap()), Value::Null).await;
        }
        open.is_empty().then_some(())
    })
    .await;
    wait_for("nothing to be left", async || {
        let inventory = site.inventory();
        let kinds = ["monitor", "namespace", "link", "slot", "directory"];
        kinds.iter().all(|kind| inventory.of_kind(kind).is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_left_where_host_agent_and_control_plane_are_killed_at_random() {
    chaos(1, &[Victim::Agent, Victim::Agent, Victim::Plane, Victim::Everything], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_left_where_three_control_planes_and_their_database_are_killed_at_random() {
    let database = Postgres::launch();
    chaos(3, &[Victim::Plane, Victim::Plane, Victim::Database, Victim::Agent], Some(&database)).await;
}
