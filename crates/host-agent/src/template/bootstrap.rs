//! Runs mmdebstrap: Debian packages into a directory, with mounts that nobody else sees and a cache of packages.
//! Knows nothing of what the directory is for.

use std::ffi::OsString;
use std::path::Path;

use super::error::BuildError;
use super::progress::Progress;
use super::recipe::Suite;
use super::sources::Sources;
use super::tool::{Runner, Tool};

/// A fixed time for whatever packages would stamp with the time of the build.
pub(super) const EPOCH: &str = "1735689600";

/// Packages that were unpacked or linked before need no download. A file is named by package and version, and apt
/// checks its size; what nobody used for a month goes.
const CACHE_IN: &str = r#"mkdir -p "$1/var/cache/apt/archives" &&
find "$SANDPIPER_CACHE" -maxdepth 1 -name '*.deb' -exec cp -al -t "$1/var/cache/apt/archives" {} +"#;
const CACHE_OUT: &str = r#"find "$1/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -exec touch {} + \
-exec cp -aln -t "$SANDPIPER_CACHE" {} + && find "$SANDPIPER_CACHE" -maxdepth 1 -name '*.deb' -mtime +30 -delete"#;
/// The machine's settings for apt hold while it downloads and are not for guests.
const SETTINGS_IN: &str = r#"cp "$SANDPIPER_APT_SETTINGS" "$1/etc/apt/apt.conf.d/50machine""#;
const SETTINGS_OUT: &str = r#"rm "$1/etc/apt/apt.conf.d/50machine""#;

/// Documentation and translations, which nobody reads in a sandbox; licences stay.
const DPKG_OPTIONS: [&str; 7] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
];

/// How much becomes of the packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Their files are unpacked; nothing runs.
    Unpacked,
    /// A system that runs: they are installed on top of what every Debian system has.
    Installed,
}

/// What to make of which packages.
pub(super) struct Plan<'a> {
    pub suite: Suite,
    pub depth: Depth,
    pub packages: &'a [String],
    /// Shell commands that run at the end, `$1` being the directory.
    pub at_the_end: Vec<String>,
}

/// Fills `target`, an empty directory.
pub(super) async fn bootstrap(
    runner: &Runner<'_>,
    plan: Plan<'_>,
    sources: &Sources,
    cache: &Path,
    target: &Path,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let mut meter = Meter::default();
    let arguments = arguments(&plan, sources, target);
    let run = runner.run(
        Tool::Unshare,
        |command| {
            command
                .args(arguments)
                .env("SOURCE_DATE_EPOCH", EPOCH)
                .env("SANDPIPER_CACHE", cache)
                .env("SANDPIPER_APT_SETTINGS", &sources.settings);
        },
        |line| {
            if let Some(fraction) = meter.read(line) {
                progress.fraction(fraction);
            }
            progress.detail(line);
        },
    );
    run.await.map(drop).map_err(|error| match error {
        BuildError::Failed { status, tail, .. } => BuildError::Failed { tool: Tool::Mmdebstrap, status, tail },
        error => error,
    })
}

/// mmdebstrap's own `unshare` mode has a process namespace, so that nothing survives it, but leaves mounts shared
/// where the machine's root is; `unshare` before it makes them private.
fn arguments(plan: &Plan<'_>, sources: &Sources, target: &Path) -> Vec<OsString> {
    let variant = match plan.depth {
        Depth::Unpacked => "extract",
        Depth::Installed => "minbase",
    };
    let mut keyring = OsString::from("--keyring=");
    keyring.push(&sources.keyring);
    let fixed = [
        "--mount",
        "--propagation=private",
        "--",
        Tool::Mmdebstrap.name(),
        "--verbose",
        "--mode=unshare",
        "--format=directory",
        "--skip=check/signed-by,check/qemu,essential/unlink",
    ];
    let mut arguments: Vec<OsString> = fixed.map(OsString::from).into();
    arguments.push(keyring);
    arguments.push(format!("--variant={variant}").into());
    arguments.push(format!("--include={}", plan.packages.join(",")).into());
    arguments.extend(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}").into()));
    arguments.extend([CACHE_IN, SETTINGS_IN].map(|hook| format!("--setup-hook={hook}").into()));
    let last = plan.at_the_end.iter().map(String::as_str).chain([CACHE_OUT, SETTINGS_OUT]);
    arguments.extend(last.map(|hook| format!("--customize-hook={hook}").into()));
    arguments.push(plan.suite.codename().into());
    arguments.push(target.into());
    arguments.extend(sources.lines.iter().map(OsString::from));
    arguments
}

/// Reads from mmdebstrap's lines how far it is. It installs in two rounds and says the size of each when it begins.
#[derive(Debug, Default)]
struct Meter {
    round: usize,
    round_size: u32,
    done_in_round: u32,
}

impl Meter {
    /// Where the rounds begin, and where the last one ends.
    const BOUNDS: [f32; 4] = [0.0, 0.2, 0.6, 0.98];

    fn read(&mut self, line: &str) -> Option<f32> {
        if let Some(size) = newly_installed(line) {
            (self.round, self.round_size, self.done_in_round) = ((self.round + 1).min(2), size, 0);
        } else if line.starts_with("Unpacking ") || line.starts_with("Setting up ") {
            self.done_in_round += 1;
        } else {
            return None;
        }
        let share = self.done_in_round as f32 / (2 * self.round_size).max(1) as f32;
        let (from, to) = (Self::BOUNDS[self.round], Self::BOUNDS[self.round + 1]);
        Some(from + (to - from) * share.min(1.0))
    }
}

/// The number in apt's "0 upgraded, 69 newly installed, 0 to remove and 0 not upgraded."
fn newly_installed(line: &str) -> Option<u32> {
    line.split(", ").find_map(|part| part.strip_suffix(" newly installed"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_rises_over_both_rounds_and_stays_below_the_end() {
        let mut meter = Meter::default();
        let mut lines = vec!["I: downloading packages with apt...".to_owned()];
        for size in [2, 3] {
            lines.push(format!("0 upgraded, {size} newly installed, 0 to remove and 0 not upgraded."));
            lines.extend((0..size).map(|n| format!("Unpacking package{n} (1.0) ...")));
            lines.extend((0..size).map(|n| format!("Setting up package{n} (1.0) ...")));
        }
        let fractions: Vec<f32> = lines.iter().filter_map(|line| meter.read(line)).collect();
        assert_eq!(fractions.len(), 2 + 2 * 5);
        assert!(fractions.is_sorted(), "{fractions:?}");
        assert!((fractions[fractions.len() - 1] - 0.98).abs() < 0.001, "{fractions:?}");
    }

    #[test]
    fn more_packages_than_announced_do_not_go_over_the_end() {
        let mut meter = Meter::default();
        meter.read("0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.");
        let last = (0..9).filter_map(|_| meter.read("Setting up x (1) ...")).last().unwrap();
        assert!(last <= 0.6);
    }

    #[test]
    fn packages_are_one_argument() {
        let packages = ["bash".to_owned(), "git".to_owned()];
        let plan =
            Plan { suite: Suite::Bookworm, depth: Depth::Installed, packages: &packages, at_the_end: Vec::new() };
        let sources = Sources { lines: vec!["deb x y z".into()], settings: "/s".into(), keyring: "/k".into() };
        let arguments = arguments(&plan, &sources, Path::new("/t"));
        assert!(arguments.contains(&"--include=bash,git".into()));
        assert!(arguments.ends_with(&["bookworm".into(), "/t".into(), "deb x y z".into()]));
    }
}
