//! Content of files over plain HTTP: what section 8.1 of the contract says of `/files` and `/files/compose`. Signatures and
//! tokens are in `access`, events in `watching`.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures::StreamExt;
use reqwest::multipart::{Form, Part};
use serde_json::json;

use crate::harness::{Agent, PATIENCE, open_directory, pattern};

fn query(path: &Path, user: &str) -> String {
    format!("/files?path={}&username={user}", path.display())
}

async fn send_form(agent: &Agent, path: &str, form: Form) -> (u16, String) {
    let answer = agent.http.post(agent.url(path)).multipart(form).timeout(PATIENCE).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn part(content: &'static str, name: &str) -> Part {
    Part::text(content).file_name(name.to_owned())
}

#[tokio::test]
async fn large_files_pass_both_ways_without_being_held() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("large");
    let (piece, count) = (pattern(1 << 20), 96);
    let pieces = futures::stream::iter((0..count).map({
        let piece = piece.clone();
        move |_| Ok::<_, std::io::Error>(piece.clone())
    }));
    let (status, answer) = agent.put(&query(&file, "root"), reqwest::Body::wrap_stream(pieces)).await;
    assert_eq!(status, 200, "{answer}");
    let answer = agent.http.get(agent.url(&query(&file, "root"))).send().await.unwrap();
    assert_eq!(answer.content_length(), Some(count << 20));
    let (mut content, mut at) = (answer.bytes_stream(), 0);
    while let Some(chunk) = content.next().await {
        for byte in chunk.unwrap() {
            assert_eq!(byte, piece[at % piece.len()], "at {at}");
            at += 1;
        }
    }
    assert_eq!(at, (count as usize) << 20);
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u32>().unwrap() < 48 * 1024, "{peak} kB at the peak");
}

#[tokio::test]
async fn an_upload_makes_directories_and_all_is_the_user_s() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("a/b/c.txt");
    let (status, answer) = agent.put(&query(&file, "daemon"), "one").await;
    let expect = format!(r#"[{{"name":"c.txt","type":"file","path":"{}"}}]"#, file.display());
    assert_eq!((status, answer), (200, expect));
    for (path, mode) in [(file.as_path(), 0o100_644), (file.parent().unwrap(), 0o40_755)] {
        let found = std::fs::metadata(path).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode()), (1, 1, mode), "{}", path.display());
    }
    // In place: shorter than before, the same file, and now somebody else's.
    let inode = std::fs::metadata(&file).unwrap().ino();
    assert_eq!(agent.put(&query(&file, "root"), "2").await.0, 200);
    let found = std::fs::metadata(&file).unwrap();
    assert_eq!((found.ino(), found.uid(), std::fs::read(&file).unwrap()), (inode, 0, b"2".to_vec()));
}

#[tokio::test]
async fn forms_name_their_files() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let name = |name: &str| directory.path().join(name).display().to_string();
    let form = Form::new().part("file", part("one", &name("d/1"))).part("file", part("two", &name("2")));
    let (status, answer) = send_form(&agent, "/files?username=root", form.text("other", "ignored")).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&answer).unwrap().as_array().unwrap().len(), 2);
    assert_eq!(
        (std::fs::read(name("d/1")).unwrap(), std::fs::read(name("2")).unwrap()),
        (b"one".into(), b"two".into())
    );

    let form = || Form::new().part("file", part("three", "elsewhere"));
    assert_eq!(send_form(&agent, &query(Path::new(&name("3")), "root"), form()).await.0, 200);
    assert_eq!(std::fs::read(name("3")).unwrap(), b"three");
    let twice = form().part("file", part("four", "x"));
    assert_eq!(send_form(&agent, &query(Path::new(&name("4")), "root"), twice).await.0, 400);
    let strange = name("ä b/€;.txt");
    let form = Form::new().percent_encode_noop();
    let form = form.part("file", part("five", &strange)).part("file", part("six", &strange));
    assert_eq!(send_form(&agent, "/files", form).await.0, 400, "also where its name says so");
    assert_eq!(std::fs::read(&strange).unwrap(), b"five");
    assert_eq!(send_form(&agent, "/files", Form::new().part("file", Part::text("nameless"))).await.0, 400);
    assert_eq!(send_form(&agent, "/files", Form::new().text("other", "x")).await.0, 400);
}

#[tokio::test]
async fn files_become_one_and_are_gone() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let compose = async |sources: &[&str], destination: &str, user: &str| {
        let sources: Vec<_> = sources.iter().map(|name| at(name)).collect();
        let body = json!({"source_paths": sources, "destination": at(destination), "username": user});
        let answer = agent.http.post(agent.url("/files/compose")).body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for name in ["1", "2", "3"] {
        std::fs::write(at(name), name.repeat(3)).unwrap();
    }
    let (status, answer) = compose(&["2", "1"], "new/whole", "root").await;
    assert_eq!((status, answer), (200, format!(r#"{{"name":"whole","type":"file","path":"{}"}}"#, at("new/whole"))));
    assert_eq!(std::fs::read(at("new/whole")).unwrap(), b"222111");
    assert!(!Path::new(&at("1")).exists() && !Path::new(&at("2")).exists());

    // Whatever is wrong, nothing has changed.
    std::fs::write(at("whole"), "before").unwrap();
    std::fs::hard_link(at("whole"), at("same")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("endless")).unwrap();
    for (sources, user, expect) in [
        (&["3", "missing"][..], "root", 404),
        (&["3", "same"], "root", 400),
        (&["3", "endless"], "root", 400),
        (&["3", "new"], "root", 400),
        (&["3"], "nobody-here", 401),
        (&["3"], "daemon", 403),
        (&[], "root", 400),
    ] {
        let (status, answer) = compose(sources, "whole", user).await;
        assert_eq!(status, expect, "{sources:?} {user}: {answer}");
        assert_eq!(
            (std::fs::read(at("whole")).unwrap(), std::fs::read(at("3")).unwrap()),
            (b"before".into(), b"333".into())
        );
    }
}

#[tokio::test]
async fn bad_uploads_have_reasons() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let at = |name: &str| query(&directory.path().join(name), "root");
    assert_eq!(agent.put("/files", "x").await.0, 400, "no path");
    assert_eq!(agent.put(&at(""), "x").await.0, 400, "a directory");
    assert_eq!(agent.put("/files?path=~other/x", "x").await.0, 400, "somebody's home");
    assert_eq!(agent.put("/files?path=/dev/null/x", "x").await.0, 400, "below a file");
    assert_eq!(agent.put("/files?path=/x&username=nobody-here", "x").await.0, 401, "no such user");
    assert_eq!(agent.put("/files?path=/dev/full", "x").await.0, 400, "a device");
    assert_eq!(agent.put("/files?path=/etc/passwd&username=daemon", "x").await.0, 403, "not the user's to write");
    let plain = agent.http.post(agent.url(&at("f"))).header("content-type", "text/plain").body("x");
    assert_eq!(plain.send().await.unwrap().status(), 400);
    let packed = agent.http.post(agent.url(&at("f"))).header("content-type", "application/octet-stream");
    assert_eq!(packed.header("content-encoding", "br").body("x").send().await.unwrap().status(), 400);
    assert!(!directory.path().join("f").exists());
}

#[tokio::test]
async fn what_could_block_is_refused_at_once() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [&fifo, &socket, &"/dev/zero".into(), &"/dev/tty".into()] {
        assert_eq!(agent.get(&query(path, "root")).await.0, 400, "GET {}", path.display());
        assert_eq!(agent.put(&query(path, "root"), "x").await.0, 400, "POST {}", path.display());
    }
}

#[tokio::test]
async fn a_full_disk_is_507_and_the_client_gets_to_know() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let options = c"size=1m";
    rustix::mount::mount("tmpfs", directory.path(), "tmpfs", rustix::mount::MountFlags::empty(), options).unwrap();
    let (status, answer) = agent.put(&query(&directory.path().join("f"), "root"), pattern(8 << 20)).await;
    let form = Form::new().part("file", Part::bytes(pattern(8 << 20).to_vec()));
    let by_form = send_form(&agent, &query(&directory.path().join("g"), "root"), form).await;
    rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!((status, by_form.0), (507, 507), "{answer} {by_form:?}");
    assert!(answer.starts_with(r#"{"code":507,"#), "{answer}");
}

#[tokio::test]
async fn reading_is_with_the_user_s_rights() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "x").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    let by_root = format!("/proc/self/root{}", secret.display());
    for path in [&secret, &link, Path::new(&by_root)] {
        assert_eq!(agent.get(&query(path, "daemon")).await.0, 403, "{}", path.display());
        assert_eq!(agent.get(&query(path, "root")).await, (200, "x".to_owned()), "{}", path.display());
    }
    // Nothing of the user's rights stays with the thread.
    assert_eq!(agent.get(&query(&secret, "root")).await.0, 200);
    assert_eq!(agent.get("/files?path=/proc/self/mem&username=daemon").await.0, 403);
    assert_eq!(agent.get(&query(directory.path(), "root")).await.0, 400);
    assert_eq!(agent.get(&query(&directory.path().join("none"), "root")).await.0, 404);
}

#[tokio::test]
async fn ranges_and_dates_are_honoured() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("a b.json");
    std::fs::write(&file, "0123456789").unwrap();
    let url = agent.url(&query(&file, "root").replace(' ', "%20"));
    let get = async |name: &str, value: &str| {
        let answer = agent.http.get(&url).header(name, value).send().await.unwrap();
        let range = answer.headers().get("content-range").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), range.unwrap_or_default(), answer.text().await.unwrap())
    };
    assert_eq!(get("range", "bytes=2-4").await, (206, "bytes 2-4/10".into(), "234".into()));
    assert_eq!(get("range", "bytes=-2").await, (206, "bytes 8-9/10".into(), "89".into()));
    let (status, range, _) = get("range", "bytes=10-").await;
    assert_eq!((status, range.as_str()), (416, "bytes */10"));
    let whole = agent.http.get(&url).send().await.unwrap();
    let header = |name: &str| whole.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("content-disposition"), "inline; filename=\"a b.json\"");
    assert_eq!((header("vary").as_str(), header("content-length").as_str()), ("Accept-Encoding", "10"));
    let (modified, long_ago) = (header("last-modified"), "Sat, 01 Jan 2000 00:00:00 GMT");
    for (condition, date, status) in [
        ("if-modified-since", &*modified, 304),
        ("if-modified-since", long_ago, 200),
        ("if-unmodified-since", &*modified, 200),
        ("if-unmodified-since", long_ago, 412),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"tag\"", 200),
        ("if-match", "*", 200),
        ("if-match", "\"tag\"", 412),
    ] {
        assert_eq!(get(condition, date).await.0, status, "{condition}: {date}");
    }
    // A part only of what the client has the rest of.
    for (date, status) in [(&*modified, 206), (long_ago, 200)] {
        let part = agent.http.get(&url).header("range", "bytes=2-4").header("if-range", date).send().await.unwrap();
        assert_eq!(part.status().as_u16(), status, "{date}");
    }
}

#[tokio::test]
async fn content_is_packed_for_who_asks_for_that_and_nothing_else() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("f.txt");
    let content = pattern(1 << 20);
    std::fs::write(&file, &content).unwrap();
    let url = agent.url(&query(&file, "root"));
    let get = async |accept: &str, url: &str| {
        let answer = agent.http.get(url).header("accept-encoding", accept).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["vary"]), (200, &"Accept-Encoding".parse().unwrap()));
        let coding = answer.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
        (coding, answer.bytes().await.unwrap())
    };
    let unpack = |packed: &[u8]| {
        let mut content = Vec::new();
        MultiGzDecoder::new(packed).read_to_end(&mut content).unwrap();
        content
    };
    let (coding, packed) = get("gzip", &url).await;
    assert!(coding.as_deref() == Some("gzip") && packed.len() < content.len() && unpack(&packed) == content);
    for other in ["identity", "gzip, deflate, br", "gzip;q=0", "br"] {
        let (coding, plain) = get(other, &url).await;
        assert!(coding.is_none() && plain == content, "{other}");
    }
    let (coding, packed) = get("gzip", &agent.url("/files?path=/proc/version")).await;
    assert!(coding.is_some() && unpack(&packed).starts_with(b"Linux"));
    let part =
        agent.http.get(&url).header("accept-encoding", "gzip").header("range", "bytes=5-8").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.headers().get("content-encoding")), (206, None));
    assert_eq!(part.bytes().await.unwrap(), content[5..9]);
    let neither = agent.http.get(&url).header("accept-encoding", "identity;q=0").send().await.unwrap();
    assert_eq!(neither.status(), 406);
}

/// Every error of a plain route is JSON with the status and a sentence, and nothing else.
#[tokio::test]
async fn errors_are_a_code_and_a_message() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let at = |name: &str| query(&directory.path().join(name), "root");
    std::fs::write(directory.path().join("f"), "x").unwrap();
    let get = |path: &str, name: &'static str, value: &str| agent.http.get(agent.url(path)).header(name, value);
    let post = |path: &str, kind: &str| agent.http.post(agent.url(path)).header("content-type", kind).body("x");
    for (request, status, message) in [
        (get(&at(""), "x", "y"), 400, "is a directory"),
        (get(&at("none"), "x", "y"), 404, "does not exist"),
        (get("/files?path=/etc/passwd&username=nobody-here", "x", "y"), 401, "invalid username: 'nobody-here'"),
        (get("/files?path=/etc/shadow&username=daemon", "x", "y"), 403, "permission denied"),
        (get("/files?path=~other", "x", "y"), 400, "only ~ and ~/"),
        (get("/files?path=/x&signature_expiration=soon", "x", "y"), 400, "signature_expiration"),
        (get(&at("f"), "accept-encoding", "identity;q=0"), 406, "no acceptable encoding"),
        (get(&at("f"), "range", "bytes=9-"), 416, "outside"),
        (get(&at("f"), "if-match", "\"tag\""), 412, "another"),
        (post(&at("g"), "text/plain"), 400, "unsupported content type"),
        (post(&at("g"), "multipart/form-data"), 400, "boundary"),
        (post("/files", "application/octet-stream"), 400, "path is required"),
        (post("/files/compose", "application/json"), 400, "body"),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (status, &"application/json".parse().unwrap())
        );
        let error: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!((error.as_object().unwrap().len(), &error["code"]), (2, &json!(status)), "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "'{message}' in {error}");
    }
    assert!(!directory.path().join("g").exists());
}

#[tokio::test]
async fn files_of_the_kernel_are_read_to_the_end() {
    let agent = Agent::open().await;
    let (status, content) = agent.get("/files?path=/proc/self/status").await;
    assert_eq!(status, 200);
    assert!(content.contains("VmRSS") && content.ends_with('\n'), "{content}");
    let directory = open_directory();
    let empty = directory.path().join("empty");
    assert_eq!(agent.put(&query(&empty, "root"), "").await.0, 200);
    assert_eq!(agent.get(&query(&empty, "root")).await, (200, String::new()));
}

#[tokio::test]
async fn metadata_is_attached_and_replaced() {
    let agent = Agent::open().await;
    // Not below /tmp: that is often a file system without attributes.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("f");
    let put = async |name: &str, value: &str| {
        let request =
            agent.http.post(agent.url(&query(&file, "root"))).header("content-type", "application/octet-stream");
        let answer = request.header(name, value).body("x").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, answer) = put("X-Metadata-Author", "me").await;
    assert!(status == 200 && answer.contains(r#""metadata":{"author":"me"}"#), "{answer}");
    assert_eq!(put("x-metadata-kind", "draft").await.0, 200);
    let body = serde_json::json!({"path": file.display().to_string()});
    let (_, entry) = agent.call("/filesystem.Filesystem/Stat", "root", body).await;
    assert_eq!(entry["entry"]["metadata"], serde_json::json!({"kind": "draft"}), "{entry}");
    assert_eq!(put("x-metadata-big", &"v".repeat(4095)).await.0, 400);
    assert_eq!(put(&format!("x-metadata-{}", "k".repeat(247)), "v").await.0, 400);
    assert_eq!(put("x-metadata-", "v").await.0, 400);
    let foreign = reqwest::header::HeaderValue::from_bytes("ü".as_bytes()).unwrap();
    let request = agent.http.post(agent.url(&query(&file, "root"))).header("content-type", "application/octet-stream");
    assert_eq!(request.header("x-metadata-word", foreign).body("x").send().await.unwrap().status(), 400);
    let (_, entry) = agent.call("/filesystem.Filesystem/Stat", "root", json!({"path": file})).await;
    assert_eq!(entry["entry"]["metadata"], json!({"kind": "draft"}), "what was refused changed nothing");

    // Every file of a form has it, also in lists.
    let name = |name: &str| directory.path().join(name).display().to_string();
    let form = Form::new().part("file", part("1", &name("one"))).part("file", part("2", &name("two")));
    let answer = agent.http.post(agent.url("/files")).header("X-Metadata-Of", "both").multipart(form).send().await;
    assert_eq!(answer.unwrap().status(), 200);
    let (_, listed) = agent.call("/filesystem.Filesystem/ListDir", "root", json!({"path": directory.path()})).await;
    let metadata: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|entry| &entry["metadata"]).collect();
    assert_eq!(metadata, [&json!({"kind": "draft"}), &json!({"of": "both"}), &json!({"of": "both"})]);
}

#[tokio::test]
async fn a_packed_upload_is_unpacked_and_a_damaged_one_is_the_clients_mistake() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let file = directory.path().join("f");
    let content = pattern(1 << 20);
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&content).unwrap();
    let packed = packed.finish().unwrap();
    let send = async |body: Vec<u8>| {
        let request = agent.http.post(agent.url(&query(&file, "root"))).header("content-encoding", "gzip");
        let answer = request.header("content-type", "application/octet-stream").body(body).send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(send(packed.clone()).await, 200);
    assert!(std::fs::read(&file).unwrap() == content);
    assert_eq!(send(packed[..packed.len() / 2].to_vec()).await, 400);
    assert_eq!(send(b"not packed".to_vec()).await, 400);
    // So large that its client is still sending when that is seen.
    assert_eq!(send(vec![b'x'; 16 << 20]).await, 400);

    // A form is packed as a whole.
    let boundary = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n";
    let form = [boundary.as_bytes(), &content, b"\r\n--b--\r\n"].concat();
    let send = async |body: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(body).unwrap();
        let request = agent.http.post(agent.url(&query(&file, "root"))).header("content-encoding", "gzip");
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        request.body(packed.finish().unwrap()).send().await.unwrap().status().as_u16()
    };
    std::fs::write(&file, "").unwrap();
    assert_eq!(send(&form).await, 200);
    assert!(std::fs::read(&file).unwrap() == content);
    assert_eq!(send(&form[..form.len() / 2]).await, 400);
}
