//! Snapshots of sandboxes, and sandboxes that go on from them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use connectrpc::ErrorCode;
use host_agent::snapshot::Snapshots;
use proto::hostagent::v1::CreateSandboxRequest;
use testkit::wait_for;

use super::host::{FileSystem, Host};
use super::snapshot::COUNTER;

/// Starts the counter, whose every step shows whether memory, a TCP connection and an open file are as they were.
async fn start_counter(host: &Host, id: &str) {
    let start = format!("cat > /root/counter.py <<'E'\n{COUNTER}E\npython3 /root/counter.py >/root/log 2>&1 &");
    host.shell(id, &start).await;
    counted_beyond(host, id, 0).await;
}

async fn count(host: &Host, id: &str) -> Option<u64> {
    host.shell(id, "cat /dev/shm/count 2>/dev/null || true").await.trim().parse().ok()
}

/// Waits until the counter has gone on, and nothing is wrong with it.
async fn counted_beyond(host: &Host, id: &str, number: u64) -> u64 {
    let beyond = wait_for("the counter to go on", async || count(host, id).await.filter(|now| *now > number)).await;
    assert_eq!(host.shell(id, "cat /root/log").await, "", "the counter found nothing wrong");
    beyond
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every frozen file of every snapshot is what it was when it was captured.
fn verify_snapshots(host: &Host) {
    for (id, snapshot) in Snapshots::open(host.data_dir()).unwrap().list().unwrap() {
        snapshot.verify().unwrap_or_else(|error| panic!("{id}: {error}"));
    }
}

/// Frozen overlays under a sandbox's own.
fn depth(host: &Host, id: &str) -> usize {
    let record = fs::read(host.sandbox_dir(id).join("record.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let layers = record["layers"].as_array().unwrap().len();
    let files = names(&host.sandbox_dir(id)).into_iter().filter(|name| name.starts_with("layer")).count();
    assert_eq!(layers, files, "{:?}", names(&host.sandbox_dir(id)));
    layers
}

const IDENTITY: &str = "cat /proc/sys/kernel/random/boot_id /etc/machine-id /proc/sys/kernel/random/uuid; hostname";

async fn children_of_a_running_sandbox(file_system: FileSystem) {
    let mut host = Host::start(file_system, &["--templates", "python311"]).await;
    let parent = host.create("python311").await;
    start_counter(&host, &parent).await;
    host.shell(&parent, "echo parent > /root/file").await;
    let identity = host.shell(&parent, IDENTITY).await;

    // A command that is under way does not notice, and those that come meanwhile wait.
    let command = host.shell(&parent, "for i in $(seq 30); do echo $i; sleep 0.05; done");
    let calls = async {
        for number in 0..10 {
            assert_eq!(host.shell(&parent, &format!("echo {number}")).await, format!("{number}\n"));
        }
    };
    let (printed, info, ()) = tokio::join!(command, host.snapshot(&parent, "sn1"), calls);
    assert_eq!(printed.lines().count(), 30);
    assert_eq!((info.sandbox_id.as_str(), info.template.as_str(), info.memory_mb), (parent.as_str(), "python311", 512));
    assert!(info.size_bytes > 50 << 20 && info.created_at_unix_ms > 0, "{info:?}");
    let at_capture = count(&host, &parent).await.unwrap();
    counted_beyond(&host, &parent, at_capture).await;
    assert_eq!(host.status(&parent).await.as_deref(), Some("running"));
    assert_eq!(host.snapshot(&parent, "sn1").await.created_at_unix_ms, info.created_at_unix_ms, "the same one");
    verify_snapshots(&host);
    for name in ["memory", "overlay.qcow2", "state", "layer0.qcow2"] {
        let metadata = fs::metadata(host.snapshot_dir("sn1").join(name)).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o444, 0), "{name}");
    }

    host.shell(&parent, "echo later > /root/file").await;
    let children = tokio::join!(host.create_from("sn1"), host.create_from("sn1"), host.create_from("sn1"));
    let children = [children.0, children.1, children.2];
    let mut seen: Vec<BTreeSet<String>> = identity.lines().map(|line| BTreeSet::from([line.to_owned()])).collect();
    for child in &children {
        counted_beyond(&host, child, 0).await;
        assert_eq!(host.shell(child, "cat /root/file").await, "parent\n");
        let identity = host.shell(child, IDENTITY).await;
        assert_eq!(identity.lines().count(), 4, "{identity}");
        for (line, seen) in identity.lines().zip(&mut seen) {
            assert!(seen.insert(line.to_owned()), "{line} is another's too");
        }
        host.shell(child, &format!("echo {child} > /root/file")).await;
    }
    for child in &children {
        assert_eq!(host.shell(child, "cat /root/file").await.trim(), child.as_str(), "disks are apart");
    }

    // Nothing is needed any more of what they came from.
    host.delete_snapshot("sn1").await.unwrap();
    host.destroy(&parent).await;
    assert!(host.snapshots().await.is_empty() && names(&host.data_dir().join("snapshots")).is_empty());
    let [first, second, third] = children;
    let boot_id = host.shell(&first, "cat /proc/sys/kernel/random/boot_id").await;
    let before = count(&host, &first).await.unwrap();
    host.pause(&first).await;
    assert_eq!(host.end("KILL").await.code(), None);
    host.start_again().await;
    host.resume(&first).await;
    counted_beyond(&host, &first, before).await;
    assert_eq!(host.shell(&first, "cat /proc/sys/kernel/random/boot_id").await, boot_id, "it is the same run");
    for child in [&second, &third] {
        assert_eq!(host.shell(child, "cat /root/file").await.trim(), child.as_str(), "it ran on meanwhile");
    }
}

#[tokio::test]
async fn sandboxes_go_on_from_a_snapshot_of_a_running_one_which_does_not_notice_on_ext4() {
    children_of_a_running_sandbox(FileSystem::Ext4).await;
}

#[tokio::test]
async fn sandboxes_go_on_from_a_snapshot_of_a_running_one_which_does_not_notice_on_xfs() {
    children_of_a_running_sandbox(FileSystem::Xfs).await;
}

/// Blocks of a file that others share, as the file system says.
fn shared_extents(file: &Path) -> usize {
    let output = Command::new("filefrag").arg("-v").arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.contains("shared")).count()
}

#[tokio::test]
async fn on_a_file_system_with_reflinks_captures_share_blocks_with_what_they_are_of() {
    let host = Host::start(FileSystem::Xfs, &[]).await;
    let id = host.create("minimal").await;
    host.snapshot(&id, "running").await;
    host.pause(&id).await;
    host.snapshot(&id, "paused").await;
    for file in [
        host.snapshot_dir("running").join("memory"),
        host.snapshot_dir("paused").join("memory"),
        host.snapshot_dir("paused").join("overlay.qcow2"),
        host.sandbox_dir(&id).join("memory"),
    ] {
        assert!(shared_extents(&file) > 0, "{} shares nothing", file.display());
    }
    host.resume(&id).await;
    host.shell(&id, "head -c 30000000 /dev/urandom > /dev/shm/noise").await;
    verify_snapshots(&host);
}

#[tokio::test]
async fn a_snapshot_of_a_paused_sandbox_leaves_it_paused_and_survives_restarts() {
    let mut host = Host::start(FileSystem::Any, &["--templates", "python311"]).await;
    let id = host.create("python311").await;
    start_counter(&host, &id).await;
    host.pause(&id).await;
    host.snapshot(&id, "first").await;
    assert_eq!(host.status(&id).await.as_deref(), Some("paused"));
    assert_eq!(host.inventory().of_kind("monitor"), Vec::<&str>::new());
    assert_eq!(host.end("TERM").await.code(), Some(0));
    host.start_again().await;
    host.snapshot(&id, "second").await;
    assert_eq!(
        host.snapshots().await.iter().map(|info| info.snapshot_id.as_str()).collect::<Vec<_>>(),
        ["first", "second"]
    );
    let child = host.create_from("first").await;
    let (own, child_count) = {
        host.resume(&id).await;
        (counted_beyond(&host, &id, 0).await, counted_beyond(&host, &child, 0).await)
    };
    counted_beyond(&host, &id, own).await;
    counted_beyond(&host, &child, child_count).await;
    verify_snapshots(&host);
    host.pause(&id).await;
    host.end("KILL").await;
    forget_networks(&host);
    host.start_again().await;
    assert_eq!(host.snapshots().await.len(), 2);
    let other_slot = host.create_from("second").await;
    host.resume(&id).await;
    counted_beyond(&host, &other_slot, 0).await;
    counted_beyond(&host, &id, own).await;
}

/// What a restart of the machine does to them.
fn forget_networks(host: &Host) {
    let inventory = host.inventory();
    for namespace in inventory.of_kind("namespace") {
        assert!(Command::new("ip").args(["netns", "delete", namespace]).status().unwrap().success());
    }
    for slot in inventory.of_kind("slot") {
        fs::remove_file(Path::new("/run/sandpiper/slots").join(slot)).unwrap();
    }
}

#[tokio::test]
async fn wrong_requests_are_refused_before_anything_is_made() {
    let host = Host::start(FileSystem::Any, &[]).await;
    let (id, other) = (host.create("minimal").await, host.create("minimal").await);
    host.snapshot(&id, "sn1").await;
    let before = host.inventory();
    let code = |result: Result<String, connectrpc::ConnectError>| result.unwrap_err().code;
    assert_eq!(host.try_snapshot(&other, "sn1").await.unwrap_err().code, ErrorCode::AlreadyExists);
    assert_eq!(host.try_snapshot("sbnone", "sn2").await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(host.try_snapshot(&id, "../x").await.unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(host.delete_snapshot("sn2").await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(code(host.try_create_from("sn2").await), ErrorCode::NotFound);
    let wish = CreateSandboxRequest { snapshot_id: "sn1".into(), memory_mb: 1024, ..Default::default() };
    assert_eq!(code(host.try_create(wish).await), ErrorCode::InvalidArgument);

    let manifest = host.snapshot_dir("sn1").join("manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    for (from, to) in [
        ("\"accelerator\": \"", "\"accelerator\": \"x"),
        ("\"guest_protocol\": ", "\"guest_protocol\": 9"),
        ("\"state\": \"", "\"state\": \"0"),
        ("\"format\": 2", "\"format\": 3"),
    ] {
        fs::write(&manifest, whole.replacen(from, to, 1)).unwrap();
        let refused = code(host.try_create_from("sn1").await);
        assert!([ErrorCode::FailedPrecondition, ErrorCode::Internal].contains(&refused), "{to}: {refused:?}");
    }
    fs::write(&manifest, whole).unwrap();
    assert_eq!(host.inventory(), before, "nothing is left");
    assert!(!host.log().contains("boots instead"), "{}", host.log());

    // The same request again means the same sandbox, also when its snapshot is gone.
    let request = CreateSandboxRequest { sandbox_id: "sbmine".into(), snapshot_id: "sn1".into(), ..Default::default() };
    host.try_create(request.clone()).await.unwrap();
    host.delete_snapshot("sn1").await.unwrap();
    assert_eq!(host.try_create(request).await.unwrap(), "sbmine");
    let info = host.list().await.into_iter().find(|info| info.sandbox_id == "sbmine").unwrap();
    assert_eq!((info.snapshot_id.as_str(), info.memory_mb), ("sn1", 512));
}

/// Fills the data directory's file system until only so much is free.
fn fill(host: &Host, free_mb: u64) {
    let output = Command::new("df").args(["-m", "--output=avail"]).arg(host.data_dir()).output().unwrap();
    let free: u64 = String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap();
    let filled = Command::new("fallocate")
        .args(["-l", &format!("{}M", free - free_mb)])
        .arg(host.data_dir().join("filler"))
        .status();
    assert!(filled.unwrap().success());
}

#[tokio::test]
async fn a_capture_that_fails_leaves_the_sandbox_as_it_was_and_nothing_half_written() {
    let host = Host::start(FileSystem::Ext4, &[]).await;
    let (running, paused) = (host.create("minimal").await, host.create("minimal").await);
    host.shell(&running, "(while true; do printf x >> /tmp/ticks; sleep 0.05; done) > /dev/null 2>&1 &").await;
    host.pause(&paused).await;
    let files = [&running, &paused].map(|id| names(&host.sandbox_dir(id)));
    let check = async |why: &str, code: ErrorCode| {
        for (id, status) in [(&running, "running"), (&paused, "paused")] {
            let error = host.try_snapshot(id, "sn1").await.unwrap_err();
            assert_eq!(error.code, code, "{why}, {status}: {error:?}");
            assert_eq!(host.status(id).await.as_deref(), Some(status), "{why}");
        }
        assert_eq!([&running, &paused].map(|id| names(&host.sandbox_dir(id))), files, "{why}");
        let ticks = async || host.shell(&running, "wc -c < /tmp/ticks").await.trim().parse::<u64>().ok();
        let now = wait_for("the process to tick", ticks).await;
        wait_for("the process to go on", async || ticks().await.filter(|later| *later > now)).await;
    };

    // Refused before it begins: 64 MB are the reserve.
    fill(&host, 100);
    check("the disk is too full", ErrorCode::ResourceExhausted).await;
    assert_eq!(names(&host.data_dir().join("snapshots")), Vec::<String>::new());
    fs::remove_file(host.data_dir().join("filler")).unwrap();

    // Fails in its middle: what it is written to is full long before its end.
    let snapshots = host.data_dir().join("snapshots");
    let small = Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m", "none"]).arg(&snapshots).status();
    assert!(small.unwrap().success());
    check("the disk is full", ErrorCode::ResourceExhausted).await;
    assert_eq!(names(&snapshots), Vec::<String>::new());
    assert!(Command::new("umount").arg(&snapshots).status().unwrap().success());

    // Fails at its beginning: there is no place for it.
    fs::write(snapshots.join("sn1.staged"), "").unwrap();
    check("there is no place", ErrorCode::Internal).await;
    fs::remove_file(snapshots.join("sn1.staged")).unwrap();

    for id in [&running, &paused] {
        host.snapshot(id, &format!("sn-{id}")).await;
    }
    host.resume(&paused).await;
    verify_snapshots(&host);
}

#[tokio::test]
async fn a_monitor_that_is_killed_during_a_capture_leaves_no_snapshot() {
    let host = Host::start(FileSystem::Any, &[]).await;
    let id = host.create("minimal").await;
    let monitor = host.inventory().of_kind("monitor")[0].to_owned();
    let kill = |signal: &str| assert!(Command::new("kill").args([signal, &monitor]).status().unwrap().success());
    // A monitor that stands still keeps the capture from coming to its end before it is killed.
    kill("-STOP");
    let killing = async {
        let begun = async || (host.status(&id).await.as_deref() == Some("snapshotting")).then_some(());
        wait_for("the capture to begin", begun).await;
        kill("-KILL");
    };
    let (answer, ()) = tokio::join!(host.try_snapshot(&id, "sn1"), killing);
    answer.unwrap_err();
    wait_for("it to be in error", async || (host.status(&id).await.as_deref() == Some("error")).then_some(())).await;
    assert_eq!(names(&host.data_dir().join("snapshots")), Vec::<String>::new());
    host.destroy(&id).await;
}

#[tokio::test]
async fn a_host_agent_that_is_killed_during_captures_leaves_sandboxes_intact_and_no_half_snapshot() {
    let mut host = Host::start(FileSystem::Ext4, &["--templates", "python311"]).await;
    let (running, paused) = (host.create("python311").await, host.create("python311").await);
    start_counter(&host, &paused).await;
    for id in [&running, &paused] {
        host.shell(id, "head -c 150000000 /dev/urandom > /dev/shm/noise").await;
    }
    let before = count(&host, &paused).await.unwrap();
    host.pause(&paused).await;
    for (sandbox, snapshot) in [(&running, "sn1"), (&paused, "sn2")] {
        let staged = host.data_dir().join("snapshots").join(format!("{snapshot}.staged"));
        tokio::select! {
            made = host.try_snapshot(sandbox, snapshot) => panic!("the capture was too quick: {made:?}"),
            () = wait_for("the capture to begin", async || staged.join("memory").exists().then_some(())) => {}
        }
        host.end("KILL").await;
        host.start_again().await;
        assert_eq!(names(&host.data_dir().join("snapshots")), Vec::<String>::new(), "{snapshot}");
        assert_eq!(host.status(&paused).await.as_deref(), Some("paused"));
        let goes_on = async || (host.status(&running).await.as_deref() == Some("running")).then_some(());
        wait_for("the running one to go on", goes_on).await;
    }
    host.shell(&running, "test $(stat -c %s /dev/shm/noise) = 150000000").await;
    host.resume(&paused).await;
    counted_beyond(&host, &paused, before).await;
}

async fn generations(file_system: FileSystem, count: usize) {
    let host = Host::start(file_system, &[]).await;
    let mut id = host.create("minimal").await;
    let mut deepest = 0;
    for generation in 0..count {
        host.shell(
            &id,
            &format!("head -c 100000 /dev/urandom > /root/{generation}; sha256sum /root/[0-9]* > /root/sums"),
        )
        .await;
        let snapshot = format!("sn{generation}");
        // Both ways: a paused one is never too deep to be captured either.
        if generation % 2 == 1 {
            host.pause(&id).await;
        }
        host.snapshot(&id, &snapshot).await;
        let child = host.create_from(&snapshot).await;
        host.destroy(&id).await;
        host.delete_snapshot(&snapshot).await.unwrap();
        deepest = deepest.max(depth(&host, &child));
        let verified = host.shell(&child, "sha256sum --quiet -c /root/sums; ls /root/[0-9]* | wc -l").await;
        assert_eq!(verified.trim(), (generation + 1).to_string());
        id = child;
    }
    assert_eq!(deepest, 4, "as deep as may be, and no deeper");
}

#[tokio::test]
async fn chains_stay_shallow_however_many_generations_fork() {
    generations(FileSystem::Any, 9).await;
}

/// Gives a host agent that has ended templates of its own, in which `minimal` has another build that is current now.
/// Returns the earlier one's directory.
fn rebuild_template(host: &Host) -> std::path::PathBuf {
    let shared = host.data_dir().join("templates");
    let run = |program: &str, arguments: &[&Path]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
    };
    if shared.is_symlink() {
        let target = fs::read_link(&shared).unwrap();
        fs::remove_file(&shared).unwrap();
        run("cp", &[Path::new("-a"), Path::new("--sparse=always"), &target, &shared]);
    }
    let minimal = shared.join("minimal");
    let earlier = minimal.join(fs::read_link(minimal.join("current")).unwrap());
    let later = minimal.join("00000000000000ff");
    run("cp", &[Path::new("-a"), Path::new("--sparse=always"), &earlier, &later]);
    let manifest = fs::read_to_string(later.join("template.json")).unwrap();
    let manifest = manifest.replace(earlier.file_name().unwrap().to_str().unwrap(), "00000000000000ff");
    fs::write(later.join("template.json"), manifest).unwrap();
    fs::remove_file(minimal.join("current")).unwrap();
    std::os::unix::fs::symlink("00000000000000ff", minimal.join("current")).unwrap();
    earlier
}

#[tokio::test]
async fn the_build_that_something_captured_needs_is_kept_and_goes_when_nothing_does() {
    let mut host = Host::start(FileSystem::Any, &[]).await;
    let id = host.create("minimal").await;
    host.shell(&id, "echo kept > /root/file").await;
    host.snapshot(&id, "sn1").await;
    host.pause(&id).await;
    host.end("TERM").await;
    let earlier = rebuild_template(&host);
    host.start_again().await;
    assert!(earlier.is_dir());
    let (child, fresh) = tokio::join!(host.create_from("sn1"), host.create("minimal"));
    host.resume(&id).await;
    for id in [&id, &child] {
        assert_eq!(host.shell(id, "cat /root/file").await, "kept\n");
    }
    assert_eq!(host.try_shell(&fresh, "cat /root/file").await.unwrap().0, 1);
    host.delete_snapshot("sn1").await.unwrap();
    host.end("TERM").await;
    host.start_again().await;
    assert!(!earlier.exists(), "neither a snapshot nor a paused sandbox needs it");
}

/// Kills the host agent and starts it again: the sandbox runs or is paused, and misses nothing.
async fn is_whole_after_a_kill(host: &mut Host, id: &str) {
    host.end("KILL").await;
    host.start_again().await;
    let settled = async || host.status(id).await.filter(|status| ["running", "paused"].contains(&status.as_str()));
    if wait_for("the sandbox to be settled", settled).await == "paused" {
        assert_eq!(host.inventory().of_kind("monitor"), Vec::<&str>::new());
        host.resume(id).await;
    }
    assert_eq!(host.shell(id, "sha256sum --quiet -c /dev/shm/sums && echo whole").await, "whole\n");
}

#[tokio::test]
async fn a_host_agent_that_is_killed_within_a_pause_or_a_resume_leaves_the_sandbox_whole() {
    let mut host = Host::start(FileSystem::Any, &[]).await;
    for moment in ["paused.staged", "paused.staged/state", "memory.written", "paused", "resume"] {
        let id = host.create("minimal").await;
        host.shell(&id, "head -c 60000000 /dev/urandom > /dev/shm/noise; sha256sum /dev/shm/noise > /dev/shm/sums")
            .await;
        let directory = host.sandbox_dir(&id);
        if moment == "resume" {
            host.pause(&id).await;
            let started = async || (!host.inventory().of_kind("monitor").is_empty()).then_some(());
            tokio::select! {
                _ = host.try_resume(&id) => {}
                () = wait_for("the monitor to be started", started) => {}
            }
        } else {
            tokio::select! {
                _ = host.try_pause(&id) => {}
                () = wait_for("the pause to come there", async || directory.join(moment).exists().then_some(())) => {}
            }
        }
        is_whole_after_a_kill(&mut host, &id).await;
        host.destroy(&id).await;
    }
}
