//! What real guests reach and do not. The server runs in a network namespace without a way out, and every target is a
//! listener of the test's own in a second one: a hole shows as a hit there, and no packet can leave.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::{Server, wait_for};

use super::server;

/// Set for the test that runs inside.
const INSIDE: &str = "SANDPIPER_TEST_INSIDE";

/// Stands for the internet.
const WORLD: &str = "203.0.113.2";

/// One of each kind of address that no guest reaches.
const PRIVATE: [&str; 6] = ["10.66.0.1", "100.64.0.9", "169.254.169.254", "172.16.9.9", "192.168.7.7", "198.18.0.1"];

/// Notes who connects, or sends a datagram, to port 80 of any address.
const LISTENER: &str = r#"
import selectors, socket, sys
log = open(sys.argv[1], "w", buffering=1)
tcp = socket.create_server(("0.0.0.0", 80))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 80))
udp.setsockopt(socket.IPPROTO_IP, 8, 1)
selector = selectors.DefaultSelector()
selector.register(tcp, selectors.EVENT_READ)
selector.register(udp, selectors.EVENT_READ)
log.write("listening\n")
kept = []
while True:
    for key, _ in selector.select():
        if key.fileobj is tcp:
            connection, _ = tcp.accept()
            log.write("tcp %s\n" % connection.getsockname()[0])
            kept.append(connection)
        else:
            _, control, _, _ = udp.recvmsg(100, 100)
            log.write("udp %s\n" % socket.inet_ntoa(control[0][2][8:12]))
"#;

/// Runs the test of this name again in a namespace of its own, and is true there.
fn is_inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    let own = std::env::current_exe().unwrap();
    let mut again = Command::new("unshare");
    again.arg("--net").arg(own).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    assert!(again.status().unwrap().success(), "{name} failed inside its namespace");
    false
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A machine in the world: a namespace with a listener at every address that a guest might try.
struct World {
    listener: Child,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("hits");
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "read -r _ && exec python3 -c \"$0\" \"$1\"", LISTENER]);
        let mut listener = command.arg(&log).stdin(Stdio::piped()).spawn().unwrap();
        let pid = listener.id().to_string();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = PathBuf::from(format!("/proc/{pid}/ns/net"));
        wait_for("the world's namespace", async || (fs::read_link(&theirs).ok()? != own).then_some(())).await;
        run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run("ip", &["address", "add", "203.0.113.1/24", "dev", "uplink"]);
        run("ip", &["link", "set", "uplink", "up"]);
        let there = |arguments: &[&str]| run("nsenter", &[&["--net", "--target", &pid, "ip"], arguments].concat());
        there(&["address", "add", "203.0.113.2/24", "dev", "eth0"]);
        there(&["link", "set", "eth0", "up"]);
        for address in PRIVATE {
            there(&["address", "add", &format!("{address}/32"), "dev", "eth0"]);
            run("ip", &["route", "add", &format!("{address}/32"), "via", WORLD]);
        }
        std::io::Write::write_all(&mut listener.stdin.take().unwrap(), b"go\n").unwrap();
        let world = Self { listener, log, _directory: directory };
        wait_for("the world to listen", async || world.hits().contains("listening").then_some(())).await;
        world
    }

    fn hits(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

/// Whether a guest reaches port 80 of an address by TCP. What is dropped rather than refused takes three seconds.
async fn reaches(server: &Server, id: &str, address: &str) -> bool {
    server.shell(id, &format!("timeout 3 bash -c 'echo > /dev/tcp/{address}/80'")).await.0 == 0
}

async fn network(server: &Server, id: &str) -> Value {
    server.call("GET", &format!("/v1/sandboxes/{id}/network"), Value::Null).await.body
}

async fn allow(server: &Server, id: &str, policy: Value) {
    let answer = server.call("PUT", &format!("/v1/sandboxes/{id}/network"), policy).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_guest_reaches_the_world_and_nothing_private() {
    if !is_inside("fence::a_guest_reaches_the_world_and_nothing_private") {
        return;
    }
    let world = World::start().await;
    let server = server(&[]).await;
    let (id, other) = tokio::join!(server.create(json!({})), server.create(json!({})));
    assert!(reaches(&server, &id, WORLD).await, "the internet is there");
    let info = server.call("GET", &format!("/v1/sandboxes/{other}"), Value::Null).await.body;
    let neighbour = info["host_ip"].as_str().unwrap();
    let mut attempts = String::new();
    for address in PRIVATE.iter().chain(&[neighbour, "203.0.113.1", "169.254.0.22"]) {
        attempts += &format!(
            "(timeout 3 bash -c 'echo > /dev/tcp/{address}/80' && echo {address}; echo > /dev/udp/{address}/80) & "
        );
    }
    let (_, reached) = server.shell(&id, &format!("({attempts} wait) 2> /dev/null")).await;
    assert_eq!(reached, "");
    assert_eq!(world.hits(), format!("listening\ntcp {WORLD}\n"), "nothing else arrived");
    let denials = network(&server, &id).await["denials"].clone();
    assert!(denials["fenced"].as_u64().unwrap() >= 2 * 8, "{denials}");
    assert_eq!(denials["denied"], 0);
}

#[tokio::test]
async fn a_policy_holds_through_a_sandbox_s_whole_life() {
    if !is_inside("fence::a_policy_holds_through_a_sandbox_s_whole_life") {
        return;
    }
    let _world = World::start().await;
    let server = server(&[]).await;
    let id = server.create(json!({ "network": { "allow_internet_access": false } })).await;
    assert!(!reaches(&server, &id, WORLD).await);
    assert_eq!(network(&server, &id).await["denials"]["denied"], 1, "it was refused at once");

    allow(&server, &id, json!({ "allow_out": [WORLD], "deny_out": ["0.0.0.0/0"] })).await;
    assert!(reaches(&server, &id, WORLD).await);
    let open = "trap '' PIPE; exec 3<>/dev/tcp/203.0.113.2/80; echo open > /tmp/open; \
                while echo more >&3; do read -r -t 0.2 _ <&3; done 2> /dev/null; echo cut > /tmp/open";
    assert_eq!(server.shell(&id, &format!("({open}) > /dev/null 2>&1 &")).await.0, 0);
    let state = async || server.shell(&id, "cat /tmp/open 2> /dev/null").await.1;
    wait_for("an open connection", async || (state().await == "open\n").then_some(())).await;
    allow(&server, &id, json!({ "allow_internet_access": false })).await;
    wait_for("the connection's end", async || (state().await == "cut\n").then_some(())).await;

    for action in ["pause", "resume"] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(!reaches(&server, &id, WORLD).await, "after a pause and a resume");
    let children = server.call("POST", &format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    assert_eq!(children.status, 201, "{children:?}");
    let child = children.body[0]["id"].as_str().unwrap();
    assert!(!reaches(&server, child, WORLD).await, "a child has its parent's");
    let shown = network(&server, &id).await;
    assert_eq!((&shown["allow_internet_access"], &shown["policy_changes"]), (&json!(false), &json!(2)));
}

#[tokio::test]
async fn a_policy_is_found_again_after_a_restart() {
    if !is_inside("fence::a_policy_is_found_again_after_a_restart") {
        return;
    }
    let _world = World::start().await;
    let mut server = server(&["--on-exit", "pause"]).await;
    let id = server.create(json!({})).await;
    allow(&server, &id, json!({ "deny_out": ["203.0.113.0/24"] })).await;
    server.signal("TERM");
    server.ended().await;
    server.start_again().await;
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/resume"), Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!reaches(&server, &id, WORLD).await);
    assert_eq!(network(&server, &id).await["policy_changes"], 1);
}
