//! What must hold after every history, whatever happened in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use control_plane::Records;
use model::{SandboxId, Status};

use crate::monitor::Mode;
use crate::world::World;

/// How much later than promised an expiry may be.
const LATENESS: Duration = Duration::from_secs(30);

/// A monitor has ended, whoever ended it.
pub fn see_end(world: &World, directory: &str) {
    let Ok(id) = directory.parse::<SandboxId>() else { return };
    let now = world.now();
    let Some(subject) = world.state().subjects.get(&id).cloned() else { return };
    let Some(idle) = subject.idle.filter(|_| subject.is_made && !subject.is_disturbed) else { return };
    let unused = now.saturating_sub(subject.used);
    if unused < idle {
        world.violated("nothing expires early", format!("{id} after {unused:?} of {idle:?}"));
    }
}

/// A host agent has begun: idle times begin anew.
pub fn see_agent(world: &World) {
    let now = world.now();
    world.state().subjects.values_mut().for_each(|subject| subject.perhaps_used = now);
}

/// Once all is quiet.
pub fn check_quiet(world: &World, records: &Records, on_host: &BTreeMap<SandboxId, Status>) {
    check_agreement(world, records, on_host);
    check_presence(world, on_host);
    check_expiry(world, on_host);
    check_leaks(world, records, on_host);
}

fn check_agreement(world: &World, records: &Records, on_host: &BTreeMap<SandboxId, Status>) {
    let law = "row and host agree";
    let rows = match records.all() {
        Ok(rows) => rows,
        Err(error) => return world.violated(law, error),
    };
    let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
    for row in rows.values() {
        let host = on_host.get(&row.id).copied();
        let do_agree = match row.status {
            Status::Running | Status::Paused => host == Some(row.status),
            Status::Stopped if row.keeps_disk => host == Some(Status::Stopped),
            Status::Stopped => host.is_none(),
            Status::Error => host.is_none_or(|host| host == Status::Error),
            _ => false,
        };
        if !do_agree {
            let how = format!("{} is {} ({}) and on its host {host:?}", row.id, row.status, row.reason);
            world.violated(law, how);
        }
    }
    for (id, status) in on_host.iter().filter(|(id, _)| !rows.contains_key(id)) {
        world.violated(law, format!("{id} is {status} on its host and nobody knows it"));
    }
}

fn check_presence(world: &World, on_host: &BTreeMap<SandboxId, Status>) {
    let subjects = world.state().subjects.clone();
    for (id, subject) in subjects.iter().filter(|(_, subject)| subject.must_be()) {
        let host = on_host.get(id);
        let is_there = match host {
            Some(Status::Stopped) => subject.may_be_stopped,
            other => matches!(other, Some(Status::Running | Status::Paused)),
        };
        if !is_there {
            world.violated("a failed pause destroys nothing", format!("{id} is lost: {host:?}, {subject:?}"));
        }
    }
}

fn check_expiry(world: &World, on_host: &BTreeMap<SandboxId, Status>) {
    let (now, subjects) = (world.now(), world.state().subjects.clone());
    for (id, subject) in subjects.iter().filter(|(id, _)| on_host.get(id) == Some(&Status::Running)) {
        let Some(idle) = subject.idle else { continue };
        let unused = now.saturating_sub(subject.perhaps_used);
        if unused > idle + LATENESS {
            world.violated("nothing expires late", format!("{id} runs after {unused:?} of {idle:?}"));
        }
    }
}

fn check_leaks(world: &World, records: &Records, on_host: &BTreeMap<SandboxId, Status>) {
    let law = "nothing leaks";
    let (data_dir, networks, running) = {
        let state = world.state();
        let stopped = state.guests.values().filter(|guest| *guest.mode.borrow() == Mode::Stopped).count();
        if stopped > 0 {
            drop(state);
            return world.violated(law, format!("{stopped} monitors are stopped"));
        }
        (state.data_dir.clone(), state.networks.clone(), state.guests.len())
    };
    let wanted = on_host.values().filter(|status| **status == Status::Running).count();
    if running != wanted {
        world.violated(law, format!("{running} monitors of {wanted} sandboxes"));
    }
    for (slot, sandbox) in networks.iter().filter(|(_, sandbox)| !on_host.contains_key(*sandbox)) {
        world.violated(law, format!("network {slot} of {sandbox}"));
    }
    let used: BTreeSet<_> = networks.values().collect();
    if used.len() != networks.len() {
        world.violated(law, format!("{} networks of {} sandboxes", networks.len(), used.len()));
    }
    let names = |directory: &str| -> Vec<String> {
        let entries = fs::read_dir(data_dir.join(directory)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    for name in names("sandboxes") {
        let is_known = name.parse::<SandboxId>().is_ok_and(|id| on_host.contains_key(&id));
        let has_left = fs::read_dir(data_dir.join("sandboxes").join(&name)).into_iter().flatten().flatten();
        let rest: Vec<_> = has_left
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".staged") || name.ends_with(".written") || name.ends_with(".new"))
            .collect();
        if !is_known || !rest.is_empty() {
            world.violated(law, format!("the directory {name} with {rest:?}"));
        }
    }
    let recorded: Vec<_> = match records.snapshots() {
        Ok(ids) => ids.iter().map(ToString::to_string).collect(),
        Err(error) => return world.violated(law, error),
    };
    let snapshots = names("snapshots");
    if snapshots != recorded {
        world.violated(law, format!("snapshots {snapshots:?}, recorded {recorded:?}"));
    }
    if let Some(name) = names("bakes").iter().find(|name| name.contains('.')) {
        world.violated(law, format!("the unfinished image {name}"));
    }
}

/// Once everything was deleted.
pub fn check_empty(world: &World, records: &Records, on_host: &BTreeMap<SandboxId, Status>) {
    for (id, status) in on_host {
        world.violated("a delete ends", format!("{id} is still {status} on its host"));
    }
    for row in records.all().unwrap_or_default() {
        if row.status != Status::Stopped {
            world.violated("a delete ends", format!("{} is still {} ({})", row.id, row.status, row.reason));
        }
    }
    check_leaks(world, records, on_host);
}
