//! `--domain`: names over HTTPS as programs meet them, with what the server prints for them and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use testkit::wait_for;

/// A control plane without a host: what it answers by itself is enough here.
struct Server {
    child: Child,
    directory: TempDir,
}

fn command(directory: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpiper"));
    command.args(["control-plane", "--listen", "127.0.0.1:0", "--domain", "SBX.localhost", "--host-agent"]);
    command.arg(format!("unix:{}", directory.join("nobody.sock").display())).arg("--data-dir").arg(directory);
    command.args(more).env_remove("DATABASE_URL").env_remove("SANDPIPER_CONFIG").stdin(Stdio::null());
    command
}

impl Server {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = Self::spawn(directory.path());
        let mut server = Self { child, directory };
        server.ready().await;
        server
    }

    fn spawn(directory: &Path) -> Child {
        let log = File::create(directory.join("log")).unwrap();
        command(directory, &["--domain-port", "0"]).stderr(log).spawn().unwrap()
    }

    async fn ready(&mut self) {
        let log = self.directory.path().join("log");
        let child = &mut self.child;
        wait_for("the server to be ready", async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "it ended:\n{text}");
            text.contains("ready at ").then_some(())
        })
        .await;
    }

    async fn start_again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.directory.path());
        self.ready().await;
    }

    /// What it says that programs need.
    fn told(&self, variable: &str) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap();
        let line = log.lines().find_map(|line| line.trim().strip_prefix(&format!("{variable}=")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("{variable}: {log}")).split_whitespace().next().unwrap().to_owned()
    }

    fn authority(&self) -> PathBuf {
        self.told("SSL_CERT_FILE").into()
    }

    fn curl(&self, label: &str, more: &[&str]) -> Output {
        let url = format!("https://{label}.{}/health", self.told("E2B_DOMAIN"));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]).arg(self.authority());
        curl.args(more).arg(url).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn programs_reach_the_api_by_its_name_with_what_the_server_prints() {
    let mut server = Server::start().await;
    assert!(server.told("E2B_DOMAIN").starts_with("sbx.localhost:"), "{}", server.told("E2B_DOMAIN"));
    assert_eq!(server.told("NODE_EXTRA_CA_CERTS"), server.told("SSL_CERT_FILE"));
    for (version, protocol) in [("2", "--http2"), ("1.1", "--http1.1")] {
        // On both of loopback's addresses.
        for family in ["--ipv4", "--ipv6"] {
            let said = server.curl("api", &[protocol, family, "--write-out", "\n%{http_version}"]);
            let said = String::from_utf8(said.stdout).unwrap();
            assert!(
                said.contains("host_unavailable") && said.ends_with(&format!("\n{version}")),
                "{protocol} {family}: {said}"
            );
        }
    }
    let nobody = server.curl("www", &["--write-out", "%{http_code}"]);
    assert_eq!(String::from_utf8(nobody.stdout).unwrap(), "Invalid host\n400");
    let unknown = server.curl("80-sb00000000000000000000", &[]);
    assert!(String::from_utf8(unknown.stdout).unwrap().contains("The sandbox was not found"));

    let before = std::fs::read(server.authority()).unwrap();
    server.start_again().await;
    assert_eq!(std::fs::read(server.authority()).unwrap(), before, "what programs believe stays");
    assert!(server.curl("api", &[]).status.success());
}

#[tokio::test]
async fn the_authority_is_good_for_the_domain_alone() {
    let server = Server::start().await;
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let authority = server.authority().display().to_string();
    let text = openssl(&["x509", "-noout", "-text", "-in", &authority]);
    for expected in ["DNS:sbx.localhost", "X509v3 Name Constraints: critical", "CA:TRUE, pathlen:0"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let domain = server.told("E2B_DOMAIN");
    let address = domain.replace("sbx.localhost", "127.0.0.1");
    let name = "49983-sb00000000000000000000.sbx.localhost";
    let strict = ["s_client", "-x509_strict", "-verify_return_error", "-CAfile", &authority, "-connect", &address];
    let said = openssl(&[&strict[..], &["-servername", name, "-verify_hostname", name]].concat());
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    let said = openssl(&[&strict[..], &["-verify_hostname", "example.com"]].concat());
    assert!(said.contains("hostname mismatch") && !said.contains("Verify return code: 0 (ok)"), "{said}");
}

#[test]
fn what_cannot_be_served_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = |more: &[&str]| {
        let output = command(directory.path(), more).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = ended(&["--domain-port", &port]);
    for part in [&format!("127.0.0.1:{port}"), "sbx.localhost", "--domain-port"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(code, 1, "{said}");
    for (domain, reason) in [("localhost", "with a dot"), ("e2b.app", "E2B's own"), ("https://x.example", "a scheme")] {
        let output = Command::new(env!("CARGO_BIN_EXE_sandpiper")).args(["up", "--domain", domain]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(reason), "{domain}: {said}");
    }
}
