//! What happens inside: users, exit codes, files, and what a guest's own processes may not do.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::server;

#[tokio::test]
async fn commands_end_as_they_would_in_a_shell() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let exec = async |body: Value| server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await;

    let missing = exec(json!({ "cmd": "no-such-program" })).await;
    assert_eq!((missing.status, &missing.body["exit_code"]), (200, &json!(127)));
    assert!(missing.body["stderr"].as_str().unwrap().contains("no-such-program"), "{missing:?}");
    let directory = exec(json!({ "cmd": "/etc" })).await;
    assert_eq!((directory.status, &directory.body["exit_code"]), (200, &json!(126)), "{directory:?}");
    for place in [json!({}), json!({ "cwd": "/tmp", "user": "root", "envs": { "A": "1" } })] {
        let mut body = json!({ "cmd": "sh", "args": ["-c", "kill -KILL $$"] });
        body.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        let killed = exec(body).await;
        assert_eq!((&killed.body["exit_code"], &killed.body["signal"]), (&json!(137), &json!(9)), "{killed:?}");
    }
    let binary = exec(json!({ "cmd": "printf", "args": ["\\377\\000"] })).await;
    assert_eq!((&binary.body["encoding"], &binary.body["stdout"]), (&json!("base64"), &json!("/wA=")));
    let slow = exec(json!({ "cmd": "sleep", "args": ["1000"], "timeout_sec": 1 })).await;
    assert_eq!(slow.status, 504, "{slow:?}");
    let (_, left) = server.shell(&id, "ps -eo args | grep -c '^sleep 1000' || true").await;
    assert_eq!(left.trim(), "0", "a command that timed out is killed");
    let big = exec(json!({ "cmd": "head", "args": ["-c", "6000000", "/dev/zero"] })).await;
    assert_eq!(big.body["stdout"].as_str().unwrap().len(), 6_000_000, "more than one message carries");
}

#[tokio::test]
async fn commands_run_as_a_named_user_in_a_directory_with_an_environment() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    assert_eq!(server.shell(&id, "useradd --create-home ada && id -un").await, (0, "root\n".to_owned()));
    let body = json!({
        "cmd": "sh", "args": ["-c", "id -un; pwd; echo $HOME $GREETING"],
        "user": "ada", "cwd": "/usr", "envs": { "GREETING": "hello" }
    });
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await;
    assert_eq!(answer.body["stdout"], "ada\n/usr\n/home/ada hello\n", "{answer:?}");
    for refused in [json!({ "cmd": "true", "cwd": "/nowhere" }), json!({ "cmd": "true", "user": "nobody-there" })] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), refused).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}

#[tokio::test]
async fn a_disk_is_as_large_as_asked_for_and_no_larger() {
    let server = server(&[]).await;
    let id = server.create(json!({ "disk_mb": 8192 })).await;
    let (_, size) = server.shell(&id, "df -BM --output=size / | tail -1").await;
    let size: u32 = size.trim().trim_end_matches('M').parse().unwrap();
    assert!((7700..=8192).contains(&size), "{size} MiB");
    assert_eq!(server.shell(&id, "fallocate -l 6G /within && rm /within").await.0, 0);
    assert_ne!(server.shell(&id, "fallocate -l 9G /beyond").await.0, 0);

    let small = server.call("POST", "/v1/sandboxes", json!({ "disk_mb": 300 })).await;
    assert_eq!(small.status, 400, "{small:?}");
    assert!(small.body["error"]["message"].as_str().unwrap().contains("at least 5120"), "{small:?}");
}

#[tokio::test]
async fn files_go_in_and_come_out_byte_by_byte() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let content: Vec<u8> = (0..9_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let form = Form::new().text("path", "/srv/new/place/data.bin").part("file", Part::bytes(content.clone()));
    let url = format!("{}/v1/sandboxes/{id}/files", server.url());
    let http = reqwest::Client::new();
    let written = http.post(format!("{url}/write")).multipart(form).send().await.unwrap();
    assert_eq!(written.status().as_u16(), 204, "{:?}", written.text().await);
    let read =
        http.post(format!("{url}/read")).json(&json!({ "path": "/srv/new/place/data.bin" })).send().await.unwrap();
    assert_eq!(read.status().as_u16(), 200);
    assert!(read.bytes().await.unwrap() == content, "what came out is what went in");
    let (_, size) = server.shell(&id, "stat -c %s /srv/new/place/data.bin").await;
    assert_eq!(size.trim(), "9000000");

    // A relative path begins at home, and links lead where they lead.
    let form = Form::new().text("path", "notes/today").part("file", Part::text("soon"));
    assert_eq!(http.post(format!("{url}/write")).multipart(form).send().await.unwrap().status().as_u16(), 204);
    let (_, text) =
        server.shell(&id, "cat /root/notes/today; ln -s notes/today /root/link; ln -s loop /root/loop").await;
    assert_eq!(text, "soon");
    for (path, status) in
        [("link", 200), ("notes/../link", 200), ("loop", 400), ("../../etc/hostname", 200), ("/dev/null", 400)]
    {
        let answer = http.post(format!("{url}/read")).json(&json!({ "path": path })).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}: {}", answer.text().await.unwrap());
    }

    let missing = server.call("POST", &format!("/v1/sandboxes/{id}/files/read"), json!({ "path": "/nope" })).await;
    assert_eq!((missing.status, &missing.body["error"]["code"]), (404, &json!("not_found")));
    let directory = server.call("POST", &format!("/v1/sandboxes/{id}/files/read"), json!({ "path": "/etc" })).await;
    assert_eq!(directory.status, 400, "{directory:?}");
}

#[tokio::test]
async fn the_guest_agent_obeys_only_the_host() {
    let server = server(&["--templates", "python311"]).await;
    let id = server.create(json!({ "template": "python311" })).await;
    // Asked from inside: control routes are not there, and the rest wants the token that only the host knows.
    let probe = r#"
import http.client
def ask(method, path, address):
    connection = http.client.HTTPConnection(address, 49983, timeout=20)
    connection.request(method, path, body=b'{}', headers={'Content-Type': 'application/json'})
    return connection.getresponse().status
for address in ('127.0.0.1', '169.254.0.21'):
    print(*[ask(method, path, address) for method, path in (
        ('POST', '/init'), ('POST', '/clock'), ('POST', '/shutdown'), ('GET', '/benchmark/spawn'),
        ('POST', '/process.Process/List'), ('GET', '/files?path=/etc/shadow'), ('GET', '/health'))])
"#;
    let body = json!({ "cmd": "python3", "args": ["-c", probe] });
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await;
    assert_eq!(answer.body["stdout"], "404 404 404 404 401 401 204\n404 404 404 404 401 401 204\n", "{answer:?}");
}

#[tokio::test]
async fn the_guest_knows_who_and_when_it_is() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let (_, output) =
        server.shell(&id, "hostname; cat /etc/hostname; date +%s; grep -c ^nameserver /etc/resolv.conf").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..2], [id.as_str(), id.as_str()]);
    assert!(now.abs_diff(lines[2].parse().unwrap()) <= 2, "the guest's clock says {}, the host's {now}", lines[2]);
    assert_ne!(lines[3], "0", "no name server");
}

#[tokio::test]
async fn orphans_are_reaped_and_the_guest_has_what_programs_expect() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let script = "for i in 1 2 3 4 5; do (sh -c 'true &'); done; \
                  for i in $(seq 100); do [ $(ps -eo stat | grep -c ^Z) = 0 ] && break; sleep 0.05; done; \
                  ps -eo stat | grep -c ^Z || true";
    assert_eq!(server.shell(&id, script).await.1.trim(), "0", "no zombies");
    let checks = "set -e; test -c /dev/null; test -d /proc/1; test -d /sys/class; echo x > /dev/shm/x; \
                  test $(stat -c %a /tmp) = 1777; sudo -n true; git --version > /dev/null; ps > /dev/null; ip addr > /dev/null; \
                  getent hosts localhost; python3 --version 2>/dev/null || echo no python";
    let (code, output) = server.shell(&id, checks).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("localhost"), "{output}");
}
