//! The control plane, the host agent and what they say to each other, in a simulated world: everything in one thread, by
//! a clock that passes only when nothing else happens and chances that follow from a seed. Monitors, guests, networks and
//! the way to the records are the world's; all else is the product. Each history has a process of its own.
#![allow(clippy::unwrap_used)]

mod batch;
mod bugs;
mod guest;
mod history;
mod host;
mod laws;
mod monitor;
mod named;
mod network;
mod planes;
mod rpc;
mod run;
mod subjects;
mod system;
mod task;
mod users;
mod world;

use bugs::Bug;
use host_agent::Failpoint;
use run::Outcome;
use task::Task;

/// Histories that are let happen where nobody asks for more.
const HISTORIES: u64 = 2000;

/// The variables that say how many, and from which seed on.
const COUNT: &str = "SANDPIPER_SIMULATION_HISTORIES";
const FIRST: &str = "SANDPIPER_SIMULATION_FIRST";

/// The process of one history. Told by nobody, it is the first one. With `RUST_LOG` it tells what the product logs.
#[test]
fn one_history() {
    let task = Task::of_this_process();
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let outcome = task.run_here();
    match std::env::var_os(task::OUTCOME) {
        Some(file) => std::fs::write(file, serde_json::to_vec(&outcome).unwrap()).unwrap(),
        None => {
            println!("{}", outcome.trace);
            assert_eq!(outcome.violations, [] as [String; 0], "{task}");
        }
    }
}

#[test]
fn histories_break_no_law() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count): (u64, u64) = (number(FIRST, 1), number(COUNT, HISTORIES));
    let summary = batch::run((first..first + count).map(Task::new), Outcome::is_broken);
    if let Some((task, outcome)) = summary.broken {
        panic!("{}", report(task, &outcome));
    }
    println!("{} histories passed {} points and broke no law", summary.histories, summary.points.len());
    if count >= HISTORIES {
        let missed: Vec<_> = Failpoint::ALL.iter().filter(|at| !summary.points.contains(&format!("{at:?}"))).collect();
        assert!(missed.is_empty(), "no history came to {missed:?}");
    }
}

#[test]
fn histories_that_have_a_name_break_no_law() {
    let tasks =
        named::ALL.iter().flat_map(|(name, _)| (1..=8).map(move |seed| Task { name: Some(*name), ..Task::new(seed) }));
    let summary = batch::run(tasks, Outcome::is_broken);
    if let Some((task, outcome)) = summary.broken {
        panic!("{}", report(task, &outcome));
    }
}

#[test]
fn the_same_seed_gives_the_same_history_byte_by_byte() {
    for seed in 1..=20 {
        let (one, two) = (Task::new(seed).run(), Task::new(seed).run());
        assert!(one.trace.lines().count() > 10, "{}", one.trace);
        assert_eq!(one, two, "seed {seed}");
    }
    assert_ne!(Task::new(1).run().trace, Task::new(2).run().trace);
}

/// One for each law. Where nothing is planted, the same histories break none.
#[test]
fn every_planted_defect_is_found() {
    for (bug, name, law) in Bug::ALL {
        let tasks = (1..=HISTORIES).map(|seed| Task { bug: Some(bug), ..Task::new(seed) });
        let summary = batch::run(tasks, |outcome| outcome.breaks(law));
        println!("{name} broke {law:?} after {} histories", summary.histories);
        assert!(summary.broken.is_some(), "{HISTORIES} histories did not find {name}");
    }
}

/// The smallest history that shows the same, and how to see it again.
#[test]
fn what_is_found_is_told_by_a_small_history() {
    let bug = Bug::LeakedNetworks;
    let tasks = (1..=HISTORIES).map(|seed| Task { bug: Some(bug), ..Task::new(seed) });
    let (task, outcome) = batch::run(tasks, |outcome| outcome.breaks(bug.law())).broken.unwrap();
    let (smallest, again) = task.clone().shrink(bug.law());
    assert!(again.breaks(bug.law()) && smallest.run() == again);
    let steps = |task: &Task| task.history().without(&task.without).steps.len();
    assert!(steps(&smallest) <= 2 && steps(&smallest) < steps(&task), "{smallest}");
    let report = report(task, &outcome);
    assert!(report.contains(&format!("SANDPIPER_SIMULATION={smallest}")), "{report}");
}

fn report(task: Task, outcome: &Outcome) -> String {
    let law = outcome.law();
    let whole = task.clone();
    let (smallest, outcome) = task.shrink(&law);
    format!(
        "seed {} broke {law:?} (task {whole}). The smallest history that does:\n{}\n{}\n\
         See it again, with what the product logs:\n\
         SANDPIPER_SIMULATION={smallest} RUST_LOG=info cargo nextest run --release --locked --workspace --no-capture \
         -E 'binary(simulation) & test(=one_history)'",
        whole.seed,
        outcome.trace,
        outcome.violations.join("\n"),
    )
}
