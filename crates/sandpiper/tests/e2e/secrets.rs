//! Keys and tokens, used in right and wrong ways, are then nowhere: not in logs, errors, process lists, files of the server
//! or records.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::Server;
use tokio::process::Command;

use super::{binary, server};

/// What may hold a guest's memory or disk: there a guest's own secrets are its own affair.
const OF_GUESTS: [&str; 5] = ["overlay.qcow2", "memory", "frozen-memory", "state", "rootfs.ext4"];

/// Makes an API key in the records of a server that runs.
async fn key(server: &Server, name: &str) -> String {
    let mut create = Command::new(binary());
    create.args(["key", "create", name, "--data-dir"]).arg(server.data_dir()).env_remove("DATABASE_URL");
    String::from_utf8(create.output().await.unwrap().stdout).unwrap().trim().to_owned()
}

/// Every file below a directory, what belongs to guests and templates apart.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() && !OF_GUESTS.iter().any(|name| entry.path().ends_with(name)) {
            found.push(entry.path());
        }
    }
}

/// Command lines and environments of all processes, but the test's own.
fn processes() -> Vec<(String, Vec<u8>)> {
    let own = std::process::id().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let pids = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own);
    let read = |pid: String| {
        ["cmdline", "environ"].map(|file| (format!("/proc/{pid}/{file}"), fs::read(format!("/proc/{pid}/{file}"))))
    };
    pids.flat_map(read).filter_map(|(name, content)| Some((name, content.ok()?))).collect()
}

fn holds(content: &[u8], secret: &str) -> bool {
    holds_bytes(content, secret.as_bytes())
}

fn holds_bytes(content: &[u8], secret: &[u8]) -> bool {
    content.windows(secret.len()).any(|window| window == secret)
}

async fn said(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn keys_and_tokens_are_in_no_log_error_process_list_file_or_record() {
    let server = server(&["--log", "trace"]).await;
    let (right, revoked) = (key(&server, "right").await, key(&server, "revoked").await);
    let http = reqwest::Client::new();
    let call = |method: Method, path: &str, key: &str| {
        http.request(method, format!("{}{path}", server.url())).header("x-api-key", key)
    };
    let (password, value) = ("canary-of-a-proxy-40d7aa", "canary-of-a-header-77c01e");
    let proxy = json!({ "address": "203.0.113.9:1080", "username": "somebody", "password": password });
    let headers = json!({ "api.example.com": { "Authorization": value } });
    let policy = json!({ "egress_proxy": proxy, "request_headers": headers });
    let create = json!({ "allow_public_traffic": false, "network": policy });
    let made = call(Method::POST, "/v1/sandboxes", &right).header("idempotency-key", "once").json(&create);
    let (status, text) = said(made).await;
    assert_eq!(status, 201, "{text}");
    let made: Value = serde_json::from_str(&text).unwrap();
    let (id, token) = (made["id"].as_str().unwrap(), made["traffic_access_token"].as_str().unwrap().to_owned());

    // What a client of E2B is told, also again.
    let of_e2b = json!({ "templateID": "minimal", "secure": true, "network": { "allowPublicTraffic": false } });
    let (status, text) = said(call(Method::POST, "/sandboxes", &right).json(&of_e2b)).await;
    assert_eq!(status, 201, "{text}");
    let of_e2b: Value = serde_json::from_str(&text).unwrap();
    let told = |name: &str| of_e2b[name].as_str().unwrap_or_else(|| panic!("{name} of {of_e2b}")).to_owned();
    let (access, traffic, second) = (told("envdAccessToken"), told("trafficAccessToken"), told("sandboxID"));
    let (_, text) = said(call(Method::POST, &format!("/sandboxes/{second}/connect"), &right).json(&json!({}))).await;
    let again: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&again["envdAccessToken"], &again["trafficAccessToken"]), (&json!(access), &json!(traffic)));
    let guest = |token: &str| {
        let request = http.get(format!("{}/envs", server.url())).header("x-access-token", token.to_owned());
        request.header("e2b-sandbox-id", &second).header("e2b-sandbox-port", "49983")
    };
    assert_eq!(said(guest(&access)).await.0, 200);

    let list = Command::new(binary()).args(["key", "ls", "--json", "--data-dir"]).arg(server.data_dir()).output();
    let keys: Value = serde_json::from_slice(&list.await.unwrap().stdout).unwrap();
    let of_revoked = keys.as_array().unwrap().iter().find(|key| key["name"] == "revoked").unwrap();
    let mut revoke = Command::new(binary());
    revoke.args(["key", "revoke", of_revoked["id"].as_str().unwrap(), "--data-dir"]).arg(server.data_dir());
    assert!(revoke.status().await.unwrap().success());

    let mut answers = Vec::new();
    let wrong = format!("e2b_{}", "5ec2e7".repeat(8)[..40].to_owned());
    let odd = "canary-of-no-form-6f1d0c".to_owned();
    for key in [&wrong, &odd, &revoked] {
        for path in ["/v1/sandboxes", &format!("/v1/sandboxes/{id}"), "/v1/events", "/no-such-route"] {
            answers.push(said(call(Method::GET, path, key)).await);
        }
        let bearer = http.get(format!("{}/v1/sandboxes", server.url())).bearer_auth(key);
        answers.push(said(bearer).await);
    }
    assert!(answers.iter().all(|(status, _)| [401, 404].contains(status)), "{answers:?}");
    let port = |token: &str| {
        let request = http.get(server.url()).header("host", format!("8000-{id}.sandboxes.example"));
        request.header("e2b-traffic-access-token", token.to_owned()).header("x-api-key", &right)
    };
    answers.push(said(port(&token)).await);
    let wrong_token = "canary-of-a-token-91ab37";
    answers.push(said(port(wrong_token)).await);
    answers.push(said(guest(wrong_token)).await);
    let network = format!("/v1/sandboxes/{id}/network");
    answers.push(said(call(Method::GET, &network, &right)).await);
    answers.push(
        said(call(Method::PUT, &network, &right).json(&json!({ "egress_proxy": { "password": password } }))).await,
    );
    let broken = json!({ "request_headers": { "api.example.com": { "Authorization": format!("{value}\n") } } });
    for policy in [policy, broken] {
        answers.push(said(call(Method::PUT, &network, &right).json(&policy)).await);
    }
    for body in [json!({ "cmd": "true" }), json!({ "cmd": 5 }), json!({ "cmd": "true", "api_key": right })] {
        answers.push(said(call(Method::POST, &format!("/v1/sandboxes/{id}/exec"), &right).json(&body)).await);
    }
    for action in ["pause", "resume"] {
        let (status, text) = said(call(Method::POST, &format!("/v1/sandboxes/{id}/{action}"), &right)).await;
        assert_eq!(status, 200, "{text}");
    }
    let snapshot = call(Method::POST, "/v1/snapshots", &right).json(&json!({ "sandbox_id": id, "name": "kept" }));
    let (status, text) = said(snapshot).await;
    assert!(status < 300, "{status} {text}");

    let mut listed = Vec::new();
    files(server.data_dir(), &mut listed);
    assert!(listed.iter().any(|file| file.ends_with("server.log")) && listed.len() > 5, "{listed:?}");
    assert!(server.log().len() > 10_000, "it was told to say everything");
    let read = |file: PathBuf| (file.display().to_string(), fs::read(&file).unwrap_or_default());
    let places: Vec<_> = listed.into_iter().map(read).chain(processes()).collect();
    let key = fs::read(server.data_dir().join("token.key")).unwrap();
    assert!(
        places.iter().filter(|(_, content)| holds_bytes(content, &key)).count() == 1,
        "the token key is in its file"
    );
    // Its host needs it again, where only root reads.
    let is_record = |place: &str| place.ends_with(&format!("{id}/record.json"));
    for secret in [password, value] {
        assert!(places.iter().any(|(place, content)| is_record(place) && holds(content, secret)), "of the sandbox");
        for (place, content) in places.iter().filter(|(place, _)| !is_record(place)) {
            assert!(!holds(content, secret), "{place} holds {secret}");
        }
        for (status, text) in &answers {
            assert!(!text.contains(secret), "an answer {status} tells {secret}: {text}");
        }
    }
    for secret in [&right, &revoked, &wrong, &odd, &token, &access, &traffic, &wrong_token.to_owned()] {
        let bare = secret.trim_start_matches("e2b_");
        for (place, content) in &places {
            assert!(!holds(content, bare), "{place} holds {secret}");
        }
        for (status, text) in &answers {
            assert!(!text.contains(bare), "an answer {status} tells {secret}: {text}");
        }
    }
    // It would see one: what is no secret is found in all these places.
    assert!(places.iter().any(|(place, content)| place.ends_with("server.log") && holds(content, id)));
    assert!(
        places.iter().any(|(place, content)| place.contains("sandpiper.db") && holds(content, id)),
        "{:?}",
        places.iter().map(|(place, _)| place).collect::<Vec<_>>()
    );
    assert!(
        places.iter().any(|(place, content)| place.ends_with("/cmdline") && holds(content, id)) || places.len() > 20
    );
}
