//! What a guest may ask of its disk: measured in the guest, by its own clock, past its own cache.

use serde_json::{Value, json};
use testkit::Server;

use super::server;

/// Bytes a second, and requests a second, of all that a guest reads and writes.
const BYTES: f64 = (16 << 20) as f64;
const REQUESTS: f64 = 400.0;

/// What a guest moves here.
const FLOOD_MB: u32 = 64;
const FLOOD_REQUESTS: u32 = 2000;

/// Seconds that `dd` takes in the guest, by the guest's clock, which says nothing of how busy the host is.
async fn seconds(server: &Server, id: &str, arguments: &str) -> f64 {
    let script = format!(
        "set -e; cd /root; touch flood; read begun _ < /proc/uptime; dd {arguments} status=none; read ended _ < /proc/uptime; \
         echo $begun $ended"
    );
    let (code, output) = server.shell(id, &script).await;
    assert_eq!(code, 0, "{output}");
    let times: Vec<f64> = output.split_whitespace().map(|number| number.parse().unwrap()).collect();
    times[1] - times[0]
}

/// Writes and reads as quickly as the guest can; holds what it took against the limits.
async fn is_limited(server: &Server, id: &str, which: &str) {
    let flood = f64::from(FLOOD_MB) * f64::from(1 << 20);
    let writing = seconds(server, id, &format!("if=/dev/zero of=flood bs=1M count={FLOOD_MB} oflag=direct")).await;
    let reading = seconds(server, id, &format!("if=flood of=/dev/null bs=1M count={FLOOD_MB} iflag=direct")).await;
    let small = format!("if=flood of=/dev/null bs=4k count={FLOOD_REQUESTS} iflag=direct");
    let requests = f64::from(FLOOD_REQUESTS) / seconds(server, id, &small).await;
    // A tenth of a second's worth may come at once, and the kernel of the guest does other things with its disk.
    for (what, rate, limit) in
        [("writes", flood / writing, BYTES), ("reads", flood / reading, BYTES), ("requests", requests, REQUESTS)]
    {
        assert!(rate < limit * 1.15, "{which} {what} {rate:.0} a second, where {limit} are allowed");
        assert!(rate > limit * 0.1, "{which} {what} only {rate:.0} a second, where {limit} are allowed");
    }
}

#[tokio::test]
async fn a_guest_reads_and_writes_no_faster_than_it_may_however_it_came_to_be() {
    let server = server(&["--guest-disk-bandwidth-mb", "16", "--guest-disk-iops", "400"]).await;
    let restored = server.create(json!({})).await;
    is_limited(&server, &restored, "a restored guest").await;

    let body = json!({ "sandbox_id": restored, "name": "limited" });
    let snapshot = server.call("POST", "/v1/snapshots", body).await;
    assert!(snapshot.status < 300, "{snapshot:?}");
    let captured = server.create(json!({ "snapshot": snapshot.body["id"] })).await;
    is_limited(&server, &captured, "one from a snapshot").await;

    let forked = server.call("POST", &format!("/v1/sandboxes/{restored}/fork"), json!({ "count": 1 })).await;
    assert!(forked.status < 300, "{forked:?}");
    let children = forked.body.as_array().or_else(|| forked.body["sandboxes"].as_array()).unwrap();
    is_limited(&server, children[0]["id"].as_str().unwrap(), "a fork").await;

    for action in ["pause", "resume"] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{restored}/{action}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    is_limited(&server, &restored, "one that was paused").await;
}

#[tokio::test]
async fn without_such_a_limit_the_same_goes_faster() {
    let server = server(&["--guest-disk-bandwidth-mb", "1000000", "--guest-disk-iops", "100000000"]).await;
    let id = server.create(json!({})).await;
    let arguments = format!("if=/dev/zero of=flood bs=1M count={FLOOD_MB} oflag=direct");
    let rate = f64::from(FLOOD_MB) * f64::from(1 << 20) / seconds(&server, &id, &arguments).await.max(0.01);
    assert!(rate > BYTES * 2.0, "{rate:.0} bytes a second: the other test shows nothing on so slow a machine");
}
