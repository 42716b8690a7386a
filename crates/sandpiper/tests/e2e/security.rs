//! `sandpiper security-test` against a real server, in a network namespace without a way out: every claim holds, and each
//! test fails where the mechanism that it tests is switched off.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use testkit::{Server, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
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
    security_test_by(server.url(), server, arguments).await
}

/// The same, where the server is called at another address.
async fn security_test_by(url: &str, server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["security-test", "--json", "--url", url, "--data-dir"]).arg(server.data_dir());
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
    let (instance, data_dir) = (instance.trim(), server.data_dir().display());
    let text = format!(
        "#!/bin/sh\nset -e\nslot() {{ echo \"$1\" | {{ IFS=. read -r _ _ high low; echo $((high * 256 + low)); }}; }}\n\
         table=sp_{instance} first=$1 second=$2\nhost() {{ nft \"$@\"; }}\n\
         attacker() {{ ip netns exec sp-{instance}-$(slot $first) nft \"$@\"; }}\n\
         neighbour() {{ ip netns exec sp-{instance}-$(slot $second) nft \"$@\"; }}\n\
         data_dir={data_dir} group=sandpiper-{instance}/$(slot $first)\n{script}\n"
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

/// Where the attacker's monitor is, and which groups it is in.
const FIND_MONITOR: &str = r#"
for directory in "$data_dir"/sandboxes/*; do
    monitor=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$directory/vmm.json" | head -n 1)
    grep -q "/$group\$" "/proc/$monitor/cgroup" && break
    monitor=
done
test -n "$monitor"
groups=$(find /sys/fs/cgroup -type d -path "*/$group")
"#;

/// What a monitor that was taken over could do, in its group: takes what there is of one thing, tells by its first end when it
/// has begun, and is gone as soon as the monitor is.
const INTRUDER: &str = r#"
use strict; use warnings; use POSIX ();
my ($what, $monitor, $directory, @groups) = @ARGV;
pipe(my $read, my $write) or die "pipe: $!";
my $told = "";
if (fork) { close $write; sysread($read, $told, 1); exit(length $told ? 0 : 1) }
close $read;
POSIX::setsid();
my @procs;
for my $group (@groups) {
    my $set = sub { open(my $file, ">", "$group/$_[0]") or return; print $file $_[1]; close $file };
    push @procs, "$group/cgroup.procs";
    for (["pids.max", "max"], ["memory.limit_in_bytes", "-1"], ["memory.max", "max"]) { $set->(@$_) }
}
# Whoever watches is not in the group, and is quicker than what is.
setpriority(0, 0, -20);
pipe(my $ready, my $begun) or die "pipe: $!";
my @children;
my $child = sub {
    my $pid = fork // die "fork: $!";
    if ($pid) { push @children, $pid; sysread($ready, my $one, 1); return }
    POSIX::setpgid(0, 0);
    setpriority(0, 0, 0);
    for (@procs) { open(my $file, ">", $_) or die "$_: $!"; print $file $$; close $file or die "$_: $!" }
    $_[0]->(sub { syswrite($begun, "x") });
    POSIX::_exit(0);
};
if ($what eq "forks") { $child->(sub { for (1 .. 150) { fork // die "fork: $!" or last } $_[0]->() if $$ == getpgrp; sleep 600 }) }
if ($what eq "memory") { $child->(sub { my $bytes = 800 << 20; my $held = "x" x $bytes; $_[0]->(); sleep 600 }) }
if ($what eq "disk") {
    $child->(sub {
        open(my $file, "+>", "$directory/../flood-of-the-test") or die "flood: $!";
        unlink "$directory/../flood-of-the-test";
        my $block = "x" x (1 << 22);
        $_[0]->();
        while (1) { sysseek($file, 0, 0); syswrite($file, $block) for 1 .. 16 }
    }) for 1 .. 2;
}
if ($what eq "beside") {
    $child->(sub {
        open(my $file, ">", "$directory/said-by-the-test") or die "beside: $!";
        $_[0]->();
        for (1 .. 64) { syswrite($file, "x" x (1 << 20)); select(undef, undef, undef, 0.1) }
        sleep 600;
    });
}
open(STDERR, ">", "/dev/null");
syswrite($write, "x");
close $write;
select(undef, undef, undef, 0.01) while kill 0, $monitor;
kill "KILL", map { -$_ } @children;
"#;

/// What each intruder takes (but processors, of which a busy machine has none left to take), which claim it breaks, and what is then said.
const INTRUSIONS: [(&str, &str, &str); 4] = [
    ("forks", "fork-bomb", "threads"),
    ("memory", "memory-hog", "bytes of memory"),
    ("disk", "disk-flood", "bytes to and from its disk"),
    ("beside", "console-flood", "bytes beside its disk"),
];

#[tokio::test]
async fn claims_about_load_are_seen_to_fail_where_their_mechanism_is_off() {
    if !is_inside("security::claims_about_load_are_seen_to_fail_where_their_mechanism_is_off") {
        return;
    }
    let server = server(&[]).await;
    let intruder = tempfile::NamedTempFile::new().unwrap();
    fs::write(intruder.path(), INTRUDER).unwrap();
    let perl = intruder.path().display();
    for (what, claim, said) in INTRUSIONS {
        let script = format!("{FIND_MONITOR}\nperl {perl} {what} \"$monitor\" \"$directory\" $groups");
        let program = switch(&server, &script);
        let arguments = ["--only", claim, "--before", program.to_str().unwrap()];
        let claims = claims(&security_test(&server, &arguments).await);
        let found = claims[0]["found"].as_str().unwrap();
        assert!(claims[0]["result"] == "fail" && found.contains(said), "{claim} {claims:#?}");
        nothing_is_left(&server).await;
    }
}

/// Passes traffic on as the server does, and refuses no port: what names a sandbox goes there, and the rest to the server.
async fn careless_proxy(server: &Server) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, upstream) = (listener.local_addr().unwrap(), server.url().trim_start_matches("http://").to_owned());
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let upstream = upstream.clone();
            tokio::spawn(async move { drop(pass(caller, &upstream).await) });
        }
    });
    format!("http://{address}")
}

async fn pass(mut caller: TcpStream, upstream: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if caller.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let header = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let label = header("host").and_then(|host| host.split_once('.')?.0.split_once('-'));
    let named = header("e2b-sandbox-port").zip(header("e2b-sandbox-id")).or(label);
    let mut callee = match named.filter(|(port, _)| port.parse::<u16>().is_ok()) {
        Some((port, id)) => {
            let sandbox = reqwest::get(format!("http://{upstream}/v1/sandboxes/{id}")).await;
            let sandbox: Value = sandbox.unwrap().json().await.unwrap();
            TcpStream::connect(format!("{}:{port}", sandbox["host_ip"].as_str().unwrap())).await?
        }
        None => TcpStream::connect(upstream).await?,
    };
    callee.write_all(&head).await?;
    copy_bidirectional(&mut caller, &mut callee).await.map(drop)
}

#[tokio::test]
async fn the_claim_about_the_proxy_is_seen_to_fail_through_one_that_refuses_no_port() {
    if !is_inside("security::the_claim_about_the_proxy_is_seen_to_fail_through_one_that_refuses_no_port") {
        return;
    }
    let server = server(&[]).await;
    let careless = careless_proxy(&server).await;
    let seen = claims(&security_test_by(&careless, &server, &["--only", "proxy-control"]).await);
    assert_eq!(seen[0]["result"], "fail", "{seen:#?}");
    assert!(seen[0]["found"].as_str().unwrap().contains("GET /health at port 49983"), "{seen:#?}");
    nothing_is_left(&server).await;
}
