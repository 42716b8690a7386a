//! Claims about the guest agent's control routes: no caller of the proxy gets an answer from them, and nobody in the guest.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use host_agent::net::TAP_IP;

use super::Finding;
use super::stage::{NEIGHBOUR_PORT, Stage};

/// Where it is tried from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Outside,
    Inside,
}

/// The ports that the guest agent keeps for itself.
const AGENT_PORTS: [u16; 3] = [49981, 49982, 49983];

/// What only the host may ask of it, and what it does for those who have its token.
const ROUTES: [&str; 8] = [
    "POST /init",
    "POST /clock",
    "POST /shutdown",
    "POST /freeze",
    "POST /settle",
    "GET /envs",
    "GET /health",
    "GET /files?path=/etc/passwd",
];

/// Tries it.
pub async fn check(check: Check, stage: &Stage) -> anyhow::Result<Finding> {
    match check {
        Check::Outside => outside(stage).await,
        Check::Inside => inside(stage).await,
    }
}

async fn outside(stage: &Stage) -> anyhow::Result<Finding> {
    let id = stage.neighbour.sandbox.id.as_str();
    let by_host = |port: u16| format!("Host: {port}-{id}.sandboxes.invalid\r\n");
    let by_headers = |port: u16| format!("Host: api.invalid\r\nE2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: {port}\r\n");
    for headers in [by_host(NEIGHBOUR_PORT), by_headers(NEIGHBOUR_PORT)] {
        let answer = ask(stage, "GET /", &headers).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "a port that should answer does not: {answer:?}");
    }
    let (mut broken, mut tried) = (Vec::new(), 0);
    for port in AGENT_PORTS {
        for headers in [by_host(port), by_headers(port)] {
            for route in ROUTES {
                let answer = ask(stage, route, &headers).await?;
                tried += 1;
                if !answer.starts_with("HTTP/1.1 404") {
                    broken.push(format!("{route} at port {port} was answered with {answer:?}"));
                }
            }
        }
    }
    Ok(match broken.is_empty() {
        true => Finding::Holds(format!("{tried} requests found nothing there, a port of the guest's answered")),
        false => Finding::Broken(broken.join(", ")),
    })
}

/// The first line of the server's answer.
async fn ask(stage: &Stage, route: &str, headers: &str) -> anyhow::Result<String> {
    let base = stage.client.base_url();
    let url: http::Uri = base.parse().context("the server's address is a URL")?;
    let host = url.host().context("the server's address has a host")?.trim_matches(['[', ']']);
    let exchange = async {
        let mut stream = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await?;
        let request = format!("{route} HTTP/1.1\r\n{headers}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 256];
        let length = stream.read(&mut answer).await?;
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        std::io::Result::Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), exchange).await;
    answer.context("the server does not answer in 20 s")?.with_context(|| format!("speak to {base}"))
}

async fn inside(stage: &Stage) -> anyhow::Result<Finding> {
    let request = async |route: &str| stage.attack(&["request", "127.0.0.1", "49983", "localhost", route]).await;
    let open = request("GET /health").await?;
    ensure!(open == BTreeSet::from(["answer HTTP/1.1 204 No Content".to_owned()]), "the agent answers with {open:?}");
    let control = ROUTES.iter().filter(|route| route.starts_with("POST"));
    let mut broken = Vec::new();
    let is_refused = |told: &BTreeSet<String>| told.iter().all(|line| line.starts_with("answer HTTP/1.1 4"));
    for route in control.clone() {
        let told = request(route).await?;
        if !is_refused(&told) || told.is_empty() {
            broken.push(format!("{route} was answered with {told:?}"));
        }
    }
    // Where the host is, no guest agent is.
    let host = TAP_IP.to_string();
    let told = stage.attack(&["request", &host, "49983", "localhost", "POST /init"]).await?;
    if !is_refused(&told) {
        broken.push(format!("POST /init at the host's address was answered with {told:?}"));
    }
    Ok(match broken.is_empty() {
        true => Finding::Holds(format!("{} routes refused, the one for all answered", control.count())),
        false => Finding::Broken(broken.join(", ")),
    })
}
