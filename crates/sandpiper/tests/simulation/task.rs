//! One history and all that decides what comes of it, as one process tells it another.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::bugs::Bug;
use crate::history::History;
use crate::run::{Outcome, run};

/// The variable that holds a task.
pub const TASK: &str = "SANDPIPER_SIMULATION";

/// The variable that names the file for its outcome.
pub const OUTCOME: &str = "SANDPIPER_SIMULATION_OUTCOME";

/// What to run. Written as `SEED`, `SEED-1,5,7` without some steps, and with a planted defect `SEED+defect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The seed of everything.
    pub seed: u64,
    /// Steps that do not happen.
    pub without: Vec<usize>,
    /// The defect that is planted.
    pub bug: Option<Bug>,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seed)?;
        if !self.without.is_empty() {
            let without: Vec<_> = self.without.iter().map(ToString::to_string).collect();
            write!(f, "-{}", without.join(","))?;
        }
        self.bug.map_or(Ok(()), |bug| write!(f, "+{}", bug.name()))
    }
}

impl Task {
    /// The whole history of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, without: Vec::new(), bug: None }
    }

    /// With a planted defect.
    pub fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }

    /// What this process was told; the first history where it was told nothing.
    pub fn of_this_process() -> Self {
        std::env::var(TASK).map_or_else(|_| Self::new(1), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let (rest, bug) = text.split_once('+').map_or((text, None), |(rest, bug)| (rest, Some(bug)));
        let (seed, without) = rest.split_once('-').unwrap_or((rest, ""));
        Self {
            seed: seed.parse().unwrap(),
            without: without.split(',').filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect(),
            bug: bug.map(|bug| bug.parse().unwrap()),
        }
    }

    /// Its history.
    pub fn history(&self) -> History {
        History::new(self.seed).without(&self.without)
    }

    /// Runs it in this process, which can run no other.
    pub fn run_here(&self) -> Outcome {
        let root = std::env::temp_dir().join(format!("sandpiper-simulation-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let outcome = run(self.seed, &self.history(), self.bug, &root);
        std::fs::remove_dir_all(&root).unwrap();
        outcome
    }

    /// Runs it in a process of its own.
    pub fn run(&self) -> Outcome {
        let directory = tempfile::tempdir().unwrap();
        let file: PathBuf = directory.path().join("outcome");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_history"])
            .env(TASK, self.to_string())
            .env(OUTCOME, &file)
            .env("TMPDIR", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = || format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => Outcome {
                violations: vec![format!("the process broke down: {}", said())],
                points: Vec::new(),
                trace: String::new(),
            },
        }
    }
}
