//! `security-test`: whether the claims of `docs/security.md` hold on a running installation.
//!
//! It makes two sandboxes. From one it attacks everything around it; from outside it looks at the jails of all. What it
//! reaches is only what it planted: packets of the attacker that the fence lets through go to a namespace of the test's
//! own, whatever address they are for. Everything that it made is removed on every way out.

mod claims;
mod jail;
mod load;
mod network;
mod proxy;
mod report;
mod stage;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;

use self::claims::{CLAIMS, Check, Claim};
use self::jail::Monitor;
use self::report::{Report, Row};
use self::stage::Stage;
use self::target::Target;
use super::output;
use super::server::ServerArgs;
use super::session::Session;
use super::signals::{Ended, Signals};
use crate::console::output::note;

/// Flags of `security-test`.
#[derive(Debug, Args)]
#[command(
    after_help = "Runs as root on the host of the sandboxes. Ends with 0 only if every claim holds. Probes go to listeners \
    of the test's own and to nothing else; sandboxes of others are looked at through /proc and not touched. Sandboxes, \
    listeners and routes of the test are removed, also after Ctrl-C."
)]
pub struct SecurityTestArgs {
    /// Test only this claim; may be repeated
    #[arg(long, value_name = "NAME", value_parser = claims::find)]
    only: Vec<&'static Claim>,
    /// Directory of the host agent
    #[arg(long, env = "SANDPIPER_DATA_DIR", value_name = "DIR", default_value = super::DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Template of the sandboxes, with Perl, as every Debian has it
    #[arg(long, value_name = "NAME", default_value = "minimal")]
    template: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// For tests of this test: run this before the checks, with the addresses of attacker and neighbour
    #[arg(long, hide = true, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// For tests of this test: look at this process instead of the monitors
    #[arg(long, hide = true, value_name = "PID")]
    process: Option<i32>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Until what could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a test saw.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// The claim holds, and this was seen.
    Holds(String),
    /// It does not, and this is why.
    Broken(String),
}

/// Tests and prints.
pub async fn run(args: &SecurityTestArgs) -> anyhow::Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "this needs root on the host of the sandboxes");
    let chosen: Vec<&'static Claim> = match args.only.is_empty() {
        true => CLAIMS.iter().collect(),
        false => args.only.clone(),
    };
    let client = args.server.client()?;
    client.health().await?;
    let mut signals = Signals::listen()?;
    let session = Session::new(client, &args.template, "security-test");
    let tested = tokio::select! {
        rows = test(args, &session, &chosen) => rows.map(Ended::Done),
        interrupt = signals.next() => Ok(Ended::Interrupted(interrupt)),
    };
    if session.remove_everything().await.is_err() {
        // What an attack has left in the host may take a moment to go.
        tokio::time::sleep(AGAIN).await;
        session.remove_everything().await?;
    }
    let report = match tested? {
        Ended::Done(rows) => Report::new(rows),
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    if args.json {
        output::json(&report)?
    } else {
        report.print()?
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sets the stage and tests one claim after another.
async fn test(args: &SecurityTestArgs, session: &Session, chosen: &[&'static Claim]) -> anyhow::Result<Vec<Row>> {
    let stage = Stage::set(session).await.context("make the sandboxes of the test")?;
    let target = network::target(&stage).context("make what the attacker is to reach")?;
    if let Some(program) = &args.before {
        stage.prepare(program).await?;
    }
    let mut rows = Vec::new();
    for claim in chosen {
        note(claim.id);
        rows.push(Row::new(claim, check(claim.check, args, &stage, &target).await));
    }
    Ok(rows)
}

async fn check(check: Check, args: &SecurityTestArgs, stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    match check {
        Check::Jail(check) => {
            let monitors = match args.process {
                Some(pid) => vec![Monitor { pid, directory: None }],
                None => jail::monitors(&args.data_dir)?,
            };
            jail::check(check, &monitors)
        }
        Check::Network(check) => network::check(check, stage, target).await,
        Check::Proxy(check) => proxy::check(check, stage).await,
        Check::Load(check) => load::check(check, stage, &args.data_dir).await,
    }
}
