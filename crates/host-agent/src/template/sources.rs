//! Where Debian packages come from: the machine's own apt configuration (mirrors, keys, proxy, credentials), read by
//! asking apt. Names no host of its own; a machine whose apt does not know the release gets mmdebstrap's defaults.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::error::{BuildError, FileError};
use super::recipe::Suite;
use super::tool::{Runner, Tool};

const TARGET_FORMAT: &str = "$(ORIGIN)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)";
/// Keys that apt trusts for every source, and Debian's own, which a source may name itself.
const KEY_DIRECTORIES: [&str; 2] = ["/etc/apt/trusted.gpg.d", "/usr/share/keyrings"];

/// What mmdebstrap is told about apt.
#[derive(Debug)]
pub(super) struct Sources {
    /// Lines of a sources.list. None: mmdebstrap's own choice.
    pub lines: Vec<String>,
    /// Settings for apt while it downloads; not part of the result.
    pub settings: PathBuf,
    /// The keys that packages may be signed with.
    pub keyring: PathBuf,
}

/// Collects them below `directory`, which is the build's own.
pub(super) async fn collect(
    runner: &Runner<'_>,
    suite: Suite,
    cache: &Path,
    directory: &Path,
) -> Result<Sources, BuildError> {
    let lines = lines(runner, suite, cache).await?;
    let arrange = |command: &mut Command| {
        command.args(["dump", "Acquire"]);
    };
    let dump = runner.run(Tool::AptConfig, arrange, |_| {}).await?;
    let settings = directory.join("apt.conf");
    fs::write(&settings, settings_text(&dump)).map_err(FileError::at("writing", &settings))?;
    let keyring = directory.join("keyring");
    copy_keys(&keyring)?;
    Ok(Sources { lines, settings, keyring })
}

/// A machine that never ran `apt-get update`, like a fresh container, gets lists of ours to ask.
async fn lines(runner: &Runner<'_>, suite: Suite, cache: &Path) -> Result<Vec<String>, BuildError> {
    let known = index_targets(runner, None).await?;
    let lines = source_lines(&known, suite);
    if !lines.is_empty() {
        return Ok(lines);
    }
    let lists = cache.join("lists");
    fs::create_dir_all(lists.join("partial")).map_err(FileError::at("making", &lists))?;
    let arrange = |command: &mut Command| {
        command.arg("update").args(private_lists(&lists));
    };
    match runner.run(Tool::AptGet, arrange, |_| {}).await {
        Ok(_) => Ok(source_lines(&index_targets(runner, Some(&lists)).await?, suite)),
        // One of the machine's other sources may be out of order; then mmdebstrap has to choose.
        Err(BuildError::Failed { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn index_targets(runner: &Runner<'_>, lists: Option<&Path>) -> Result<String, BuildError> {
    let arrange = |command: &mut Command| {
        command.args(["indextargets", "--format", TARGET_FORMAT, "Identifier: Packages"]);
        if let Some(lists) = lists {
            command.args(private_lists(lists));
        }
    };
    runner.run(Tool::AptGet, arrange, |_| {}).await
}

fn private_lists(lists: &Path) -> [String; 6] {
    let state = format!("Dir::State::lists={}", lists.display());
    let [pkgcache, srcpkgcache] = ["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="].map(str::to_owned);
    ["-o".into(), state, "-o".into(), pkgcache, "-o".into(), srcpkgcache]
}

/// Debian's own release, its updates and its security fixes, and nothing that others publish for it.
fn source_lines(targets: &str, suite: Suite) -> Vec<String> {
    let codename = suite.codename();
    let mut lines: Vec<String> = Vec::new();
    for target in targets.lines() {
        let [origin, of, release, component, uri] = target.splitn(5, '|').collect::<Vec<_>>()[..] else { continue };
        let is_wanted = matches!(of.strip_prefix(codename), Some("" | "-updates" | "-security"));
        let line = format!("deb {uri} {release} {component}");
        if origin == "Debian"
            && component == "main"
            && is_wanted
            && !uri.starts_with("cdrom:")
            && !lines.contains(&line)
        {
            lines.push(line);
        }
    }
    // Updates alone are not a system.
    let has_release = targets.lines().any(|target| target.starts_with(&format!("Debian|{codename}|")));
    if has_release { lines } else { Vec::new() }
}

/// How to reach mirrors (proxies, time-outs, the age that lists may have), and where passwords are.
fn settings_text(dump: &str) -> String {
    let wanted = ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"];
    let kept = dump.lines().filter(|line| wanted.iter().any(|prefix| line.starts_with(prefix)));
    let passwords = ["Dir::Etc::netrc \"/etc/apt/auth.conf\";", "Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";"];
    kept.chain(passwords).map(|line| format!("{line}\n")).collect()
}

/// A line of a sources.list without the user name and password that its address may hold.
pub(super) fn without_credentials(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            let credentials = authority.rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[credentials..])
        }
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn copy_keys(keyring: &Path) -> Result<(), FileError> {
    fs::create_dir_all(keyring).map_err(FileError::at("making", keyring))?;
    for directory in KEY_DIRECTORIES {
        for key in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = key.file_name();
            if is_key(directory, &name.to_string_lossy()) {
                fs::copy(key.path(), keyring.join(name)).map_err(FileError::at("copying", key.path()))?;
            }
        }
    }
    Ok(())
}

fn is_key(directory: &str, name: &str) -> bool {
    let is_trusted_always = directory == KEY_DIRECTORIES[0];
    (is_trusted_always || name.starts_with("debian-archive-"))
        && [".gpg", ".asc", ".pgp"].iter().any(|suffix| name.ends_with(suffix))
        && !name.contains("-removed-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debians_own_release_updates_and_security_count() {
        let targets = "Debian|bookworm|bookworm|main|http://mirror.test/debian/\n\
            Debian|bookworm|bookworm|contrib|http://mirror.test/debian/\n\
            Debian|bookworm-updates|oldstable-updates|main|http://mirror.test/debian/\n\
            Debian|bookworm-security|bookworm-security|main|http://mirror.test/security/\n\
            Debian Backports|bookworm-backports|bookworm-backports|main|http://mirror.test/debian/\n\
            Docker|bookworm|bookworm|stable|http://docker.test/debian/\n\
            Debian|trixie|trixie|main|http://mirror.test/debian/\n\
            Debian|bookworm|bookworm|main|cdrom:[disc]/\n";
        assert_eq!(
            source_lines(targets, Suite::Bookworm),
            [
                "deb http://mirror.test/debian/ bookworm main",
                "deb http://mirror.test/debian/ oldstable-updates main",
                "deb http://mirror.test/security/ bookworm-security main",
            ]
        );
    }

    #[test]
    fn a_machine_of_another_release_leaves_the_choice_to_mmdebstrap() {
        assert!(source_lines("Debian|trixie|trixie|main|http://mirror.test/debian/\n", Suite::Bookworm).is_empty());
        let only_updates = "Debian|bookworm-updates|bookworm-updates|main|http://mirror.test/debian/\n";
        assert!(source_lines(only_updates, Suite::Bookworm).is_empty());
        assert!(source_lines("", Suite::Bookworm).is_empty());
    }

    #[test]
    fn a_proxy_is_kept_and_other_settings_are_not() {
        let text = settings_text("Acquire::http::Proxy \"http://proxy.test:3128\";\nAcquire::GzipIndexes \"true\";\n");
        assert!(text.contains("proxy.test") && !text.contains("Gzip"), "{text}");
    }

    #[test]
    fn guests_do_not_learn_passwords() {
        let clean = without_credentials("deb https://user:p@ss@mirror.test/debian bookworm main");
        assert_eq!(clean, "deb https://mirror.test/debian bookworm main");
        let same = "deb [arch=amd64] http://mirror.test/a@b bookworm main";
        assert_eq!(without_credentials(same), same);
    }
}
