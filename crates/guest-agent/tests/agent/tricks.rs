//! Files and paths that mislead whoever opens them: a user gets what is his by each way, and nothing that is not.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proto::filesystem::ListDirRequest;

use crate::harness::{Agent, open_directory};

fn query(path: &str, user: &str) -> String {
    format!("/files?path={path}&username={user}")
}

/// By each of these ways `daemon` asks for a file that is root's.
#[tokio::test]
async fn no_way_to_another_s_file_leads_round_its_rights() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let base = directory.path().canonicalize().unwrap();
    let (base, open) = (base.display().to_string(), base.join("open"));
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(format!("{base}/secret"), "root's").unwrap();
    std::fs::set_permissions(format!("{base}/secret"), PermissionsExt::from_mode(0o600)).unwrap();
    let links = [
        ("link", format!("{base}/secret")),
        ("relative", "../secret".to_owned()),
        ("chain", format!("{base}/open/link")),
        ("up", "..".to_owned()),
        ("root", "/proc/self/root".to_owned()),
        ("init", "/proc/1/root".to_owned()),
    ];
    for (name, target) in &links {
        symlink(target, open.join(name)).unwrap();
    }
    for (way, read, write) in [
        ("secret", 403, 403),
        ("open/link", 403, 403),
        ("open/relative", 403, 403),
        ("open/chain", 403, 403),
        ("open/../secret", 403, 403),
        ("open/up/secret", 403, 403),
        ("open/./.././secret", 403, 403),
        // What is another process's root is not even looked at.
        (&format!("open/init{base}/secret")[..], 403, 403),
    ] {
        let path = query(&format!("{base}/{way}"), "daemon");
        assert_eq!((agent.get(&path).await.0, agent.put(&path, "daemon's").await.0), (read, write), "{way}");
    }
    for way in [format!("/proc/self/root{base}/secret"), format!("/proc/thread-self/root{base}/secret")] {
        assert_eq!(agent.get(&query(&way, "daemon")).await.0, 403, "{way}");
        assert_eq!(agent.put(&query(&way, "daemon"), "daemon's").await.0, 403, "{way}");
    }
    assert_eq!(std::fs::read_to_string(format!("{base}/secret")).unwrap(), "root's");
    for (name, _) in links {
        assert!(open.join(name).is_symlink(), "{name} was replaced");
    }
}

#[tokio::test]
async fn a_file_that_is_all_holes_is_sent_without_being_held() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("sparse");
    std::fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let path = query(&file.display().to_string(), "root");
    let mut answer = agent.http.get(agent.url(&path)).send().await.unwrap();
    assert_eq!(answer.content_length(), Some(1 << 40), "a terabyte");
    let mut read = 0;
    while read < 64 << 20 {
        let piece = answer.chunk().await.unwrap().unwrap();
        assert!(piece.iter().all(|byte| *byte == 0));
        read += piece.len();
    }
    drop(answer);
    assert!(peak_kb(&agent) < 48 * 1024, "{} kB at the peak", peak_kb(&agent));
    let entry = agent.call("/filesystem.Filesystem/Stat", "root", serde_json::json!({ "path": file })).await;
    assert_eq!(entry.1["entry"]["size"], (1_u64 << 40).to_string());
}

#[tokio::test]
async fn a_directory_of_very_many_files_is_listed_and_removed() {
    const MANY: usize = 20_000;
    let agent = Agent::open().await;
    let directory = open_directory();
    let huge = directory.path().join("huge");
    std::fs::create_dir(&huge).unwrap();
    for number in 0..MANY {
        std::fs::write(huge.join(number.to_string()), "").unwrap();
    }
    let path = huge.display().to_string();
    let request = ListDirRequest { path: path.clone(), depth: 1, ..Default::default() };
    let entries = agent.files().list_dir(request).await.unwrap().into_owned().entries;
    assert_eq!(entries.len(), MANY);
    assert!(peak_kb(&agent) < 128 * 1024, "{} kB at the peak", peak_kb(&agent));
    let (status, _) = agent.call("/filesystem.Filesystem/Remove", "root", serde_json::json!({ "path": path })).await;
    assert!(status == 200 && !Path::new(&path).exists());
}

/// The most memory that the agent ever had.
fn peak_kb(agent: &Agent) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
