//! Slots: the numbers from which a sandbox's addresses and names follow, claimed for the whole machine.
//!
//! A claim is a file named by its slot whose content names the owner. It appears with its content in one step and only
//! if there is none yet, so claims of several processes may race. Knows nothing of namespaces or interfaces.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{InstanceId, SandboxId};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

/// The number of a sandbox's network on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The lowest slot.
    pub const FIRST: u16 = 1;
    /// The highest slot: veth addresses take two a slot out of a /16.
    pub const LAST: u16 = 32767;

    /// The slot of this number, if it is one.
    pub fn new(number: u16) -> Option<Self> {
        (Self::FIRST..=Self::LAST).contains(&number).then_some(Self(number))
    }

    /// The slot as a number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who holds a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// The installation.
    pub instance: InstanceId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// Where the installation lives: a claim whose installation is no longer there is stale.
    pub data_dir: PathBuf,
}

impl Claim {
    /// Whether the installation is gone: its directory does not carry its id any more. An unreadable one is not gone.
    pub fn is_abandoned(&self) -> bool {
        match instance_in(&self.data_dir) {
            Ok(text) => text != self.instance.as_str(),
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

/// The instance id that a data directory carries, as text.
pub(super) fn instance_in(data_dir: &Path) -> io::Result<String> {
    std::fs::read_to_string(data_dir.join("instance-id")).map(|text| text.trim().to_owned())
}

/// Why a slot could not be claimed, given back or looked up.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Every slot of this machine is taken.
    #[error("all {} network slots of this machine are taken", Slot::LAST)]
    AllTaken,
    /// The claim could not be put into words.
    #[error("writing a claim for {}", data_dir.display())]
    Encode {
        /// The installation that claims.
        data_dir: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A claim file or its directory failed.
    #[error("{action} {}", path.display())]
    File {
        /// What was being done to it.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ClaimError {
    fn file(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::File { action, path: path.to_owned(), source: source.into() }
    }
}

/// The claims of a machine, as a directory of files.
#[derive(Debug)]
pub(super) struct Claims {
    directory: PathBuf,
    /// Below this number every slot was taken when this process last looked, so that a claim need not try them all.
    lowest: Mutex<u16>,
}

impl Claims {
    /// Uses `directory`, which is made if it is missing.
    pub fn open(directory: &Path) -> Result<Self, ClaimError> {
        std::fs::create_dir_all(directory).map_err(|error| ClaimError::file("creating", directory, error))?;
        Ok(Self { directory: directory.to_owned(), lowest: Mutex::new(Slot::FIRST) })
    }

    /// Takes the lowest free slot. One that another process gave back may be found later than a higher one.
    pub fn claim(&self, claim: &Claim) -> Result<Slot, ClaimError> {
        let file = self.unnamed(&encoded(claim)?)?;
        let mut lowest = self.lock();
        for number in (*lowest..=Slot::LAST).chain(Slot::FIRST..*lowest) {
            if self.name(&file, &self.path(Slot(number)))? {
                *lowest = number + 1;
                return Ok(Slot(number));
            }
        }
        Err(ClaimError::AllTaken)
    }

    /// Takes the place of the claim that holds `slot`, which is the caller's too. At no moment the slot is free.
    pub fn replace(&self, slot: Slot, claim: &Claim) -> Result<(), ClaimError> {
        let staged = self.path(slot).with_extension("next");
        // What a crash left there was never a claim.
        let _ = std::fs::remove_file(&staged);
        self.name(&self.unnamed(&encoded(claim)?)?, &staged)?;
        std::fs::rename(&staged, self.path(slot)).map_err(|error| ClaimError::file("replacing", &staged, error))
    }

    /// Gives `slot` back if `claim` is what holds it.
    pub fn release(&self, slot: Slot, claim: &Claim) -> Result<(), ClaimError> {
        // Of several who find the same abandoned claim one gives its slot back: for the others it may be somebody's again.
        let directory = self.lock_directory()?;
        if self.holder(slot)?.as_ref() != Some(claim) {
            return Ok(());
        }
        let mut lowest = self.lock();
        let path = self.path(slot);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClaimError::file("removing", &path, error)),
            _ => {
                *lowest = slot.0.min(*lowest);
                drop(directory);
                Ok(())
            }
        }
    }

    /// For as long as what is returned is kept, no other process gives a slot back.
    fn lock_directory(&self) -> Result<std::fs::File, ClaimError> {
        let lock = || {
            let directory = std::fs::File::open(&self.directory)?;
            directory.lock()?;
            Ok(directory)
        };
        lock().map_err(|error: io::Error| ClaimError::file("locking", &self.directory, error))
    }

    /// Who holds `slot`: nobody, or a claim that this version cannot read, is `None`.
    pub fn holder(&self, slot: Slot) -> Result<Option<Claim>, ClaimError> {
        let path = self.path(slot);
        match std::fs::read(&path) {
            Ok(content) => Ok(serde_json::from_slice(&content)
                .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "this claim cannot be read"))
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ClaimError::file("reading", &path, error)),
        }
    }

    /// All claims that can be read.
    pub fn all(&self) -> Result<Vec<(Slot, Claim)>, ClaimError> {
        let failed = |error| ClaimError::file("listing", &self.directory, error);
        let mut claims = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let slot = name.to_str().and_then(|text| text.parse().ok()).and_then(Slot::new);
            let Some(slot) = slot else { continue };
            claims.extend(self.holder(slot)?.map(|claim| (slot, claim)));
        }
        Ok(claims)
    }

    /// A file that has its content but no name yet, and that vanishes with this process.
    fn unnamed(&self, content: &[u8]) -> Result<std::fs::File, ClaimError> {
        let failed = |error: io::Error| ClaimError::file("writing a claim in", &self.directory, error);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.directory, flags, Mode::from_raw_mode(0o644))
            .map(std::fs::File::from)
            .map_err(|error| failed(error.into()))?;
        io::Write::write_all(&mut &file, content).map_err(failed)?;
        Ok(file)
    }

    /// Gives the file a name: the step that decides. False if there is one of that name.
    fn name(&self, file: &std::fs::File, path: &Path) -> Result<bool, ClaimError> {
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(ClaimError::file("creating", path, error)),
        }
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.directory.join(slot.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, u16> {
        self.lowest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encoded(claim: &Claim) -> Result<Vec<u8>, ClaimError> {
    serde_json::to_vec(claim).map_err(|source| ClaimError::Encode { data_dir: claim.data_dir.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn claim_of(data_dir: &Path) -> Claim {
        Claim { instance: InstanceId::random(), sandbox: SandboxId::random(), data_dir: data_dir.to_owned() }
    }

    #[test]
    fn the_lowest_free_slot_is_taken_and_names_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let (claims, claim) = (Claims::open(directory.path()).unwrap(), claim_of(directory.path()));
        let taken: Vec<u16> = (0..4).map(|_| claims.claim(&claim).unwrap().number()).collect();
        assert_eq!(taken, [1, 2, 3, 4]);
        claims.release(Slot(3), &claim).unwrap();
        claims.release(Slot(2), &claim).unwrap();
        let again: Vec<u16> = (0..3).map(|_| claims.claim(&claim).unwrap().number()).collect();
        assert_eq!(again, [2, 3, 5]);
        assert_eq!(claims.holder(Slot(5)).unwrap(), Some(claim));
        assert_eq!(claims.holder(Slot(6)).unwrap(), None);
    }

    #[test]
    fn a_slot_is_not_given_back_by_another_than_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let (claims, claim) = (Claims::open(directory.path()).unwrap(), claim_of(directory.path()));
        let slot = claims.claim(&claim).unwrap();
        claims.release(slot, &claim_of(directory.path())).unwrap();
        assert_eq!(claims.holder(slot).unwrap(), Some(claim.clone()));
        claims.release(slot, &claim).unwrap();
        claims.release(slot, &claim).unwrap();
        assert_eq!(claims.all().unwrap(), []);
    }

    #[test]
    fn a_slot_that_was_given_on_is_its_new_holder_s_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (claims, first) = (Claims::open(directory.path()).unwrap(), claim_of(directory.path()));
        let slot = claims.claim(&first).unwrap();
        let second = Claim { sandbox: SandboxId::random(), ..first.clone() };
        std::fs::write(directory.path().join("1.next"), "left by a crash").unwrap();
        claims.replace(slot, &second).unwrap();
        assert_eq!(claims.all().unwrap(), [(slot, second.clone())]);
        claims.release(slot, &first).unwrap();
        assert_eq!(claims.holder(slot).unwrap(), Some(second.clone()));
        claims.release(slot, &second).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn racing_claims_of_two_servers_get_different_slots() {
        let directory = tempfile::tempdir().unwrap();
        let claim_some = || {
            let (claims, claim) = (Claims::open(directory.path()).unwrap(), claim_of(directory.path()));
            (0..100).map(|_| claims.claim(&claim).unwrap()).collect::<Vec<_>>()
        };
        let slots: Vec<Slot> = std::thread::scope(|scope| {
            let racers = [scope.spawn(claim_some), scope.spawn(claim_some)];
            racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(slots.iter().collect::<HashSet<_>>().len(), 200);
    }

    #[test]
    fn the_last_slot_can_be_taken_and_then_none_until_one_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let (claims, claim) = (Claims::open(directory.path()).unwrap(), claim_of(directory.path()));
        for number in Slot::FIRST..Slot::LAST {
            std::fs::File::create(directory.path().join(number.to_string())).unwrap();
        }
        assert_eq!(claims.claim(&claim).unwrap(), Slot(Slot::LAST));
        assert!(matches!(claims.claim(&claim), Err(ClaimError::AllTaken)));
        std::fs::remove_file(directory.path().join("700")).unwrap();
        assert_eq!(claims.claim(&claim).unwrap(), Slot(700));
    }

    #[test]
    fn an_installation_that_is_gone_or_replaced_has_abandoned_its_claims() {
        let directory = tempfile::tempdir().unwrap();
        let claim = claim_of(&directory.path().join("data"));
        assert!(claim.is_abandoned());
        std::fs::create_dir(&claim.data_dir).unwrap();
        std::fs::write(claim.data_dir.join("instance-id"), format!("{}\n", claim.instance)).unwrap();
        assert!(!claim.is_abandoned());
        std::fs::write(claim.data_dir.join("instance-id"), InstanceId::random().as_str()).unwrap();
        assert!(claim.is_abandoned());
    }
}
