//! The life of a sandbox, from its creation to nothing being left.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Server, wait_for};

use super::server;

#[tokio::test]
async fn python_runs_in_a_microvm_that_the_rest_api_made() {
    let server = server(&["--templates", "python311"]).await;
    let before = server.inventory();
    let id = server.create(json!({ "template": "python311" })).await;

    let monitors = server.inventory();
    assert_eq!(monitors.of_kind("monitor").len(), 1, "one sandbox is one virtual machine: {monitors:?}");
    let program = "import platform, sys; print(platform.release()); print(sum(range(10))); sys.exit(7)";
    let body = json!({ "cmd": "python3", "args": ["-c", program] });
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await;
    assert_eq!((answer.status, &answer.body["exit_code"]), (200, &json!(7)), "{answer:?}");
    let lines: Vec<_> = answer.body["stdout"].as_str().unwrap().lines().collect();
    let host_kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(lines[0].contains("cloud-amd64") && lines[0] != host_kernel.trim(), "the guest has a kernel of its own");
    assert_eq!(lines[1], "45");
    let (_, boot_id) = server.shell(&id, "cat /proc/sys/kernel/random/boot_id").await;
    assert_ne!(boot_id, std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap());

    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    assert_eq!(server.inventory().beyond(&before), Vec::<String>::new());
    let gone = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    assert_eq!((gone.status, &gone.body["status"]), (200, &json!("stopped")));
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204, "idempotent");
}

#[tokio::test]
async fn a_paused_sandbox_does_nothing_until_it_is_resumed() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let path = |action: &str| format!("/v1/sandboxes/{id}/{action}");
    let count = "wc -c < /tmp/ticks";
    // A process that outlives the exec that started it, and shows whether the guest's clock ticks for it.
    let start = "(while true; do printf x >> /tmp/ticks; sleep 0.05; done) > /dev/null 2>&1 &";
    assert_eq!(server.shell(&id, start).await.0, 0);
    let ticks = async || server.shell(&id, count).await.1.trim().parse::<u64>().ok();
    wait_for("the background process to tick", async || ticks().await.filter(|ticks| *ticks > 2)).await;

    let capsule = format!("/v1/capsules/{id}");
    let points = async || {
        let metrics = server.call("GET", &format!("{capsule}/metrics"), Value::Null).await;
        assert_eq!(metrics.status, 200, "{metrics:?}");
        metrics.body["points"].as_array().unwrap().len()
    };
    wait_for("it to be measured", async || (points().await > 0).then_some(())).await;

    let paused = server.call("POST", &path("pause"), Value::Null).await;
    assert_eq!((paused.status, &paused.body["status"]), (200, &json!("paused")));
    assert!(points().await > 0, "what it used is kept");
    let used = server.call("GET", &capsule, Value::Null).await.body["disk_used_mb"].as_u64().unwrap();
    assert!((50..2000).contains(&used), "its memory is on the disk: {used} MB");
    let refused = server.call("POST", &path("exec"), json!({ "cmd": "true" })).await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (409, &json!("invalid_state")));
    assert_eq!(server.call("POST", &path("pause"), Value::Null).await.status, 409, "a second pause");

    let resumed = server.call("POST", &path("resume"), Value::Null).await;
    assert_eq!((resumed.status, &resumed.body["status"]), (200, &json!("running")));
    assert_eq!(server.call("POST", &path("resume"), Value::Null).await.status, 409, "a second resume");
    let after = ticks().await.unwrap();
    wait_for("the process to go on ticking", async || ticks().await.filter(|ticks| *ticks > after)).await;
    server.call("POST", &path("pause"), Value::Null).await;
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204, "while paused");
}

#[tokio::test]
async fn of_a_stopped_sandbox_the_disk_is_kept_and_nothing_else() {
    let mut server = server(&[]).await;
    let id = server.create(json!({})).await;
    let change = async |server: &Server, action: &str| {
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{action}: {answer:?}\n{}", server.log());
        answer.body["status"].as_str().unwrap().to_owned()
    };
    let boot = async |server: &Server| server.shell(&id, "cat /proc/sys/kernel/random/boot_id").await.1;
    let first = boot(&server).await;
    // Nobody asks the guest to write it to its disk.
    assert_eq!(server.shell(&id, "echo kept > /root/file; echo lost > /dev/shm/file; sleep 1000 &").await.0, 0);
    assert_eq!(change(&server, "stop").await, "stopped");
    let inventory = server.inventory();
    assert!(inventory.of_kind("monitor").is_empty(), "{inventory:?}");
    let directory = server.data_dir().join("sandboxes").join(&id);
    let names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name != "memory" && name != "paused" && name != "frozen-memory"), "{names:?}");
    // A server that comes and goes changes nothing.
    server.signal("KILL");
    server.ended().await;
    server.start_again().await;
    assert_eq!(change(&server, "resume").await, "running");
    let (_, kept) = server.shell(&id, "cat /root/file /dev/shm/file; pgrep -x sleep; hostname").await;
    assert_eq!(kept, format!("kept\n{id}\n"));
    let second = boot(&server).await;
    assert_ne!(first, second, "it has booted");

    // The memory of a paused one is given up.
    server.shell(&id, "echo again > /root/file; sync; echo lost > /dev/shm/file").await;
    change(&server, "pause").await;
    assert_eq!(change(&server, "stop").await, "stopped");
    assert!(!directory.join("paused").exists() && !directory.join("memory").exists());
    assert_eq!(change(&server, "resume").await, "running");
    assert_eq!(server.shell(&id, "cat /root/file /dev/shm/file").await.1, "again\n");
    assert_ne!(boot(&server).await, second);
    change(&server, "stop").await;
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    assert!(!directory.exists());
}

#[tokio::test]
async fn deleting_a_sandbox_that_is_being_created_ends_both() {
    let server = server(&[]).await;
    let before = server.inventory();
    let creating = server.call("POST", "/v1/sandboxes", json!({}));
    let deleting = async {
        let id = wait_for("the sandbox to be listed", async || {
            let list = server.call("GET", "/v1/sandboxes", Value::Null).await.body;
            list[0]["id"].as_str().map(str::to_owned)
        })
        .await;
        wait_for("its virtual machine to start", async || {
            (!server.inventory().of_kind("monitor").is_empty()).then_some(())
        })
        .await;
        let deleted = server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await;
        assert_eq!(deleted.status, 204, "{deleted:?}");
        assert_eq!(server.inventory().beyond(&before), Vec::<String>::new());
        id
    };
    let (created, id) = tokio::join!(creating, deleting);
    assert!([404, 409].contains(&created.status), "{created:?}");
    let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    assert_eq!(row.body["status"], "stopped", "{row:?}");
}

#[tokio::test]
async fn a_client_that_hangs_up_during_create_leaves_a_sandbox_that_can_be_found() {
    let server = server(&[]).await;
    let hasty = reqwest::Client::builder().timeout(std::time::Duration::from_millis(300)).build().unwrap();
    let request = hasty.post(format!("{}/v1/sandboxes", server.url())).json(&json!({}));
    request.send().await.expect_err("a boot takes longer");
    let running = wait_for("the create to go on without its client", async || {
        let list = server.call("GET", "/v1/sandboxes", Value::Null).await.body;
        (list[0]["status"] == "running").then(|| list[0]["id"].as_str().unwrap().to_owned())
    })
    .await;
    assert_eq!(server.shell(&running, "echo still here").await, (0, "still here\n".to_owned()));
}

#[tokio::test]
async fn a_sandbox_expires_when_it_is_idle_and_not_before() {
    let server = server(&["--reconcile-interval-sec", "3600"]).await;
    let before = server.inventory();
    let id = server.create(json!({ "timeout_sec": 3 })).await;
    // A command longer than the timeout: the sandbox is in use.
    assert_eq!(server.shell(&id, "sleep 5; echo done").await, (0, "done\n".to_owned()));
    // Nor while bytes flow through a guest stream, by which commands with a place of their own come.
    let stream = json!({ "cmd": "sleep", "args": ["5"], "cwd": "/" });
    assert_eq!(server.call("POST", &format!("/v1/sandboxes/{id}/exec"), stream).await.body["exit_code"], 0);
    wait_for("the idle sandbox to be gone", async || server.inventory().beyond(&before).is_empty().then_some(())).await;
    let gone = Instant::now();
    let row = wait_for("its record to say so", async || {
        let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await.body;
        (row["status"] == "stopped").then_some(row)
    })
    .await;
    assert!(gone.elapsed() < Duration::from_secs(10), "the host tells, and nobody waits for the next pass");
    assert_eq!(row["status_reason"], "it expired after 3 s without activity");
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), json!({ "cmd": "true" })).await;
    assert!([404, 409].contains(&answer.status), "{answer:?}");
}

#[tokio::test]
async fn a_virtual_machine_that_dies_gives_everything_back() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let inventory = server.inventory();
    let monitor = inventory.of_kind("monitor")[0].to_owned();
    assert!(std::process::Command::new("kill").args(["-KILL", &monitor]).status().unwrap().success());
    wait_for("what it held to be given back", async || {
        let inventory = server.inventory();
        let kinds = ["monitor", "namespace", "slot", "directory"];
        kinds.iter().all(|kind| inventory.of_kind(kind).is_empty()).then_some(())
    })
    .await;
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), json!({ "cmd": "true" })).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
}
