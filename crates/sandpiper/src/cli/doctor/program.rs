//! Programs that sandboxes need: whether they are installed, and asking them something.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::check::Check;

/// No question here takes a program longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a program gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It is not installed.
    Absent,
    /// What it said, or how it ended.
    Failed(String),
}

/// What a program prints, on either stream: some print their version as an error.
pub async fn ask(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(LIMIT, command.output()).await {
        Err(_) => return Err(Failure::Failed(format!("{program} does not answer"))),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(Failure::Absent),
        Ok(Err(error)) => return Err(Failure::Failed(format!("{program}: {error}"))),
        Ok(Ok(output)) => output,
    };
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    match (output.status.success(), text.is_empty()) {
        (true, _) => Ok(text),
        (false, true) => Err(Failure::Failed(output.status.to_string())),
        (false, false) => Err(Failure::Failed(first_line(&text))),
    }
}

/// Whether a program is there and starts.
pub async fn present(program: &'static str, version_flag: &str, package: &str, purpose: &str) -> Check {
    let advice = || format!("it {purpose}: run `make setup`, or install the Debian package {package}");
    match ask(program, &[version_flag]).await {
        Ok(text) => Check::ok(program, first_line(&text)),
        Err(Failure::Absent) => Check::missing(program, "not installed", advice()),
        Err(Failure::Failed(why)) => Check::missing(program, why, advice()),
    }
}

/// Of what may be a page.
pub fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Level;

    #[tokio::test]
    async fn absent_failing_and_working_programs_are_told_apart() {
        assert_eq!(ask("no-such-program-here", &[]).await, Err(Failure::Absent));
        assert_eq!(ask("sh", &["-c", "echo out; echo err >&2"]).await, Ok("out\nerr".into()));
        assert_eq!(ask("sh", &["-c", "echo why; exit 3"]).await, Err(Failure::Failed("why".into())));
        assert_eq!(ask("false", &[]).await, Err(Failure::Failed("exit status: 1".into())));
    }

    #[tokio::test]
    async fn a_missing_program_comes_with_its_package() {
        let check = present("no-such-program-here", "--version", "some-package", "does something").await;
        assert_eq!(check.level, Level::Missing);
        assert!(check.advice.unwrap().contains("some-package"));
    }
}
