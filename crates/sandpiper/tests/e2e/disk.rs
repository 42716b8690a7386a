//! What takes disk space on a host, and what can be given back.

use serde_json::{Value, json};
use testkit::Server;

use super::server;

async fn uses(server: &Server) -> Vec<Value> {
    let usage = server.call("GET", "/v1/disk", Value::Null).await;
    assert_eq!(usage.status, 200, "{usage:?}");
    let (total, free) = (usage.body["total_bytes"].as_i64().unwrap(), usage.body["free_bytes"].as_i64().unwrap());
    assert!(0 < free && free < total, "{usage:?}");
    usage.body["uses"].as_array().unwrap().clone()
}

fn bytes(uses: &[Value], kind: &str) -> i64 {
    uses.iter().filter(|one| one["kind"] == kind).map(|one| one["bytes"].as_i64().unwrap()).sum()
}

async fn prune(server: &Server, dry_run: bool) -> Vec<Value> {
    let pruned = server.call("POST", "/v1/prune", json!({ "dry_run": dry_run })).await;
    assert_eq!((pruned.status, &pruned.body["dry_run"]), (200, &json!(dry_run)), "{pruned:?}");
    pruned.body["removed"].as_array().unwrap().clone()
}

#[tokio::test]
async fn what_takes_disk_space_is_told_and_what_nothing_uses_can_be_pruned() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let before = uses(&server).await;
    for kind in ["bake", "template", "kernel", "monitor", "sandbox"] {
        assert!(bytes(&before, kind) > 0, "{kind}: {before:?}");
    }
    assert_eq!(server.shell(&id, "head -c 20000000 /dev/urandom > /root/file; sync").await.0, 0);
    let after = uses(&server).await;
    assert!(bytes(&after, "sandbox") >= bytes(&before, "sandbox") + 20_000_000, "{before:?} {after:?}");
    assert_eq!(bytes(&after, "bake"), bytes(&before, "bake"), "what it shares is not its own");

    let bake = server.data_dir().join("bakes");
    assert_eq!(prune(&server, true).await, Vec::<Value>::new(), "the sandbox uses its image");
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    let planned = prune(&server, true).await;
    assert_eq!((planned.len(), &planned[0]["kind"]), (1, &json!("bake")), "{planned:?}");
    assert_eq!(std::fs::read_dir(&bake).unwrap().count(), 1, "a dry run removes nothing");
    assert_eq!(prune(&server, false).await.len(), 1);
    assert_eq!(std::fs::read_dir(&bake).unwrap().count(), 0);
    assert_eq!(prune(&server, false).await, Vec::<Value>::new());
    let id = server.create(json!({})).await;
    assert_eq!(server.shell(&id, "echo works").await, (0, "works\n".to_owned()), "it is made again");
}

#[tokio::test]
async fn a_sandbox_comes_to_be_as_asked_for_and_says_what_it_costs() {
    let server = server(&[]).await;
    server.create(json!({})).await;
    for start in ["boot", "restore"] {
        let id = server.create(json!({ "start": start })).await;
        let footprint = server.call("GET", &format!("/v1/sandboxes/{id}/footprint"), Value::Null).await;
        assert_eq!((footprint.status, &footprint.body["start"]), (200, &json!(start)), "{footprint:?}");
        let number = |name: &str| footprint.body[name].as_u64().unwrap();
        assert!((10_000_000..600_000_000).contains(&number("pss_bytes")), "{footprint:?}");
        assert!(number("cpu_us") > 0 && (1_000..30_000_000).contains(&number("monitor_start_us")), "{footprint:?}");
        assert!(number("jail_us") > 0 && number("fence_us") > 0, "{footprint:?}");
    }
    let wrong = server.call("POST", "/v1/sandboxes", json!({ "start": "pool" })).await;
    assert_eq!((wrong.status, wrong.body["error"]["code"].as_str()), (400, Some("invalid_request")));
}
