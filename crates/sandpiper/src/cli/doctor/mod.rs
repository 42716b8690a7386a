//! `doctor`: what this machine has and lacks for running sandboxes, and what to do about each thing. Changes nothing.

mod check;
mod kernel;
mod machine;
mod program;
mod virtualisation;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use self::check::{Check, Level};
use super::output;

/// Flags of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Ends with 1 if something is missing without which no sandbox runs, else with 0.")]
pub struct DoctorArgs {
    /// Directory whose disk is looked at
    #[arg(long, env = "SANDPIPER_DATA_DIR", value_name = "DIR", default_value = super::DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Address that should be free for a server
    #[arg(long, env = "SANDPIPER_LISTEN", value_name = "ADDR", default_value = super::DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Diagnosis {
    /// Whether nothing is missing.
    ready: bool,
    checks: Vec<Check>,
}

/// Looks and prints.
pub async fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let diagnosis = Diagnosis::of(examine(args).await);
    if args.json {
        output::json(&diagnosis)?
    } else {
        diagnosis.print()?
    }
    Ok(if diagnosis.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn examine(args: &DoctorArgs) -> Vec<Check> {
    let mut checks = vec![machine::root(), virtualisation::kvm_device(), virtualisation::processor()];
    checks.push(virtualisation::accelerator());
    checks.push(virtualisation::qemu().await);
    checks.push(kernel::tun());
    checks.push(kernel::network_namespaces().await);
    checks.push(kernel::firewall().await);
    checks.push(kernel::jail());
    checks.push(kernel::forwarding());
    checks.push(program::present("qemu-img", "--version", "qemu-utils", "makes the sandboxes' disks").await);
    checks.push(program::present("mke2fs", "-V", "e2fsprogs", "makes templates' disks").await);
    checks.push(program::present("mmdebstrap", "--version", "mmdebstrap", "makes templates' file systems").await);
    checks.push(machine::disk_space(&args.data_dir));
    checks.push(machine::port(args.listen));
    checks.push(machine::names());
    checks
}

impl Diagnosis {
    fn of(checks: Vec<Check>) -> Self {
        Self { ready: checks.iter().all(|check| check.level != Level::Missing), checks }
    }

    fn print(&self) -> std::io::Result<()> {
        let row = |check: &Check| [check.name.to_owned(), check.level.to_string(), check.found.clone()];
        output::table(["CHECK", "STATE", "FOUND"], self.checks.iter().map(row))?;
        for check in &self.checks {
            if let Some(advice) = &check.advice {
                output::line(format_args!("{} ({}): {advice}", check.name, check.level))?;
            }
        }
        output::line(if self.ready { "This machine can run sandboxes." } else { "Something is missing: see above." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_no_obstacle_and_something_missing_is() {
        let fine = Check::ok("a", "1");
        let doubtful = Check::warning("b", "2", "do this");
        let json = serde_json::to_value(Diagnosis::of(vec![fine, doubtful])).unwrap();
        let expected = serde_json::json!({"ready": true, "checks": [
            {"name": "a", "level": "ok", "found": "1", "advice": null},
            {"name": "b", "level": "warning", "found": "2", "advice": "do this"},
        ]});
        assert_eq!(json, expected);
        assert!(!Diagnosis::of(vec![Check::missing("c", "3", "do that")]).ready);
    }

    #[tokio::test]
    async fn every_check_comes_to_a_result_with_advice_where_it_is_not_fine() {
        let args = DoctorArgs { data_dir: "/nonexistent/x".into(), listen: "127.0.0.1:0".parse().unwrap(), json: true };
        let checks = examine(&args).await;
        assert_eq!(checks.len(), 16);
        for check in checks {
            assert_eq!(check.level == Level::Ok, check.advice.is_none(), "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
    }
}
