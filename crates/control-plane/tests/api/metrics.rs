//! Figures for Prometheus.

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::json;

use crate::fixture::Fixture;

async fn scrape(server: &Fixture) -> String {
    let response = server.http.get(server.url("/metrics")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    response.text().await.unwrap()
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|other| other == line), "{line} is not there:\n{text}");
}

#[tokio::test]
async fn what_happened_is_counted_and_what_is_so_is_shown() {
    let server = Fixture::start().await;
    let id = server.create().await;
    server.create().await;
    server.post(&format!("/v1/sandboxes/{id}/pause"), json!(null)).await;
    server.post("/v1/sandboxes", json!({"template": "unknown"})).await;
    server.host.fail("create", ErrorCode::ResourceExhausted, "no disk space");
    server.post("/v1/sandboxes", json!({})).await;
    server.post(&format!("/v1/sandboxes/{id}/resume"), json!(null)).await;
    for (cmd, more) in [("echo", json!({})), ("false", json!({})), ("slow", json!({})), ("echo", json!({"cwd": "/"}))] {
        let mut body = more;
        body["cmd"] = json!(cmd);
        server.post(&format!("/v1/sandboxes/{id}/exec"), body).await;
    }
    let text = scrape(&server).await;
    for line in [
        r#"sandpiper_sandboxes{status="running"} 2"#,
        r#"sandpiper_sandboxes{status="paused"} 0"#,
        r#"sandpiper_sandbox_operations_total{operation="create",result="ok"} 2"#,
        r#"sandpiper_sandbox_operations_total{operation="create",result="not_found"} 1"#,
        r#"sandpiper_sandbox_operations_total{operation="create",result="resource_exhausted"} 1"#,
        r#"sandpiper_sandbox_operations_total{operation="pause",result="ok"} 1"#,
        r#"sandpiper_execs_total{result="ok"} 2"#,
        r#"sandpiper_execs_total{result="failed"} 1"#,
        r#"sandpiper_execs_total{result="timed_out"} 1"#,
        r#"sandpiper_host_up{host="default"} 1"#,
        r#"sandpiper_reconciler_passes_total{result="failed"} 0"#,
        r#"sandpiper_http_requests_total{method="POST",route="/v1/sandboxes",status="201"} 2"#,
        r#"sandpiper_http_request_duration_seconds_count{method="POST",route="/v1/sandboxes"} 4"#,
        r#"sandpiper_http_requests_total{method="POST",route="/v1/sandboxes/{id}/exec",status="200"} 3"#,
    ] {
        has(&text, line);
    }
    for name in ["sandpiper_reconciler_lag_seconds", "sandpiper_reconciler_last_pass_timestamp_seconds"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}:\n{text}");
    }
    assert!(!text.contains(&id), "no sandbox is named:\n{text}");
}

#[tokio::test]
async fn what_clients_make_up_makes_no_new_series() {
    let server = Fixture::start().await;
    server.get("/").await;
    let before = scrape(&server).await.lines().count();
    for n in 0..20 {
        server.get(&format!("/made/up/{n}")).await;
        server.get(&format!("/v1/sandboxes/sb{n}")).await;
        server.send(Method::from_bytes(format!("BREW{n}").as_bytes()).unwrap(), "/", None).await;
    }
    let text = scrape(&server).await;
    has(&text, r#"sandpiper_http_requests_total{method="GET",route="none",status="404"} 21"#);
    has(&text, r#"sandpiper_http_requests_total{method="other",route="none",status="404"} 20"#);
    has(&text, r#"sandpiper_http_requests_total{method="GET",route="/v1/sandboxes/{id}",status="404"} 20"#);
    let after = text.lines().count();
    // Two routes and one method more, and the scrape itself: not sixty requests more.
    assert!(after < before + 70, "{before} lines became {after}");
    assert!(!text.contains("made") && !text.contains("BREW"), "{text}");
}

#[tokio::test]
async fn a_host_that_went_silent_is_seen() {
    let mut server = Fixture::with(|config| config.reconcile_interval = std::time::Duration::from_millis(50)).await;
    has(&scrape(&server).await, r#"sandpiper_host_up{host="default"} 1"#);
    server.stop_host();
    let down = async { while !scrape(&server).await.contains(r#"sandpiper_host_up{host="default"} 0"#) {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), down).await.expect("the figures show it");
    server.start_host();
    let up = async { while !scrape(&server).await.contains(r#"sandpiper_host_up{host="default"} 1"#) {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), up).await.expect("the figures show it");
}
