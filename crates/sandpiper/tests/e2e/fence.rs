//! What real guests reach and do not. The server runs in a network namespace without a way out, and every target is a
//! listener of the test's own in a second one: a hole shows as a hit there, and no packet can leave.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::{Server, wait_for};

use super::server;

mod headers;

/// Set for the test that runs inside.
const INSIDE: &str = "SANDPIPER_TEST_INSIDE";

/// Stands for the internet.
const WORLD: &str = "203.0.113.2";

/// One of each kind of address that no guest reaches.
const PRIVATE: [&str; 6] = ["10.66.0.1", "100.64.0.9", "169.254.169.254", "172.16.9.9", "192.168.7.7", "198.18.0.1"];

/// Notes who connects to ports 80 and 443 of any address, unless it has one argument more, who sends a datagram to port 80, and who asks for which name. It
/// answers requests, and questions for some names.
const LISTENER: &str = include_str!("fence/listener.py");

/// A SOCKS5 proxy, at port 1080 of every address and at port 1443 with TLS, that lets in whoever knows the password. It notes
/// where it is to connect, and is what is there.
const SOCKS: &str = include_str!("fence/socks.py");

/// What a guest tries that may reach only `good.test` and what is below it. Each line is an attempt and what came of it.
const ATTEMPTS: &str = include_str!("fence/attempts.py");

/// Runs the test of this name again in a namespace of its own, and is true there.
pub(super) fn is_inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    let own = std::env::current_exe().unwrap();
    let mut again = Command::new("unshare");
    // With mounts of its own: one test shows its server another `resolv.conf`.
    again.args(["--net", "--mount"]).arg(own).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    assert!(again.status().unwrap().success(), "{name} failed inside its namespace");
    false
}

pub(super) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives the machine a name server that is private, as long as this is kept.
fn mount_resolv_conf() -> tempfile::NamedTempFile {
    mount_file("nameserver 10.66.0.1\n", "/etc/resolv.conf")
}

/// Lets a file say something else, as long as this is kept.
fn mount_file(text: &str, place: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    run("mount", &["--bind", file.path().to_str().unwrap(), place]);
    file
}

/// A machine in the world: a namespace with a listener at every address that a guest might try.
struct World {
    listener: Child,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these arguments for its listener.
    async fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("hits");
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "read -r _ && exec python3 -c \"$0\" \"$@\"", LISTENER]);
        let mut listener = command.arg(&log).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let pid = listener.id().to_string();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = PathBuf::from(format!("/proc/{pid}/ns/net"));
        wait_for("the world's namespace", async || (fs::read_link(&theirs).ok()? != own).then_some(())).await;
        run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run("ip", &["address", "add", "203.0.113.1/24", "dev", "uplink"]);
        run("ip", &["link", "set", "uplink", "up"]);
        let there = |arguments: &[&str]| run("nsenter", &[&["--net", "--target", &pid, "ip"], arguments].concat());
        there(&["address", "add", "203.0.113.2/24", "dev", "eth0"]);
        there(&["address", "add", "203.0.113.3/24", "dev", "eth0"]);
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

    /// Starts a proxy there that shows this certificate, with its key, where TLS is spoken.
    async fn start_proxy(&self, certificate: &str) -> Program {
        let shown = self.log.with_extension("pem");
        fs::write(&shown, certificate).unwrap();
        self.start_program(SOCKS, &[shown], &["proxy at 1080", "proxy at 1443"]).await
    }

    /// Starts a program there and waits until it has noted these.
    async fn start_program(&self, program: &str, arguments: &[PathBuf], notes: &[&str]) -> Program {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.listener.id().to_string(), "python3", "-c", program]);
        let started = Program(command.arg(&self.log).args(arguments).spawn().unwrap());
        wait_for("a program of the world", async || {
            let hits = self.hits();
            notes.iter().all(|note| hits.contains(note)).then_some(())
        })
        .await;
        started
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

/// It ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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

/// Pauses and resumes a sandbox, makes a child of it, and kills the server. Returns the child.
async fn live_through_much(server: &mut Server, id: &str) -> String {
    for action in ["pause", "resume"] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let children = server.call("POST", &format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    assert_eq!(children.status, 201, "{children:?}");
    server.signal("KILL");
    server.ended().await;
    server.start_again().await;
    children.body[0]["id"].as_str().unwrap().to_owned()
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

#[tokio::test]
async fn a_guest_that_may_reach_names_reaches_exactly_those() {
    if !is_inside("fence::a_guest_that_may_reach_names_reaches_exactly_those") {
        return;
    }
    let _resolv = mount_resolv_conf();
    let world = World::start().await;
    let server = server(&["--templates", "python311"]).await;
    let network = json!({ "allow_internet_access": false, "allow_out": ["good.test", "*.good.test"] });
    let id = server.create(json!({ "template": "python311", "network": network })).await;
    let attempts = format!("cat > /tmp/attempts.py <<'END'\n{ATTEMPTS}\nEND\npython3 /tmp/attempts.py");
    let body = json!({ "cmd": "bash", "args": ["-c", attempts], "timeout_sec": 120 });
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await;
    let told = answer.body["stdout"].as_str().unwrap_or_else(|| panic!("{answer:?}"));
    let expected = "before it was asked for no\nby name hello\naddress 203.0.113.2\nanother name no\n\
                    another name, asked directly 5\nanother resolver no\nthe host's resolver no\n\
                    a name that leads inwards no\nanother host at the same address no\n\
                    the right host at another address no\nan address alone no\na hello to the right server no\n\
                    a hello to another no\nanother port no\n";
    assert_eq!(told, expected);
    let hits = world.hits();
    let count = |line: &str| hits.lines().filter(|hit| *hit == line).count();
    assert_eq!((count("tcp 203.0.113.2"), count("tls 203.0.113.2")), (1, 1), "{hits}");
    assert!(!hits.contains("203.0.113.3") && !hits.contains("10.66.0.1"), "{hits}");
    let asked = hits.lines().filter(|hit| hit.starts_with("name "));
    assert!(asked.clone().count() > 0 && asked.clone().all(|hit| hit.ends_with("good.test")), "{hits}");
    assert!(!hits.contains("direct"), "only the sandbox's own resolver was asked: {hits}");
    let denials = self::network(&server, &id).await["denials"].clone();
    assert!(denials["names"].as_u64().unwrap() >= 7, "{denials}");
    assert_eq!(
        server.shell(&id, "python3 -c 'import urllib.request as u; u.urlopen(\"http://good.test/\")'").await.0,
        0
    );

    inspect_egress(&server, &id);
    allow(&server, &id, json!({})).await;
    assert!(reaches(&server, &id, "203.0.113.3").await, "another policy, and the proxy is out of the way");
    let (_, found) = server.shell(&id, "python3 -c 'import socket; print(socket.gethostbyname(\"other.test\"))'").await;
    assert_eq!(found, "203.0.113.3\n");
    assert_eq!(server.inventory().of_kind("monitor").len(), 1, "its process has ended");
    allow(&server, &id, json!({ "allow_internet_access": false, "allow_out": ["other.test"] })).await;
    server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    assert_eq!(server.inventory().of_kind("monitor"), Vec::<&str>::new());
}

/// Asks the sandbox's own way, then the server itself, and fetches what is there.
const OWN_SERVERS: &str = include_str!("fence/own_servers.py");

#[tokio::test]
async fn names_are_asked_of_the_servers_that_a_policy_names() {
    if !is_inside("fence::names_are_asked_of_the_servers_that_a_policy_names") {
        return;
    }
    let _resolv = mount_resolv_conf();
    let world = World::start().await;
    let server = server(&["--templates", "python311"]).await;
    let network = json!({ "dns_servers": ["203.0.113.2"] });
    let id = server.create(json!({ "template": "python311", "network": network })).await;
    let told = async |server: &Server| {
        let (_, told) =
            server.shell(&id, &format!("cat > /tmp/own.py <<'END'\n{OWN_SERVERS}\nEND\npython3 /tmp/own.py")).await;
        told.trim().to_owned()
    };
    assert_eq!(told(&server).await, "203.0.113.2 0 0 hello");
    let only = json!({ "allow_internet_access": false, "allow_out": ["good.test"], "dns_servers": ["203.0.113.2"] });
    allow(&server, &id, only).await;
    assert_eq!(told(&server).await, "203.0.113.2 0 5 hello", "the server itself is asked nothing else");
    for action in ["pause", "resume"] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(told(&server).await, "203.0.113.2 0 5 hello", "after a pause");
    let hits = world.hits();
    assert!(hits.contains("asked own") && !hits.contains("asked host"), "{hits}");

    let finds = async || server.shell(&id, "timeout 3 getent ahostsv4 good.test").await.0 == 0;
    for policy in [
        json!({ "dns_servers": [] }),
        json!({ "dns_servers": ["172.16.9.9", "169.254.169.254"] }),
        json!({ "dns_servers": ["203.0.113.2"], "deny_out": ["203.0.113.0/24"] }),
    ] {
        allow(&server, &id, policy.clone()).await;
        assert!(!finds().await, "{policy}");
    }
    assert!(!world.hits().contains("asked host"));
    allow(&server, &id, json!({})).await;
    assert_eq!(told(&server).await, "203.0.113.2 0 0 hello");
    assert!(world.hits().contains("asked host"), "what is not said is the default");
}

#[tokio::test]
async fn what_a_guest_may_reach_it_reaches_through_its_owner_s_proxy_alone() {
    if !is_inside("fence::what_a_guest_may_reach_it_reaches_through_its_owner_s_proxy_alone") {
        return;
    }
    let _resolv = mount_resolv_conf();
    let world = World::start().await;
    let certified = rcgen::generate_simple_self_signed(vec!["proxy.test".to_owned()]).unwrap();
    let authority = certified.cert.pem();
    let proxy = world.start_proxy(&format!("{authority}{}", certified.signing_key.serialize_pem())).await;
    let mut server = server(&["--templates", "python311"]).await;
    let at = |address: &str| json!({ "address": address, "username": "somebody", "password": "correct horse" });
    let network = json!({ "egress_proxy": at("203.0.113.2:1080") });
    let id = server.create(json!({ "template": "python311", "network": network })).await;
    let fetch = async |server: &Server, id: &str, url: &str| {
        let script = format!(
            "import urllib.request as u\ntry: print(u.urlopen(\"{url}\", timeout=8).read().decode())\nexcept OSError: print(\"no\")"
        );
        server.shell(id, &format!("python3 -c '{script}'")).await.1.trim().to_owned()
    };
    let last = || world.hits().lines().rfind(|hit| hit.starts_with("socks")).unwrap_or_default().to_owned();
    for (url, connected) in [
        ("http://203.0.113.3/", "203.0.113.3:80"),
        ("http://203.0.113.3:8080/", "203.0.113.3:8080"),
        ("http://good.test/", "203.0.113.2:80"),
    ] {
        assert_eq!(fetch(&server, &id, url).await, "by proxy", "{url}");
        assert_eq!(last(), format!("socks somebody {connected}"));
    }
    let shown = self::network(&server, &id).await["egress_proxy"].clone();
    assert_eq!(shown, json!({ "address": "203.0.113.2:1080", "username": "somebody" }), "and no password");
    inspect_egress(&server, &id);
    let child = live_through_much(&mut server, &id).await;
    for one in [&id, &child] {
        assert_eq!(fetch(&server, one, "http://203.0.113.3/").await, "by proxy", "after all that");
    }

    // A name is the proxy's to find, and only one that is allowed.
    let only =
        json!({ "allow_internet_access": false, "allow_out": ["good.test"], "egress_proxy": at("203.0.113.2:1080") });
    allow(&server, &id, only).await;
    assert_eq!(fetch(&server, &id, "http://good.test/").await, "by proxy");
    assert_eq!(last(), "socks somebody good.test:80");
    let before = world.hits();
    for url in ["http://other.test/", "http://203.0.113.3/", "http://203.0.113.3:8080/", "http://10.66.0.1/"] {
        assert_eq!(fetch(&server, &id, url).await, "no", "{url}");
    }
    allow(&server, &id, json!({ "deny_out": ["203.0.113.3"], "egress_proxy": at("203.0.113.2:1080") })).await;
    assert_eq!(fetch(&server, &id, "http://203.0.113.3/").await, "no", "denied");
    let through = |hits: &str| hits.lines().filter(|hit| hit.starts_with("socks")).count();
    assert_eq!(through(&world.hits()), through(&before), "the proxy heard of none of them");

    let secured = |tls: Value| {
        json!({ "egress_proxy": { "address": "proxy.test:1443", "username": "somebody",
                                                          "password": "correct horse", "tls": tls } })
    };
    allow(&server, &id, secured(json!({ "ca_cert": authority }))).await;
    assert_eq!(fetch(&server, &id, "http://203.0.113.3/").await, "by proxy", "over TLS");
    for nowhere in [
        secured(json!({})),
        secured(json!({ "ca_cert": authority, "server_name": "other.test" })),
        json!({ "egress_proxy": { "address": "203.0.113.2:1080", "username": "somebody", "password": "wrong" } }),
        json!({ "egress_proxy": at("203.0.113.2:1081") }),
        json!({ "egress_proxy": at("inside.test:1080") }),
        json!({ "egress_proxy": at("no-such.test:1080") }),
    ] {
        let before = through(&world.hits());
        allow(&server, &id, nowhere.clone()).await;
        assert_eq!(fetch(&server, &id, "http://203.0.113.3/").await, "no", "{nowhere}");
        assert_eq!(through(&world.hits()), before, "{nowhere}");
    }
    allow(&server, &id, json!({ "egress_proxy": at("203.0.113.2:1080") })).await;
    drop(proxy);
    assert_eq!(fetch(&server, &id, "http://203.0.113.3/").await, "no", "a proxy that is gone");
    assert!(!world.hits().contains("tcp "), "nothing went beside it: {}", world.hits());
    allow(&server, &id, json!({})).await;
    assert_eq!(fetch(&server, &id, "http://203.0.113.3/").await, "hello", "what is not said is the default");
}

/// The process that resolves and forwards for a sandbox, as its files name it.
fn egress_pid(server: &Server, id: &str) -> i64 {
    let identity = fs::read(server.data_dir().join("sandboxes").join(id).join("egress.json")).unwrap();
    serde_json::from_slice::<Value>(&identity).unwrap()["pid"].as_i64().unwrap()
}

#[tokio::test]
async fn a_resolver_outlives_its_server_and_is_started_again_where_it_ends() {
    if !is_inside("fence::a_resolver_outlives_its_server_and_is_started_again_where_it_ends") {
        return;
    }
    let _resolv = mount_resolv_conf();
    let world = World::start().await;
    let mut server = server(&[]).await;
    let policy = json!({ "allow_internet_access": false, "allow_out": ["good.test"] });
    let id = server.create(json!({ "network": policy })).await;
    // Whoever resolves it is the sandbox's own; that it gets no further is the proxy's doing.
    let finds = async |server: &Server, name: &str| {
        server.shell(&id, &format!("timeout 5 getent ahostsv4 {name} > /dev/null")).await.0 == 0
    };
    let fetches = async |server: &Server| {
        let request = "exec 3<>/dev/tcp/good.test/80 && printf 'GET / HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n' >&3 && head -1 <&3";
        server.shell(&id, &format!("timeout 5 bash -c \"{request}\"")).await.1.contains("200 OK")
    };
    assert!(finds(&server, "good.test").await && fetches(&server).await && !finds(&server, "other.test").await);
    let first = egress_pid(&server, &id);

    server.signal("KILL");
    server.ended().await;
    server.start_again().await;
    assert_eq!(egress_pid(&server, &id), first, "the very same process");
    assert!(finds(&server, "good.test").await && fetches(&server).await && !finds(&server, "other.test").await);
    // The proxy answers, and goes no further.
    reaches(&server, &id, "203.0.113.3").await;

    run("kill", &["-KILL", &first.to_string()]);
    wait_for("another process", async || (egress_pid(&server, &id) != first).then_some(())).await;
    wait_for("names to be found", async || finds(&server, "good.test").await.then_some(())).await;
    assert!(fetches(&server).await && !finds(&server, "other.test").await);
    reaches(&server, &id, "203.0.113.3").await;
    let hits = world.hits();
    assert!(!hits.contains("other.test") && !hits.contains("203.0.113.3"), "{hits}");
    inspect_egress(&server, &id);
    server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    assert_eq!(server.inventory().of_kind("monitor"), Vec::<&str>::new());
}

/// Looks at the resolver and proxy of a sandbox from outside.
fn inspect_egress(server: &Server, id: &str) {
    let proc = PathBuf::from(format!("/proc/{}", egress_pid(server, id)));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let has = |line: &str| status.lines().any(|found| found == line);
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(has(line), "{line}: {status}");
    }
    let slot: u32 = server.inventory().of_kind("slot")[0].parse().unwrap();
    let uid = 1_879_048_192 + 32_768 + slot;
    assert!(has(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{status}");
    let root: Vec<_> = fs::read_dir(proc.join("root")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(root, ["dev"], "nothing to see");
    let mounts = fs::read_to_string(proc.join("mounts")).unwrap();
    assert!(
        mounts.lines().all(|mount| mount.split_whitespace().nth(3).unwrap().split(',').any(|option| option == "ro"))
    );
    let cgroup = fs::read_to_string(proc.join("cgroup")).unwrap();
    assert!(cgroup.contains(&format!("/{slot}-egress")), "{cgroup}");
}
