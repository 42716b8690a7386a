//! Every virtual machine monitor is jailed from its first instruction, as seen through /proc.

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
                || text == "/memory";
            assert!(is_known, "monitor {pid} holds {text}");
            if let Ok(own) = target.strip_prefix(&sandboxes) {
                overlays.push(own.components().next().unwrap().as_os_str().to_string_lossy().into_owned());
            }
            if !text.ends_with("/overlay.qcow2") && text.starts_with('/') && !text.starts_with("/dev/") {
                let flags = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().display())).unwrap();
                let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
                assert_eq!(u32::from_str_radix(&flags, 8).unwrap() & 3, 0, "{text} is open for reading only");
            }
        }
        overlays.dedup();
        assert!(overlays == [first.clone()] || overlays == [second.clone()], "one sandbox's only: {overlays:?}");
    }
}
