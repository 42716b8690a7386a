//! Sandboxes that run on while their server is gone.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use connectrpc::ErrorCode;
use proto::hostagent::v1::CreateSandboxRequest;
use serde_json::{Value, json};
use testkit::{Inventory, Server, wait_for};

use super::host::{FileSystem, Host};
use super::server;

async fn status(server: &Server, id: &str) -> String {
    let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    row.body["status"].as_str().unwrap().to_owned()
}

async fn change(server: &Server, id: &str, action: &str) {
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await;
    assert_eq!(answer.status, 200, "{action}: {answer:?}\n{}", server.log());
}

async fn delete(server: &Server, id: &str) {
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
}

async fn cut(server: &mut Server) {
    server.signal("KILL");
    server.ended().await;
}

fn directory(server: &Server, id: &str) -> PathBuf {
    server.data_dir().join("sandboxes").join(id)
}

/// What the server has on the machine for one sandbox that runs.
fn parts(server: &Server) -> Inventory {
    let inventory = server.inventory();
    for kind in ["monitor", "namespace", "link", "slot", "directory", "nft"] {
        assert_eq!(inventory.of_kind(kind).len(), 1, "{kind}: {inventory:?}");
    }
    inventory
}

#[tokio::test]
async fn a_sandbox_does_not_notice_that_its_server_was_killed() {
    let mut server = server(&[]).await;
    let id = server.create(json!({ "timeout_sec": 3600 })).await;
    let counting = "nohup sh -c 'n=0; while :; do n=$((n+1)); echo $n > /dev/shm/count; sleep 0.05; done' \
                    </dev/null >/dev/null 2>&1 & echo $!";
    let counter = server.shell(&id, counting).await.1.trim().to_owned();
    server.shell(&id, "echo kept | tee /dev/shm/file > /root/file").await;
    let (before, row) = (parts(&server), server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await.body);
    for _ in 0..3 {
        cut(&mut server).await;
        server.start_again().await;
        assert_eq!(parts(&server), before, "the very same parts");
        assert_eq!(status(&server, &id).await, "running");
        let (code, output) = server.shell(&id, "cat /dev/shm/file /root/file; hostname").await;
        assert_eq!((code, output), (0, format!("kept\nkept\n{id}\n")));
        let count = async || server.shell(&id, "cat /dev/shm/count").await.1.trim().parse::<u64>().ok();
        let first = wait_for("a count", async || count().await).await;
        wait_for("the counter to go on", async || count().await.filter(|count| *count > first)).await;
        assert_eq!(server.shell(&id, &format!("kill -0 {counter}")).await.0, 0, "the very same process");
    }
    let after = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await.body;
    for member in ["template", "vcpus", "memory_mb", "timeout_sec", "created_at", "host_ip"] {
        assert_eq!(after[member], row[member], "{member}");
    }
    // And it can all that it could before.
    for _ in 0..2 {
        change(&server, &id, "pause").await;
        change(&server, &id, "resume").await;
        assert_eq!(server.shell(&id, "cat /dev/shm/file /root/file").await.1, "kept\nkept\n");
    }
    let fork = server.call("POST", &format!("/v1/sandboxes/{id}/fork"), json!({ "count": 1 })).await;
    assert_eq!(fork.status, 201, "{fork:?}\n{}", server.log());
    cut(&mut server).await;
    server.start_again().await;
    let list = server.call("GET", "/v1/sandboxes", Value::Null).await.body;
    let all: Vec<_> = list.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(all.len(), 2, "{list}");
    for id in all {
        assert_eq!(server.shell(id, "cat /dev/shm/file; hostname").await.1, format!("kept\n{id}\n"));
        delete(&server, id).await;
    }
    let is_common = |line: &String| {
        line.starts_with("nft ")
            || (line.starts_with("cgroup ") && line.rsplit('/').next().unwrap().contains("sandpiper-"))
    };
    let mut left = server.inventory().beyond(&Inventory::default());
    left.retain(|line| !is_common(line));
    assert_eq!(left, [""; 0], "only what all sandboxes have in common is there");
}

#[tokio::test]
async fn a_guest_that_floods_its_console_while_nobody_reads_it_neither_stalls_nor_ends() {
    let mut server = server(&[]).await;
    let id = server.create(json!({})).await;
    let flood = "nohup sh -c 'while :; do seq 1 2000 > /dev/console; echo x >> /dev/shm/rounds; done' \
                 </dev/null >/dev/null 2>&1 &";
    server.shell(&id, flood).await;
    cut(&mut server).await;
    server.start_again().await;
    let rounds = async || server.shell(&id, "wc -l < /dev/shm/rounds").await.1.trim().parse::<u64>().ok();
    let first = wait_for("a round", async || rounds().await).await;
    wait_for("the next round", async || rounds().await.filter(|count| *count > first)).await;
}

/// Does to a sandbox's monitor what a host agent does that is cut right afterwards.
fn command(server: &Server, id: &str, command: &str) {
    // By a short way: the address of a socket has 107 bytes.
    let link = tempfile::tempdir().unwrap();
    let short = link.path().join("d");
    std::os::unix::fs::symlink(directory(server, id), &short).unwrap();
    let mut stream = UnixStream::connect(short.join("qmp.sock")).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    lines.next().unwrap().unwrap();
    for command in ["qmp_capabilities", command] {
        writeln!(stream, "{}", json!({ "execute": command, "id": command })).unwrap();
        let is_answer = |line: &String| serde_json::from_str::<Value>(line).unwrap()["id"] == command;
        lines.by_ref().map(Result::unwrap).find(is_answer).unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_killed_within_a_pause_leaves_the_sandbox_running() {
    let mut server = server(&[]).await;
    let id = server.create(json!({})).await;
    server.shell(&id, "echo kept > /dev/shm/file").await;
    cut(&mut server).await;
    command(&server, &id, "stop");
    let directory = directory(&server, &id);
    for file in ["unsettled", "memory.written", "memory"] {
        std::fs::write(directory.join(file), "").unwrap();
    }
    std::fs::create_dir(directory.join("paused.staged")).unwrap();
    server.start_again().await;
    wait_for("the sandbox to go on", async || (status(&server, &id).await == "running").then_some(())).await;
    assert_eq!(server.shell(&id, "cat /dev/shm/file").await.1, "kept\n");
    for file in ["unsettled", "memory.written", "memory", "paused.staged"] {
        assert!(!directory.join(file).exists(), "{file}");
    }
    let skew =
        server.shell(&id, "date +%s").await.1.trim().parse::<i64>().unwrap() - jiff::Timestamp::now().as_second();
    assert!(skew.abs() <= 2, "its clock is {skew} s off");
    change(&server, &id, "pause").await;
    change(&server, &id, "resume").await;
    assert_eq!(server.shell(&id, "cat /dev/shm/file").await.1, "kept\n");
}

#[tokio::test]
async fn what_ends_or_is_deleted_while_no_server_is_there_is_told_and_leaves_nothing() {
    let mut server = server(&[]).await;
    let (lost, deleted) = tokio::join!(server.create(json!({})), server.create(json!({})));
    let keeps = server.create(json!({})).await;
    cut(&mut server).await;
    command(&server, &lost, "quit");
    // A deletion begins with this.
    std::fs::remove_file(directory(&server, &deleted).join("record.json")).unwrap();
    wait_for("a monitor to end", async || (server.inventory().of_kind("monitor").len() == 2).then_some(())).await;
    server.start_again().await;
    // A monitor that has closed its files may not have ended yet: then what it held is given back a moment later.
    let is_given_back = async || {
        let left = server.inventory();
        ["slot", "directory"].iter().all(|kind| left.of_kind(kind).len() == 1).then_some(())
    };
    wait_for("what the lost one held to be given back", is_given_back).await;
    parts(&server);
    assert_eq!(server.inventory().of_kind("directory"), [keeps.as_str()]);
    for (id, expected) in [(&lost, "error"), (&deleted, "stopped"), (&keeps, "running")] {
        wait_for("the record to say so", async || (status(&server, id).await == expected).then_some(())).await;
    }
    delete(&server, &lost).await;
    assert_eq!(status(&server, &lost).await, "stopped");
}

#[tokio::test]
async fn the_warm_pool_ends_with_a_killed_server_and_what_was_claimed_from_it_does_not() {
    let mut server = server(&["--pool", "1", "--log", "info,host_agent=debug"]).await;
    let first = server.create(json!({})).await;
    let made =
        |server: &Server, count| (server.log().matches("one more in the warm pool").count() == count).then_some(());
    wait_for("the pool to fill", async || made(&server, 1)).await;
    let claimed = server.create(json!({})).await;
    assert!(server.log().contains("claimed from the warm pool"), "{}", server.log());
    wait_for("the pool to fill again", async || made(&server, 2)).await;
    assert_eq!(server.inventory().of_kind("monitor").len(), 3, "{:?}", server.inventory());
    cut(&mut server).await;
    server.start_again().await;
    let inventory = server.inventory();
    let mut directories = [first.as_str(), claimed.as_str()];
    directories.sort_unstable();
    assert_eq!(inventory.of_kind("directory"), directories, "{inventory:?}\n{}", server.log());
    for id in [&first, &claimed] {
        assert_eq!(server.shell(id, "hostname").await.1.trim(), id);
    }
}

/// Makes it look as if the machine had been started again since the server was killed: of what ran there are only files.
async fn restart_machine(server: &Server, id: &str) {
    command(server, id, "quit");
    wait_for("the monitor to end", async || server.inventory().of_kind("monitor").is_empty().then_some(())).await;
    let file = directory(server, id).join("record.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    record["run"]["machine_boot"] = json!("an earlier boot");
    std::fs::write(&file, record.to_string()).unwrap();
}

#[tokio::test]
async fn a_sandbox_that_ran_when_its_machine_went_down_is_stopped_and_can_be_started_from_its_disk() {
    let mut server = server(&[]).await;
    let id = server.create(json!({})).await;
    server.shell(&id, "echo kept > /root/file; sync; echo lost > /dev/shm/file").await;
    for round in 0..2 {
        cut(&mut server).await;
        restart_machine(&server, &id).await;
        server.start_again().await;
        wait_for("the record to say so", async || (status(&server, &id).await == "stopped").then_some(())).await;
        let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await.body;
        assert_eq!(row["status_reason"], "host_restarted", "{row}");
        assert_eq!(server.call("POST", &format!("/v1/sandboxes/{id}/pause"), Value::Null).await.status, 409);
        // A server that starts once more finds the same.
        cut(&mut server).await;
        server.start_again().await;
        assert_eq!(status(&server, &id).await, "stopped", "round {round}");
        change(&server, &id, "resume").await;
        let (_, output) = server.shell(&id, "cat /root/file; ls /dev/shm; hostname").await;
        assert_eq!(output, format!("kept\n{id}\n"), "round {round}");
    }
    // It is now as any other.
    change(&server, &id, "pause").await;
    change(&server, &id, "resume").await;
    cut(&mut server).await;
    restart_machine(&server, &id).await;
    server.start_again().await;
    wait_for("the record to say so", async || (status(&server, &id).await == "stopped").then_some(())).await;
    delete(&server, &id).await;
    assert_eq!(server.inventory().of_kind("directory"), Vec::<&str>::new());
    assert_eq!(server.call("POST", &format!("/v1/sandboxes/{id}/resume"), Value::Null).await.status, 409);
}

#[tokio::test]
async fn a_call_that_comes_late_changes_nothing_that_was_decided_after_it() {
    let mut host = Host::start(FileSystem::Any, &[]).await;
    let id = host.create("minimal").await;
    host.pause_of(&id, 5).await.unwrap();
    host.resume_of(&id, 7).await.unwrap();
    let refused = async |host: &Host, generation| {
        let error = host.pause_of(&id, generation).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Aborted, "{error:?}");
        assert_eq!(host.status(&id).await.unwrap(), "running");
    };
    // The first one once more, and one that was never heard of.
    refused(&host, 5).await;
    refused(&host, 6).await;
    host.end("KILL").await;
    host.start_again().await;
    refused(&host, 6).await;
    host.pause_of(&id, 8).await.unwrap();
    host.end("KILL").await;
    host.start_again().await;
    let error = host.resume_of(&id, 7).await.unwrap_err();
    assert_eq!((error.code, host.status(&id).await.unwrap().as_str()), (ErrorCode::Aborted, "paused"));
    host.resume_of(&id, 9).await.unwrap();
    // Callers that keep no records are never late, and neither is a deletion.
    host.pause(&id).await;
    host.destroy(&id).await;
    // A create that comes after its delete makes nothing, whether or not there was anything to delete.
    for id in [&id, "sboverdue"] {
        let _ = host.try_destroy(id).await;
        let late = CreateSandboxRequest { sandbox_id: id.into(), template: "minimal".into(), ..Default::default() };
        assert_eq!(host.try_create(late).await.unwrap_err().code, ErrorCode::Aborted);
    }
    assert!(host.list().await.is_empty());
}

#[tokio::test]
async fn a_second_server_on_a_data_directory_refuses_and_disturbs_nothing() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let mut second = std::process::Command::new(super::binary());
    second.args(["host-agent", "--listen", "127.0.0.1:0", "--data-dir"]).arg(server.data_dir());
    let output = tokio::task::spawn_blocking(move || second.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("another server is using"), "{said}");
    assert_eq!(server.shell(&id, "hostname").await.1.trim(), id);
}

/// How many sandboxes: as many as the promise names where there is room for them.
const MANY: usize = 50;

#[tokio::test]
async fn fifty_sandboxes_are_taken_over_within_five_seconds() {
    let mut server = server(&[]).await;
    let mut all = Vec::new();
    for _ in 0..MANY {
        all.push(server.create(json!({ "memory_mb": 256 })).await);
    }
    cut(&mut server).await;
    let begun = Instant::now();
    server.start_again().await;
    let took = begun.elapsed();
    eprintln!("{MANY} sandboxes were taken over in {} ms, start of the server included", took.as_millis());
    assert!(took.as_secs() < 5, "{took:?}");
    let list = server.call("GET", "/v1/sandboxes", Value::Null).await.body;
    let running = list.as_array().unwrap().iter().filter(|row| row["status"] == "running").count();
    assert_eq!(running, MANY);
    for id in [&all[0], &all[MANY / 2], &all[MANY - 1]] {
        assert_eq!(server.shell(id, "hostname").await.1.trim(), id);
    }
}
