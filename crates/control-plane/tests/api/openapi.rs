//! The OpenAPI document: it is what the handlers say, it is the one in the repository, and others can read it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fixture::Fixture;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A Python program of the tests.
pub fn tool(name: &str) -> PathBuf {
    let output = Command::new(root().join("scripts/test-tools.sh")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).join(name)
}

/// Every operation as its method, path and description.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    assert!(all.len() >= 12, "the operations were not found");
    all
}

#[test]
fn the_document_in_the_repository_is_the_one_that_is_served() {
    let committed = std::fs::read_to_string(root().join("openapi/sandpiper.yaml")).unwrap();
    let differs = committed != control_plane::openapi_yaml();
    assert!(!differs, "openapi/sandpiper.yaml is not what the handlers say: run `make openapi` and commit it");
}

#[tokio::test]
async fn the_document_is_served_as_yaml_and_as_json() {
    let server = Fixture::start().await;
    for (path, kind) in [("/openapi.yaml", "application/yaml"), ("/openapi.json", "application/json")] {
        for path in [path.to_owned(), format!("{path}/")] {
            let response = server.http.get(server.url(&path)).send().await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-type"]),
                (200, &kind.parse().unwrap())
            );
            let text = response.text().await.unwrap();
            match kind {
                "application/yaml" => assert_eq!(text, control_plane::openapi_yaml()),
                _ => assert_eq!(text.parse::<Value>().unwrap()["openapi"], "3.1.0"),
            }
        }
        let foreign = server.http.get(server.url(path)).header("host", "evil.example");
        assert_eq!(foreign.send().await.unwrap().status(), 421);
    }
}

#[test]
fn an_independent_validator_accepts_the_document() {
    let validator = tool("openapi-spec-validator");
    let output = Command::new(validator).arg(root().join("openapi/sandpiper.yaml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn operations_have_the_names_of_the_contract_and_every_response_a_description() {
    let server = Fixture::start().await;
    let (_, document) = server.get("/openapi.json").await;
    let operations = operations(&document);
    for (id, method, path) in [
        ("createSandbox", "POST", "/v1/sandboxes"),
        ("listSandboxes", "GET", "/v1/sandboxes"),
        ("getSandbox", "GET", "/v1/sandboxes/{id}"),
        ("destroySandbox", "DELETE", "/v1/sandboxes/{id}"),
        ("execCommand", "POST", "/v1/sandboxes/{id}/exec"),
        ("pauseSandbox", "POST", "/v1/sandboxes/{id}/pause"),
        ("stopSandbox", "POST", "/v1/sandboxes/{id}/stop"),
        ("resumeSandbox", "POST", "/v1/sandboxes/{id}/resume"),
        ("uploadFile", "POST", "/v1/sandboxes/{id}/files/write"),
        ("downloadFile", "POST", "/v1/sandboxes/{id}/files/read"),
    ] {
        let named =
            |(m, p, operation): &&(String, String, Value)| m == method && p == path && operation["operationId"] == id;
        assert!(operations.iter().any(|operation| named(&operation)), "{id}");
    }
    for schema in ["CreateSandboxRequest", "Sandbox", "ExecRequest", "ExecResponse", "ReadFileRequest", "Error"] {
        assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
    }
    for (method, path, operation) in operations {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let reference = response["$ref"].as_str().and_then(|reference| document.pointer(&reference[1..]));
            let description = reference.unwrap_or(response)["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{method} {path} {status} has no description");
        }
    }
}

#[tokio::test]
async fn the_page_for_people_comes_from_this_server_alone() {
    let server = Fixture::start().await;
    let get = async |path: &str| {
        let response = server.http.get(server.url(path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let headers = response.headers().clone();
        let policy = headers["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("http"), "{policy}");
        (headers["content-type"].to_str().unwrap().to_owned(), response.text().await.unwrap())
    };
    for path in ["/docs", "/docs/"] {
        let (kind, page) = get(path).await;
        assert!(kind.starts_with("text/html"), "{kind}");
        assert!(page.contains("<title>Wrenn Sandbox API</title>") && page.contains("id=\"swagger-ui\""));
        assert!(!page.contains("//"), "nothing is loaded from elsewhere");
    }
    let (_, page) = get("/docs").await;
    let links: Vec<&str> = page.split("\"/docs/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), 5, "{links:?}");
    for link in links {
        let (kind, content) = get(&format!("/docs/{link}")).await;
        assert!(kind != "application/octet-stream" && !content.is_empty(), "{link} {kind}");
    }
    for path in ["/docs/index.html", "/docs/swagger-initializer.js", "/docs/..%2fx", "/docs/%ff", "/docs/a/b"] {
        assert_eq!(server.get(path).await, (reqwest::StatusCode::NOT_FOUND, "404 page not found\n".into()), "{path}");
    }
    let wrong = server.send(reqwest::Method::POST, "/docs", None).await;
    assert_eq!(wrong, (reqwest::StatusCode::METHOD_NOT_ALLOWED, "".into()));
    let foreign = server.http.get(server.url("/docs")).header("host", "evil.example");
    assert_eq!(foreign.send().await.unwrap().status(), 421);
}
