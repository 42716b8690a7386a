//! Groups over a tree of plain files, in every mixture of versions that machines have.

use vmm::DiskLimits;

use super::*;

const LIMITS: CgroupLimits = CgroupLimits {
    vcpus: 2,
    memory_mb: 512,
    disk: Some(DiskLimits { megabytes_per_second: 1, operations_per_second: 100 }),
};

/// The disk that these tests' files are on, or another: nothing here asks the kernel.
fn disk() -> BlockDevice {
    BlockDevice::numbered("254:0")
}

/// A machine whose hierarchies are directories: those of version 1 by their controllers, that of version 2 by its own.
struct Machine {
    root: tempfile::TempDir,
    mounts: String,
}

impl Machine {
    fn new(version_1: &[&str], version_2: Option<&str>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n".to_owned();
        for controllers in version_1 {
            let at = root.path().join(controllers);
            fs::create_dir(&at).unwrap();
            mounts += &format!("cgroup {} cgroup rw,relatime,{controllers} 0 0\n", at.display());
        }
        if let Some(controllers) = version_2 {
            let at = root.path().join("unified");
            fs::create_dir(&at).unwrap();
            fs::write(at.join("cgroup.controllers"), format!("{controllers}\n")).unwrap();
            mounts += &format!("cgroup2 {} cgroup2 rw 0 0\n", at.display());
        }
        Self { root, mounts }
    }

    /// The files of the group of slot 7, as `path=content`, and the controllers that are missing.
    fn group_of_slot_7(&self) -> (Vec<String>, Vec<Controller>) {
        let instance = InstanceId::random();
        let (cgroups, missing) = Cgroups::in_mounts(&instance, &self.mounts, Some(&disk()));
        let cgroup = cgroups.of(Slot::new(7).unwrap(), LIMITS);
        cgroup.make().unwrap();
        cgroup.enter(1234).unwrap();
        let mut files = Vec::new();
        for (_, directory) in &cgroup.parts {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let relative = path.strip_prefix(self.root.path()).unwrap().to_str().unwrap();
                let short = relative.replace(&format!("sandpiper-{instance}"), "own");
                files.push(format!("{short}={}", fs::read_to_string(&path).unwrap()));
            }
        }
        files.sort();
        (files, missing.into_iter().map(|missing| missing.controller).collect())
    }
}

#[test]
fn version_1_has_a_group_in_each_hierarchy() {
    let machine = Machine::new(&["memory", "cpu,cpuacct", "pids", "freezer", "blkio"], None);
    let expected = [
        "blkio/own/7/blkio.throttle.read_bps_device=254:0 2097152",
        "blkio/own/7/blkio.throttle.read_iops_device=254:0 200",
        "blkio/own/7/blkio.throttle.write_bps_device=254:0 2097152",
        "blkio/own/7/blkio.throttle.write_iops_device=254:0 200",
        "blkio/own/7/cgroup.procs=1234",
        "cpu,cpuacct/own/7/cgroup.procs=1234",
        "cpu,cpuacct/own/7/cpu.cfs_period_us=100000",
        "cpu,cpuacct/own/7/cpu.cfs_quota_us=250000",
        "cpu,cpuacct/own/7/cpu.shares=2048",
        "memory/own/7/cgroup.procs=1234",
        "memory/own/7/memory.limit_in_bytes=805306368",
        "pids/own/7/cgroup.procs=1234",
        "pids/own/7/pids.max=130",
    ];
    assert_eq!(machine.group_of_slot_7(), (expected.map(str::to_owned).to_vec(), vec![]));
}

#[test]
fn version_2_has_one_group_with_all_controllers() {
    let machine = Machine::new(&[], Some("cpuset cpu io memory pids"));
    let expected = [
        "unified/own/7/cgroup.procs=1234",
        "unified/own/7/cpu.max=250000 100000",
        "unified/own/7/cpu.weight=200",
        "unified/own/7/io.max=254:0 rbps=2097152 wbps=2097152 riops=200 wiops=200",
        "unified/own/7/memory.max=805306368",
        "unified/own/7/memory.oom.group=1",
        "unified/own/7/pids.max=130",
    ];
    assert_eq!(machine.group_of_slot_7(), (expected.map(str::to_owned).to_vec(), vec![]));
    let enabled = fs::read_to_string(machine.root.path().join("unified/cgroup.subtree_control")).unwrap();
    assert_eq!(enabled, "+io", "each is enabled by itself, so that one that cannot be had leaves the others");
}

#[test]
fn hybrid_machines_have_each_controller_where_it_is() {
    let empty_unified = Machine::new(&["memory", "cpu", "pids", "blkio"], Some(""));
    let (files, missing) = empty_unified.group_of_slot_7();
    assert!(missing.is_empty() && files.iter().all(|file| !file.starts_with("unified")), "{files:?}");
    let mixed = Machine::new(&["memory"], Some("cpu pids io"));
    let (files, missing) = mixed.group_of_slot_7();
    assert_eq!(missing, []);
    assert!(files.contains(&"memory/own/7/memory.limit_in_bytes=805306368".to_owned()), "{files:?}");
    assert!(files.contains(&"unified/own/7/cpu.max=250000 100000".to_owned()), "{files:?}");
}

#[test]
fn a_controller_that_is_nowhere_or_cannot_be_used_is_missing_with_its_reason() {
    let (_, missing) = Machine::new(&["memory"], Some("pids")).group_of_slot_7();
    assert_eq!(missing, [Controller::Cpu, Controller::Io]);
    assert_eq!(unmounted("").len(), 4);
    assert_eq!(unmounted(&Machine::new(&["memory", "cpu", "pids", "blkio"], None).mounts), []);
    let machine = Machine::new(&["memory", "cpu", "blkio"], Some("pids"));
    fs::create_dir(machine.root.path().join("unified/cgroup.subtree_control")).unwrap();
    let (_, missing) = Cgroups::in_mounts(&InstanceId::random(), &machine.mounts, Some(&disk()));
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].controller, Controller::Pids);
    assert!(missing[0].reason.contains("unified"), "{missing:?}");
}

#[test]
fn a_disk_that_is_none_or_cannot_be_limited_is_told_and_takes_nothing_else_with_it() {
    let machine = Machine::new(&["memory", "cpu", "pids", "blkio"], None);
    let instance = InstanceId::random();
    let (cgroups, missing) = Cgroups::in_mounts(&instance, &machine.mounts, None);
    assert_eq!((cgroups.hierarchies.len(), missing.len(), missing[0].controller), (3, 1, Controller::Io));
    let own = machine.root.path().join(format!("blkio/sandpiper-{instance}"));
    fs::create_dir_all(own.join("blkio.throttle.read_bps_device")).unwrap();
    let (cgroups, missing) = Cgroups::in_mounts(&instance, &machine.mounts, Some(&disk()));
    assert_eq!((cgroups.hierarchies.len(), missing.len()), (3, 1));
    assert!(missing[0].reason.contains("254:0"), "{missing:?}");
}

#[tokio::test]
async fn groups_go_when_they_are_removed_and_a_sweep_takes_only_the_installation_s_own() {
    let machine = Machine::new(&["memory", "cpu", "pids"], None);
    let open = || Cgroups::in_mounts(&InstanceId::random(), &machine.mounts, None).0;
    let (ours, theirs) = (open(), open());
    let group = |cgroups: &Cgroups, slot| cgroups.of(Slot::new(slot).unwrap(), LIMITS);
    let make_directories = |cgroup: &Cgroup| {
        for (_, directory) in &cgroup.parts {
            fs::create_dir(directory).unwrap();
        }
    };
    let there = |cgroup: &Cgroup| cgroup.parts.iter().filter(|(_, directory)| directory.exists()).count();
    let (one, two, other) = (group(&ours, 1), group(&ours, 2), group(&theirs, 1));
    for cgroup in [&one, &two, &other] {
        make_directories(cgroup);
    }
    one.remove().await.unwrap();
    one.remove().await.unwrap();
    assert_eq!((there(&one), there(&two), there(&other)), (0, 3, 3));
    ours.close();
    assert_eq!((there(&two), there(&other)), (0, 3));
    assert!(ours.hierarchies.iter().all(|hierarchy| !hierarchy.own.exists()));
}
