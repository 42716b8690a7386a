//! Where the test happens: two sandboxes of its own, one whose root is the attacker and one beside it, and what the host
//! knows of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use client::{Client, ExecOutput, ExecRequest, NetworkPolicy, Sandbox, Start};
use tokio::process::Command;

use crate::cli::session::Session;

/// What the attacker runs.
const ATTACKER: &str = include_str!("attacker.pl");

/// The port at which the neighbour answers.
pub const NEIGHBOUR_PORT: u16 = 8099;

/// What all checks share.
pub struct Stage {
    /// The sandbox that attacks.
    pub attacker: Guest,
    /// The sandbox that is to notice nothing.
    pub neighbour: Guest,
    pub client: Client,
}

/// A sandbox, and its wire.
#[derive(Debug, Clone)]
pub struct Guest {
    pub sandbox: Sandbox,
    /// How the host reaches it.
    pub host_ip: Ipv4Addr,
    /// The wire's end on the host, as an interface.
    pub veth: String,
    /// The wire's other end.
    pub peer: Ipv4Addr,
}

impl Stage {
    /// Makes the sandboxes, with a listener in the neighbour.
    pub async fn set(session: &Session) -> anyhow::Result<Self> {
        let (attacker, neighbour) = tokio::try_join!(session.create(Start::Auto), session.create(Start::Auto))?;
        let stage = Self {
            attacker: Guest::find(attacker.0).await?,
            neighbour: Guest::find(neighbour.0).await?,
            client: session.client.clone(),
        };
        stage.plant_listener().await?;
        Ok(stage)
    }

    async fn plant_listener(&self) -> anyhow::Result<()> {
        let script = format!("setsid perl -e \"$0\" listen {NEIGHBOUR_PORT} > /dev/null 2>&1 < /dev/null &");
        self.shell(&self.neighbour, &script, &[ATTACKER], Duration::from_secs(20)).await?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !answers(self.neighbour.host_ip, NEIGHBOUR_PORT).await {
            ensure!(Instant::now() < deadline, "the listener in the neighbour does not answer the host");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Lets the attacker try something; returns the lines that tell what was answered.
    pub async fn attack(&self, arguments: &[&str]) -> anyhow::Result<BTreeSet<String>> {
        let output = self.run(&self.attacker, "perl", &[&["-e", ATTACKER], arguments].concat(), 60).await?;
        ensure!(
            output.exit_code == 0,
            "the attack could not be carried out: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// Lets the attacker begin something that goes on.
    pub async fn attack_in_background(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let script = "setsid perl -e \"$@\" > /dev/null 2>&1 < /dev/null &";
        let arguments = [&["attacker", ATTACKER], arguments].concat();
        self.shell(&self.attacker, script, &arguments, Duration::from_secs(20)).await.map(drop)
    }

    /// Runs a shell script in a guest, which must succeed; returns what it printed.
    pub async fn shell(
        &self,
        guest: &Guest,
        script: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> anyhow::Result<String> {
        let seconds = limit.as_secs().try_into().unwrap_or(u32::MAX);
        let output = self.run(guest, "sh", &[&["-c", script], arguments].concat(), seconds).await?;
        ensure!(output.exit_code == 0, "sh in the guest: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    async fn run(&self, guest: &Guest, cmd: &str, args: &[&str], seconds: u32) -> anyhow::Result<ExecOutput> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let command = ExecRequest { cmd: cmd.to_owned(), args, timeout_sec: Some(seconds), ..ExecRequest::default() };
        Ok(self.client.exec(&guest.sandbox.id, &command).await?)
    }

    /// How often the rules have kept something of the attacker's back for this reason.
    pub async fn denials(&self, reason: &str) -> anyhow::Result<u64> {
        let network = self.client.network(&self.attacker.sandbox.id).await?;
        network.denials.get(reason).copied().with_context(|| format!("the server counts no {reason:?}"))
    }

    /// Gives the attacker a policy.
    pub async fn allow(&self, policy: &NetworkPolicy) -> anyhow::Result<()> {
        self.client.set_network(&self.attacker.sandbox.id, policy).await?;
        Ok(())
    }

    /// Runs what a test of this tool wants to be done to the sandboxes first.
    pub async fn prepare(&self, program: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.args([self.attacker.host_ip, self.neighbour.host_ip].map(|address| address.to_string()));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().await;
        let status = status.with_context(|| format!("run {}", program.display()))?;
        ensure!(status.success(), "{} ended with {status}", program.display());
        Ok(())
    }
}

impl Guest {
    /// Asks the host's routing for a sandbox's wire.
    async fn find(sandbox: Sandbox) -> anyhow::Result<Self> {
        let host_ip = sandbox.host_ip.as_deref().context("the server does not tell how its host reaches a sandbox")?;
        let host_ip: Ipv4Addr = host_ip.parse().with_context(|| format!("{host_ip:?} is no address"))?;
        let route = ip(&["-4", "-o", "route", "get", &host_ip.to_string()]).await?;
        let after = |word: &str| route.split_whitespace().skip_while(|found| *found != word).nth(1);
        let (veth, peer) = (after("dev"), after("via").and_then(|text| text.parse().ok()));
        let (Some(veth), Some(peer)) = (veth, peer) else {
            anyhow::bail!(
                "this machine has no way to {host_ip}; the test runs on the sandboxes' host: {}",
                route.trim()
            )
        };
        Ok(Self { veth: veth.to_owned(), sandbox, host_ip, peer })
    }

    /// Where the host keeps the sandbox's files.
    pub fn directory(&self, data_dir: &Path) -> PathBuf {
        data_dir.join("sandboxes").join(self.sandbox.id.as_str())
    }
}

/// The host's own addresses, apart from those of loopback and of other sandboxes' wires.
pub async fn host_addresses(attacker: &Guest) -> anyhow::Result<Vec<Ipv4Addr>> {
    let listing = ip(&["-4", "-o", "address"]).await?;
    let wires = attacker.veth.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let addresses = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let link = words.next()?;
        let address = words.nth(1)?.split('/').next()?.parse::<Ipv4Addr>().ok()?;
        (link == attacker.veth || !link.starts_with(wires)).then_some(address)
    });
    let distinct: BTreeSet<_> = addresses.filter(|address| !address.is_loopback()).collect();
    Ok(distinct.into_iter().collect())
}

/// Whether something answers by TCP.
pub async fn answers(address: Ipv4Addr, port: u16) -> bool {
    let connecting = tokio::net::TcpStream::connect((address, port));
    tokio::time::timeout(Duration::from_secs(2), connecting).await.is_ok_and(|result| result.is_ok())
}

async fn ip(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ip").args(arguments).output().await.context("start ip, of Debian's iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
