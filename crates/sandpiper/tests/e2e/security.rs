//! `sandpiper security-test` against a real server, in a network namespace without a way out: every claim holds, and each
//! test fails where the mechanism that it tests is switched off.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use testkit::{Server, wait_for};
use tokio::process::Command;

use super::fence::is_inside;
use super::{binary, server};

/// What is switched off for which claims. `attacker`, `neighbour` and `host` are `nft` where that one's rules are.
const SWITCHES: [(&[&str], &str); 8] = [
    (&["private-ranges"], "attacker flush set ip sandbox fenced; host flush set ip $table fenced"),
    (&["host"], "host flush chain ip $table input"),
    (
        &["neighbours"],
        "attacker flush set ip sandbox fenced; host flush chain ip $table forward; \
         neighbour insert rule ip sandbox forward accept",
    ),
    (&["outside"], "host flush chain ip $table forward; neighbour insert rule ip sandbox forward accept"),
    (&["spoofing", "ipv6"], "attacker insert rule netdev sandbox source accept"),
    (&["no-internet", "live-policy"], "attacker insert rule ip sandbox forward accept"),
    (
        &["names"],
        "attacker insert rule ip sandbox destination iifname tap0 accept; attacker insert rule ip sandbox forward accept",
    ),
    (&["connection-rate"], "attacker flush chain ip sandbox beginning"),
];

async fn security_test(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["security-test", "--json", "--url", server.url(), "--data-dir"]).arg(server.data_dir());
    command.args(arguments).stdin(Stdio::null()).output().await.unwrap()
}

fn claims(output: &Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let claims = report["claims"].as_array().unwrap().clone();
    let all_hold = claims.iter().all(|claim| claim["result"] == "pass");
    assert_eq!((report["passed"].as_bool(), output.status.success()), (Some(all_hold), all_hold), "{report}");
    claims
}

/// What the machine has to say about ways and wires.
async fn ip(arguments: &[&str]) -> String {
    String::from_utf8(Command::new("ip").args(arguments).output().await.unwrap().stdout).unwrap()
}

async fn nothing_is_left(server: &Server) {
    let left = server.call("GET", "/v1/sandboxes?status=running&status=paused", Value::Null).await;
    assert_eq!(left.body, json!([]));
    let (links, rules) = (ip(&["-o", "link"]).await, ip(&["rule"]).await);
    assert!(!links.contains(": spt"), "{links}");
    assert_eq!(rules.lines().count(), 3, "{rules}");
}

#[tokio::test]
async fn every_claim_holds_and_nothing_is_left() {
    if !is_inside("security::every_claim_holds_and_nothing_is_left") {
        return;
    }
    let server = server(&[]).await;
    let claims = claims(&security_test(&server, &[]).await);
    let broken: Vec<_> = claims.iter().filter(|claim| claim["result"] != "pass").collect();
    assert!(broken.is_empty() && claims.len() == 25, "{broken:#?}");
    nothing_is_left(&server).await;
}

/// A program that switches something off, and tells that it did by its end.
fn switch(server: &Server, script: &str) -> tempfile::TempPath {
    let instance = fs::read_to_string(server.data_dir().join("instance-id")).unwrap();
    let instance = instance.trim();
    let text = format!(
        "#!/bin/sh\nset -e\nslot() {{ echo \"$1\" | {{ IFS=. read -r _ _ high low; echo $((high * 256 + low)); }}; }}\n\
         table=sp_{instance} first=$1 second=$2\nhost() {{ nft \"$@\"; }}\n\
         attacker() {{ ip netns exec sp-{instance}-$(slot $first) nft \"$@\"; }}\n\
         neighbour() {{ ip netns exec sp-{instance}-$(slot $second) nft \"$@\"; }}\n{script}\n"
    );
    let mut file = tempfile::Builder::new().suffix(".sh").tempfile().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o700)).unwrap();
    file.into_temp_path()
}

#[tokio::test]
async fn every_claim_about_the_network_is_seen_to_fail_where_its_mechanism_is_off() {
    if !is_inside("security::every_claim_about_the_network_is_seen_to_fail_where_its_mechanism_is_off") {
        return;
    }
    let mut seen = Vec::new();
    for (names, script) in SWITCHES {
        // A server of its own each: what is switched off on the host holds for all.
        let server = server(&[]).await;
        let program = switch(&server, script);
        let only = names.iter().flat_map(|name| ["--only", *name]);
        let arguments: Vec<_> = only.chain(["--before", program.to_str().unwrap()]).collect();
        for claim in claims(&security_test(&server, &arguments).await) {
            assert_eq!(claim["result"], "fail", "without its mechanism: {claim:#}");
            assert!(claim["shown_to_fail"].is_string(), "{claim:#}");
            seen.push(claim["id"].as_str().unwrap().to_owned());
        }
        nothing_is_left(&server).await;
    }
    let server = server(&[]).await;
    let mut arguments = vec!["--before", "/bin/false"];
    arguments.extend(["--only", "host"]);
    let refused = security_test(&server, &arguments).await;
    assert!(!refused.status.success() && refused.stdout.is_empty(), "nothing is told where nothing was tested");
    nothing_is_left(&server).await;
    assert_eq!(seen.len(), 10, "{seen:?}");
}

#[tokio::test]
async fn every_claim_about_jails_is_seen_to_fail_on_a_process_without_one() {
    if !is_inside("security::every_claim_about_jails_is_seen_to_fail_on_a_process_without_one") {
        return;
    }
    let server = server(&[]).await;
    let mut free = Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let pid = free.id().unwrap().to_string();
    let jail = ["user", "privileges", "seccomp", "namespaces", "root", "files", "cgroup", "limits"];
    let names: Vec<_> = jail.iter().map(|name| format!("jail-{name}")).collect();
    let only = names.iter().flat_map(|name| ["--only", name.as_str()]);
    let arguments: Vec<_> = only.chain(["--process", &pid]).collect();
    let claims = claims(&security_test(&server, &arguments).await);
    assert_eq!(claims.len(), names.len());
    for claim in claims {
        assert_eq!(claim["result"], "fail", "without a jail: {claim:#}");
    }
    free.kill().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_test_leaves_nothing() {
    if !is_inside("security::an_interrupted_test_leaves_nothing") {
        return;
    }
    let server = server(&[]).await;
    let mut command = Command::new(binary());
    command.args(["security-test", "--url", server.url(), "--data-dir"]).arg(server.data_dir());
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("its way to its target", async || ip(&["rule"]).await.contains("iif").then_some(())).await;
    assert!(Command::new("kill").args(["-INT", &running.id().unwrap().to_string()]).status().await.unwrap().success());
    assert_eq!(running.wait().await.unwrap().code(), Some(130));
    nothing_is_left(&server).await;
}
