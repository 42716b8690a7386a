//! Uploads and downloads.

use bytes::Bytes;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, answer, code};

const LIMIT: u64 = 100_000;

async fn server() -> (Fixture, String) {
    let server = Fixture::with(|config| config.limits.upload = LIMIT).await;
    let id = server.create().await;
    (server, id)
}

async fn upload(server: &Fixture, id: &str, form: Form) -> (StatusCode, Value) {
    let url = server.url(&format!("/v1/sandboxes/{id}/files/write"));
    answer(server.http.post(url).multipart(form).send().await.unwrap()).await
}

fn file(bytes: Vec<u8>) -> Part {
    Part::bytes(bytes).file_name("upload")
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out() {
    let (server, id) = server().await;
    let content: Vec<u8> = (0..LIMIT).map(|n| (n % 251) as u8).collect();
    for (path, form) in [
        ("/tmp/path first", Form::new().text("path", "/tmp/path first").part("file", file(content.clone()))),
        ("rel/ü?&%41", Form::new().part("file", file(content.clone())).text("path", "rel/ü?&%41")),
        ("/more", Form::new().text("x", "y").text("path", "/more").part("file", file(content.clone())).text("z", "")),
    ] {
        assert_eq!(upload(&server, &id, form).await.0, 204, "{path}");
        assert_eq!(server.host.state().files[path], content, "{path}");
        let url = server.url(&format!("/v1/sandboxes/{id}/files/read"));
        let response = server.http.post(url).body(json!({"path": path}).to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/octet-stream");
        assert_eq!(response.headers()["content-length"], LIMIT.to_string());
        assert_eq!(response.bytes().await.unwrap(), content);
    }
    let empty = Form::new().text("path", "/empty").part("file", file(Vec::new()));
    assert_eq!(upload(&server, &id, empty).await.0, 204);
    assert_eq!(server.host.state().files["/empty"], "");
}

#[tokio::test]
async fn one_byte_more_than_the_limit_is_too_large_in_either_order() {
    let (server, id) = server().await;
    let content = vec![0; LIMIT as usize + 1];
    for form in [
        Form::new().text("path", "/big").part("file", file(content.clone())),
        Form::new().part("file", file(content.clone())).text("path", "/big"),
    ] {
        let (status, body) = upload(&server, &id, form).await;
        assert_eq!((status.as_u16(), code(&body)), (413, "too_large"));
    }
    assert!(server.host.state().files.is_empty(), "no part of the file is left");
}

#[tokio::test]
async fn a_refusal_far_over_the_limit_still_reaches_the_client() {
    let (server, id) = server().await;
    let form = Form::new().text("path", "/big").part("file", file(vec![0; 20 << 20]));
    assert_eq!(upload(&server, &id, form).await.0, 413);
}

#[tokio::test]
async fn what_the_guest_refuses_is_told() {
    let (server, id) = server().await;
    let form = Form::new().text("path", "/full").part("file", file(vec![0; 1000]));
    let (status, body) = upload(&server, &id, form).await;
    assert_eq!((status.as_u16(), code(&body)), (507, "no_space"));
    for (path, status, expected) in [
        ("/none", 404, "not_found"),
        ("/dir", 400, "invalid_request"),
        ("/locked", 403, "forbidden"),
        ("/broken", 502, "agent_error"),
    ] {
        let (answered, body) = server.post(&format!("/v1/sandboxes/{id}/files/read"), json!({"path": path})).await;
        assert_eq!((answered.as_u16(), code(&body)), (status, expected), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_part_of_its_file() {
    let (server, id) = server().await;
    let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
    let form = Form::new().text("path", "/part").part("file", Part::stream(Body::wrap_stream(receiver)));
    sender.unbounded_send(Ok(Bytes::from_static(b"the first half"))).unwrap();
    let url = server.url(&format!("/v1/sandboxes/{id}/files/write"));
    let request = tokio::spawn(server.http.post(url).multipart(form).send());
    server.host.until(|state| state.calls.contains(&format!("upload {id}"))).await;
    request.abort();
    server.host.until(|state| state.broken_uploads == ["/part"]).await;
    assert!(server.host.state().files.is_empty());
}

#[tokio::test]
async fn a_download_is_streamed() {
    let (server, id) = server().await;
    let url = server.url(&format!("/v1/sandboxes/{id}/files/read"));
    let mut response = server.http.post(url).body(r#"{"path":"/endless"}"#).send().await.unwrap();
    let mut bytes = 0;
    while bytes < 10 << 20 {
        bytes += response.chunk().await.unwrap().unwrap().len();
    }
}

#[tokio::test]
async fn forms_that_make_no_sense_are_refused() {
    let (server, id) = server().await;
    for (form, expected) in [
        (Form::new().part("file", file(vec![1])), "path field is required"),
        (Form::new().text("path", "").part("file", file(vec![1])), "path field is required"),
        (Form::new().text("path", "/x"), "file field is required"),
        (Form::new(), "multipart body is broken"),
        (Form::new().text("path", "/a\0b").part("file", file(vec![1])), "NUL"),
        (Form::new().text("path", "a".repeat(5000)).part("file", file(vec![1])), "longer than"),
        (Form::new().part("path", Part::bytes(b"/\xff".as_slice())).part("file", file(vec![1])), "not UTF-8"),
    ] {
        let (status, body) = upload(&server, &id, form).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(expected), "{expected}: {body}");
    }
    let url = server.url(&format!("/v1/sandboxes/{id}/files/write"));
    for (kind, text) in [
        ("application/json", "{}"),
        ("multipart/form-data", "no boundary"),
        ("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/x"),
        ("multipart/form-data; boundary=b", "nothing of the kind"),
    ] {
        let response = server.http.post(&url).header("content-type", kind).body(text).send().await.unwrap();
        let (status, body) = answer(response).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{kind} {text}");
    }
    assert!(server.host.state().files.is_empty());
}
