//! Claims about monitors that were taken over: what each may do, as the host sees it in /proc and in its control groups.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::Finding;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    User,
    Privileges,
    Seccomp,
    Namespaces,
    Root,
    Files,
    Cgroup,
    Limits,
}

/// A process that should be jailed.
#[derive(Debug, Clone)]
pub struct Monitor {
    pub pid: i32,
    /// Where its sandbox's files are; none for a process that is no monitor.
    pub directory: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Identity {
    pid: i32,
}

/// Those of a data directory.
pub fn monitors(data_dir: &Path) -> anyhow::Result<Vec<Monitor>> {
    let directory = data_dir.join("sandboxes");
    let entries = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let directory = entry.with_context(|| format!("list {}", directory.display()))?.path();
        // One that is paused has none.
        let Ok(text) = fs::read(directory.join("vmm.json")) else { continue };
        let Ok(Identity { pid }) = serde_json::from_slice(&text) else { continue };
        if Path::new(&format!("/proc/{pid}/root/boot")).exists() {
            found.push(Monitor { pid, directory: Some(directory) });
        }
    }
    Ok(found)
}

/// Looks at all of them.
pub fn check(check: Check, monitors: &[Monitor]) -> anyhow::Result<Finding> {
    let (mut looked_at, mut broken) = (0, Vec::new());
    for monitor in monitors {
        match look(check, monitor) {
            Ok(()) => looked_at += 1,
            // It ended in the meantime: a sandbox of somebody's was deleted.
            Err(_) if !monitor.is_there() => {}
            Err(error) => broken.push(format!("process {}: {error:#}", monitor.pid)),
        }
    }
    if check == Check::User {
        let mut seen = BTreeSet::new();
        let uids =
            monitors.iter().filter_map(|monitor| monitor.field("Uid").ok()).filter_map(|ids| ids.first().cloned());
        broken.extend(uids.filter(|uid| !seen.insert(uid.clone())).map(|uid| format!("two have the uid {uid}")));
    }
    if !broken.is_empty() {
        return Ok(Finding::Broken(broken.join("; ")));
    }
    ensure!(looked_at > 0, "there was no monitor to look at");
    Ok(Finding::Holds(format!("monitors looked at: {looked_at}")))
}

fn look(check: Check, monitor: &Monitor) -> anyhow::Result<()> {
    match check {
        Check::User => user(monitor),
        Check::Privileges => privileges(monitor),
        Check::Seccomp => monitor.has("Seccomp", &["2"]),
        Check::Namespaces => namespaces(monitor),
        Check::Root => root(monitor),
        Check::Files => files(monitor),
        Check::Cgroup => cgroup(monitor),
        Check::Limits => limits(monitor),
    }
}

impl Monitor {
    fn is_there(&self) -> bool {
        self.path("status").exists()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    pub fn read(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    pub fn field(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let line = line.with_context(|| format!("the kernel tells no {name}"))?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    fn has(&self, name: &str, expected: &[&str]) -> anyhow::Result<()> {
        let found = self.field(name)?;
        ensure!(found == expected, "{name} is {}", found.join(" "));
        Ok(())
    }
}

/// The first uid that no system hands out to anybody.
const FIRST_OF_NOBODY: u32 = 100_000;

fn user(monitor: &Monitor) -> anyhow::Result<()> {
    monitor.has("Groups", &[])?;
    let (uids, gids) = (monitor.field("Uid")?, monitor.field("Gid")?);
    let first = uids.first().context("it has no uid")?;
    ensure!(uids == gids && uids.iter().all(|uid| uid == first), "its uids are {uids:?} and its gids {gids:?}");
    ensure!(first.parse::<u32>()? >= FIRST_OF_NOBODY, "its uid is {first}");
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    ensure!(passwd.lines().all(|line| line.split(':').nth(2) != Some(first)), "the uid {first} is a user's");
    Ok(())
}

fn privileges(monitor: &Monitor) -> anyhow::Result<()> {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        monitor.has(set, &["0000000000000000"])?;
    }
    monitor.has("NoNewPrivs", &["1"])
}

fn namespaces(monitor: &Monitor) -> anyhow::Result<()> {
    for name in ["mnt", "pid", "net", "ipc", "uts"] {
        let theirs =
            fs::read_link(monitor.path(&format!("ns/{name}"))).with_context(|| format!("look at its {name}"))?;
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).with_context(|| format!("look at our {name}"))?;
        ensure!(theirs != ours, "its {name} namespace is the host's");
    }
    ensure!(monitor.field("NSpid")?.len() == 2, "it is not in a pid namespace of its own");
    let links = monitor.read("net/dev")?;
    let names: Vec<_> = links.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    ensure!(names == ["lo"], "it has the links {names:?}");
    Ok(())
}

/// What a host's root has, and a jail's does not.
const OF_HOSTS: [&str; 7] = ["etc", "home", "proc", "root", "run", "sys", "var"];

fn root(monitor: &Monitor) -> anyhow::Result<()> {
    for name in OF_HOSTS {
        ensure!(!monitor.path("root").join(name).exists(), "it sees /{name}");
    }
    for mount in monitor.read("mounts")?.lines() {
        let mut fields = mount.split_whitespace().skip(1);
        let (at, options) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        ensure!(options.split(',').any(|option| option == "ro"), "{at} is writable");
    }
    Ok(())
}

/// Of the files of its own sandbox, those that it writes.
const WRITTEN: [&str; 2] = ["overlay.qcow2", "log.pipe"];

fn files(monitor: &Monitor) -> anyhow::Result<()> {
    let own = monitor.directory.as_deref().context("it has no sandbox, and files open all the same")?;
    let all = own.parent().context("a sandbox's directory is in another")?;
    for entry in fs::read_dir(monitor.path("fd")).context("list its descriptors")? {
        let entry = entry.context("list its descriptors")?;
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let text = target.to_string_lossy();
        let is_file = text.starts_with('/') && !text.starts_with("/dev/") && !text.starts_with("/memory");
        if !is_file {
            let is_device = text.starts_with("/dev/");
            ensure!(!is_device || ["/dev/null", "/dev/net/tun", "/dev/kvm"].contains(&&*text), "it has {text} open");
            continue;
        }
        ensure!(!target.starts_with(all) || target.starts_with(own), "it has another sandbox's {text} open");
        let is_written = target.starts_with(own) && WRITTEN.iter().any(|name| target.ends_with(name));
        let info = monitor.read(&format!("fdinfo/{}", entry.file_name().display()))?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).context("a descriptor has no flags")?;
        let access = u32::from_str_radix(flags.trim(), 8).context("flags are octal")? & 3;
        ensure!(is_written || access == 0, "it may write {text}");
    }
    Ok(())
}

/// The files in which control groups of version 1 and 2 have a limit.
const GROUP_LIMITS: [(&str, [&str; 2]); 3] = [
    ("memory", ["memory.limit_in_bytes", "memory.max"]),
    ("cpu", ["cpu.cfs_quota_us", "cpu.max"]),
    ("pids", ["pids.max", "pids.max"]),
];

fn cgroup(monitor: &Monitor) -> anyhow::Result<()> {
    for (controller, _) in GROUP_LIMITS {
        group_limit(monitor, controller)?;
    }
    Ok(())
}

/// All processes in a monitor's group; it is one of them, and should be the only one.
pub fn group_members(monitor: &Monitor) -> anyhow::Result<Vec<Monitor>> {
    let groups = group_directories(monitor, "pids")?;
    let read = |directory: &PathBuf| fs::read_to_string(directory.join("cgroup.procs")).ok();
    let members = groups.iter().find_map(read).context("its group does not tell its processes")?;
    let pids = members.lines().filter_map(|pid| pid.parse().ok());
    Ok(pids.map(|pid| Monitor { pid, directory: None }).collect())
}

/// What a process's group limits it to, as the kernel tells it.
fn group_limit(monitor: &Monitor, controller: &str) -> anyhow::Result<u64> {
    let (_, files) =
        GROUP_LIMITS.iter().find(|(name, _)| *name == controller).context("there is no such controller")?;
    let groups = group_directories(monitor, controller)?;
    let read = |directory: &PathBuf| files.iter().find_map(|file| fs::read_to_string(directory.join(file)).ok());
    let limit = groups.iter().find_map(read).with_context(|| format!("no group limits its {controller}"))?;
    let number = limit.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
    // Where there is none, it is `max`, -1, or the largest number of pages.
    let number = number.filter(|number| *number < 1 << 62);
    number.with_context(|| format!("its {controller} is not limited: {}", limit.trim()))
}

fn group_directories(monitor: &Monitor, controller: &str) -> anyhow::Result<Vec<PathBuf>> {
    let (groups, mounts) = (monitor.read("cgroup")?, fs::read_to_string("/proc/mounts").context("read /proc/mounts")?);
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let is_second_version = controllers.is_empty();
        // One that another has made for whatever it is in is none of its own.
        if !Path::new(path).iter().any(|name| name.to_string_lossy().starts_with("sandpiper-")) {
            continue;
        }
        if !is_second_version && !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        let roots = mounts.lines().filter_map(|mount| {
            let mut fields = mount.split_whitespace().skip(1);
            let (root, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let is_it = match is_second_version {
                true => kind == "cgroup2",
                false => kind == "cgroup" && options.split(',').any(|option| option == controller),
            };
            is_it.then_some(root)
        });
        found.extend(roots.map(|root| Path::new(root).join(path.trim_start_matches('/'))));
    }
    Ok(found)
}

fn limits(monitor: &Monitor) -> anyhow::Result<()> {
    let score: i32 = monitor.read("oom_score_adj")?.trim().parse().context("oom_score_adj is a number")?;
    ensure!(score >= 500, "its oom_score_adj is {score}");
    let limits = monitor.read("limits")?;
    for (name, most) in [("Max core file size", 0), ("Max open files", 1024), ("Max locked memory", 0)] {
        let hard = limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(1));
        let is_kept = hard.and_then(|text| text.parse::<u64>().ok()).is_some_and(|hard| hard <= most);
        ensure!(is_kept, "{name}: {}", hard.unwrap_or("nothing"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_breaks_nothing_and_one_without_a_jail_everything() {
        let ours = Monitor { pid: std::process::id().try_into().unwrap(), directory: None };
        let ended = Monitor { pid: i32::MAX, directory: None };
        for what in [
            Check::User,
            Check::Privileges,
            Check::Seccomp,
            Check::Namespaces,
            Check::Root,
            Check::Files,
            Check::Cgroup,
            Check::Limits,
        ] {
            assert!(check(what, std::slice::from_ref(&ended)).is_err(), "{what:?}: nothing was looked at");
            assert!(matches!(check(what, std::slice::from_ref(&ours)), Ok(Finding::Broken(_))), "{what:?}");
        }
    }
}
