//! One history and all that decides what comes of it, as one process tells it another.

use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;

use crate::bugs::Bug;
use crate::history::History;
use crate::named;
use crate::run::{Outcome, run};

/// The variable that holds a task.
pub const TASK: &str = "SANDPIPER_SIMULATION";

/// The variable that names the file for its outcome.
pub const OUTCOME: &str = "SANDPIPER_SIMULATION_OUTCOME";

/// What to run. Written as `SEED`, or `NAME@SEED` for a history that has a name; `/1,5,7` after that leaves out steps,
/// `+DEFECT` plants a defect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The history's name; none is the seed's own.
    pub name: Option<&'static str>,
    /// The seed of everything else.
    pub seed: u64,
    /// Steps that do not happen.
    pub without: Vec<usize>,
    /// The defect that is planted.
    pub bug: Option<Bug>,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name {
            write!(f, "{name}@")?;
        }
        write!(f, "{}", self.seed)?;
        if !self.without.is_empty() {
            let without: Vec<_> = self.without.iter().map(ToString::to_string).collect();
            write!(f, "/{}", without.join(","))?;
        }
        self.bug.map_or(Ok(()), |bug| write!(f, "+{}", bug.name()))
    }
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
        let (rest, bug) = text.split_once('+').map_or((text, None), |(rest, bug)| (rest, Some(bug)));
        let (rest, without) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, seed) = rest.split_once('@').map_or((None, rest), |(name, seed)| (Some(name), seed));
        let known = |name: &str| named::ALL.iter().find(|(known, _)| *known == name).map(|(known, _)| *known);
        Ok(Self {
            name: name.map(|name| known(name).ok_or_else(|| format!("no history is called {name:?}"))).transpose()?,
            seed: seed.parse().map_err(|_| format!("{seed:?} is no seed"))?,
            without: without.split(',').filter(|text| !text.is_empty()).map(number).collect::<Result<_, _>>()?,
            bug: bug.map(str::parse).transpose()?,
        })
    }
}

impl Task {
    /// The whole history of a seed.
    pub fn new(seed: u64) -> Self {
        Self { name: None, seed, without: Vec::new(), bug: None }
    }

    /// What this process was told; the first history where it was told nothing.
    pub fn of_this_process() -> Self {
        std::env::var(TASK).map_or_else(|_| Self::new(1), |text| text.parse().unwrap())
    }

    /// Its history, all of it.
    pub fn history(&self) -> History {
        let named = named::ALL.iter().find(|(name, _)| Some(*name) == self.name);
        named.map_or_else(|| History::new(self.seed), |(_, history)| history())
    }

    /// Runs it in this process, which can run no other.
    pub fn run_here(&self) -> Outcome {
        let root = std::env::temp_dir().join(format!("sandpiper-simulation-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let outcome = run(self.seed, &self.history().without(&self.without), self.bug, &root);
        std::fs::remove_dir_all(&root).unwrap();
        outcome
    }

    /// Runs it in a process of its own.
    pub fn run(&self) -> Outcome {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("outcome");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_history", "--nocapture"])
            .env(TASK, self.to_string())
            .env(OUTCOME, &file)
            .env("TMPDIR", directory.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = || format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => Outcome { violations: vec![format!("no program panics: {}", said())], ..Outcome::default() },
        }
    }

    /// The smallest part of it that breaks the same law, and what comes of that.
    pub fn shrink(self, law: &str) -> (Self, Outcome) {
        let breaks = |task: &Self| Some(task.run()).filter(|outcome| outcome.breaks(law));
        let count = self.history().steps.len();
        let (mut smallest, mut outcome) = (self.clone(), self.run());
        let mut size = count.div_ceil(2);
        while size > 0 {
            for first in (0..count).step_by(size) {
                let more = (first..count.min(first + size)).filter(|step| !smallest.without.contains(step));
                let without: Vec<_> = smallest.without.iter().copied().chain(more).collect();
                if without.len() == smallest.without.len() {
                    continue;
                }
                let candidate = Self { without, ..smallest.clone() };
                if let Some(broken) = breaks(&candidate) {
                    (smallest, outcome) = (candidate, broken);
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        smallest.without.sort_unstable();
        (smallest, outcome)
    }
}

#[test]
fn a_task_is_read_as_it_is_written() {
    for text in ["7", "busy-kernel@3", "7/1,5", "7+wall-clock", "busy-kernel@3/0+leaked-networks"] {
        assert_eq!(text.parse::<Task>().unwrap().to_string(), text);
    }
    for wrong in ["", "x", "unknown@1", "1/x", "1+unknown"] {
        assert!(wrong.parse::<Task>().is_err(), "{wrong}");
    }
}
