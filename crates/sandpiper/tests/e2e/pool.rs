//! The warm pool: sandboxes that are ready before anyone asks for them, and that nobody sees until then.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use testkit::{Inventory, Server, ServerOptions, wait_for};

use super::binary;

async fn start(arguments: &[&str], own_templates: bool) -> Server {
    let arguments = ["--log", "info,host_agent=debug"].iter().chain(arguments).map(OsString::from).collect();
    Server::start(binary(), ServerOptions { arguments, own_templates }).await
}

/// A server whose pool has `count` sandboxes of the default kind and that has no others.
async fn with_pool(count: usize, arguments: &[&str], own_templates: bool) -> Server {
    let number = count.to_string();
    let server = start(&[&["--pool", &number], arguments].concat(), own_templates).await;
    let first = server.create(json!({})).await;
    delete(&server, &first).await;
    made(&server, count).await;
    server
}

async fn delete(server: &Server, id: &str) {
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
}

fn count(server: &Server, words: &str) -> usize {
    server.log().matches(words).count()
}

/// Waits until the pool has been given so many sandboxes in all.
async fn made(server: &Server, total: usize) {
    let reached = async || (count(server, "one more in the warm pool") >= total).then_some(());
    wait_for("the pool to be filled", reached).await;
}

fn claims(server: &Server) -> usize {
    count(server, "claimed from the warm pool")
}

fn monitors(server: &Server) -> Vec<String> {
    server.inventory().of_kind("monitor").into_iter().map(str::to_owned).collect()
}

fn kill(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test]
async fn what_is_claimed_has_everything_of_its_own() {
    let server = with_pool(2, &[], false).await;
    let list = server.call("GET", "/v1/sandboxes?status=running,pending", Value::Null).await.body;
    assert_eq!(list, json!([]), "nobody sees what is in the pool: {list}");
    let (first, second) = (server.create(json!({})).await, server.create(json!({})).await);
    assert_eq!(claims(&server), 2, "{}", server.log());

    let script = "cat /proc/sys/kernel/random/uuid /etc/machine-id /etc/hostname
        od -An -N16 -tx1 /dev/urandom
        hostname
        grep -c $(hostname) /etc/hosts";
    let (one, two) = (server.shell(&first, script).await.1, server.shell(&second, script).await.1);
    let (one, two): (Vec<_>, Vec<_>) = (one.lines().collect(), two.lines().collect());
    assert_eq!((one.len(), two.len()), (6, 6), "{one:?} {two:?}");
    for (one, two) in one.iter().zip(&two).take(5) {
        assert_ne!(one, two, "the same in two sandboxes");
    }
    assert_eq!((one[4], two[4]), (first.as_str(), second.as_str()), "each its own name");
    assert_eq!((one[5], two[5]), ("1", "1"), "and no other");
    for id in [&first, &second] {
        let before = seconds();
        let guest: f64 = server.shell(id, "date +%s.%N").await.1.trim().parse().unwrap();
        assert!(guest > before - 0.1 && guest < seconds() + 0.1, "{before} {guest}");
    }

    for action in ["pause", "resume"] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{first}/{action}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(server.shell(&first, "hostname").await.1.trim(), first);
    for id in [&first, &second] {
        delete(&server, id).await;
        assert!(!server.data_dir().join("sandboxes").join(id).exists());
    }
}

#[tokio::test]
async fn one_that_died_or_does_not_answer_is_not_handed_out() {
    let server = with_pool(1, &[], false).await;
    for (signal, total) in [("-STOP", 2), ("-KILL", 3)] {
        kill(signal, &monitors(&server)[0]);
        let id = server.create(json!({})).await;
        assert_eq!(server.shell(&id, "hostname").await.1.trim(), id, "{signal}");
        assert_eq!(claims(&server), 0, "{signal}: {}", server.log());
        delete(&server, &id).await;
        made(&server, total).await;
        assert_eq!(monitors(&server).len(), 1, "{signal}: nothing is left of the other");
    }
    assert!(!server.log().contains("boots instead"), "{}", server.log());
}

#[tokio::test]
async fn a_drained_pool_costs_only_time_and_is_filled_again() {
    let server = with_pool(1, &[], false).await;
    let body = || json!({});
    let (one, two, three) = tokio::join!(server.create(body()), server.create(body()), server.create(body()));
    assert_eq!(claims(&server), 1, "one was ready");
    assert!(!server.log().contains("boots instead"), "{}", server.log());
    made(&server, 2).await;
    server.create(body()).await;
    assert_eq!(claims(&server), 2);
    for id in [one, two, three] {
        assert_eq!(server.shell(&id, "hostname").await.1.trim(), id);
    }
}

#[tokio::test]
async fn the_pool_gives_way_to_whoever_needs_its_memory() {
    // Room for two sandboxes of 512 MB with their monitors.
    let server = with_pool(1, &["--max-memory-mb", "1152"], false).await;
    let first = server.create(json!({})).await;
    assert_eq!(claims(&server), 1);
    made(&server, 2).await;
    let before = monitors(&server);
    let other = server.create(json!({ "memory_mb": 256 })).await;
    assert!(server.log().contains("a sandbox of the warm pool makes room"), "{}", server.log());
    assert_eq!((before.len(), monitors(&server).len()), (2, 2));
    let refused = server.call("POST", "/v1/sandboxes", json!({})).await;
    assert_eq!((refused.status, refused.body["error"]["code"].as_str()), (503, Some("unavailable")), "{refused:?}");
    for id in [first, other] {
        assert_eq!(server.shell(&id, "hostname").await.1.trim(), id);
    }
}

/// What a build of the template leaves: another directory, and `current` means that one.
fn rebuild(templates: &Path) {
    let (old, new) = (fs::read_link(templates.join("current")).unwrap(), "0123456789abcdef");
    let copied = Command::new("cp").arg("-al").arg(templates.join(&old)).arg(templates.join(new)).status().unwrap();
    assert!(copied.success());
    let manifest = templates.join(new).join("template.json");
    let text = fs::read_to_string(&manifest).unwrap().replace(old.to_str().unwrap(), new);
    fs::remove_file(&manifest).unwrap();
    fs::write(&manifest, text).unwrap();
    symlink(new, templates.join("next")).unwrap();
    fs::rename(templates.join("next"), templates.join("current")).unwrap();
}

#[tokio::test]
async fn what_is_outdated_is_replaced() {
    let server = with_pool(1, &[], true).await;
    let empty = async || monitors(&server).is_empty().then_some(());
    rebuild(&server.data_dir().join("templates/minimal"));
    wait_for("those of the older build to go", empty).await;
    let id = server.create(json!({})).await;
    delete(&server, &id).await;
    made(&server, 2).await;

    for image in fs::read_dir(server.data_dir().join("bakes")).unwrap() {
        fs::remove_dir_all(image.unwrap().path()).unwrap();
    }
    wait_for("those of an image that is gone to go", empty).await;
    assert_eq!(claims(&server), 0);
}

#[tokio::test]
async fn nothing_of_the_pool_outlives_its_server() {
    let mut server = with_pool(1, &[], false).await;
    server.signal("KILL");
    server.ended().await;
    assert_eq!(monitors(&server).len(), 1, "a killed server cannot");
    server.start_again().await;
    assert_eq!(monitors(&server), Vec::<String>::new(), "but the next one does");
    server.create(json!({})).await;
    made(&server, 1).await;
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
    assert_eq!(server.inventory().beyond(&Inventory::default()), Vec::<String>::new());
}
