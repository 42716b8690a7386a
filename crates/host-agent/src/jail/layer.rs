//! The layers of the jail that a machine may lack. All others (uid, capabilities, namespaces, file system,
//! `no_new_privs`, seccomp, resource limits) every Linux has, and without them nothing starts.

use std::fmt;
use std::str::FromStr;

use super::landlock;
use crate::cgroup::{Controller, Missing};

/// A layer that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// A limit on memory.
    CgroupMemory,
    /// A limit on time on processors.
    CgroupCpu,
    /// A limit on processes and threads.
    CgroupPids,
    /// A second limit on throughput of the disk, beside the monitor's own.
    CgroupIo,
    /// The kernel's second look at what files are opened.
    Landlock,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::CgroupMemory, Self::CgroupCpu, Self::CgroupPids, Self::CgroupIo, Self::Landlock];

    /// Whether a server without it starts only where it is told to. The disk's throughput is limited by the monitor itself
    /// too, and many a file system is on no single disk that the kernel could limit: that is told, and refused to nobody.
    pub fn is_required(self) -> bool {
        self != Self::CgroupIo
    }

    /// The name by which users know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CgroupMemory => "cgroup-memory",
            Self::CgroupCpu => "cgroup-cpu",
            Self::CgroupPids => "cgroup-pids",
            Self::CgroupIo => "cgroup-io",
            Self::Landlock => "landlock",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no layer has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of cgroup-memory, cgroup-cpu, cgroup-pids, cgroup-io, landlock")]
pub struct UnknownLayer(String);

impl FromStr for Layer {
    type Err = UnknownLayer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|layer| layer.as_str() == text).ok_or_else(|| UnknownLayer(text.to_owned()))
    }
}

/// A layer that this machine lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine cannot give monitors the jail layer {layer} ({reason}); --allow-degraded-jail {layer} goes on without it"
)]
pub struct LackingLayer {
    /// Which one.
    pub layer: Layer,
    /// Why.
    pub reason: String,
}

/// What a machine lacks, of cgroups as given and of the kernel.
pub fn lacking(cgroups: Vec<Missing>) -> Vec<LackingLayer> {
    let of_cgroups = cgroups.into_iter().map(|missing| {
        let layer = match missing.controller {
            Controller::Memory => Layer::CgroupMemory,
            Controller::Cpu => Layer::CgroupCpu,
            Controller::Pids => Layer::CgroupPids,
            Controller::Io => Layer::CgroupIo,
        };
        LackingLayer { layer, reason: missing.reason }
    });
    let of_kernel = landlock::abi().err().map(|error| LackingLayer {
        layer: Layer::Landlock,
        reason: format!("the kernel has no Landlock, or it is switched off: {error}"),
    });
    of_cgroups.chain(of_kernel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_known_by_their_names_and_by_no_other() {
        for layer in Layer::ALL {
            assert_eq!(layer.as_str().parse(), Ok(layer));
        }
        assert!("seccomp".parse::<Layer>().unwrap_err().to_string().contains("cgroup-memory"));
    }

    #[test]
    fn only_the_second_limit_on_the_disk_may_be_lacking_without_leave() {
        let optional: Vec<_> = Layer::ALL.into_iter().filter(|layer| !layer.is_required()).collect();
        assert_eq!(optional, [Layer::CgroupIo]);
    }

    #[test]
    fn what_is_missing_of_cgroups_is_named_with_the_way_round_it() {
        let missing = Missing { controller: Controller::Cpu, reason: "no such thing".to_owned() };
        let lacking = lacking(vec![missing]);
        assert_eq!(lacking[0].layer, Layer::CgroupCpu);
        let text = lacking[0].to_string();
        assert!(text.contains("no such thing") && text.contains("--allow-degraded-jail cgroup-cpu"), "{text}");
    }
}
