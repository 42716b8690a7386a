//! The file system service: entries, directories, moves and removals. Section 7.2 of the contract, with `watching` for the
//! rest of what it says of watches, `files::entry` for modes as text, and `files` for metadata.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use connectrpc::ErrorCode;
use proto::filesystem::watch_dir_response::Event;
use proto::filesystem::{EventType, FileType, ListDirRequest, StatRequest, WatchDirRequest};
use serde_json::{Value, json};

use crate::harness::{Agent, open_directory};

async fn call(agent: &Agent, method: &str, body: Value) -> (u16, Value) {
    agent.call(&format!("/filesystem.Filesystem/{method}"), "root", body).await
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["code"].as_str().unwrap_or("none"))
}

#[tokio::test]
async fn entries_are_as_the_contract_writes_them() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let base = directory.path().canonicalize().unwrap();
    let file = base.join("f");
    std::fs::write(&file, "12345").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    symlink("f", base.join("link")).unwrap();
    symlink("none", base.join("broken")).unwrap();
    let stat = async |name: &str| call(&agent, "Stat", json!({"path": base.join(name)})).await.1["entry"].clone();

    let mut entry = stat("f").await;
    let modified = entry["modifiedTime"].take();
    assert!(modified.as_str().unwrap().ends_with('Z'), "{modified}");
    let expect = json!({"name": "f", "type": "FILE_TYPE_FILE", "path": file, "size": "5", "mode": 0o640,
        "permissions": "-rw-r-----", "owner": "root", "group": "root", "modifiedTime": null});
    assert_eq!(entry, expect);
    let entry = stat("link").await;
    assert_eq!((&entry["type"], &entry["symlinkTarget"]), (&json!("FILE_TYPE_FILE"), &json!(file)));
    assert_eq!(entry["permissions"], "Lrwxrwxrwx");
    assert!(entry.get("isSymlink").is_none(), "the type is the target's, as for all versions of the clients");
    assert_eq!(entry["mode"], 0o640, "the target's too");
    let entry = stat("broken").await;
    assert_eq!((&entry["type"], &entry["symlinkTarget"]), (&Value::Null, &json!(base.join("broken"))));
    assert_eq!(code(&call(&agent, "Stat", json!({"path": base.join("nothing")})).await), (404, "not_found"));
}

#[tokio::test]
async fn links_to_directories_strangers_and_special_modes_have_their_words() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let base = directory.path().canonicalize().unwrap();
    std::fs::create_dir(base.join("d")).unwrap();
    std::fs::set_permissions(base.join("d"), PermissionsExt::from_mode(0o1750)).unwrap();
    std::os::unix::fs::chown(base.join("d"), Some(54_321), Some(54_322)).unwrap();
    symlink("d", base.join("l")).unwrap();
    symlink("l", base.join("ll")).unwrap();
    let listed = call(&agent, "ListDir", json!({"path": base, "depth": 2})).await.1;
    let entries = listed["entries"].as_array().unwrap();
    let told = |entry: &Value| {
        ["name", "type", "permissions", "owner", "group", "symlinkTarget"].map(|name| entry[name].clone())
    };
    let target = json!(base.join("d"));
    let kind = "FILE_TYPE_DIRECTORY";
    assert_eq!(
        entries.iter().map(told).collect::<Vec<_>>(),
        [
            json!(["d", kind, "dtrwxr-x---", "54321", "54322", null]),
            json!(["l", kind, "Lrwxrwxrwx", "root", "root", target]),
            json!(["ll", kind, "Lrwxrwxrwx", "root", "root", target]),
        ]
        .map(|entry| <[Value; 6]>::try_from(entry.as_array().unwrap().clone()).unwrap())
    );
    assert!(entries.iter().all(|entry| entry["mode"] == 0o750), "{listed}");
}

#[tokio::test]
async fn paths_are_the_caller_s() {
    let agent = Agent::open().await;
    let stat = async |user: &str, path: &str| {
        let (status, answer) = agent.call("/filesystem.Filesystem/Stat", user, json!({"path": path})).await;
        if status == 200 { answer["entry"]["path"].clone() } else { answer["code"].clone() }
    };
    for (user, path, expect) in [
        ("root", "~", "/root"),
        ("root", "", "/root"),
        ("root", "~/../etc", "/etc"),
        ("daemon", "~", "/usr/sbin"),
        ("daemon", "../bin", "/usr/bin"),
        ("daemon", "/etc", "/etc"),
        ("daemon", "~root", "invalid_argument"),
        ("daemon", "/no/such", "not_found"),
        ("daemon", "a\0b", "invalid_argument"),
    ] {
        assert_eq!(stat(user, path).await, expect, "{user} {path:?}");
    }
    let (status, content) = agent.get("/files?path=../../etc/passwd&username=daemon").await;
    assert!(status == 200 && content.starts_with("root:"), "{status}");
}

#[tokio::test]
async fn lists_are_lexical_and_as_deep_as_asked() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let base = directory.path();
    std::fs::create_dir_all(base.join("b/c/d")).unwrap();
    for file in ["a", "b/x", "b/c/y", "z"] {
        std::fs::write(base.join(file), "").unwrap();
    }
    symlink(base.join("b"), base.join("l")).unwrap();
    let list = async |path: std::path::PathBuf, depth: u32| {
        let request = ListDirRequest { path: path.display().to_string(), depth, ..Default::default() };
        let entries = agent.files().list_dir(request).await.unwrap().into_owned().entries;
        let below = |entry: &str| entry.strip_prefix(&format!("{}/", path.display())).unwrap().to_owned();
        entries.iter().map(|entry| below(&entry.path)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(base.into(), 0).await, "a b l z");
    assert_eq!(list(base.into(), 1).await, "a b l z");
    assert_eq!(list(base.into(), 2).await, "a b b/c b/x l z");
    assert_eq!(list(base.into(), 9).await, "a b b/c b/c/d b/c/y b/x l z");
    assert_eq!(list(base.join("l"), 1).await, "c x", "below the link that was asked for");

    let status = async |path: &str| {
        let (status, error) = call(&agent, "ListDir", json!({"path": base.join(path)})).await;
        (status, error["code"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(status("nothing").await, (404, "not_found".into()));
    assert_eq!(status("a").await, (400, "invalid_argument".into()));
    symlink("loop", base.join("loop")).unwrap();
    assert_eq!(status("loop").await, (400, "failed_precondition".into()));
}

#[tokio::test]
async fn directories_are_made_once_with_their_parents() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let path = directory.path().join("p/q");
    let method = "/filesystem.Filesystem/MakeDir";
    let (status, answer) = agent.call(method, "daemon", json!({"path": path})).await;
    assert_eq!((status, &answer["entry"]["type"]), (200, &json!("FILE_TYPE_DIRECTORY")), "{answer}");
    for made in [&path, &directory.path().join("p")] {
        let found = std::fs::metadata(made).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (1, 0o755));
    }
    assert_eq!(code(&call(&agent, "MakeDir", json!({"path": path})).await), (409, "already_exists"));
    std::fs::write(path.join("f"), "").unwrap();
    assert_eq!(code(&call(&agent, "MakeDir", json!({"path": path.join("f")})).await), (400, "invalid_argument"));
    assert_eq!(code(&call(&agent, "MakeDir", json!({"path": "~other/x"})).await), (400, "invalid_argument"));
    let denied = agent.call(method, "daemon", json!({"path": "/etc/mine"})).await;
    assert_eq!(code(&denied), (403, "permission_denied"));
}

#[tokio::test]
async fn removing_is_thorough_and_silent() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let base = directory.path();
    std::fs::create_dir_all(base.join("d/e")).unwrap();
    std::fs::create_dir(base.join("kept")).unwrap();
    std::fs::write(base.join("kept/f"), "").unwrap();
    symlink(base.join("kept"), base.join("d/e/link")).unwrap();
    for _ in 0..2 {
        assert_eq!(call(&agent, "Remove", json!({"path": base.join("d")})).await.0, 200);
        assert!(!base.join("d").exists());
    }
    assert!(base.join("kept/f").exists(), "links are not followed");
    let denied = agent.call("/filesystem.Filesystem/Remove", "daemon", json!({"path": base.join("kept/f")})).await;
    assert_eq!(code(&denied), (403, "permission_denied"));
}

#[tokio::test]
async fn moving_makes_the_way_and_crosses_file_systems() {
    let agent = Agent::open().await;
    let (here, there) = (open_directory(), tempfile::tempdir_in("/dev/shm").unwrap());
    std::fs::create_dir(here.path().join("d")).unwrap();
    std::fs::write(here.path().join("d/f"), "x").unwrap();
    symlink("f", here.path().join("d/l")).unwrap();
    let body = |from: &std::path::Path, to: &std::path::Path| json!({"source": from, "destination": to});
    let (status, answer) = call(&agent, "Move", body(&here.path().join("d"), &here.path().join("a/b/d"))).await;
    assert_eq!((status, &answer["entry"]["path"]), (200, &json!(here.path().join("a/b/d"))), "{answer}");
    let away = there.path().join("d");
    let (status, answer) = call(&agent, "Move", body(&here.path().join("a/b/d"), &away)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(!here.path().join("a/b/d").exists() && std::fs::read(away.join("l")).unwrap() == b"x");
    let missing = call(&agent, "Move", body(&here.path().join("nothing"), &here.path().join("x"))).await;
    assert_eq!(code(&missing), (404, "not_found"));

    // What is there already gives way, and the way is the user's.
    std::fs::write(here.path().join("old"), "old").unwrap();
    std::fs::write(here.path().join("new"), "new").unwrap();
    assert_eq!(call(&agent, "Move", body(&here.path().join("new"), &here.path().join("old"))).await.0, 200);
    assert_eq!(std::fs::read(here.path().join("old")).unwrap(), b"new");
    let way = here.path().join("way/there");
    let moved = agent.call("/filesystem.Filesystem/Move", "daemon", body(&here.path().join("old"), &way)).await;
    assert_eq!((moved.0, &moved.1["entry"]["path"]), (200, &json!(way)), "{}", moved.1);
    let found = std::fs::metadata(way.parent().unwrap()).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (1, 0o755));
}

#[tokio::test]
async fn the_generated_client_is_understood() {
    let agent = Agent::open().await;
    let client = agent.files();
    let request = StatRequest { path: "/etc".into(), ..Default::default() };
    let entry = client.stat(request).await.unwrap().into_owned().entry;
    assert_eq!((entry.name.as_str(), entry.r#type.as_known()), ("etc", Some(FileType::FILE_TYPE_DIRECTORY)));
}

#[tokio::test]
async fn what_happens_in_a_directory_is_streamed_from_a_first_message_on() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let path = directory.path().to_str().unwrap().to_owned();
    let request = WatchDirRequest { path, recursive: true, include_entry: true, ..Default::default() };
    let mut stream = agent.files().watch_dir(request).await.unwrap();
    let first = stream.message().await.unwrap().unwrap().to_owned_message();
    assert!(matches!(first.event, Some(Event::Start(_))), "{first:?}");
    std::fs::create_dir(directory.path().join("d")).unwrap();
    let told = stream.message().await.unwrap().unwrap().to_owned_message();
    let Some(Event::Filesystem(event)) = told.event else { panic!("{told:?}") };
    assert_eq!((event.name.as_str(), event.r#type.as_known()), ("d", Some(EventType::EVENT_TYPE_CREATE)));
    assert_eq!(event.entry.r#type.as_known(), Some(FileType::FILE_TYPE_DIRECTORY));
    let missing = WatchDirRequest { path: "/no/such".into(), ..Default::default() };
    let error = match agent.files().watch_dir(missing).await {
        Err(error) => error.code,
        Ok(mut stream) => stream.message().await.unwrap_err().code,
    };
    assert_eq!(error, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_watcher_tells_once_what_happened_until_it_is_removed() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let (_, made) = call(&agent, "CreateWatcher", json!({"path": directory.path()})).await;
    let watcher = json!({"watcherId": made["watcherId"]});
    std::fs::write(directory.path().join("f"), "").unwrap();
    let events = call(&agent, "GetWatcherEvents", watcher.clone()).await;
    assert_eq!(events, (200, json!({"events": [{"name": "f", "type": "EVENT_TYPE_CREATE"}]})));
    assert_eq!(call(&agent, "GetWatcherEvents", watcher.clone()).await, (200, json!({})));
    assert_eq!(call(&agent, "RemoveWatcher", watcher.clone()).await, (200, json!({})));
    for method in ["GetWatcherEvents", "RemoveWatcher"] {
        assert_eq!(code(&call(&agent, method, watcher.clone()).await), (404, "not_found"));
    }
    let gone = json!({"path": directory.path().join("gone")});
    assert_eq!(code(&call(&agent, "CreateWatcher", gone).await), (404, "not_found"));
    let file = json!({"path": directory.path().join("f")});
    assert_eq!(code(&call(&agent, "CreateWatcher", file).await), (400, "invalid_argument"));
}
