//! The warm pool: sandboxes that nobody has yet, restored and warmed up before anyone asks for one of their kind.
//!
//! ```text
//!            make (in the background)                 claim (a create)
//! image ──▶ restore ─ run a command ──▶ [ shelf ] ──▶ identity, randomness, clock ──▶ the caller's sandbox
//!                                           │
//!                                           └──▶ removed: dead, outdated, not wanted any more, memory short, server's end
//! ```
//!
//! A member is the [`Parts`] of a sandbox with an id of its own that nobody is told. It is in no list, and what a crash
//! leaves of it is swept by the next start as every sandbox that ran. Taking one from its shelf is what makes it somebody's: it is
//! then no longer here, and nobody else can take it.

mod claim;
mod demand;
mod keeper;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{Shape, TemplateName};
use tokio::sync::watch;
use tokio::time::Instant;

use super::parts::Parts;
use crate::snapshot::BakeKey;
use demand::Demand;
pub use demand::{InvalidPoolMode, PoolMode};
pub(crate) use keeper::keep;

/// The sandboxes of a host that are ready.
pub struct Pool {
    mode: PoolMode,
    shelves: Mutex<HashMap<BakeKey, Shelf>>,
    /// How many creates and resumes are under way, and when the last began or ended: making members waits for them.
    work: watch::Sender<Work>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The sandboxes of one kind: of one image.
struct Shelf {
    template: TemplateName,
    shape: Shape,
    demand: Demand,
    /// Whether there is an image now, and of the template's current build.
    has_image: bool,
    members: Vec<Parts>,
}

/// What comes before the pool.
#[derive(Debug, Clone, Copy)]
struct Work {
    under_way: usize,
    changed: Instant,
}

/// A create or a resume that is under way, until this is dropped.
pub(super) struct Working<'a>(&'a Pool);

/// What the pool lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    key: BakeKey,
    template: TemplateName,
    shape: Shape,
}

impl Pool {
    /// Empty.
    pub(crate) fn new(mode: PoolMode) -> Self {
        let work = watch::Sender::new(Work { under_way: 0, changed: Instant::now() });
        Self { mode, shelves: Mutex::default(), work, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// To be called when a create or a resume begins.
    pub(super) fn begin_work(&self) -> Working<'_> {
        self.change_work(|under_way| under_way + 1);
        Working(self)
    }

    fn change_work(&self, change: impl FnOnce(usize) -> usize) {
        self.work.send_modify(|work| *work = Work { under_way: change(work.under_way), changed: Instant::now() });
    }

    /// Notes that a sandbox of this kind is asked for.
    fn note(&self, key: &BakeKey, template: &TemplateName, shape: Shape) {
        if self.mode == PoolMode::Off {
            return;
        }
        let empty = || Shelf {
            template: template.clone(),
            shape,
            demand: Demand::default(),
            has_image: false,
            members: Vec::new(),
        };
        self.shelves().entry(key.clone()).or_insert_with(empty).demand.note(Instant::now());
    }

    /// Takes one off its shelf: the one that was made last, whose memory is most likely still where it was.
    fn take(&self, key: &BakeKey) -> Option<Parts> {
        self.shelves().get_mut(key)?.members.pop()
    }

    /// Puts one on its shelf. Gives it back where the shelf is gone.
    fn put(&self, key: &BakeKey, parts: Parts) -> Option<Parts> {
        match self.shelves().get_mut(key) {
            Some(shelf) => shelf.members.push(parts),
            None => return Some(parts),
        }
        None
    }

    /// Removes one so that others have its memory. False where there is none.
    pub(super) async fn give_one_up(&self) -> bool {
        let member = self.shelves().values_mut().find_map(|shelf| shelf.members.pop());
        let Some(member) = member else { return false };
        tracing::info!("a sandbox of the warm pool makes room");
        member.vanish().await;
        true
    }

    /// What a shelf lacks, and the memory that sandboxes of all kinds may come to take, in MiB.
    fn lacks(&self) -> (Option<Wish>, u64) {
        let (shelves, now) = (self.shelves(), Instant::now());
        let lacking = shelves.iter().find(|(_, shelf)| shelf.members.len() < shelf.target(self.mode, now));
        let wish =
            lacking.map(|(key, shelf)| Wish { key: key.clone(), template: shelf.template.clone(), shape: shelf.shape });
        (wish, shelves.values().map(|shelf| shelf.members.len() as u64 * keeper::needs_mb(&shelf.shape)).sum())
    }

    /// Takes away those that are dead, those of a kind that has no image (any more), and those that are too many. A shelf
    /// of a kind that is not in use goes too.
    fn sort_out(&self, has_image: impl Fn(&BakeKey, &TemplateName, &Shape) -> bool) -> Vec<Parts> {
        let (mut shelves, now) = (self.shelves(), Instant::now());
        let mut out = Vec::new();
        shelves.retain(|key, shelf| {
            shelf.has_image = has_image(key, &shelf.template, &shelf.shape);
            out.extend(shelf.members.extract_if(.., |member| !member.is_alive()));
            let target = shelf.target(self.mode, now).min(shelf.members.len());
            out.extend(shelf.members.drain(target..));
            shelf.demand.target(self.mode, now) > 0
        });
        out
    }

    /// Takes all away.
    fn clear(&self) -> Vec<Parts> {
        self.shelves().drain().flat_map(|(_, shelf)| shelf.members).collect()
    }

    fn shelves(&self) -> MutexGuard<'_, HashMap<BakeKey, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Shelf {
    /// How many there should be.
    fn target(&self, mode: PoolMode, now: Instant) -> usize {
        if self.has_image { self.demand.target(mode, now) } else { 0 }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.change_work(|under_way| under_way - 1);
    }
}
