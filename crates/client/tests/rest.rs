//! Plain calls and files against a real HTTP server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod server;

use std::io;

use axum::body::{Body, Bytes};
use axum::extract::{Multipart, Path, RawQuery};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use client::{Client, CreateSandbox, Error, ExecRequest, ListFilter, SandboxId};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use server::{sandbox, serve};

fn id() -> SandboxId {
    "sb1".parse().unwrap()
}

#[tokio::test]
async fn create_sends_the_wish_and_reads_the_sandbox() {
    let create = |Json(wish): Json<Value>| async move {
        assert_eq!(wish, json!({"template": "python311", "memory_mb": 1024}));
        (StatusCode::CREATED, Json(sandbox("sbnew", "running")))
    };
    let client = serve(Router::new().route("/v1/sandboxes", post(create))).await;
    let wish = CreateSandbox { template: "python311".into(), memory_mb: Some(1024), ..CreateSandbox::default() };
    let made = client.create(&wish).await.unwrap();
    assert_eq!(
        (made.id.as_str(), made.status.as_str(), made.host_ip.as_deref()),
        ("sbnew", "running", Some("10.11.0.1"))
    );
}

#[tokio::test]
async fn lifecycle_calls_reach_their_routes() {
    let one = |Path(id): Path<String>| async move { Json(sandbox(&id, "running")) };
    let routes = Router::new()
        .route("/health", get(|| async { Json(json!({"status": "ok", "accelerator": "tcg"})) }))
        .route("/v1/sandboxes", get(|| async { Json([sandbox("sb1", "running"), sandbox("sb2", "stopped")]) }))
        .route("/v1/sandboxes/{id}", get(one).delete(|| async { StatusCode::NO_CONTENT }))
        .route("/v1/sandboxes/{id}/pause", post(|| async { Json(sandbox("sb1", "paused")) }))
        .route("/v1/sandboxes/{id}/resume", post(one))
        .route(
            "/v1/sandboxes/{id}/benchmark",
            get(|| async { Json(json!({"count": 5, "median_us": 4000, "min_us": 3500})) }),
        );
    let client = serve(routes).await;
    assert_eq!(client.health().await.unwrap().accelerator, "tcg");
    assert_eq!(client.list().await.unwrap().len(), 2);
    assert_eq!(client.get(&id()).await.unwrap().id, id());
    assert_eq!(client.pause(&id()).await.unwrap().status, "paused");
    assert_eq!(client.resume(&id()).await.unwrap().status, "running");
    assert_eq!(client.spawn_benchmark(&id()).await.unwrap().median_us, 4000);
    client.delete(&id()).await.unwrap();
}

#[tokio::test]
async fn snapshots_forks_and_the_disk_have_their_calls() {
    let snapshot = json!({"name": "base", "type": "snapshot", "platform": false, "protected": false, "id": "sn1",
        "status": "ready", "sandbox_id": "sb1", "template": "minimal", "memory_mb": 512, "size_bytes": 5000});
    let (made, listed) = (snapshot.clone(), snapshot.clone());
    let routes = Router::new()
        .route(
            "/v1/sandboxes/{id}/snapshots",
            post(|Json(wish): Json<Value>| async move {
                assert_eq!(wish, json!({"name": "base"}));
                (StatusCode::CREATED, Json(made))
            }),
        )
        .route(
            "/v1/snapshots",
            get(|RawQuery(query): RawQuery| async move {
                assert_eq!(query.as_deref(), Some("type=snapshot"));
                Json([listed])
            }),
        )
        .route(
            "/v1/snapshots/{name}",
            axum::routing::delete(|Path(name): Path<String>| async move {
                if name == "a/b" { StatusCode::NO_CONTENT } else { StatusCode::CONFLICT }
            }),
        )
        .route(
            "/v1/sandboxes/{id}/fork",
            post(|Json(wish): Json<Value>| async move {
                assert_eq!(wish, json!({"count": 2}));
                (StatusCode::CREATED, Json([sandbox("sb2", "running"), sandbox("sb3", "running")]))
            }),
        )
        .route(
            "/v1/disk",
            get(|| async {
                let uses = json!([{"kind": "other", "bytes": 7, "prunable": false}]);
                Json(json!({"total_bytes": 100, "free_bytes": 50, "reserve_bytes": 10, "uses": uses}))
            }),
        )
        .route(
            "/v1/prune",
            post(|Json(wish): Json<Value>| async move {
                let removed = json!([{"kind": "sandbox", "id": "sb9", "reason": "old"}]);
                Json(json!({"dry_run": wish["dry_run"], "removed": removed}))
            }),
        );
    let client = serve(routes).await;
    let made = client.snapshot(&id(), Some("base")).await.unwrap();
    assert_eq!(serde_json::to_value(&made).unwrap(), snapshot);
    assert_eq!(client.snapshots().await.unwrap(), [made]);
    client.delete_snapshot("a/b").await.unwrap();
    assert!(client.delete_snapshot("base").await.is_err());
    assert_eq!(client.fork(&id(), 2).await.unwrap().len(), 2);
    assert_eq!(client.disk_usage().await.unwrap().uses[0].bytes, 7);
    let pruned = client.prune(true).await.unwrap();
    assert_eq!((pruned.dry_run, pruned.removed[0].reason.as_deref()), (true, Some("old")));
}

#[tokio::test]
async fn exec_output_is_exact_bytes_in_both_encodings() {
    let exec = |Json(command): Json<Value>| async move {
        let encoding = command["cmd"].as_str().unwrap();
        let (stdout, stderr) = if encoding == "base64" { ("AP8=", "") } else { ("héllo", "e") };
        Json(json!({"sandbox_id": "sb1", "cmd": encoding, "stdout": stdout, "stderr": stderr, "exit_code": 3,
            "duration_ms": 12, "encoding": encoding}))
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/exec", post(exec))).await;
    let run = |cmd: &str| ExecRequest { cmd: cmd.into(), ..ExecRequest::default() };
    let binary = client.exec(&id(), &run("base64")).await.unwrap();
    assert_eq!((binary.stdout.as_slice(), binary.exit_code), ([0, 255].as_slice(), 3));
    let text = client.exec(&id(), &run("utf-8")).await.unwrap();
    assert_eq!((text.stdout.as_slice(), text.duration.as_millis()), ("héllo".as_bytes(), 12));
}

#[tokio::test]
async fn a_refusal_carries_status_code_and_message() {
    let refuse = || async {
        let body = json!({"error": {"code": "invalid_state", "message": "sandbox is not running"}, "request_id": "r7"});
        (StatusCode::CONFLICT, Json(body))
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/pause", post(refuse))).await;
    let Error::Api(error) = client.pause(&id()).await.unwrap_err() else { panic!("not the server's error") };
    assert_eq!((error.status, error.code.as_str(), error.request_id.as_deref()), (409, "invalid_state", Some("r7")));
    let Error::Api(error) = client.get(&id()).await.unwrap_err() else { panic!("not the server's error") };
    assert_eq!((error.status, error.code.as_str()), (404, ""));
}

#[tokio::test]
async fn an_absent_server_is_named_with_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::new(&format!("http://{address}")).unwrap().list().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }));
    assert_eq!(
        error.to_string(),
        format!("no server at http://{address}: start one with `sandpiper up`, or set SANDPIPER_URL")
    );
}

#[tokio::test]
async fn an_answer_from_something_else_is_called_that() {
    let client = serve(Router::new().route("/v1/sandboxes", get(|| async { "<html>" }))).await;
    assert!(matches!(client.list().await.unwrap_err(), Error::Answer { .. }));
}

#[tokio::test]
async fn a_server_that_hangs_up_is_not_an_absent_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    assert!(matches!(client.list().await.unwrap_err(), Error::BrokeOff { .. }));
}

#[tokio::test]
async fn an_upload_sends_the_path_and_then_the_exact_bytes() {
    let write = |mut form: Multipart| async move {
        let path = form.next_field().await.unwrap().unwrap();
        assert_eq!(path.name(), Some("path"));
        assert_eq!(path.text().await.unwrap(), "/a b/ü");
        let file = form.next_field().await.unwrap().unwrap();
        assert_eq!(file.name(), Some("file"));
        assert_eq!(file.bytes().await.unwrap().len(), 300_000);
        StatusCode::NO_CONTENT
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/files/write", post(write))).await;
    for size in [None, Some(300_000)] {
        let chunks = stream::iter((0..3).map(|n| Ok(Bytes::from(vec![n; 100_000]))));
        client.write_file(&id(), "/a b/ü", chunks, size).await.unwrap();
    }
}

#[tokio::test]
async fn an_upload_whose_source_fails_says_so() {
    let write = |mut form: Multipart| async move {
        while let Ok(Some(field)) = form.next_field().await {
            if field.bytes().await.is_err() {
                break;
            }
        }
        StatusCode::BAD_REQUEST
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/files/write", post(write))).await;
    let source = stream::iter([Ok(Bytes::from_static(b"x")), Err(io::Error::other("disk on fire"))]);
    let Error::Upload(cause) = client.write_file(&id(), "/x", source, None).await.unwrap_err() else {
        panic!("the source's error was hidden")
    };
    assert_eq!(cause.to_string(), "disk on fire");
}

#[tokio::test]
async fn a_download_streams_exact_bytes() {
    let read = |Json(request): Json<Value>| async move {
        assert_eq!(request, json!({"path": "/bin/x"}));
        (0..=255u8).cycle().take(100_000).collect::<Vec<u8>>()
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/files/read", post(read))).await;
    let chunks: Vec<Bytes> = client.read_file(&id(), "/bin/x").await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), (0..=255u8).cycle().take(100_000).collect::<Vec<u8>>());
}

#[tokio::test]
async fn a_download_that_breaks_off_is_an_error_and_not_a_short_file() {
    let read = || async {
        let pieces = stream::iter([Ok(Bytes::from_static(b"half")), Err(io::Error::other("gone"))]);
        Body::from_stream(pieces)
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/files/read", post(read))).await;
    // The failure may come with the head already; then there is no stream to read.
    let end = match client.read_file(&id(), "/x").await {
        Ok(mut content) => loop {
            match content.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("a broken download looked complete"),
            }
        },
        Err(error) => error,
    };
    assert!(matches!(end, Error::BrokeOff { .. }), "{end}");
}

#[tokio::test]
async fn filters_of_a_list_are_sent_in_the_query() {
    let list = |RawQuery(query): RawQuery| async move {
        assert_eq!(query.as_deref(), Some("status=running&status=paused&metadata=app%3Da+b%3Dc"));
        Json([sandbox("sb1", "running")])
    };
    let client = serve(Router::new().route("/v1/sandboxes", get(list))).await;
    let filter = ListFilter {
        statuses: vec!["running".into(), "paused".into()],
        metadata: [("app".to_owned(), "a b=c".to_owned())].into(),
    };
    assert_eq!(client.list_matching(&filter).await.unwrap().len(), 1);
}
