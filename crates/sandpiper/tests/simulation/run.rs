//! Lets one history happen.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bugs::Bug;
use crate::history::History;
use crate::system;
use crate::users::Users;
use crate::world::World;

/// What came of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The laws that were broken, and how.
    pub violations: Vec<String>,
    /// The points that programs passed.
    pub points: Vec<String>,
    /// What happened, a line each.
    pub trace: String,
}

impl Outcome {
    /// Whether any law was broken.
    pub fn is_broken(&self) -> bool {
        !self.violations.is_empty()
    }

    /// Whether this law was broken.
    pub fn breaks(&self, law: &str) -> bool {
        self.violations.iter().any(|violation| violation.starts_with(&format!("{law}: ")))
    }

    /// The law that was broken first.
    pub fn law(&self) -> String {
        let first = self.violations.first().map_or("", String::as_str);
        first.split(": ").next().unwrap_or_default().to_owned()
    }
}

/// Lets a history happen in `root`, an empty directory. On a thread of its own, on which nothing was drawn by chance
/// before.
pub fn run(seed: u64, history: &History, bug: Option<Bug>, root: &Path) -> Outcome {
    std::thread::scope(|scope| scope.spawn(|| run_here(seed, history, bug, root)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_here(seed: u64, history: &History, bug: Option<Bug>, root: &Path) -> Outcome {
    system::enter(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without a driver");
    let world = World::new(seed, root, bug);
    runtime.block_on(async {
        system::follow_runtime();
        Users::new(world.clone()).live(history).await;
    });
    // What still runs is cut with the process.
    std::mem::forget(runtime);
    let state = world.state();
    let anywhere = root.display().to_string();
    let plain = |text: &String| text.replace(&anywhere, "");
    Outcome {
        violations: state.violations.iter().map(plain).collect(),
        points: state.points.iter().cloned().collect(),
        trace: plain(&state.trace),
    }
}
