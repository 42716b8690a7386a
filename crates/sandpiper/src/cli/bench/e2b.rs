//! `bench e2b`: how quick a server is for programs that use E2B's published SDKs, measured in those programs: from a
//! create to a command's output, files up and down, and many streams at once.
//!
//! What the programs make carries this benchmark's label, so that it is removed on every way out.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};
use clap::Args;
use client::Start;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process::Command;

use super::environment::{self, Environment};
use super::figures::{Figures, Unit};
use super::report::{Key, Row, print_rows};
use crate::cli::server::ServerArgs;
use crate::cli::session::Session;
use crate::console::output::note;
use crate::console::{Ended, Signals, output};

/// The name in the metadata by which sandboxes are found again.
const LABEL: &str = "benchmark";
/// What programs must have where a server asks for none.
const ANY_KEY: &str = "e2b_0000";
/// Cold boots that the creates are compared with.
const BOOTS: u32 = 3;

/// Flags of `bench e2b`.
#[derive(Debug, Args)]
#[command(after_help = "The server needs the template `base`. scripts/e2b-sdk.sh installs the SDKs and prints where. \
    Creates are counted from the call to the output of a first command, and each sandbox is killed before the next. A \
    stream is lost that does not bring every line in its order and the end of its command.")]
pub struct E2bBenchArgs {
    /// Directory of the SDKs, with bin/python, bin/node and node_modules
    #[arg(long, env = "SANDPIPER_E2B_SDK", value_name = "DIR")]
    sdk: PathBuf,
    /// How often a create is measured, by each SDK, one after another and 8 at a time
    #[arg(long, value_name = "COUNT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Megabytes of the file that is sent and fetched
    #[arg(long, value_name = "MB", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    megabytes: u32,
    /// Streams that are held at once
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    streams: u32,
    /// Seconds that they are held
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    hold_sec: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// A program that measures, and what runs it.
struct Program {
    sdk: &'static str,
    runs_in: &'static str,
    name: &'static str,
    text: &'static str,
    keys: Keys,
}

/// What a program's figures are called.
struct Keys {
    create_one: Key,
    create_eight: Key,
    upload: Key,
    download: Key,
    streams: Key,
    lost: Key,
}

const PROGRAMS: [Program; 2] = [
    Program {
        sdk: "Python",
        runs_in: "bin/python",
        name: "measure.py",
        text: include_str!("e2b/measure.py"),
        keys: Keys {
            create_one: Key::PythonCreate,
            create_eight: Key::PythonCreateByEight,
            upload: Key::PythonUpload,
            download: Key::PythonDownload,
            streams: Key::PythonStreams,
            lost: Key::PythonStreamsLost,
        },
    },
    Program {
        sdk: "JavaScript",
        runs_in: "bin/node",
        name: "measure.mjs",
        text: include_str!("e2b/measure.mjs"),
        keys: Keys {
            create_one: Key::JavascriptCreate,
            create_eight: Key::JavascriptCreateByEight,
            upload: Key::JavascriptUpload,
            download: Key::JavascriptDownload,
            streams: Key::JavascriptStreams,
            lost: Key::JavascriptStreamsLost,
        },
    },
];

/// What a program found; times in milliseconds.
#[derive(Debug, Deserialize)]
struct Found {
    version: String,
    create_one: Vec<f64>,
    create_eight: Vec<f64>,
    upload: Vec<f64>,
    download: Vec<f64>,
    copy_in_guest: Vec<f64>,
    streams: f64,
    streams_lost: f64,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    /// Versions of the SDKs, in the order of their languages' rows.
    sdks: Vec<String>,
    megabytes: u32,
    hold_sec: u32,
    environment: Environment,
}

/// Measures and prints. Fails where a stream was lost.
pub async fn run(args: &E2bBenchArgs) -> anyhow::Result<ExitCode> {
    let client = args.server.client()?;
    let mut signals = Signals::listen()?;
    let environment = environment::read(&client.health().await?);
    let session = Session::new(client, "base", LABEL);
    let measured = tokio::select! {
        measured = measure(args, &session) => measured.map(Ended::Done),
        interrupt = signals.next() => Ok(Ended::Interrupted(interrupt)),
    };
    session.remove_everything().await?;
    let (rows, sdks) = match measured? {
        Ended::Done(measured) => measured,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    let report = Report { rows, sdks, megabytes: args.megabytes, hold_sec: args.hold_sec, environment };
    if args.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    Ok(if report.has_lost() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn measure(args: &E2bBenchArgs, session: &Session) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let directory = tempfile::tempdir().context("cannot make a directory for the programs")?;
    // The first sandbox of a template and shape may have to bake its image; clients give up after a minute.
    let (first, _) = session.create(Start::Auto).await?;
    session.remove([first.id]).await?;
    note("cold boots");
    let mut boots = Vec::new();
    for _ in 0..BOOTS {
        let (sandbox, time) = session.create(Start::Boot).await?;
        boots.push(time);
        session.remove([sandbox.id]).await?;
    }
    let mut rows: Vec<_> = Figures::times(boots).map(|figures| Row { key: Key::Boot, figures }).into_iter().collect();
    let (mut sdks, mut copies) = (Vec::new(), Vec::new());
    for program in &PROGRAMS {
        note(format_args!("the SDK for {}", program.sdk));
        let found = program.run(args, session, directory.path()).await?;
        sdks.push(format!("e2b {} for {}", found.version, program.sdk));
        copies.extend_from_slice(&found.copy_in_guest);
        rows.extend(program.rows(found));
    }
    rows.extend(Figures::of(Unit::Milliseconds, copies).map(|figures| Row { key: Key::CopyInGuest, figures }));
    Ok((rows, sdks))
}

impl Program {
    async fn run(&self, args: &E2bBenchArgs, session: &Session, directory: &Path) -> anyhow::Result<Found> {
        let sdk = std::path::absolute(&args.sdk).context("find the SDKs")?;
        let path = directory.join(self.name);
        std::fs::write(&path, self.text).with_context(|| format!("cannot write {}", path.display()))?;
        let wish = json!({
            "metadata": session.metadata(),
            "runs": args.runs,
            "megabytes": args.megabytes,
            "streams": args.streams,
            "hold_sec": args.hold_sec,
        });
        let program = sdk.join(self.runs_in);
        let mut command = Command::new(&program);
        command.arg(&path).arg(wish.to_string()).env("E2B_PACKAGES", &sdk);
        command.env("E2B_API_URL", args.server.url()).env("E2B_SANDBOX_URL", args.server.url());
        command.env("E2B_API_KEY", args.server.api_key().unwrap_or(ANY_KEY)).env_remove("E2B_DEBUG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let output = child.wait_with_output().await.with_context(|| format!("cannot hear {}", program.display()))?;
        if !output.status.success() {
            bail!("the program for {} failed ({})", self.sdk, output.status);
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("what the program for {} found", self.sdk))
    }

    fn rows(&self, found: Found) -> Vec<Row> {
        let keys = &self.keys;
        let times = [
            (keys.create_one, found.create_one),
            (keys.create_eight, found.create_eight),
            (keys.upload, found.upload),
            (keys.download, found.download),
        ];
        let times = times.map(|(key, values)| Some((key, Figures::of(Unit::Milliseconds, values)?)));
        let counts = [(keys.streams, found.streams), (keys.lost, found.streams_lost)];
        let counts = counts.map(|(key, value)| (key, Figures::single(Unit::Count, value)));
        times.into_iter().flatten().chain(counts).map(|(key, figures)| Row { key, figures }).collect()
    }
}

impl Report {
    fn has_lost(&self) -> bool {
        let is_loss = |row: &&Row| matches!(row.key, Key::PythonStreamsLost | Key::JavascriptStreamsLost);
        self.rows.iter().filter(is_loss).any(|row| row.figures.max > 0.0)
    }

    fn print(&self) -> std::io::Result<()> {
        print_rows(&self.rows)?;
        output::line(format_args!(
            "files of {} MB; streams held for {} s; {}; {}",
            self.megabytes,
            self.hold_sec,
            self.sdks.join(", "),
            self.environment
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_stream_is_a_failure() {
        let report = |lost: f64| Report {
            rows: vec![Row { key: Key::PythonStreamsLost, figures: Figures::single(Unit::Count, lost) }],
            sdks: Vec::new(),
            megabytes: 1,
            hold_sec: 1,
            environment: Environment::default(),
        };
        assert!(report(1.0).has_lost() && !report(0.0).has_lost());
    }
}
