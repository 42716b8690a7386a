//! What happens, as listeners hear it; and the numbers of what is running.

use std::time::Duration;

use connectrpc::ErrorCode;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::fixture::{Fixture, code};

/// One server-sent event: its number and its body.
type Heard = (i64, Value);

struct Listener {
    bytes: futures::stream::BoxStream<'static, Vec<u8>>,
    text: String,
}

impl Listener {
    async fn start(server: &Fixture, last: Option<i64>) -> Self {
        let mut request = server.http.get(server.url("/v1/events/stream"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        let bytes = response.bytes_stream().map(|chunk| chunk.unwrap().to_vec()).boxed();
        let mut listener = Self { bytes, text: String::new() };
        let (_, connected) = listener.next().await.unwrap();
        assert_eq!(connected["event"], "connected");
        listener
    }

    async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let heard = (field("id:"), field("data:"), field("event:"));
                let (Some(id), Some(data), Some(kind)) = heard else { panic!("{frame:?}") };
                let (id, data): (i64, Value) = (id.parse().unwrap(), data.parse().unwrap());
                assert_eq!(data["event"], kind);
                self.text = rest.to_owned();
                return Some((id, data));
            }
            let chunk =
                tokio::time::timeout(Duration::from_secs(20), self.bytes.next()).await.expect("it comes in time");
            self.text.push_str(std::str::from_utf8(&chunk?).unwrap());
        }
    }

    /// Everything up to the end of an action of this kind.
    async fn until(&mut self, kind: &str) -> Vec<Heard> {
        let mut all = Vec::new();
        loop {
            all.push(self.next().await.expect("the stream goes on"));
            if all.last().unwrap().1["event"] == kind {
                return all;
            }
        }
    }
}

fn changes(events: &[Heard]) -> Vec<String> {
    let changed = events.iter().filter(|(_, event)| event["event"] == "capsule.state.changed");
    changed
        .map(|(_, event)| format!("{}-{}", event["metadata"]["from"], event["metadata"]["to"]).replace('"', ""))
        .collect()
}

#[tokio::test]
async fn the_life_of_a_capsule_is_heard_while_it_happens() {
    let server = Fixture::start().await;
    let mut listener = Listener::start(&server, None).await;
    let id = server.create().await;
    let created = listener.until("capsule.create").await;
    assert_eq!(changes(&created), ["pending-running"]);
    let (_, event) = created.last().unwrap();
    assert_eq!((&event["outcome"], &event["resource"]), (&json!("success"), &json!({"id": id, "type": "capsule"})));
    assert_eq!((&event["sandbox"]["id"], &event["actor"]["type"]), (&json!(id), &json!("user")));
    server.host.fail("pause", ErrorCode::Internal, "no");
    assert_eq!(server.post(&format!("/v1/capsules/{id}/pause"), json!({})).await.0, 502);
    let paused = listener.until("capsule.pause").await;
    assert_eq!(changes(&paused), ["running-pausing", "pausing-running"]);
    let (_, event) = paused.last().unwrap();
    assert_eq!((&event["outcome"], &event["error"]), (&json!("error"), &json!("internal: no")));
    server.delete(&id).await;
    let gone = listener.until("capsule.destroy").await;
    assert_eq!(changes(&gone), ["running-stopping", "stopping-stopped"]);
    let ids: Vec<_> = [created, paused, gone].concat().into_iter().map(|(id, _)| id).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}

#[tokio::test]
async fn a_listener_that_was_away_goes_on_where_it_was_also_after_a_restart() {
    let mut server = Fixture::start().await;
    let mut listener = Listener::start(&server, None).await;
    let id = server.create().await;
    let (last, _) = listener.until("capsule.create").await.pop().unwrap();
    drop(listener);
    server.post(&format!("/v1/capsules/{id}/pause"), json!({})).await;
    server.restart().await;
    let mut listener = Listener::start(&server, Some(last)).await;
    assert_eq!(changes(&listener.until("capsule.pause").await), ["running-pausing", "pausing-paused"]);
    server.stop().await;
    assert_eq!(listener.next().await, None, "the end of the server ends the stream");
}

#[tokio::test]
async fn a_failed_create_is_heard_although_it_leaves_no_record() {
    let server = Fixture::start().await;
    let mut listener = Listener::start(&server, None).await;
    server.post("/v1/capsules", json!({"template": "unknown"})).await;
    let (_, event) = listener.until("capsule.create").await.pop().unwrap();
    assert_eq!((&event["outcome"], event.get("sandbox")), (&json!("error"), None), "{event}");
}

#[tokio::test]
async fn what_a_host_does_by_itself_is_heard_as_such() {
    let mut server = Fixture::with(|config| config.reconcile_interval = Duration::from_millis(50)).await;
    let id = server.create().await;
    let mut listener = Listener::start(&server, None).await;
    server.host.update(|state| state.sandboxes.insert(id.clone(), "paused".into()));
    let (_, event) = listener.until("capsule.pause").await.pop().unwrap();
    assert_eq!((&event["actor"]["type"], &event["outcome"]), (&json!("system"), &json!("success")));
    server.stop_host();
    listener.until("host.down").await;
    server.start_host();
    listener.until("host.up").await;
}

#[tokio::test]
async fn what_runs_is_counted() {
    let server = Fixture::start().await;
    let (_, stats) = server.get("/v1/capsules/stats").await;
    assert_eq!(stats["current"], json!({"running_count": 0, "vcpus_reserved": 0, "memory_mb_reserved": 0}));
    let id = server.create().await;
    server.create().await;
    server.post(&format!("/v1/capsules/{id}/pause"), json!({})).await;
    for (range, points) in [("5m", 30), ("1h", 360), ("6h", 72), ("24h", 288), ("30d", 720)] {
        let (_, stats) = server.get(&format!("/v1/capsules/stats?range={range}")).await;
        assert_eq!(stats["range"], range);
        assert_eq!(stats["current"], json!({"running_count": 1, "vcpus_reserved": 1, "memory_mb_reserved": 512}));
        assert_eq!(stats["peaks"]["vcpus"], 1);
        for series in ["labels", "running", "vcpus", "memory_mb"] {
            assert_eq!(stats["series"][series].as_array().unwrap().len(), points, "{range} {series}");
        }
    }
    let (_, usage) = server.get("/v1/capsules/usage?from=2026-01-01&to=2026-01-31").await;
    assert_eq!(usage, json!({"from": "2026-01-01", "to": "2026-01-31", "points": []}));
    for wrong in
        ["stats?range=1y", "usage?from=x", "usage?from=2026-01-02&to=2026-01-01", "usage?from=2026-01-01&to=2027-01-01"]
    {
        let (status, body) = server.get(&format!("/v1/capsules/{wrong}")).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{wrong}");
    }
}

#[tokio::test]
async fn metrics_of_a_paused_sandbox_are_kept_and_go_on_after_its_resume() {
    let mut server = Fixture::start().await;
    let id = server.create().await;
    let one = format!("/v1/capsules/{id}");
    let memory = async |server: &Fixture, range: &str| {
        let (status, metrics) = server.get(&format!("{one}/metrics?range={range}")).await;
        assert_eq!(status, 200, "{metrics}");
        let points = metrics["points"].as_array().unwrap().clone();
        points.iter().map(|point| point["mem_bytes"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(server.post(&format!("{one}/pause"), json!(null)).await.0, 200);
    server.stop_host();
    for (range, kept) in [("5m", 11), ("1h", 121), ("24h", 1441)] {
        assert_eq!(memory(&server, range).await, [kept], "{range}");
    }
    server.start_host();
    server.restart().await;
    assert_eq!(memory(&server, "10m").await, [11], "it outlives the server too");
    assert_eq!(server.post(&format!("{one}/resume"), json!(null)).await.0, 200);
    assert_eq!(memory(&server, "10m").await, [11, 10], "before the pause and after it");
    // A pause is none the worse for metrics that cannot be kept.
    server.host.fail("flush", ErrorCode::Internal, "no");
    assert_eq!(server.post(&format!("{one}/pause"), json!(null)).await.0, 200);
    assert_eq!(memory(&server, "10m").await, [11]);
}

#[tokio::test]
async fn metrics_are_those_of_the_host() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (range, series, points) in [("5m", 10, 1), ("10m", 10, 1), ("1h", 120, 1), ("2h", 120, 1), ("6h", 1440, 2)] {
        let (_, metrics) = server.get(&format!("/v1/capsules/{id}/metrics?range={range}")).await;
        assert_eq!((&metrics["sandbox_id"], &metrics["range"]), (&json!(id), &json!(range)));
        assert_eq!(metrics["points"].as_array().unwrap().len(), points, "{range}");
        let point = &metrics["points"][0];
        let seen = (&point["cpu_pct"], &point["mem_bytes"], &point["disk_bytes"]);
        assert_eq!(seen, (&json!(12.5), &json!(series), &json!(9)), "{range}");
    }
    assert_eq!(server.get(&format!("/v1/capsules/{id}/metrics?range=1y")).await.0, 400);
    server.delete(&id).await;
    let (status, body) = server.get(&format!("/v1/capsules/{id}/metrics")).await;
    assert_eq!((status.as_u16(), code(&body)), (404, "not_found"));
}

#[tokio::test]
async fn everything_that_happened_is_read_in_its_order_commands_too() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let (status, _) = server.post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "false"})).await;
    assert_eq!(status, 200);
    let all = async || server.get("/v1/events").await.1["events"].as_array().unwrap().clone();
    let kinds = |events: &[Value]| events.iter().map(|event| event["event"].clone()).collect::<Vec<_>>();
    // A command is recorded right after its answer.
    let has_all = async || kinds(&all().await).contains(&json!("capsule.exec"));
    tokio::time::timeout(Duration::from_secs(20), async {
        while !has_all().await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is recorded");
    let events = all().await;
    assert_eq!(kinds(&events), ["capsule.state.changed", "capsule.create", "capsule.exec"]);
    let ran = &events[2];
    assert_eq!(
        (&ran["resource"]["id"], &ran["metadata"]["cmd"], &ran["outcome"]),
        (&json!(id), &json!("false"), &json!("success"))
    );
    assert_eq!(ran["actor"]["type"], "user");

    let (_, part) = server.get("/v1/events?limit=1").await;
    assert_eq!((part["events"].as_array().unwrap().len(), &part["next"]), (1, &events[0]["id"]));
    let (_, rest) = server.get(&format!("/v1/events?since={}", part["next"])).await;
    assert_eq!(rest["events"].as_array().unwrap()[..], events[1..]);
    for bad in ["?since=x", "?since=-1", "?limit=0", "?limit=1001"] {
        assert_eq!(server.get(&format!("/v1/events{bad}")).await.0, 400, "{bad}");
    }

    let request = server.http.get(server.url("/v1/events?since=1")).header("accept", "text/event-stream");
    let response = request.send().await.unwrap();
    let bytes = response.bytes_stream().map(|chunk| chunk.unwrap().to_vec()).boxed();
    let mut listener = Listener { bytes, text: String::new() };
    assert_eq!(listener.next().await.unwrap().1["event"], "connected");
    let heard = [listener.next().await.unwrap(), listener.next().await.unwrap()];
    assert_eq!(
        heard.map(|(id, event)| (json!(id), event["event"].clone())),
        [(events[1]["id"].clone(), json!("capsule.create")), (events[2]["id"].clone(), json!("capsule.exec")),]
    );
}

#[tokio::test]
async fn what_is_started_over_a_socket_is_recorded_too() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let first = |cmd: &str| Message::text(json!({"type": "start", "cmd": cmd}).to_string());
    for (route, cmd) in [("exec/stream", "echo"), ("pty", "/bin/sh")] {
        let url = format!("ws://{}/v1/sandboxes/{id}/{route}", server.address);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        socket.send(first(cmd)).await.unwrap();
        socket.next().await.unwrap().unwrap();
        let (_, log) = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let log = server.get("/v1/events").await;
                if log.1.to_string().contains(&format!("\"cmd\":\"{cmd}\"")) {
                    return log;
                }
            }
        })
        .await
        .expect("it is recorded");
        let events = log["events"].as_array().unwrap();
        let ran = events.last().unwrap();
        assert_eq!(
            (&ran["event"], &ran["outcome"], &ran["metadata"]["cmd"]),
            (&json!("capsule.exec"), &json!("success"), &json!(cmd))
        );
    }
}
