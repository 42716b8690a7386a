//! Control plane and host agent as they are on two machines: over TLS, each with a certificate of `sandpiper ca`; and
//! over a unix socket.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use testkit::wait_for;

use super::binary;
use super::rpc::Role;

/// Makes a call as an ordinary gRPC client would, with and without TLS: messages as bytes, so that nothing generated
/// is needed.
const GRPC_CLIENT: &str = r#"
import grpc, sys
target, *files = sys.argv[1:]
read = lambda name: open(name, "rb").read()
if files:
    ca, key, certificate = map(read, files)
    channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, certificate))
else:
    channel = grpc.insecure_channel(target)
call = lambda method: channel.unary_unary("/hostagent.v1.HostAgentService/" + method)
assert call("ListSandboxes")(b"", timeout=20) == b""
try:
    call("DestroySandbox")(b"\n\x06sbnone", timeout=20)
    sys.exit("a sandbox that does not exist was destroyed")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
"#;

/// An authority in a directory of its own.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        authority.run(&["init"]);
        authority.run(&["issue", "host-agent", "localhost", "--san", "127.0.0.1"]);
        authority.run(&["issue", "control-plane", "plane"]);
        authority
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new(binary()).arg("ca").args(arguments).arg("--dir").arg(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The flags of TLS with this certificate.
    fn flags(&self, name: &str) -> [String; 6] {
        let (certificate, key) = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        ["--tls-ca".into(), self.file("ca.crt"), "--tls-cert".into(), certificate, "--tls-key".into(), key]
    }

    fn host_agent(&self) -> Role {
        let flags = self.flags("host-agent-localhost");
        let flags = flags.iter().map(String::as_str);
        Role::host_agent(&["--listen", "127.0.0.1:0"].into_iter().chain(flags).collect::<Vec<_>>())
    }

    fn control_plane(&self, host_agent: &str) -> Role {
        let flags = self.flags("control-plane-plane");
        let flags = flags.iter().map(String::as_str);
        let arguments = ["--listen", "127.0.0.1:0", "--host-agent", host_agent].into_iter().chain(flags);
        Role::control_plane(&arguments.collect::<Vec<_>>())
    }
}

/// A web server of a few words, on loopback.
const SERVICE: &str = r#"
$server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8000, Listen => 5);
while ($client = $server->accept) {
    while (<$client>) { last if /^\r?$/ }
    print $client "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    close $client;
}"#;

fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["--silent", "--show-error", "--max-time", "20"]).args(arguments).output().unwrap()
}

/// What a host agent at `url` answers to a list of its sandboxes, asked for with these flags of curl.
fn list(url: &str, flags: &[&str]) -> Output {
    let list = format!("{url}/hostagent.v1.HostAgentService/ListSandboxes");
    curl(&[flags, &["--json", "{}", &list]].concat())
}

fn python() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/test-tools.sh");
    let tools = Command::new(script).output().unwrap();
    assert!(tools.status.success(), "{}", String::from_utf8_lossy(&tools.stderr));
    Path::new(String::from_utf8(tools.stdout).unwrap().trim()).join("python")
}

#[tokio::test]
async fn sandboxes_run_on_a_host_that_is_reached_with_tls() {
    let authority = Authority::new();
    let agent = authority.host_agent();
    assert!(agent.url.starts_with("https://127.0.0.1:"), "{}", agent.url);
    let plane = authority.control_plane(&agent.url.replace("127.0.0.1", "localhost"));
    let http = reqwest::Client::new();
    let sandboxes = format!("{}/v1/sandboxes", plane.url);
    let created = http.post(&sandboxes).json(&json!({})).send().await.unwrap();
    assert_eq!(created.status().as_u16(), 201);
    let created: Value = created.json().await.unwrap();
    let sandbox = format!("{sandboxes}/{}", created["id"].as_str().unwrap());

    // A file on its way there and back: both are guest streams, and far larger than any message.
    let content: Vec<u8> =
        (0..20_u32 << 20).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let part = reqwest::multipart::Part::bytes(content.clone()).file_name("big");
    let form = reqwest::multipart::Form::new().text("path", "/srv/big").part("file", part);
    let written = http.post(format!("{sandbox}/files/write")).multipart(form).send().await.unwrap();
    assert!(written.status().is_success(), "{}", written.text().await.unwrap());
    let read = http.post(format!("{sandbox}/files/read")).json(&json!({ "path": "/srv/big" })).send().await.unwrap();
    assert!(read.bytes().await.unwrap() == content);

    // A command followed live, which is a guest stream in both directions.
    let exec = Command::new(binary())
        .args(["sandbox", "exec", "--url", &plane.url, created["id"].as_str().unwrap(), "--", "sh", "-c"])
        .arg("echo hello; sha256sum </srv/big; exit 3")
        .output()
        .unwrap();
    let said = String::from_utf8(exec.stdout).unwrap();
    assert_eq!(exec.status.code(), Some(3), "{}", String::from_utf8_lossy(&exec.stderr));
    let digest: String =
        <sha2::Sha256 as sha2::Digest>::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(said.starts_with("hello\n") && said.contains(&digest), "{said}");

    // A port of the guest, which is a connection within one to the host agent.
    let start = format!("setsid perl -MIO::Socket::INET -e '{SERVICE}' >/dev/null 2>&1 </dev/null &");
    let started = json!({ "cmd": "sh", "args": ["-c", start] });
    assert_eq!(http.post(format!("{sandbox}/exec")).json(&started).send().await.unwrap().status().as_u16(), 200);
    let name = format!("8000-{}.sandboxes.example", created["id"].as_str().unwrap());
    let said = wait_for("the service to answer", async || {
        let answer = http.get(&plane.url).header("host", &name).send().await.unwrap();
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    })
    .await;
    assert_eq!(said, "hi");
    assert_eq!(http.delete(&sandbox).send().await.unwrap().status().as_u16(), 204);
}

#[test]
fn only_a_control_plane_of_the_same_authority_is_obeyed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let agent = authority.host_agent();
    let (ca, url) = (authority.file("ca.crt"), agent.url.replace("127.0.0.1", "localhost"));
    let with = |whose: &Authority, name: &str| {
        let (certificate, key) = (whose.file(&format!("{name}.crt")), whose.file(&format!("{name}.key")));
        list(&url, &["--cacert", &ca, "--cert", &certificate, "--key", &key])
    };
    let obeyed = with(&authority, "control-plane-plane");
    assert_eq!(String::from_utf8(obeyed.stdout).unwrap(), "{}", "{}", String::from_utf8_lossy(&obeyed.stderr));
    for (what, refused) in [
        ("no certificate", list(&url, &["--cacert", &ca])),
        ("a host agent's certificate", with(&authority, "host-agent-localhost")),
        ("another authority's", with(&other, "control-plane-plane")),
        ("no TLS", list(&url.replace("https", "http"), &[])),
        ("an authority that did not make the host agent's", list(&url, &["--cacert", &other.file("ca.crt")])),
    ] {
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{what}: {refused:?}");
    }
    // The control plane refuses as well: a host agent of somebody else's runs nothing for it.
    let plane = other.control_plane(&url);
    let created = curl(&["--json", r#"{"template": "nosuch"}"#, &format!("{}/v1/sandboxes", plane.url)]);
    let answer: Value = serde_json::from_slice(&created.stdout).unwrap();
    assert_eq!(answer["error"]["code"], "host_unavailable", "{answer}");
}

#[test]
fn grpc_clients_work_with_and_without_tls() {
    let authority = Authority::new();
    let (agent, plain) = (authority.host_agent(), Role::host_agent(&["--listen", "127.0.0.1:0"]));
    let target = |role: &Role| role.url.split_once("://").unwrap().1.replace("127.0.0.1", "localhost");
    let python = python();
    let call = |target: String, files: &[String]| {
        let output = Command::new(&python).args(["-c", GRPC_CLIENT, &target]).args(files).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    call(target(&plain), &[]);
    let files = ["ca.crt", "control-plane-plane.key", "control-plane-plane.crt"].map(|name| authority.file(name));
    call(target(&agent), &files);
}

#[test]
fn a_unix_socket_needs_no_tls() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", directory.path().join("host.sock").display());
    let agent = Role::host_agent(&["--listen", &address]);
    assert_eq!(agent.url, address);
    let plane = Role::control_plane(&["--listen", "127.0.0.1:0", "--host-agent", &address]);
    let created = curl(&["--json", r#"{"template": "nosuch"}"#, &format!("{}/v1/sandboxes", plane.url)]);
    let answer: Value = serde_json::from_slice(&created.stdout).unwrap();
    assert_eq!(answer["error"]["code"], "not_found", "the host agent's own answer: {answer}");
    drop(agent);
    assert!(!directory.path().join("host.sock").exists());
}
