//! A request's id: in its answer, and in every line that the server logs because of it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::fixture::{Fixture, answer, code};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Every line since the last time.
    fn take(&self) -> Vec<Value> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn is<'a>(message: &'a str) -> impl Fn(&&Value) -> bool + 'a {
    move |line| line["fields"]["message"].as_str().is_some_and(|text| text.starts_with(message))
}

#[tokio::test]
async fn every_line_that_a_request_leaves_in_the_log_has_its_id() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _collected = tracing::subscriber::set_default(subscriber);
    let mut server = Fixture::start().await;
    server.stop_host();
    log.take();
    let request = server.http.post(server.url("/v1/sandboxes")).header("X-Request-Id", "my-1").body("{}");
    let (status, body) = answer(request.send().await.unwrap()).await;
    assert_eq!((status.as_u16(), code(&body), &body["request_id"]), (503, "host_unavailable", &json!("my-1")));
    let lines = log.take();
    // One of them is of the work that goes on without its client, and therefore elsewhere.
    for message in ["the host may still have a sandbox", "host agent unreachable", "request"] {
        let line = lines.iter().find(is(message)).unwrap_or_else(|| panic!("{message}: {lines:#?}"));
        assert_eq!(line["span"]["request_id"], "my-1", "{line}");
    }
    let summary: Vec<_> = lines.iter().filter(is("request")).collect();
    assert_eq!(summary.len(), 1, "one line for each request: {summary:#?}");
    let fields = &summary[0]["fields"];
    assert_eq!((&fields["method"], &fields["route"]), (&json!("POST"), &json!("/v1/sandboxes")));
    assert_eq!((&fields["status"], &fields["code"]), (&json!(503), &json!("host_unavailable")));
    assert!(fields["took_ms"].is_number(), "{fields}");

    server.start_host();
    let id = server.create().await;
    log.take();
    server.get(&format!("/v1/sandboxes/{id}?secret=x")).await;
    let lines = log.take();
    let line = lines.iter().find(is("request")).unwrap();
    assert_eq!(line["fields"]["route"], "/v1/sandboxes/{id}");
    assert!(!line.to_string().contains("secret"), "a query may hold what nobody should read: {line}");
}
