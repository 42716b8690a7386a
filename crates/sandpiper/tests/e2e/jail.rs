//! Every virtual machine monitor is jailed from its first instruction, as seen through /proc and in its control groups.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::server;

#[tokio::test]
async fn a_monitor_has_no_rights_and_sees_only_its_own_files() {
    let server = server(&["--uid-base", "1200000000"]).await;
    server.create(json!({})).await;
    let inventory = server.inventory();
    let pid = inventory.of_kind("monitor")[0].to_owned();
    let slot: u32 = inventory.of_kind("slot")[0].parse().unwrap();
    let proc = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let status = fs::read_to_string(proc("status")).unwrap();
    let field = |name: &str| -> Vec<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };

    let uid = (1_200_000_000 + slot).to_string();
    assert_eq!(field("Uid"), vec![uid.clone(); 4], "its own uid");
    assert_eq!(field("Gid"), vec![uid; 4], "its own gid");
    assert_eq!(field("Groups"), Vec::<String>::new());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs"), ["1"]);
    assert_eq!(field("Seccomp"), ["2"], "QEMU's own filter");
    let in_namespaces = field("NSpid");
    assert_eq!(in_namespaces, [pid.as_str(), "1"], "first in a pid namespace");
    assert_eq!(field("NSsid"), in_namespaces, "a session of its own");

    for namespace in ["mnt", "pid", "net", "ipc", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(fs::read_link(proc(&format!("ns/{namespace}"))).unwrap(), own, "{namespace}");
    }
    let links: Vec<_> = fs::read_to_string(proc("net/dev")).unwrap().lines().skip(2).map(str::to_owned).collect();
    assert!(links.len() == 1 && links[0].trim().starts_with("lo:"), "an empty network namespace: {links:?}");

    let names = |path: &str| -> Vec<String> {
        let entries = fs::read_dir(proc("root").join(path)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("")[..3], ["boot", "bundle.json", "dev"]);
    assert!(!names("").contains(&"proc".to_owned()) && !names("").contains(&"etc".to_owned()), "{:?}", names(""));
    assert_eq!(names("boot"), ["initramfs", "vmlinuz"]);
    assert!(names("dev").iter().all(|name| ["null", "kvm"].contains(&name.as_str())), "{:?}", names("dev"));
    let mounts = fs::read_to_string(proc("mounts")).unwrap();
    for mount in mounts.lines() {
        let options = mount.split_whitespace().nth(3).unwrap();
        assert!(options.split(',').any(|option| option == "ro"), "writable: {mount}");
    }
}

#[tokio::test]
async fn a_monitor_holds_only_the_descriptors_that_its_sandbox_needs() {
    let server = server(&[]).await;
    let first = server.create(json!({})).await;
    let second = server.create(json!({})).await;
    let sandboxes = server.data_dir().join("sandboxes");
    for pid in server.inventory().of_kind("monitor") {
        let mut overlays = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let entry = entry.unwrap();
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let text = target.to_string_lossy().into_owned();
            let is_known = text.starts_with("anon_inode:")
                || text.starts_with("socket:")
                || text.starts_with("pipe:")
                || ["/dev/null", "/dev/net/tun", "/dev/kvm"].contains(&text.as_str())
                || text.ends_with("/rootfs.ext4")
                || text.ends_with("/overlay.qcow2")
                || text.ends_with("/layer0.qcow2")
                || text.ends_with("/state")
                || text == "/memory"
                // Its own complaints; it holds both ends, so that no reader's end ends it.
                || text.ends_with("/log.pipe");
            assert!(is_known, "monitor {pid} holds {text}");
            if let Ok(own) = target.strip_prefix(&sandboxes) {
                overlays.push(own.components().next().unwrap().as_os_str().to_string_lossy().into_owned());
            }
            let is_written = text.ends_with("/overlay.qcow2") || text.ends_with("/log.pipe");
            if !is_written && text.starts_with('/') && !text.starts_with("/dev/") {
                let flags = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().display())).unwrap();
                let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
                assert_eq!(u32::from_str_radix(&flags, 8).unwrap() & 3, 0, "{text} is open for reading only");
            }
        }
        overlays.dedup();
        assert!(overlays == [first.clone()] || overlays == [second.clone()], "one sandbox's only: {overlays:?}");
    }
}

#[tokio::test]
async fn a_monitor_can_take_no_more_of_the_host_than_its_shape_says() {
    let server = server(&[]).await;
    let id = server.create(json!({ "vcpus": 2, "memory_mb": 384 })).await;
    let inventory = server.inventory();
    let pid = inventory.of_kind("monitor")[0].to_owned();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let hard = |name: &str| -> String {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(hard("Max core file size"), "0");
    assert_eq!(hard("Max locked memory"), "0");
    assert_eq!(hard("Max open files"), "512");
    assert_eq!(hard("Max processes"), "130");
    assert!(hard("Max file size").parse::<u64>().unwrap() < 6 << 30, "{limits}");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");

    let groups = inventory.of_kind("cgroup");
    let instance = fs::read_to_string(server.data_dir().join("instance-id")).unwrap();
    let own = format!("/sandpiper-{}/{}", instance.trim(), inventory.of_kind("slot")[0]);
    let own_groups: Vec<_> = groups.iter().filter(|group| group.ends_with(&own)).collect();
    let in_group = |file: &str| own_groups.iter().find_map(|group| fs::read_to_string(format!("{group}/{file}")).ok());
    assert!(!own_groups.is_empty(), "{groups:?}");
    for group in &own_groups {
        let processes = fs::read_to_string(format!("{group}/cgroup.procs")).unwrap();
        assert_eq!(processes.trim(), pid, "{group}");
    }
    let memory = in_group("memory.limit_in_bytes").or_else(|| in_group("memory.max")).unwrap();
    assert_eq!(memory.trim(), ((384_u64 + 256) << 20).to_string());
    assert_eq!(in_group("pids.max").unwrap().trim(), "130");
    let cpu = in_group("cpu.cfs_quota_us").or_else(|| in_group("cpu.max")).unwrap();
    assert!(cpu.starts_with("250000"), "{cpu}");
    let health = server.call("GET", "/health", serde_json::Value::Null).await.body;
    if health["lacking_jail_layers"] == json!([]) {
        let disk = in_group("blkio.throttle.write_bps_device").or_else(|| in_group("io.max")).unwrap();
        assert!(disk.contains(&(800_u64 << 20).to_string()), "{disk}");
    } else {
        // Where the tests' directory is on no disk of its own.
        assert_eq!(health["lacking_jail_layers"], json!(["cgroup-io"]));
    }

    server.call("DELETE", &format!("/v1/sandboxes/{id}"), serde_json::Value::Null).await;
    assert!(server.inventory().of_kind("cgroup").iter().all(|group| !group.ends_with(&own)), "nothing is left");
}

#[tokio::test]
async fn a_guest_that_computes_takes_no_more_processors_than_it_has() {
    let server = server(&[]).await;
    let id = server.create(json!({ "vcpus": 1 })).await;
    let pid = server.inventory().of_kind("monitor")[0].to_owned();
    assert_eq!(server.shell(&id, "for i in 1 2 3; do (while :; do :; done) > /dev/null 2>&1 & done").await.0, 0);
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    };
    let (begun, at_first) = (std::time::Instant::now(), used());
    testkit::wait_for("two seconds of the guest's time", async || (used() - at_first > 2.0).then_some(())).await;
    let share = (used() - at_first) / begun.elapsed().as_secs_f64();
    assert!(share < 1.6, "one vCPU took {share} processors");
    let neighbour = server.create(json!({})).await;
    assert_eq!(server.shell(&neighbour, "echo hello").await, (0, "hello\n".to_owned()));
}

/// The server's binary on a machine without control groups.
fn without_cgroups() -> tempfile::TempPath {
    let mut script = tempfile::Builder::new().suffix(".sh").tempfile().unwrap();
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'umount -l -R /sys/fs/cgroup && exec \"$0\" \"$@\"' {} \"$@\"\n",
        super::binary().display()
    );
    std::io::Write::write_all(&mut script, text.as_bytes()).unwrap();
    fs::set_permissions(script.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    script.into_temp_path()
}

#[tokio::test]
async fn a_machine_that_lacks_a_layer_of_the_jail_is_refused_unless_that_is_allowed_and_told() {
    let binary = without_cgroups();
    let data_dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(&binary);
    command.args(["up", "--listen", "127.0.0.1:0", "--allow-degraded-jail", "cgroup-cpu", "--data-dir"]);
    let output = command.arg(data_dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--allow-degraded-jail cgroup-memory"), "{said}");

    let layers = "cgroup-memory,cgroup-cpu,cgroup-pids";
    let arguments = ["--allow-degraded-jail", layers].map(Into::into).to_vec();
    let server = testkit::Server::start(&binary, testkit::ServerOptions { arguments, ..Default::default() }).await;
    let health = server.call("GET", "/health", serde_json::Value::Null).await.body;
    assert_eq!(health["lacking_jail_layers"], json!(["cgroup-memory", "cgroup-cpu", "cgroup-pids", "cgroup-io"]));
    assert!(server.log().contains("the jail is degraded"), "{}", server.log());
    let id = server.create(json!({})).await;
    assert_eq!(server.shell(&id, "echo hello").await, (0, "hello\n".to_owned()));
}
