//! The baked images of a host: made on first use, once, whoever asks; kept within a budget, the least recently used
//! ones go first. Knows how they are kept, not how they are made.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BakeKey, Frozen, MEMORY, Manifest, Origin, SnapshotError, Stage, frozen, stage};

/// After a failure nobody tries again for so long.
const RETRY: Duration = Duration::from_secs(60);

/// Why there is no baked image.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BakeError {
    /// The one who asked does not want it any more.
    #[error("cancelled")]
    Cancelled,
    /// It was tried a short while ago.
    #[error("the last try failed, less than {} s ago", RETRY.as_secs())]
    FailedRecently,
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}

/// All baked images of a host.
#[derive(Debug)]
pub struct Bakes {
    directory: PathBuf,
    budget_bytes: u64,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    making: HashMap<BakeKey, Making>,
    failed: HashMap<BakeKey, Instant>,
}

/// An image that is being made.
#[derive(Debug, Clone)]
struct Making {
    /// Held by everyone who waits. When the last one has gone the making is cancelled.
    wanted: Weak<DropGuard>,
    /// How it ended.
    outcome: Outcome,
}

impl Bakes {
    /// Those in `data_dir`. Removes what was left unfinished.
    pub fn open(data_dir: &Path, budget_bytes: u64) -> Result<Self, SnapshotError> {
        let directory = data_dir.join("bakes");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(SnapshotError::at("make", &directory))?;
        Stage::sweep(&directory)?;
        Ok(Self { directory, budget_bytes, table: Arc::default() })
    }

    /// The image of that name, fit for `wanted`. Where there is none it is made by `make`, which fills a directory and
    /// must leave nothing else behind when it fails or is cancelled. All who ask meanwhile wait for the same one. When
    /// this answers [`BakeError::Cancelled`] to the last of them, nothing of it is left.
    pub async fn get<Make>(
        &self,
        key: &BakeKey,
        wanted: &Origin,
        make: impl FnOnce(PathBuf, CancellationToken) -> Make,
        cancel: &CancellationToken,
    ) -> Result<Frozen, BakeError>
    where
        Make: Future<Output = Result<(), String>> + Send + 'static,
    {
        let mut make = Some(make);
        loop {
            if let Some(bake) = self.find(key, wanted) {
                return Ok(bake);
            }
            let (guard, outcome) = match self.join(key)? {
                Joined::Waiting(guard, outcome) => (Some(guard), outcome),
                Joined::Ending(outcome) => (None, outcome),
                Joined::First => match make.take() {
                    Some(make) => self.begin(key, make),
                    None => return Err(BakeError::Failed("it is gone as soon as it was made".to_owned())),
                },
            };
            let ended = tokio::select! {
                ended = end_of(outcome.clone()) => ended,
                () = cancel.cancelled() => {
                    // The last one to give up waits until nothing is left.
                    if guard.and_then(Arc::into_inner).is_some() {
                        end_of(outcome).await;
                    }
                    return Err(BakeError::Cancelled);
                }
            };
            // One that was given up by others is no answer to whoever wants it now.
            if let (Some(_), Some(Err(reason))) = (guard, ended) {
                return Err(BakeError::Failed(reason));
            }
        }
    }

    /// Removes an image that turned out not to work.
    pub fn discard(&self, key: &BakeKey) {
        self.table().failed.insert(key.clone(), Instant::now());
        if let Err(error) = stage::remove(&self.directory.join(key.as_str())) {
            tracing::warn!(error = &error as &dyn std::error::Error, bake = %key, "a useless image is left");
        }
    }

    /// Whether there is an image of that name, fit or not.
    pub fn has(&self, key: &BakeKey) -> bool {
        self.directory.join(key.as_str()).exists()
    }

    /// The image of that name, if it is there and fit for `wanted`. One that is not is removed.
    pub fn find(&self, key: &BakeKey, wanted: &Origin) -> Option<Frozen> {
        if !self.has(key) {
            return None;
        }
        let directory = self.directory.join(key.as_str());
        match Manifest::open(&directory, &directory.join(MEMORY), wanted) {
            Ok(manifest) => {
                // Only which one is evicted first depends on it.
                let _ = Manifest::touch(&directory);
                Some(Frozen { directory, manifest })
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, bake = %key, "an image is made anew");
                stage::remove(&directory).ok()?;
                None
            }
        }
    }

    fn join(&self, key: &BakeKey) -> Result<Joined, BakeError> {
        let table = self.table();
        if let Some(making) = table.making.get(key) {
            return Ok(match making.wanted.upgrade() {
                Some(guard) => Joined::Waiting(guard, making.outcome.clone()),
                None => Joined::Ending(making.outcome.clone()),
            });
        }
        match table.failed.get(key) {
            Some(when) if when.elapsed() < RETRY => Err(BakeError::FailedRecently),
            _ => Ok(Joined::First),
        }
    }

    fn begin<Make>(
        &self,
        key: &BakeKey,
        make: impl FnOnce(PathBuf, CancellationToken) -> Make,
    ) -> (Option<Arc<DropGuard>>, Outcome)
    where
        Make: Future<Output = Result<(), String>> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let guard = Arc::new(cancel.clone().drop_guard());
        let (sender, outcome) = watch::channel(None);
        let mut table = self.table();
        if let Some(making) = table.making.get(key) {
            // Another was quicker between our look and now.
            return (making.wanted.upgrade(), making.outcome.clone());
        }
        table.making.insert(key.clone(), Making { wanted: Arc::downgrade(&guard), outcome: outcome.clone() });
        drop(table);
        let home = self.directory.join(key.as_str());
        let stage = Stage::new(&home).map_err(|error| describe(&error));
        let work = stage.map(|stage| (make(stage.path().to_owned(), cancel.clone()), stage));
        let (table, key, directory, budget) =
            (self.table.clone(), key.clone(), self.directory.clone(), self.budget_bytes);
        tokio::spawn(async move {
            let made = match work {
                Ok((make, stage)) => finish(make.await, stage, &home),
                Err(error) => Err(error),
            };
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.making.remove(&key);
            match &made {
                Ok(()) => evict(&directory, &home, budget),
                Err(_) if cancel.is_cancelled() => {}
                Err(_) => drop(table.failed.insert(key, Instant::now())),
            }
            drop(table);
            // Nobody may wait any more.
            let _ = sender.send(Some(made));
        });
        (Some(guard), outcome)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Outcome = watch::Receiver<Option<Result<(), String>>>;

/// How a making ended; none where its task did not live to tell.
async fn end_of(mut outcome: Outcome) -> Option<Result<(), String>> {
    outcome.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone())
}

enum Joined {
    /// It is being made.
    Waiting(Arc<DropGuard>, Outcome),
    /// It was being made, nobody wanted it any more, and it is being removed.
    Ending(Outcome),
    /// It is to be made.
    First,
}

fn finish(made: Result<(), String>, stage: Stage, home: &Path) -> Result<(), String> {
    made?;
    match stage.publish() {
        // Another server on the same images was quicker.
        Err(_) if home.is_dir() => Ok(()),
        result => result.map_err(|error| describe(&error)),
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Removes the least recently used images until the rest is within the budget; the one at `keep` stays.
fn evict(directory: &Path, keep: &Path, budget: u64) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut images: Vec<(SystemTime, PathBuf, u64)> = entries
        .filter_map(|entry| {
            Some((Manifest::last_used(&entry.path()).ok()?, entry.path(), frozen::size_of(&entry.path())))
        })
        .collect();
    images.sort();
    let mut total: u64 = images.iter().map(|(_, _, size)| size).sum();
    for (_, path, size) in images.iter().filter(|(_, path, _)| path != keep) {
        if total <= budget {
            return;
        }
        tracing::info!(bake = %path.display(), "an image that was not used for long makes room");
        match stage::remove(path) {
            Ok(()) => total -= size,
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "an image is left"),
        }
    }
}
