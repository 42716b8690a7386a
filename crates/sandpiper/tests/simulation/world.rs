//! The world of one history: what there is outside of the programs that are simulated, what may happen to them, and
//! what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SandboxId;
use tokio_util::sync::CancellationToken;

use crate::bugs::Bug;
use crate::monitor::Guest;
use crate::subjects::Subject;
use crate::system;

/// Cheap to clone; clones mean the same world.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

/// All that is remembered.
pub struct State {
    chance: u64,
    /// What happened, a line each.
    pub trace: String,
    /// What must never be and was.
    pub violations: Vec<String>,
    /// Where in the programs something was asked whether it may go on.
    pub points: BTreeSet<String>,
    /// Where the present host agent keeps its files.
    pub data_dir: PathBuf,
    /// Where the machine keeps its own.
    pub root: PathBuf,
    /// Every virtual machine that runs, by the number of its process.
    pub guests: BTreeMap<u64, Guest>,
    /// Whose the network slots are.
    pub networks: BTreeMap<u16, SandboxId>,
    /// What is known of every sandbox that somebody asked for.
    pub subjects: BTreeMap<SandboxId, Subject>,
    /// What ends the present host agent.
    pub agent_ends: Option<Arm>,
    /// What ends the present control plane.
    pub control_plane_ends: Option<Arm>,
    /// What may go wrong, now.
    pub weather: Weather,
    /// The defect that was planted.
    pub bug: Option<Bug>,
    /// Time that passed for programs with a planted defect and for nobody else.
    pub skipped: Duration,
    next_process: u64,
}

/// When a program ends without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// After so many more points.
    After(u32),
    /// At the point of that name.
    At(&'static str),
}

/// What may go wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// No call gets through.
    pub is_cut: bool,
    /// Of a thousand requests so many are lost, before or after they did something.
    pub lost: u64,
    /// So many come twice.
    pub doubled: u64,
    /// So many are late, by up to half a minute.
    pub late: u64,
    /// So many of a thousand networks cannot be made or removed.
    pub busy: u64,
    /// The records cannot be reached.
    pub is_store_away: bool,
    /// The host's disk is full.
    pub is_disk_full: bool,
}

/// The life of a program. Clones mean the same one.
#[derive(Clone)]
pub struct Life {
    /// Which program.
    pub who: Program,
    /// The how manyth.
    pub number: u32,
    /// Set when it is over.
    pub over: CancellationToken,
}

/// What can end without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The host agent.
    Agent,
    /// The control plane.
    ControlPlane,
    /// Whoever uses both, and never ends.
    User,
}

impl World {
    /// In which nothing has happened yet.
    pub fn new(seed: u64, root: &Path, bug: Option<Bug>) -> Self {
        Self(Arc::new(Mutex::new(State {
            chance: seed ^ 0x5eed,
            trace: String::new(),
            violations: Vec::new(),
            points: BTreeSet::new(),
            data_dir: root.join("agent-1"),
            root: root.to_owned(),
            guests: BTreeMap::new(),
            networks: BTreeMap::new(),
            subjects: BTreeMap::new(),
            agent_ends: None,
            control_plane_ends: None,
            weather: Weather::default(),
            bug,
            skipped: Duration::ZERO,
            next_process: 0,
        })))
    }

    /// All that is remembered. Not to be held while anything is waited for.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what happened.
    pub fn note(&self, what: impl std::fmt::Display) {
        self.state().note(what);
    }

    /// Writes down what must never be.
    pub fn violated(&self, law: &str, how: impl std::fmt::Display) {
        let mut state = self.state();
        state.note(format_args!("VIOLATED {law}: {how}"));
        state.violations.push(format!("{law}: {how}"));
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        system::next(&mut self.state().chance) % end.max(1)
    }

    /// Whether one of a thousand was drawn, of so many.
    pub fn happens(&self, of_a_thousand: u64) -> bool {
        of_a_thousand > 0 && self.below(1000) < of_a_thousand
    }

    /// The time since the beginning.
    pub fn now(&self) -> Duration {
        system::elapsed().saturating_sub(self.state().skipped)
    }

    /// Whether this defect was planted.
    pub fn has(&self, bug: Bug) -> bool {
        self.state().bug == Some(bug)
    }

    /// Lets a program pass a point, or ends it there. Whether it lives.
    pub fn pass(&self, life: &Life, point: &str) -> bool {
        if life.is_over() {
            return false;
        }
        let mut state = self.state();
        if !state.points.contains(point) {
            state.points.insert(point.to_owned());
        }
        let arm = match life.who {
            Program::Agent => &mut state.agent_ends,
            Program::ControlPlane => &mut state.control_plane_ends,
            Program::User => return true,
        };
        let ends = match arm {
            Some(Arm::After(0)) => true,
            Some(Arm::After(more)) => {
                *more -= 1;
                false
            }
            Some(Arm::At(name)) => *name == point,
            None => false,
        };
        if ends {
            *arm = None;
            state.end(life, point);
        }
        !ends
    }

    /// The same at something that takes a moment. A program that does not live on never comes back from here.
    pub async fn step(&self, life: &Life, point: &str) {
        if !self.pass(life, point) {
            pending::<()>().await;
        }
        let moment = Duration::from_micros(self.below(3000));
        tokio::time::sleep(moment).await;
        if life.is_over() {
            pending::<()>().await;
        }
    }

    /// Ends a program here and now.
    pub fn kill(&self, life: &Life) {
        if !life.is_over() {
            self.state().end(life, "any time");
        }
    }

    /// A number that no process had.
    pub fn new_process(&self) -> u64 {
        let mut state = self.state();
        state.next_process += 1;
        state.next_process
    }
}

impl State {
    /// Writes down what happened.
    pub fn note(&mut self, what: impl std::fmt::Display) {
        let at = system::elapsed();
        let _ = writeln!(self.trace, "{:>5}.{:03} {what}", at.as_secs(), at.subsec_millis());
    }

    /// Files keep what they have, under another name of their directory: what the dead program would still do to them
    /// by name leads nowhere, as if it had not been done.
    fn end(&mut self, life: &Life, point: &str) {
        self.note(format_args!("{} {} ends at {point}", life.who.name(), life.number));
        if life.who == Program::Agent {
            let next = self.root.join(format!("agent-{}", life.number + 1));
            std::fs::rename(&self.data_dir, &next).expect("the data directory is there");
            let _ = std::fs::remove_file(next.join("lock"));
            self.data_dir = next;
        }
        life.over.cancel();
    }
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "host agent",
            Self::ControlPlane => "control plane",
            Self::User => "user",
        }
    }
}

impl Life {
    /// Of the how manyth.
    pub fn new(who: Program, number: u32) -> Self {
        Self { who, number, over: CancellationToken::new() }
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }
}
