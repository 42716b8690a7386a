//! The guest's clock follows the host's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use testkit::Server;
use tokio::time::interval;

use super::{number, server};

async fn seconds_off(server: &Server, id: &str) -> f64 {
    let (_, text) = server.shell(id, "date +%s.%N").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    text.trim().parse::<f64>().unwrap() - now
}

#[tokio::test]
async fn a_clock_stays_right_while_a_sandbox_runs() {
    let server = server(&[]).await;
    let id = server.create(json!({ "vcpus": 2, "timeout_sec": 0 })).await;
    // Enough to see one that runs wrong; `make integrity` watches for ten minutes.
    let watched = Duration::from_secs(number("SANDPIPER_CLOCK_SEC", 10));
    let end = Instant::now() + watched;
    let mut worst = 0.0_f64;
    let mut looks = interval(Duration::from_secs(1));
    while Instant::now() < end {
        looks.tick().await;
        let before = Instant::now();
        let off = seconds_off(&server, &id).await;
        // The guest looked at its clock some time before we looked at ours.
        let off = if off < 0.0 { (off + before.elapsed().as_secs_f64()).min(0.0) } else { off };
        worst = worst.max(off.abs());
    }
    assert!(worst < 0.1, "{worst} s off");
    println!("in {} s at most {worst:.4} s off, beyond what asking took", watched.as_secs());
}

#[tokio::test]
async fn a_sandbox_that_was_paused_for_days_has_the_hosts_time() {
    let mut server = server(&[]).await;
    let id = server.create(json!({ "vcpus": 2 })).await;
    let paused = server.call("POST", &format!("/v1/sandboxes/{id}/pause"), Value::Null).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    server.signal("TERM");
    server.ended().await;
    server.start_again_later(3).await;
    let resumed = server.call("POST", &format!("/v1/sandboxes/{id}/resume"), Value::Null).await;
    assert_eq!(resumed.status, 200, "{resumed:?}\n{}", server.log());
    let before = SystemTime::now();
    let off = seconds_off(&server, &id).await - 3.0 * 86_400.0;
    let answered_within = before.elapsed().unwrap().as_secs_f64();
    // The guest looked at its clock some time before we looked at ours.
    assert!(off < 0.1 && off > -0.1 - answered_within, "{off} s off, asked within {answered_within} s");
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_put_right_within_a_minute_and_at_each_resume() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let put_wrong = async |by: &str| {
        let (code, _) = server.shell(&id, &format!("date -s '{by}'")).await;
        assert_eq!(code, 0);
    };
    put_wrong("-1 hour").await;
    assert!(seconds_off(&server, &id).await < -3000.0);
    for change in ["pause", "resume"] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{change}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let off = seconds_off(&server, &id).await;
    assert!(off.abs() < 2.0, "{off} s off after the resume");

    put_wrong("+1 hour").await;
    let deadline = Instant::now() + Duration::from_secs(90);
    while seconds_off(&server, &id).await.abs() > 2.0 {
        assert!(Instant::now() < deadline, "nobody told the guest the time");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
