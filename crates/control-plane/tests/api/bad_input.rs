//! Requests that make no sense, over every route.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, answer, code};

#[tokio::test]
async fn bad_bodies_are_400_whatever_their_content_type() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let (exec, read) = (format!("/v1/sandboxes/{id}/exec"), format!("/v1/sandboxes/{id}/files/read"));
    let mut cases: Vec<(&str, String, &str)> = Vec::new();
    for path in ["/v1/sandboxes", &exec, &read] {
        for body in ["", "{", "no", "[]", "1", "null", "\"x\"", "{\"a\":1}x", "\u{0}"] {
            cases.push((path, body.to_owned(), "invalid JSON body"));
        }
    }
    let mut case = |path, body: Value, message| cases.push((path, body.to_string(), message));
    for value in [json!("1"), json!(1.5), json!([1]), json!(1e30), json!(true)] {
        for member in ["vcpus", "memory_mb", "disk_mb", "timeout_sec"] {
            case("/v1/sandboxes", json!({member: value}), "invalid JSON body");
        }
    }
    for (body, message) in [
        (json!({"template": 7}), "invalid JSON body"),
        (json!({"template": "../etc"}), "template name"),
        (json!({"template": "a/b"}), "template name"),
        (json!({"template": "a\u{0}"}), "template name"),
        (json!({"template": "x".repeat(1000)}), "template name"),
        (json!({"vcpus": -1}), "between 1 and 32"),
        (json!({"vcpus": 33}), "between 1 and 32"),
        (json!({"memory_mb": 1}), "between 128 and"),
        (json!({"memory_mb": i64::MAX}), "between 128 and"),
        (json!({"disk_mb": -5}), "between 256 and"),
        (json!({"disk_mb": 2_000_000}), "between 256 and"),
        (json!({"timeout_sec": -1}), "timeout_sec must be between"),
        (json!({"timeout_sec": i64::MAX}), "timeout_sec must be between"),
    ] {
        case("/v1/sandboxes", body, message);
    }
    for (body, message) in [
        (json!({}), "cmd is required"),
        (json!({"cmd": ""}), "cmd is required"),
        (json!({"cmd": 1}), "invalid JSON body"),
        (json!({"cmd": "x", "args": "y"}), "invalid JSON body"),
        (json!({"cmd": "x", "args": [1]}), "invalid JSON body"),
        (json!({"cmd": "x", "args": ["a\u{0}"]}), "NUL"),
        (json!({"cmd": "x", "timeout_sec": -2}), "timeout_sec must be"),
        (json!({"cmd": "x", "envs": {"A=B": "1"}}), "names in envs"),
        (json!({"cmd": "x", "envs": {"": "1"}}), "names in envs"),
        (json!({"cmd": "x", "envs": {"A": "\u{0}"}}), "NUL"),
        (json!({"cmd": "x", "envs": {"A": 1}}), "invalid JSON body"),
        (json!({"cmd": "x", "user": "a:b"}), "colon"),
        (json!({"cmd": "x", "cwd": "\u{0}"}), "NUL"),
    ] {
        case(&exec, body, message);
    }
    for (body, message) in [
        (json!({}), "path is required"),
        (json!({"path": ""}), "path is required"),
        (json!({"path": "/a\u{0}b"}), "NUL"),
        (json!({"path": "a".repeat(5000)}), "longer than"),
        (json!({"path": ["/x"]}), "invalid JSON body"),
    ] {
        case(&read, body, message);
    }
    for (path, body, message) in cases {
        for kind in [None, Some("application/json"), Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            let mut request = server.http.post(server.url(path)).body(body.clone());
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            let (status, answered) = answer(request.send().await.unwrap()).await;
            assert_eq!((status.as_u16(), code(&answered)), (400, "invalid_request"), "{path} {body:.100}");
            let text = answered["error"]["message"].as_str().unwrap();
            assert!(text.contains(message) && text.len() < 500, "{path} {body:.100}: {text}");
        }
    }
    let (_, list) = server.get("/v1/sandboxes").await;
    assert_eq!(list.as_array().unwrap().len(), 1, "nothing was made");
}

#[tokio::test]
async fn whole_numbers_may_be_written_as_floats() {
    let server = Fixture::start().await;
    let body = r#"{"vcpus":2.0,"memory_mb":1024.0,"disk_mb":0.0,"timeout_sec":6e1}"#;
    let request = server.http.post(server.url("/v1/sandboxes")).body(body);
    let (status, sandbox) = answer(request.send().await.unwrap()).await;
    assert_eq!(status, 201, "{sandbox}");
    assert_eq!(
        (&sandbox["vcpus"], &sandbox["memory_mb"], &sandbox["timeout_sec"]),
        (&json!(2), &json!(1024), &json!(60))
    );
}

#[tokio::test]
async fn a_body_that_is_no_utf8_is_400_and_one_that_is_too_large_413() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for path in
        ["/v1/sandboxes".to_owned(), format!("/v1/sandboxes/{id}/exec"), format!("/v1/sandboxes/{id}/files/read")]
    {
        let request = server
            .http
            .post(server.url(&path))
            .body(b"{\"cmd\":\"\xff\",\"path\":\"\xff\",\"template\":\"\xff\"}".as_slice());
        assert_eq!(request.send().await.unwrap().status(), 400, "{path}");
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(3 << 20));
        let request = server.http.post(server.url(&path)).body(large);
        let (status, body) = answer(request.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), code(&body)), (413, "too_large"), "{path}");
    }
}

#[tokio::test]
async fn ids_of_no_sandbox_are_404_on_every_route() {
    let server = Fixture::start().await;
    let long = "a".repeat(5000);
    for id in ["sbnone", "%2e%2e", "..%2f..%2fetc", "%00", "%ff", "a%20b", "SB", "-", "'%20or%201=1--", &long] {
        for (method, rest) in [
            (Method::GET, ""),
            (Method::DELETE, ""),
            (Method::POST, "/exec"),
            (Method::POST, "/pause"),
            (Method::POST, "/stop"),
            (Method::POST, "/resume"),
            (Method::POST, "/files/read"),
            (Method::POST, "/files/write"),
            (Method::GET, "/exec/stream"),
            (Method::GET, "/benchmark"),
        ] {
            let path = format!("/v1/sandboxes/{id}{rest}");
            let (status, body) = server.send(method.clone(), &path, Some(json!({}))).await;
            assert_eq!(status, 404, "{method} {path:.100}");
            // A client may resolve dots by itself and ask for another path, which there is none of.
            if !id.starts_with("%2e") {
                assert_eq!((code(&body), &body["error"]["message"]), ("not_found", &json!("sandbox not found")));
            }
        }
    }
    let of_the_reconciler = ["describe ", "list ", "list_snapshots ", "watch "];
    assert!(server.host.state().calls.iter().all(|call| of_the_reconciler.contains(&call.as_str())));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_apart() {
    let server = Fixture::start().await;
    for path in ["/", "/v1", "/v1/sandboxes/x/y", "/health/x"] {
        assert_eq!(server.get(path).await, (reqwest::StatusCode::NOT_FOUND, json!("404 page not found\n")));
    }
    for (method, path) in [
        (Method::PUT, "/v1/sandboxes"),
        (Method::POST, "/v1/sandboxes/x"),
        (Method::GET, "/v1/sandboxes/x/exec"),
        (Method::POST, "/v1/sandboxes/x/exec/stream"),
        (Method::DELETE, "/health"),
    ] {
        assert_eq!(server.send(method, path, None).await, (reqwest::StatusCode::METHOD_NOT_ALLOWED, json!("")));
    }
}

#[tokio::test]
async fn the_wrong_state_is_409_before_the_body_is_looked_at() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let one = format!("/v1/sandboxes/{id}");
    assert_eq!(server.post(&format!("{one}/resume"), json!(null)).await.0, 409);
    server.post(&format!("{one}/pause"), json!(null)).await;
    for (path, message) in [
        ("pause", "sandbox is not running (status: paused)"),
        ("exec", "sandbox is not running (status: paused)"),
        ("files/read", "sandbox is not running (status: paused)"),
        ("files/write", "sandbox is not running (status: paused)"),
    ] {
        let (status, body) = server.post(&format!("{one}/{path}"), json!("no object")).await;
        assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"), "{path}");
        assert_eq!(body["error"]["message"], message, "{path}");
    }
    server.delete(&id).await;
    for path in ["pause", "stop", "resume", "exec", "files/read"] {
        assert_eq!(server.post(&format!("{one}/{path}"), json!({"cmd": "x", "path": "x"})).await.0, 409, "{path}");
    }
}

#[tokio::test]
async fn an_unknown_template_is_404_and_leaves_no_record() {
    let server = Fixture::start().await;
    let (status, body) = server.post("/v1/sandboxes", json!({"template": "unknown"})).await;
    assert_eq!((status.as_u16(), code(&body)), (404, "not_found"));
    assert!(body["error"]["message"].as_str().unwrap().contains("\"unknown\""), "{body}");
    assert_eq!(server.get("/v1/sandboxes").await.1, json!([]));
}

#[tokio::test]
async fn web_pages_cannot_call_the_server() {
    let server = Fixture::start().await;
    for (name, value, status, expected) in [
        ("host", "evil.example", 421, "misdirected_request"),
        ("origin", "https://evil.example", 403, "foreign_origin"),
        ("origin", "null", 403, "foreign_origin"),
    ] {
        for path in ["/health", "/v1/sandboxes", "/nowhere"] {
            let request = server.http.get(server.url(path)).header(name, value);
            let (answered, body) = answer(request.send().await.unwrap()).await;
            assert_eq!((answered.as_u16(), code(&body)), (status, expected), "{name} {path}");
        }
    }
    let own = server.http.get(server.url("/health")).header("origin", server.url(""));
    assert_eq!(own.send().await.unwrap().status(), 200);
}
