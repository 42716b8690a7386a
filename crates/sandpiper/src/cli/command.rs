//! The words that `run` and `sandbox exec` have in common: a command and what it runs with.

use clap::Args;
use client::ExecStart;

/// A command for a sandbox.
#[derive(Debug, Clone, Args)]
pub struct CommandArgs {
    /// Set a variable for the command (repeatable; default: the template's variables alone)
    #[arg(long = "env", short = 'e', value_name = "K=V", value_parser = variable)]
    envs: Vec<(String, String)>,
    /// Working directory of the command (default: the template's)
    #[arg(long, short = 'w', value_name = "DIR")]
    cwd: Option<String>,
    /// User in the sandbox who runs the command (default: the template's)
    #[arg(long, short = 'u', value_name = "NAME")]
    user: Option<String>,
    /// Seconds after which the command is killed; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,
    /// The program and its arguments. There is no shell unless you name one: `-- sh -c '…'`
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl CommandArgs {
    /// As the API wants it.
    pub fn into_start(self) -> ExecStart {
        let mut words = self.command.into_iter();
        ExecStart {
            cmd: words.next().unwrap_or_default(),
            args: words.collect(),
            envs: self.envs.into_iter().collect(),
            cwd: self.cwd,
            user: self.user,
            keep: false,
            timeout: (self.timeout > 0).then_some(self.timeout),
        }
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it must have the form NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_split_at_the_first_equals_sign() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        for wrong in ["", "A", "=b"] {
            assert!(variable(wrong).is_err(), "{wrong:?}");
        }
    }
}
