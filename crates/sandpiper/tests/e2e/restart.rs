//! The server's own end, orderly and not.

use serde_json::{Value, json};
use testkit::Inventory;

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

#[tokio::test]
async fn what_a_killed_server_leaves_is_removed_by_the_next() {
    let mut server = server(&[]).await;
    let id = server.create(json!({})).await;
    let paused = server.create(json!({})).await;
    server.call("POST", &format!("/v1/sandboxes/{paused}/pause"), Value::Null).await;
    server.signal("KILL");
    server.ended().await;
    assert_eq!(
        server.inventory().of_kind("monitor").len(),
        1,
        "a monitor outlives the server; a paused sandbox has none"
    );
    server.start_again().await;
    let inventory = server.inventory();
    for kind in ["monitor", "namespace", "link", "slot", "directory"] {
        assert!(inventory.of_kind(kind).is_empty(), "{kind}: {inventory:?}");
    }
    for id in [id, paused] {
        let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
        assert!(["stopped", "error"].contains(&row.body["status"].as_str().unwrap()), "{row:?}");
    }
    let fresh = server.create(json!({})).await;
    assert_eq!(server.shell(&fresh, "echo works").await, (0, "works\n".to_owned()));
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
