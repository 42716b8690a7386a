//! What is promised of this host: memory and vCPUs to sandboxes that run, disk space to what is about to be written, and
//! how much each owner has. A promise is made before anything is, whole or not at all, and holds until it is dropped.
//!
//! Counts promises; what the machine has free at this moment is looked at in [`super::admission`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{OwnerId, Shape};

/// Memory that a monitor needs beside its guest's.
pub(super) const MONITOR_OVERHEAD_MB: u64 = 64;

/// The most that may be promised at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all guests and their monitors, in MiB.
    pub memory_mb: u64,
    /// vCPUs of all guests.
    pub vcpus: u64,
    /// Sandboxes of one owner, paused ones included.
    pub owner_sandboxes: Option<u64>,
    /// Memory of one owner's running guests and their monitors, in MiB.
    pub owner_memory_mb: Option<u64>,
}

/// Why nothing was promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host's memory is promised to others.
    #[error(
        "no memory: {wanted_mb} MB are wanted, and of the host's {limit_mb} MB for sandboxes {left_mb} MB are left"
    )]
    Memory {
        /// Guest and monitor.
        wanted_mb: u64,
        /// Not promised yet.
        left_mb: u64,
        /// To be promised at most.
        limit_mb: u64,
    },
    /// The host's processors are promised to others.
    #[error("no vCPUs: {wanted} are wanted, and of the host's {limit} for sandboxes {left} are left")]
    Vcpus {
        /// Of the shape.
        wanted: u64,
        /// Not promised yet.
        left: u64,
        /// To be promised at most.
        limit: u64,
    },
    /// The owner has as many sandboxes as one may have.
    #[error("too many sandboxes: an owner may have {limit} at once")]
    OwnerSandboxes {
        /// How many that are.
        limit: u64,
    },
    /// The owner's sandboxes have as much memory as one may have.
    #[error("too much memory: {wanted_mb} MB are wanted, and of an owner's {limit_mb} MB {left_mb} MB are left")]
    OwnerMemory {
        /// Guest and monitor.
        wanted_mb: u64,
        /// Not promised yet.
        left_mb: u64,
        /// To be promised to one owner at most.
        limit_mb: u64,
    },
}

impl Refusal {
    /// Whether it is the host that is full, whoever asks.
    pub fn is_of_host(&self) -> bool {
        matches!(self, Self::Memory { .. } | Self::Vcpus { .. })
    }
}

/// All promises of a host.
#[derive(Debug, Clone)]
pub struct Ledger {
    limits: Limits,
    books: Books,
}

type Books = Arc<Mutex<Sums>>;

#[derive(Debug, Default)]
struct Sums {
    memory_mb: u64,
    vcpus: u64,
    disk_mb: u64,
    owners: HashMap<OwnerId, Account>,
}

/// What one owner has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Account {
    sandboxes: u64,
    memory_mb: u64,
}

/// One of an owner's sandboxes: it counts, running or paused, until this is dropped.
#[derive(Debug)]
pub struct Place {
    owner: OwnerId,
    books: Books,
}

/// Memory and vCPUs for one monitor, until this is dropped.
#[derive(Debug)]
pub struct Share {
    /// None while nobody has it: a monitor of the warm pool.
    owner: Option<OwnerId>,
    memory_mb: u64,
    vcpus: u64,
    books: Books,
}

/// Disk space that is about to be taken. To be dropped once it is taken, for then the file system counts it.
#[derive(Debug)]
pub struct DiskPromise {
    disk_mb: u64,
    books: Books,
}

impl Ledger {
    /// Nothing is promised yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, books: Books::default() }
    }

    /// Room for one more sandbox of `owner`.
    pub fn admit(&self, owner: &OwnerId, shape: &Shape) -> Result<(Place, Share), Refusal> {
        let mut sums = lock(&self.books);
        let place = self.limits.check_place(&sums, owner);
        place.and_then(|()| self.limits.check_share(&sums, Some(owner), shape))?;
        Ok((self.place(&mut sums, owner), self.share(&mut sums, Some(owner), shape)))
    }

    /// The place of a sandbox that is there already, whatever the limits are by now.
    pub fn keep(&self, owner: &OwnerId) -> Place {
        self.place(&mut lock(&self.books), owner)
    }

    /// What a sandbox that runs already takes, whatever the limits are by now.
    pub fn keep_running(&self, owner: &OwnerId, shape: &Shape) -> (Place, Share) {
        let mut sums = lock(&self.books);
        (self.place(&mut sums, owner), self.share(&mut sums, Some(owner), shape))
    }

    /// Room for a sandbox that has its place and is to run again.
    pub fn readmit(&self, owner: &OwnerId, shape: &Shape) -> Result<Share, Refusal> {
        let mut sums = lock(&self.books);
        self.limits.check_share(&sums, Some(owner), shape)?;
        Ok(self.share(&mut sums, Some(owner), shape))
    }

    /// Room for a monitor that nobody has yet.
    pub fn set_aside(&self, shape: &Shape) -> Result<Share, Refusal> {
        let mut sums = lock(&self.books);
        self.limits.check_share(&sums, None, shape)?;
        Ok(self.share(&mut sums, None, shape))
    }

    /// Makes what was set aside `owner`'s.
    pub fn hand_over(&self, share: &mut Share, owner: &OwnerId) -> Result<Place, Refusal> {
        let mut sums = lock(&self.books);
        self.limits.check_place(&sums, owner)?;
        self.limits.check_owner_memory(&sums, owner, share.memory_mb)?;
        sums.owners.entry(owner.clone()).or_default().memory_mb += share.memory_mb;
        share.owner = Some(owner.clone());
        Ok(self.place(&mut sums, owner))
    }

    /// Disk space, where `spare_mb` is what the file system has free beyond its reserve. None where that is too little
    /// for this and for what was promised before.
    pub fn promise_disk(&self, wanted_mb: u64, spare_mb: u64) -> Option<DiskPromise> {
        let mut sums = lock(&self.books);
        if sums.disk_mb.saturating_add(wanted_mb) >= spare_mb {
            return None;
        }
        sums.disk_mb += wanted_mb;
        Some(DiskPromise { disk_mb: wanted_mb, books: self.books.clone() })
    }

    fn place(&self, sums: &mut Sums, owner: &OwnerId) -> Place {
        sums.owners.entry(owner.clone()).or_default().sandboxes += 1;
        Place { owner: owner.clone(), books: self.books.clone() }
    }

    fn share(&self, sums: &mut Sums, owner: Option<&OwnerId>, shape: &Shape) -> Share {
        let (memory_mb, vcpus) = needs(shape);
        sums.memory_mb += memory_mb;
        sums.vcpus += vcpus;
        if let Some(owner) = owner {
            sums.owners.entry(owner.clone()).or_default().memory_mb += memory_mb;
        }
        Share { owner: owner.cloned(), memory_mb, vcpus, books: self.books.clone() }
    }
}

/// Memory and vCPUs of a monitor with its guest.
fn needs(shape: &Shape) -> (u64, u64) {
    (u64::from(shape.memory.get()) + MONITOR_OVERHEAD_MB, shape.vcpus.get().into())
}

impl Limits {
    fn check_place(&self, sums: &Sums, owner: &OwnerId) -> Result<(), Refusal> {
        match self.owner_sandboxes {
            Some(limit) if sums.account(owner).sandboxes >= limit => Err(Refusal::OwnerSandboxes { limit }),
            _ => Ok(()),
        }
    }

    fn check_share(&self, sums: &Sums, owner: Option<&OwnerId>, shape: &Shape) -> Result<(), Refusal> {
        let (wanted_mb, wanted) = needs(shape);
        let (limit_mb, limit) = (self.memory_mb, self.vcpus);
        let left_mb = limit_mb.saturating_sub(sums.memory_mb);
        if wanted_mb > left_mb {
            return Err(Refusal::Memory { wanted_mb, left_mb, limit_mb });
        }
        let left = limit.saturating_sub(sums.vcpus);
        if wanted > left {
            return Err(Refusal::Vcpus { wanted, left, limit });
        }
        owner.map_or(Ok(()), |owner| self.check_owner_memory(sums, owner, wanted_mb))
    }

    fn check_owner_memory(&self, sums: &Sums, owner: &OwnerId, wanted_mb: u64) -> Result<(), Refusal> {
        let Some(limit_mb) = self.owner_memory_mb else { return Ok(()) };
        let left_mb = limit_mb.saturating_sub(sums.account(owner).memory_mb);
        if wanted_mb > left_mb { Err(Refusal::OwnerMemory { wanted_mb, left_mb, limit_mb }) } else { Ok(()) }
    }
}

impl Sums {
    fn account(&self, owner: &OwnerId) -> Account {
        self.owners.get(owner).copied().unwrap_or_default()
    }

    /// Takes from what an owner has, and forgets one who has nothing.
    fn take_back(&mut self, owner: &OwnerId, change: impl FnOnce(&mut Account)) {
        if let Some(account) = self.owners.get_mut(owner) {
            change(account);
            if *account == Account::default() {
                self.owners.remove(owner);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.books).take_back(&self.owner, |account| account.sandboxes -= 1);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut sums = lock(&self.books);
        sums.memory_mb -= self.memory_mb;
        sums.vcpus -= self.vcpus;
        if let Some(owner) = &self.owner {
            sums.take_back(owner, |account| account.memory_mb -= self.memory_mb);
        }
    }
}

impl Drop for DiskPromise {
    fn drop(&mut self) {
        lock(&self.books).disk_mb -= self.disk_mb;
    }
}

fn lock(books: &Books) -> MutexGuard<'_, Sums> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH_MB: u64 = 512 + MONITOR_OVERHEAD_MB;

    fn plenty() -> Limits {
        Limits { memory_mb: 1000 * EACH_MB, vcpus: 1000, owner_sandboxes: None, owner_memory_mb: None }
    }

    fn owner(name: &str) -> OwnerId {
        name.parse().unwrap()
    }

    fn is_empty(ledger: &Ledger) -> bool {
        let sums = lock(&ledger.books);
        (sums.memory_mb, sums.vcpus, sums.disk_mb, sums.owners.len()) == (0, 0, 0, 0)
    }

    /// 200 creates at once, by two owners; returns how many were admitted of each.
    fn admitted(ledger: &Ledger) -> [usize; 2] {
        let owners = [owner("one"), owner("two")];
        let create = |number: usize| (number % 2, ledger.admit(&owners[number % 2], &Shape::default()).ok());
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..200).map(|number| scope.spawn(move || create(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        [0, 1].map(|of| all.iter().filter(|(owner, admitted)| *owner == of && admitted.is_some()).count())
    }

    #[test]
    fn of_two_hundred_creates_at_once_exactly_those_are_admitted_that_fit() {
        let check = |limits: Limits, total: usize| {
            let ledger = Ledger::new(limits);
            let [one, two] = admitted(&ledger);
            assert_eq!(one + two, total, "{limits:?}");
            assert!(is_empty(&ledger), "all was given back: {limits:?}");
        };
        check(plenty(), 200);
        check(Limits { memory_mb: 37 * EACH_MB + EACH_MB - 1, ..plenty() }, 37);
        check(Limits { vcpus: 41, ..plenty() }, 41);
        check(Limits { owner_sandboxes: Some(9), ..plenty() }, 18);
        check(Limits { owner_memory_mb: Some(7 * EACH_MB), ..plenty() }, 14);
        check(Limits { memory_mb: 10 * EACH_MB, owner_sandboxes: Some(9), ..plenty() }, 10);
        check(Limits { memory_mb: 0, ..plenty() }, 0);
    }

    #[test]
    fn a_refusal_changes_nothing_and_says_what_is_left() {
        let limits = Limits { memory_mb: EACH_MB + 100, owner_sandboxes: Some(1), ..plenty() };
        let ledger = Ledger::new(limits);
        let first = ledger.admit(&owner("one"), &Shape::default()).unwrap();
        assert_eq!(
            ledger.admit(&owner("two"), &Shape::default()).unwrap_err(),
            Refusal::Memory { wanted_mb: EACH_MB, left_mb: 100, limit_mb: EACH_MB + 100 }
        );
        assert_eq!(ledger.admit(&owner("one"), &Shape::default()).unwrap_err(), Refusal::OwnerSandboxes { limit: 1 });
        drop(first);
        assert!(is_empty(&ledger));
    }

    #[test]
    fn a_paused_sandbox_keeps_its_place_and_gives_its_memory_to_others() {
        let ledger = Ledger::new(Limits { memory_mb: EACH_MB, owner_sandboxes: Some(1), ..plenty() });
        let (place, share) = ledger.admit(&owner("one"), &Shape::default()).unwrap();
        drop(share);
        assert_eq!(ledger.admit(&owner("one"), &Shape::default()).unwrap_err(), Refusal::OwnerSandboxes { limit: 1 });
        let (_, other) = ledger.admit(&owner("two"), &Shape::default()).unwrap();
        assert!(ledger.readmit(&owner("one"), &Shape::default()).unwrap_err().is_of_host());
        drop(other);
        let again = ledger.readmit(&owner("one"), &Shape::default()).unwrap();
        drop((place, again));
        assert!(is_empty(&ledger));
    }

    #[test]
    fn what_runs_already_is_counted_beyond_every_limit() {
        let ledger = Ledger::new(Limits { memory_mb: EACH_MB, owner_sandboxes: Some(1), ..plenty() });
        let kept = [(); 2].map(|()| ledger.keep_running(&owner("one"), &Shape::default()));
        assert!(ledger.admit(&owner("two"), &Shape::default()).unwrap_err().is_of_host());
        drop(kept);
        assert!(is_empty(&ledger));
    }

    #[test]
    fn what_was_set_aside_counts_for_the_host_and_then_for_its_owner() {
        let limits = Limits { memory_mb: 2 * EACH_MB, owner_memory_mb: Some(EACH_MB), ..plenty() };
        let ledger = Ledger::new(limits);
        let (mut first, mut second) =
            (ledger.set_aside(&Shape::default()).unwrap(), ledger.set_aside(&Shape::default()).unwrap());
        assert!(ledger.admit(&owner("one"), &Shape::default()).unwrap_err().is_of_host());
        let place = ledger.hand_over(&mut first, &owner("one")).unwrap();
        assert!(!ledger.hand_over(&mut second, &owner("one")).unwrap_err().is_of_host());
        ledger.hand_over(&mut second, &owner("two")).unwrap();
        drop((first, second, place));
        assert!(is_empty(&ledger));
    }

    #[test]
    fn disk_space_is_promised_once() {
        let ledger = Ledger::new(plenty());
        let first = ledger.promise_disk(600, 1000).unwrap();
        assert!(ledger.promise_disk(400, 1000).is_none(), "something stays");
        let second = ledger.promise_disk(399, 1000).unwrap();
        drop((first, second));
        assert!(ledger.promise_disk(0, 0).is_none(), "a full disk has no room for nothing either");
        assert!(is_empty(&ledger));
    }
}
