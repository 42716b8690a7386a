//! Everything that an installation may have on the machine, as lines of text: two inventories that are equal show that
//! nothing was left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What belongs to one installation at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Looks at processes, namespaces, links, firewall tables, slots, control groups and directories.
    pub fn take(data_dir: &Path) -> Self {
        let instance = fs::read_to_string(data_dir.join("instance-id")).unwrap_or_default();
        let instance = instance.trim();
        let mut items = BTreeSet::new();
        items.extend(monitors(data_dir));
        if !instance.is_empty() {
            items.extend(named("/run/netns", "namespace", |name| name.starts_with(&format!("sp-{instance}-"))));
            items.extend(named("/sys/class/net", "link", |name| name.starts_with(&format!("sp{instance}"))));
            items.extend(tables(instance));
            items.extend(claims(instance));
            items.extend(cgroups(instance));
        }
        items.extend(named(data_dir.join("sandboxes"), "directory", |_| true));
        Self(items)
    }

    /// The lines that are here and not in `other`.
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        self.0.difference(&other.0).cloned().collect()
    }

    /// The lines of a kind, such as `monitor`.
    pub fn of_kind(&self, kind: &str) -> Vec<&str> {
        self.0.iter().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')).collect()
    }
}

/// Processes that are jailed and have a file of a sandbox in this data directory open: its monitors, and what finds names.
fn monitors(data_dir: &Path) -> Vec<String> {
    let sandboxes = data_dir.join("sandboxes");
    let is_jailed = |pid: &str| {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        namespace(pid).is_some_and(|theirs| Some(theirs) != namespace("self"))
    };
    let has_one_open = |pid: &str| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.starts_with(&sandboxes))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    processes
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && is_jailed(name) && has_one_open(name))
        .map(|pid| format!("monitor {pid}"))
        .collect()
}

fn named(directory: impl AsRef<Path>, kind: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| wanted(name)).map(|name| format!("{kind} {name}")).collect()
}

fn tables(instance: &str) -> Vec<String> {
    let output = Command::new("nft").args(["list", "tables"]).output().unwrap();
    assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.contains(&format!("sp_{instance}"))).map(|line| format!("nft {line}")).collect()
}

/// Control groups, in whatever hierarchies there are.
fn cgroups(instance: &str) -> Vec<String> {
    let directories = |path: PathBuf| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
    };
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = std::iter::once(root.clone()).chain(directories(root));
    let own = hierarchies.map(|hierarchy| hierarchy.join(format!("sandpiper-{instance}"))).filter(|own| own.exists());
    own.flat_map(|own| directories(own.clone()).chain([own])).map(|path| format!("cgroup {}", path.display())).collect()
}

fn claims(instance: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/sandpiper/slots").into_iter().flatten().flatten();
    entries
        .filter(|entry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&format!("\"{instance}\""))))
        .map(|entry| format!("slot {}", entry.file_name().to_string_lossy()))
        .collect()
}
