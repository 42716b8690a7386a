//! Many histories, as many at once as there are processors.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::run::Outcome;
use crate::task::Task;

/// What came of many histories.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many there were.
    pub histories: usize,
    /// Every point that programs passed.
    pub points: BTreeSet<String>,
    /// The first, in the order of the tasks, of those that broke a law.
    pub broken: Option<(Task, Outcome)>,
}

/// Lets them happen, in order, until `is_broken` says of one that it broke what must hold.
pub fn run(tasks: impl Iterator<Item = Task> + Send, is_broken: impl Fn(&Outcome) -> bool + Sync) -> Summary {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let (tasks, summary) = (Mutex::new(tasks.fuse()), Mutex::new(Summary::default()));
    let work = || {
        loop {
            let is_over = summary.lock().unwrap_or_else(PoisonError::into_inner).broken.is_some();
            let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(task) = next.filter(|_| !is_over) else { return };
            let outcome = task.run();
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.histories += 1;
            summary.points.extend(outcome.points.iter().cloned());
            let is_first = summary.broken.as_ref().is_none_or(|(broken, _)| task.seed < broken.seed);
            if is_broken(&outcome) && is_first {
                summary.broken = Some((task, outcome));
            }
        }
    };
    thread::scope(|scope| (0..processors).for_each(|_| drop(scope.spawn(work))));
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}
