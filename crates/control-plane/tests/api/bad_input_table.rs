//! Bad input for every operation of the OpenAPI document: a route that is added is tested without a line here.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, answer, code};
use crate::openapi::operations;

/// The schema that a reference leads to, or the schema itself.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    schema["$ref"].as_str().map_or(schema, |reference| document.pointer(&reference[1..]).unwrap())
}

/// Operations with a JSON body: method, path and the schema of the body.
fn with_json_body(document: &Value) -> Vec<(Method, String, Value)> {
    let body = |operation: &Value| {
        let schema = operation.pointer("/requestBody/content/application~1json/schema")?;
        Some(resolved(document, schema).clone())
    };
    let found: Vec<_> = operations(document)
        .into_iter()
        .filter_map(|(method, path, operation)| Some((method.parse().unwrap(), path, body(&operation)?)))
        .collect();
    assert!(found.len() >= 3, "the bodies were not found");
    found
}

/// The members that a body may have, by the first of its alternatives where it has some.
fn members(schema: &Value) -> &serde_json::Map<String, Value> {
    let one = schema["anyOf"].get(0).unwrap_or(schema);
    one["properties"].as_object().unwrap()
}

/// The types that a schema takes, as its first words and those of its alternatives say.
fn types(schema: &Value) -> Vec<&str> {
    let own = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
        // What is described elsewhere is an object.
        _ if schema["$ref"].is_string() => vec!["object"],
        _ => vec![],
    };
    let alternatives = ["anyOf", "oneOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten();
    if own.is_empty() { alternatives.flat_map(types).collect() } else { own }
}

/// Values that no schema with this type takes.
fn of_another_type(schema: &Value) -> Vec<Value> {
    let all = [
        ("integer", json!(7)),
        ("string", json!("x")),
        ("array", json!(["x"])),
        ("object", json!({"x": "y"})),
        ("boolean", json!(true)),
    ];
    let taken = types(schema);
    assert!(!taken.is_empty(), "{schema} says no type");
    let others = all.into_iter().filter(|(kind, _)| !taken.contains(kind)).map(|(_, value)| value);
    others.chain([json!(1.5)]).collect()
}

#[tokio::test]
async fn every_member_of_every_body_has_its_type() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let (_, document) = server.get("/openapi.json").await;
    for (method, path, schema) in with_json_body(&document) {
        let path = path.replace("{id}", &id);
        for (member, rule) in members(&schema) {
            let bad = of_another_type(rule);
            assert!(bad.len() >= 4, "{path} {member}");
            for value in bad {
                let body = json!({"cmd": "echo", "path": "/x", member: value});
                let (status, answered) = server.send(method.clone(), &path, Some(body.clone())).await;
                assert_eq!((status.as_u16(), code(&answered)), (400, "invalid_request"), "{path} {body}");
            }
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            let (status, answered) = server.send(method.clone(), &path, Some(json!({}))).await;
            assert_eq!((status.as_u16(), code(&answered)), (400, "invalid_request"), "{path} without {required}");
        }
        for body in [&b""[..], b"{", b"[]", b"null", b"\xff", b"{\"x\":\"\xff\"}", b"{}{}", b"\0"] {
            let request = server.http.request(method.clone(), server.url(&path)).body(body);
            let (status, answered) = answer(request.send().await.unwrap()).await;
            assert_eq!((status.as_u16(), code(&answered)), (400, "invalid_request"), "{path} {body:?}");
        }
        let request = server.http.request(method, server.url(&path)).body(vec![b' '; 3 << 20]);
        let (status, answered) = answer(request.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), code(&answered)), (413, "too_large"), "{path}");
    }
}

#[tokio::test]
async fn every_path_is_checked_before_the_guest_is_asked() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let (_, document) = server.get("/openapi.json").await;
    let with_path =
        with_json_body(&document).into_iter().filter(|(_, _, schema)| schema["properties"]["path"].is_object());
    let mut tried = 0;
    for (_, route, _) in with_path {
        let route = route.replace("{id}", &id);
        let long = "a".repeat(4097);
        for (path, message) in [("", "path is required"), ("/a\0b", "NUL"), ("\0", "NUL"), (&long, "longer than 4096")]
        {
            let (status, answered) = server.post(&route, json!({"path": path})).await;
            assert_eq!((status.as_u16(), code(&answered)), (400, "invalid_request"), "{route} {path:.20}");
            assert!(answered["error"]["message"].as_str().unwrap().contains(message), "{route}: {answered}");
            tried += 1;
        }
    }
    assert!(tried >= 40, "{tried}");
    let of_the_guest = ["read", "list_dir", "make_dir", "remove"];
    assert!(of_the_guest.iter().all(|call| server.host.calls(call) == 0));
}

#[tokio::test]
async fn every_operation_on_a_sandbox_knows_no_sandbox_by_a_strange_id() {
    let server = Fixture::start().await;
    let (_, document) = server.get("/openapi.json").await;
    let long = "a".repeat(5000);
    let mut tried = 0;
    for (method, path, _) in operations(&document).into_iter().filter(|(_, path, _)| path.contains("{id}")) {
        for id in ["sbnone", "..%2f..%2fetc", "%00", "%ff", "a%20b", "SB", "-", "'%20or%201=1--", "%0d%0a", &long] {
            let method: Method = method.parse().unwrap();
            let (status, answered) = server.send(method.clone(), &path.replace("{id}", id), Some(json!({}))).await;
            assert_eq!((status.as_u16(), code(&answered)), (404, "not_found"), "{method} {path} {id:.50}");
            tried += 1;
        }
    }
    assert!(tried >= 90, "{tried}");
}

#[tokio::test]
async fn every_operation_on_a_paused_sandbox_is_refused_unless_it_needs_no_guest() {
    let server = Fixture::start().await;
    let id = server.create().await;
    server.post(&format!("/v1/sandboxes/{id}/pause"), json!(null)).await;
    let (_, document) = server.get("/openapi.json").await;
    let mut refused = 0;
    for (method, path, operation) in operations(&document).into_iter().filter(|(_, path, _)| path.contains("{id}")) {
        let name = operation["operationId"].as_str().unwrap();
        if ["get", "set", "stop", "resume", "snapshot", "fork", "destroy"].iter().any(|verb| name.starts_with(verb))
            && name != "getBenchmark"
        {
            continue;
        }
        let body = json!({"cmd": "echo", "path": "/x"});
        let (status, answered) = server.send(method.parse().unwrap(), &path.replace("{id}", &id), Some(body)).await;
        assert_eq!((status.as_u16(), code(&answered)), (409, "invalid_state"), "{method} {path}");
        assert!(operation["responses"]["409"].is_object(), "{method} {path} 409 is documented");
        refused += 1;
    }
    assert!(refused >= 30, "{refused}");
    assert_eq!(server.status(&id).await, "paused");
}

#[tokio::test]
async fn every_operation_on_a_deleted_sandbox_is_refused_unless_it_only_looks_or_deletes() {
    let server = Fixture::start().await;
    let id = server.create().await;
    server.delete(&id).await;
    let (_, document) = server.get("/openapi.json").await;
    for (method, path, operation) in operations(&document).into_iter().filter(|(_, path, _)| path.contains("{id}")) {
        let expected = match operation["operationId"].as_str().unwrap() {
            "getSandbox" | "getCapsule" => 200,
            "destroySandbox" | "destroyCapsule" => 204,
            "getSandboxMetrics" | "getCapsuleMetrics" => 404,
            _ => 409,
        };
        let body = json!({"cmd": "echo", "path": "/x"});
        let (status, _) = server.send(method.parse().unwrap(), &path.replace("{id}", &id), Some(body)).await;
        assert_eq!(status.as_u16(), expected, "{method} {path}");
        assert!(operation["responses"][expected.to_string()].is_object(), "{method} {path} {expected} is documented");
    }
}
