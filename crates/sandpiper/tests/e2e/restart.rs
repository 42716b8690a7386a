//! The server's own end, orderly and not.

use serde_json::{Value, json};
use testkit::{Inventory, Server};

use super::server;

#[tokio::test]
async fn a_server_that_is_told_to_stop_leaves_nothing() {
    for signal in ["TERM", "INT"] {
        let mut server = server(&[]).await;
        server.create(json!({})).await;
        server.signal(signal);
        let status = server.ended().await;
        assert!(status.success(), "{signal}: {status}\n{}", server.log());
        assert_eq!(server.inventory().beyond(&Inventory::default()), Vec::<String>::new(), "{signal}");
    }
}

async fn status(server: &Server, id: &str) -> String {
    let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    row.body["status"].as_str().unwrap().to_owned()
}

async fn change(server: &Server, id: &str, action: &str) {
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await;
    assert_eq!(answer.status, 200, "{action}: {answer:?}\n{}", server.log());
}

#[tokio::test]
async fn paused_sandboxes_survive_a_killed_server() {
    let mut server = server(&[]).await;
    let paused = server.create(json!({ "timeout_sec": 3600 })).await;
    server.shell(&paused, "echo kept > /dev/shm/file").await;
    let before = server.call("GET", &format!("/v1/sandboxes/{paused}"), Value::Null).await.body;
    change(&server, &paused, "pause").await;
    server.signal("KILL");
    server.ended().await;
    server.start_again().await;
    let inventory = server.inventory();
    for kind in ["monitor", "namespace", "link", "slot"] {
        assert!(inventory.of_kind(kind).is_empty(), "{kind}: {inventory:?}");
    }
    assert_eq!(inventory.of_kind("directory"), [paused.as_str()]);
    assert_eq!(status(&server, &paused).await, "paused");
    change(&server, &paused, "resume").await;
    assert_eq!(server.shell(&paused, "cat /dev/shm/file; hostname").await.1, format!("kept\n{paused}\n"));
    let after = server.call("GET", &format!("/v1/sandboxes/{paused}"), Value::Null).await.body;
    for member in ["template", "vcpus", "memory_mb", "timeout_sec", "created_at"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{paused}"), Value::Null).await.status, 204);
}

#[tokio::test]
async fn an_orderly_end_does_to_running_sandboxes_what_it_was_told_to_and_keeps_paused_ones() {
    for (on_exit, survivors, monitors, expected) in
        [("destroy", 1, 0, "stopped"), ("pause", 2, 0, "paused"), ("keep", 2, 1, "running")]
    {
        let mut server = server(&["--on-exit", on_exit]).await;
        let (paused, running) = (server.create(json!({})).await, server.create(json!({})).await);
        for id in [&paused, &running] {
            server.shell(id, &format!("echo {id} > /dev/shm/file")).await;
        }
        change(&server, &paused, "pause").await;
        server.signal("TERM");
        assert!(server.ended().await.success(), "{}", server.log());
        let inventory = server.inventory();
        for kind in ["monitor", "namespace", "link", "slot", "nft"] {
            assert_eq!(inventory.of_kind(kind).len(), monitors, "{on_exit}, {kind}: {inventory:?}");
        }
        assert_eq!(inventory.of_kind("directory").len(), survivors, "{on_exit}");
        assert_eq!(server.log().contains("1 sandbox runs on"), monitors == 1, "{}", server.log());
        server.start_again().await;
        assert_eq!(status(&server, &running).await, expected, "{on_exit}");
        for id in [&paused, &running].into_iter().take(survivors) {
            if status(&server, id).await == "paused" {
                change(&server, id, "resume").await;
            }
            assert_eq!(server.shell(id, "cat /dev/shm/file").await.1.trim(), id, "{on_exit}");
        }
    }
}

#[tokio::test]
async fn two_servers_on_one_machine_do_not_disturb_each_other() {
    let (mut one, two) = tokio::join!(server(&[]), server(&[]));
    let (first, second) = tokio::join!(one.create(json!({})), two.create(json!({})));
    assert_eq!(one.shell(&first, "hostname").await.1.trim(), first);
    assert_ne!(one.inventory().of_kind("slot"), two.inventory().of_kind("slot"));
    one.signal("TERM");
    one.ended().await;
    assert_eq!(two.shell(&second, "hostname").await.1.trim(), second, "the other goes on");
}
