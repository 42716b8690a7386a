//! What users do and what goes wrong, in an order that follows from a seed.

use std::fmt;
use std::time::Duration;

use crate::system;
use crate::world::Arm;

/// Sandboxes that one history has at once.
pub const SLOTS: u64 = 3;

/// What happens, and how long after what was before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How much later.
    pub after: Duration,
    /// What.
    pub event: Event,
}

/// What may happen. The number says to which of the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a sandbox.
    Create(usize, Span),
    /// Somebody wants one that goes on from the snapshot of another.
    CreateFrom(usize, usize),
    /// It is paused.
    Pause(usize),
    /// Its disk alone is kept.
    Stop(usize),
    /// It is resumed.
    Resume(usize),
    /// It is booted from its disk, whatever else was kept of it.
    Restart(usize),
    /// It is deleted.
    Delete(usize),
    /// It is captured.
    Snapshot(usize),
    /// Its disk alone is captured.
    SnapshotDisk(usize),
    /// Its last snapshot is deleted.
    DeleteSnapshot(usize),
    /// A second one goes on from it.
    Fork(usize, usize),
    /// A file is written in it.
    Write(usize),
    /// That is read.
    Read(usize),
    /// Its monitor ends by itself.
    KillMonitor(usize),
    /// The host agent ends.
    EndAgent(Arm),
    /// The control plane ends.
    EndControlPlane(Arm),
    /// No call gets through for so many seconds.
    Cut(u64),
    /// The records are away for so many seconds.
    StoreAway(u64),
    /// The disk is full for so many seconds.
    DiskFull(u64),
    /// The wall clock is set, forward or back.
    SetClock(i64),
}

/// How long a sandbox lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Until it is deleted.
    Long,
    /// It is destroyed after so many seconds without use.
    Destroyed(u64),
    /// It is paused after so many seconds without use.
    Paused(u64),
    /// After so many its disk alone is kept.
    Stopped(u64),
}

/// How bad the network is all the time, in parts of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Climate {
    /// Calls and answers that are lost.
    pub lost: u64,
    /// Calls that come twice.
    pub doubled: u64,
    /// Those that are late.
    pub late: u64,
    /// Networks that cannot be made or removed at the first try.
    pub busy: u64,
}

impl Climate {
    /// In which nothing goes wrong by itself.
    pub const FINE: Self = Self { lost: 0, doubled: 0, late: 0, busy: 0 };
}

/// All of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// How bad the network is.
    pub climate: Climate,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Where ends are the most telling.
const TELLING: [&str; 20] = [
    "DirectoryMade",
    "RecordWritten",
    "StateUnsaved",
    "MemoryUnwritten",
    "MemoryWritten",
    "PauseUnpublished",
    "PausePublished",
    "StopUnpublished",
    "StopPublished",
    "ResumeUnspent",
    "ResumeSpent",
    "SnapshotUnpublished",
    "SnapshotPublished",
    "monitor.kill",
    "monitor.go",
    "monitor.restor",
    "monitor.restored",
    "network.create",
    "network.created",
    "network.delete",
];

impl History {
    /// The history of a seed.
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw(seed);
        let climate = match draw.below(4) {
            0 => Climate::FINE,
            1 => Climate { lost: 30, doubled: 30, late: 30, busy: 20 },
            2 => Climate { lost: 100, doubled: 20, late: 20, busy: 20 },
            _ => Climate { lost: 20, doubled: 100, late: 100, busy: 100 },
        };
        let count = 8 + draw.below(16);
        let mut steps = vec![Step { after: Duration::ZERO, event: Event::Create(0, draw.span()) }];
        steps.extend((0..count).map(|_| draw.step()));
        Self { climate, steps }
    }

    /// The same without some of its steps.
    pub fn without(mut self, dropped: &[usize]) -> Self {
        let mut number = 0;
        self.steps.retain(|_| {
            number += 1;
            !dropped.contains(&(number - 1))
        });
        self
    }
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        system::next(&mut self.0) % end
    }

    fn slot(&mut self) -> usize {
        usize::try_from(self.below(SLOTS)).unwrap_or_default()
    }

    fn span(&mut self) -> Span {
        match self.below(5) {
            0 => Span::Destroyed(60 + self.below(120)),
            1 => Span::Paused(60 + self.below(120)),
            2 => Span::Stopped(60 + self.below(120)),
            _ => Span::Long,
        }
    }

    fn arm(&mut self) -> Arm {
        match self.below(3) {
            0 => Arm::After(0),
            1 => Arm::After(u32::try_from(self.below(40)).unwrap_or_default()),
            _ => Arm::At(TELLING[usize::try_from(self.below(TELLING.len() as u64)).unwrap_or_default()]),
        }
    }

    fn step(&mut self) -> Step {
        let after = match self.below(8) {
            0..3 => Duration::from_millis(self.below(20)),
            3..6 => Duration::from_millis(self.below(3000)),
            6 => Duration::from_secs(self.below(40)),
            _ => Duration::from_secs(self.below(200)),
        };
        let (slot, other) = (self.slot(), self.slot());
        let event = match self.below(100) {
            0..16 => Event::Create(slot, self.span()),
            16..28 => Event::Pause(slot),
            28..32 => Event::Stop(slot),
            32..44 => Event::Resume(slot),
            44..46 => Event::Restart(slot),
            46..54 => Event::Delete(slot),
            54..58 => Event::Snapshot(slot),
            58..59 => Event::SnapshotDisk(slot),
            59..61 => Event::DeleteSnapshot(slot),
            61..64 => Event::CreateFrom(slot, other),
            64..66 => Event::Fork(slot, other),
            66..78 => Event::Write(slot),
            78..81 => Event::Read(slot),
            81..83 => Event::KillMonitor(slot),
            83..89 => Event::EndAgent(self.arm()),
            89..92 => Event::EndControlPlane(Arm::After(u32::try_from(self.below(40)).unwrap_or_default())),
            92..94 => Event::Cut(1 + self.below(120)),
            94..96 => Event::StoreAway(1 + self.below(60)),
            96..98 => Event::DiskFull(1 + self.below(60)),
            _ => Event::SetClock(i64::try_from(self.below(1200)).unwrap_or_default() - 600),
        };
        Step { after, event }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.event)
    }
}
