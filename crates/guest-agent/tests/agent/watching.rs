//! Watched directories, as clients hear of what happens in them. What the contract says of watching, with
//! `files::watch` (what is watched at all) and `filesystem` (a watcher's life):
//!
//! | | |
//! |---|---|
//! | an upload is create, attributes, write; at once; entries where they are wanted | `an_upload_is_told_in_three_words_however_one_listens` |
//! | new directories are watched too | `a_tree_is_watched_as_it_grows_also_while_nobody_asks` |
//! | start first, signs of life, the limit of time | `a_stream_where_nothing_happens_lives_as_long_as_was_asked` |
//! | network mounts | `a_network_mount_is_watched_only_on_request` |
//! | the kernel's limit | `what_the_kernel_lets_nobody_watch_any_more_is_said` |

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Agent, open_directory};

const WATCH: &str = "/filesystem.Filesystem/WatchDir";

async fn call(agent: &Agent, method: &str, body: Value) -> Value {
    let (status, answer) = agent.call(&format!("/filesystem.Filesystem/{method}"), "root", body).await;
    assert_eq!(status, 200, "{method}: {answer}");
    answer
}

async fn watcher(agent: &Agent, wish: Value) -> Value {
    json!({"watcherId": call(agent, "CreateWatcher", wish).await["watcherId"]})
}

/// What happened, as words.
fn words(events: &Value) -> Vec<String> {
    let kind = |event: &Value| event["type"].as_str().unwrap().trim_start_matches("EVENT_TYPE_").to_owned();
    let events = events["events"].as_array().into_iter().flatten();
    events.map(|event| format!("{} {}", event["name"].as_str().unwrap(), kind(event))).collect()
}

#[tokio::test]
async fn an_upload_is_told_in_three_words_however_one_listens() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let path = directory.path();
    let plain = watcher(&agent, json!({"path": path})).await;
    let full = watcher(&agent, json!({"path": path, "includeEntry": true, "recursive": true})).await;
    let stream = agent.call_stream(
        WATCH,
        &[("connect-timeout-ms", "8000")],
        crate::harness::frame(&json!({"path": path, "includeEntry": true})),
    );
    let mut stream = stream.await;
    let first = stream.chunk().await.unwrap().unwrap();
    assert!(first.ends_with(br#"{"start":{}}"#), "{first:?}");

    let upload = format!("/files?path={}/f&username=daemon", path.display());
    assert_eq!(agent.put(&upload, crate::harness::pattern(1 << 20)).await.0, 200);
    assert_eq!(words(&call(&agent, "GetWatcherEvents", plain.clone()).await), ["f CREATE", "f CHMOD", "f WRITE"]);
    let told = call(&agent, "GetWatcherEvents", full.clone()).await;
    assert_eq!(words(&told), ["f CREATE", "f CHMOD", "f WRITE"]);
    for event in told["events"].as_array().unwrap() {
        assert_eq!((&event["entry"]["name"], &event["entry"]["path"]), (&json!("f"), &json!(path.join("f"))));
    }
    std::fs::rename(path.join("f"), path.join("g")).unwrap();
    std::fs::remove_file(path.join("g")).unwrap();
    for watcher in [plain, full] {
        let told = call(&agent, "GetWatcherEvents", watcher).await;
        assert_eq!(words(&told), ["f RENAME", "g CREATE", "g REMOVE"]);
        let events = told["events"].as_array().unwrap();
        assert!(events[0].get("entry").is_none() && events[2].get("entry").is_none(), "{told}");
    }

    // The stream says the same, and a write as often as there was one since it was last told.
    let told = stream.bytes().await.unwrap();
    let told = crate::harness::unframe(&told);
    let (end, told) = told.split_last().unwrap();
    let events = json!({"events": told.iter().map(|(_, event)| &event["filesystem"]).collect::<Vec<_>>()});
    let mut told = words(&events);
    told.dedup();
    assert_eq!(told, ["f CREATE", "f CHMOD", "f WRITE", "f RENAME", "g CREATE", "g REMOVE"]);
    assert_eq!((end.0, &end.1["error"]["code"]), (2, &json!("deadline_exceeded")));
}

#[tokio::test]
async fn a_tree_is_watched_as_it_grows_also_while_nobody_asks() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let path = directory.path();
    std::fs::create_dir(path.join("old")).unwrap();
    let tree = watcher(&agent, json!({"path": path, "recursive": true})).await;
    let flat = watcher(&agent, json!({"path": path})).await;
    // As a program does it that makes a directory, fills it, and then asks.
    call(&agent, "MakeDir", json!({"path": path.join("new/deep")})).await;
    for name in ["old/f", "new/deep/g"] {
        assert_eq!(agent.put(&format!("/files?path={}/{name}", path.display()), "x").await.0, 200);
    }
    let told = words(&call(&agent, "GetWatcherEvents", tree.clone()).await);
    for event in ["new CREATE", "new/deep CREATE", "old/f CREATE", "old/f WRITE", "new/deep/g CREATE"] {
        assert_eq!(told.iter().filter(|one| *one == event).count(), 1, "{event} in {told:?}");
    }
    std::fs::remove_dir_all(path.join("new/deep")).unwrap();
    let told = words(&call(&agent, "GetWatcherEvents", tree).await);
    assert_eq!(told, ["new/deep/g REMOVE", "new/deep REMOVE"]);
    assert_eq!(words(&call(&agent, "GetWatcherEvents", flat).await), ["new CREATE"]);
}

#[tokio::test]
async fn a_stream_where_nothing_happens_lives_as_long_as_was_asked() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let headers = [("keepalive-ping-interval", "1"), ("connect-timeout-ms", "2500")];
    let mut frames = agent.frames(WATCH, &headers, json!({"path": directory.path()})).await;
    let (flags, end) = frames.pop().unwrap();
    assert_eq!((flags, &end["error"]["code"]), (2, &json!("deadline_exceeded")));
    assert_eq!(frames.remove(0), (0, json!({"start": {}})));
    assert_eq!(frames, vec![(0, json!({"keepalive": {}})); 2]);
}

/// A file system of FUSE with nothing but its root, until it is dropped.
struct Fuse<'a>(&'a Path);

impl<'a> Fuse<'a> {
    fn mount(path: &'a Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("test", path, "fuse", rustix::mount::MountFlags::empty(), &*options).unwrap();
        std::thread::spawn(move || answer(device));
        Self(path)
    }
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Answers the kernel until nothing is mounted any more.
fn answer(mut device: File) {
    let mut request = vec![0; 1 << 17];
    while let Ok(length) = device.read(&mut request) {
        assert!(length >= 40, "a header");
        let (opcode, unique) = (u32::from_ne_bytes(request[4..8].try_into().unwrap()), &request[8..16]);
        let body = match opcode {
            // What the root is: a directory.
            3 => {
                let mut attributes = [0; 104];
                attributes[16] = 1;
                attributes[76..80].copy_from_slice(&0o40755_u32.to_ne_bytes());
                attributes[80] = 2;
                attributes.to_vec()
            }
            // How much there is: nothing.
            17 => vec![0; 80],
            // Which protocol: 7.31, with a page at a time.
            26 => [7, 31, 0, 0, 0, 4096, 1].map(u32::to_ne_bytes).concat().into_iter().chain([0; 36]).collect(),
            _ => Vec::new(),
        };
        let error = if body.is_empty() { -rustix::io::Errno::NOSYS.raw_os_error() } else { 0 };
        let length = u32::try_from(16 + body.len()).unwrap().to_ne_bytes();
        // A request that was given up meanwhile wants no answer.
        let _ = device.write(&[&length[..], &error.to_ne_bytes(), unique, &body].concat());
    }
}

#[tokio::test]
async fn a_network_mount_is_watched_only_on_request() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let _mounted = Fuse::mount(directory.path());
    let path = directory.path();
    let (status, refused) = agent.call("/filesystem.Filesystem/CreateWatcher", "root", json!({"path": path})).await;
    assert_eq!((status, &refused["code"]), (400, &json!("invalid_argument")), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("network mount"), "{refused}");
    let allowed = watcher(&agent, json!({"path": path, "allowNetworkMounts": true})).await;
    assert_eq!(call(&agent, "GetWatcherEvents", allowed).await, json!({}));
}

#[tokio::test]
async fn what_the_kernel_lets_nobody_watch_any_more_is_said() {
    let agent = Agent::with_watches(2);
    agent.init(json!({})).await;
    let directory = open_directory();
    let wish = json!({"path": directory.path()});
    let first = watcher(&agent, wish.clone()).await;
    watcher(&agent, wish.clone()).await;
    let refused = agent.call("/filesystem.Filesystem/CreateWatcher", "root", wish.clone()).await;
    assert_eq!((refused.0, &refused.1["code"]), (429, &json!("resource_exhausted")), "{refused:?}");
    assert!(refused.1["message"].as_str().unwrap().contains("too much is watched already"), "{refused:?}");
    let ended = agent.frames(WATCH, &[], wish.clone()).await;
    assert_eq!(ended[0].1["error"]["code"], "resource_exhausted", "{ended:?}");
    call(&agent, "RemoveWatcher", first).await;
    // The thread that gathers for it ends by itself.
    let path = "/filesystem.Filesystem/CreateWatcher";
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while agent.call(path, "root", wish.clone()).await.0 != 200 {
        assert!(std::time::Instant::now() < deadline, "one that was removed leaves room");
    }
}
