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

/// What a host agent reads of each monitor.
const LOG: &str = "log.pipe";

/// Process ids that have a file of a sandbox in this data directory open: its monitors.
fn monitors(data_dir: &Path) -> Vec<String> {
    let sandboxes = data_dir.join("sandboxes");
    let is_monitor = |pid: &str| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| !target.ends_with(LOG)).any(|target| target.starts_with(&sandboxes))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let own = std::process::id().to_string();
    processes
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own && is_monitor(name))
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
