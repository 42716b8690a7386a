//! How failures end: on standard error, with their causes, and as an exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use super::output::note_failure;

/// For anything that has no better code.
const FAILURE: u8 = 1;
/// As BSD's sysexits name a usage or configuration error that the grammar did not catch.
const BAD_CONFIG: u8 = 64;
/// What a process killed by SIGPIPE leaves in its shell.
const BROKEN_PIPE: u8 = 128 + 13;

/// Context for an error that only a change of flags or environment will cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadConfig;

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not usable")
    }
}

/// Tells of an error and returns the exit code for it. A reader that went away (`… | head`) is no error to tell of.
pub fn report(error: &anyhow::Error) -> ExitCode {
    report_as(error, if error.is::<BadConfig>() { BAD_CONFIG } else { FAILURE })
}

/// The same for a command that has an exit code of its own for failures.
pub fn report_as(error: &anyhow::Error, code: u8) -> ExitCode {
    if is_broken_pipe(error) {
        return broken_pipe();
    }
    warn(error);
    ExitCode::from(code)
}

/// Tells of an error that does not change what the command does next.
pub fn warn(error: &anyhow::Error) {
    note_failure(describe(error));
}

/// What a command ends with whose output nobody reads any more.
pub fn broken_pipe() -> ExitCode {
    ExitCode::from(BROKEN_PIPE)
}

/// Whether the error is that our own standard output was closed.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn describe(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(|cause| format!("\n  because: {cause}"));
    std::iter::once(format!("error: {error}")).chain(causes).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_follow_the_error() {
        let error = anyhow!("disk full").context("the file cannot be written").context("copying failed");
        let expected = "error: copying failed\n  because: the file cannot be written\n  because: disk full";
        assert_eq!(describe(&error), expected);
    }

    #[test]
    fn only_a_closed_output_of_ours_is_quiet() {
        assert!(is_broken_pipe(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
        assert!(!is_broken_pipe(&anyhow!("broken pipe")));
    }

    #[test]
    fn a_bad_configuration_is_known_by_its_context() {
        assert!(anyhow!("x").context(BadConfig).is::<BadConfig>());
        assert!(!anyhow!("x").is::<BadConfig>());
    }
}
